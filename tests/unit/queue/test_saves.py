"""How what runs say of their progress goes into the store: when, what of it, and what becomes of it when a run ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from kqs.errors import StoreUnavailableError
from kqs.handlers import JobContext
from kqs.job import NO_PROGRESS, Claim, Progress, Report, Run
from kqs.options import Options
from kqs.queue import saves as module
from kqs.queue.saves import Saves
from kqs.queue.wishes import Wishes
from kqs.states import State
from tests.support.jobs import NOW, ORDER, a_run
from tests.support.supervising import StrictSupervisor
from tests.support.turning import idle, until


class Writes:
    """A store that notes what it is to save, says what the test has it say, and waits while it is `held`."""

    def __init__(self) -> None:
        self.writes: list[tuple[dict[int, bytes], bool]] = []
        self.stale: set[int] = set()
        self.refusals = 0
        self.free = asyncio.Event()
        self.free.set()

    async def save(self, saved: Sequence[Progress], *, durable: bool) -> list[bool]:
        self.writes.append(({one.claim.order - ORDER: one.value for one in saved}, durable))
        await self.free.wait()
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailableError("full")
        return [one.claim.order - ORDER not in self.stale for one in saved]

    @property
    def values(self) -> list[dict[int, bytes]]:
        return [values for values, _ in self.writes if values]


class Bench:
    """Saves over such a store, and who was told what."""

    def __init__(self) -> None:
        self.store = Writes()
        self.unstored: set[int] = set()
        self.hurried = 0
        self.told: list[tuple[str, bool]] = []
        store: Any = self.store  # as much of one as is asked
        wishes = Wishes()
        wishes.sooner = self._hurry
        self.saves = Saves(store, StrictSupervisor(), self._is_unstored, wishes)

    def _is_unstored(self, claim: Claim) -> bool:
        return claim.order - ORDER in self.unstored

    def _hurry(self) -> None:
        self.hurried += 1

    def add(self, run: Run, value: bytes, name: str = "") -> None:
        self.saves.add(run, value, lambda ok: self.told.append((name or value.decode(), ok)))

    def context(self, run: Run) -> JobContext:
        return JobContext(run, Options(), lambda: 0.0, on_save=self.saves.note)

    def close(self, run: Run, state: State = State.RETRY, context: JobContext | None = None) -> Report:
        report = Report(run.claim, run.type, state, state.word, NOW)
        self.saves.close(context or self.context(run), report)
        return report


#: the run of a job that was deleted, and that of the next one of its id
OLD, NEW = a_run(1), replace(a_run(2), claim=replace(a_run(2).claim, id=a_run(1).claim.id))


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(module, "STORE_FIRST_S", 0.001)
    bench = Bench()
    yield bench
    bench.store.free.set()
    await bench.saves.stop()


async def test_the_next_job_of_an_id_saves_beside_the_run_of_one_that_was_deleted(bench: Bench) -> None:
    bench.store.stale.add(1)
    bench.add(OLD, b"old")
    bench.add(NEW, b"new")
    await until(lambda: len(bench.told) == 2)
    assert bench.told == [("old", False), ("new", True)]
    assert bench.store.values == [{1: b"old", 2: b"new"}]
    bench.add(NEW, b"newer")
    bench.close(OLD)
    assert bench.close(NEW).progress == b"newer"


async def test_what_somebody_waits_for_is_written_at_once(bench: Bench) -> None:
    bench.add(a_run(1), b"1")
    await until(lambda: bench.told == [("1", True)])
    assert bench.store.writes == [({1: b"1"}, False)]


async def test_what_gathers_meanwhile_is_one_write_and_the_last_of_a_run_counts(bench: Bench) -> None:
    bench.store.free.clear()
    bench.add(a_run(1), b"1")
    await until(lambda: len(bench.store.writes) == 1)
    for value in (b"2", b"3", b"4"):
        bench.add(a_run(1), value)
    bench.add(a_run(2), b"5")
    bench.store.free.set()
    await until(lambda: len(bench.told) == 5)
    assert bench.store.values == [{1: b"1"}, {1: b"4", 2: b"5"}]
    assert all(ok for _, ok in bench.told)


async def test_a_store_that_was_busy_has_a_rest_in_proportion(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    bench.store.free.clear()
    began_at = loop.time()
    bench.add(a_run(1), b"1")
    await until(lambda: len(bench.store.writes) == 1)
    await asyncio.sleep(0.02)  # how long it takes is what is tried
    bench.store.free.set()
    await until(lambda: len(bench.told) == 1)
    took_s = loop.time() - began_at
    bench.add(a_run(1), b"2")
    await until(lambda: len(bench.told) == 2)
    assert loop.time() - began_at >= 0.9 * module.REST_SHARE * min(took_s, 0.02)


async def test_a_rest_that_is_all_but_over_is_waited_for(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    for number in range(1, 50):
        bench.saves._rested_at = loop.time() + 0.0004  # so short that uvloop makes no timer of it
        bench.add(a_run(1), b"1")
        bench.add(a_run(2), b"2")
        await until(lambda: len(bench.told) == 2 * number)  # noqa: B023 - it is awaited here


async def test_within_a_second_all_is_durable(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_S", 0.05)
    bench.add(a_run(1), b"1")
    await until(lambda: len(bench.store.writes) == 2)
    assert bench.store.writes == [({1: b"1"}, False), ({}, True)]


async def test_what_handlers_save_gathers_for_a_second(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_S", 0.05)
    contexts = [bench.context(a_run(n)) for n in range(3)]
    for step in range(100):
        for context in contexts:
            assert context.save(step)
    contexts[0].save("last")
    await until(lambda: bool(bench.store.writes))
    await until(lambda: len(bench.store.writes) == 2)
    assert bench.store.writes == [({0: b'"last"', 1: b"99", 2: b"99"}, False), ({}, True)]
    contexts[1].save(None)
    await until(lambda: len(bench.store.writes) == 4)
    assert bench.store.writes[2:] == [({1: NO_PROGRESS}, False), ({}, True)]


async def test_handlers_wait_for_nobody_else_and_nobody_for_them(bench: Bench) -> None:
    bench.context(a_run(1)).save("lazy")
    bench.add(a_run(2), b"2")
    await until(lambda: bench.told == [("2", True)])
    assert bench.store.values == [{2: b"2"}]


async def test_threads_save_at_once_and_the_last_value_of_each_run_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_S", 0.05)
    contexts = [bench.context(a_run(n)) for n in range(4)]

    def work(context: JobContext) -> None:
        for step in range(2000):
            context.save(step)

    threads = [threading.Thread(target=work, args=(context,)) for context in contexts for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):  # noqa: ASYNC110 - what is tried is both at once
        await asyncio.sleep(0)
    last: dict[int, bytes] = {}

    def all_are_last() -> bool:
        for values in bench.store.values:
            last.update(values)
        return last == dict.fromkeys(range(4), b"1999")

    await until(all_are_last)


async def test_what_a_handler_puts_in_the_place_of_it_is_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_S", 0.02)
    context = bench.context(a_run(1))
    context.save(1)
    context.saved = "mine"  # type: ignore[assignment]  # that is the fault
    assert bench.close(a_run(1), context=context).progress is None
    await bench.saves.settle(10)
    assert bench.store.values == []


@pytest.mark.parametrize("state", [State.RETRY, State.GHOST, State.FAIL])
async def test_a_report_brings_what_was_not_written(bench: Bench, state: State) -> None:
    context = bench.context(a_run(1))
    context.save([1])
    context.end()
    report = bench.close(a_run(1), state, context)
    assert report.progress == b"[1]"
    bench.saves.applied([(a_run(1), report)], [True])
    assert await bench.saves.settle(10)
    assert bench.store.values == []
    assert not bench.saves


async def test_a_report_brings_nothing_that_was_written(bench: Bench) -> None:
    bench.add(a_run(1), b"1")
    await until(lambda: bench.told == [("1", True)])
    assert bench.close(a_run(1)).progress is None


async def test_a_report_brings_what_is_being_written_too(bench: Bench) -> None:
    """The store may refuse it; then the report says it again."""
    bench.store.free.clear()
    bench.store.refusals = 1
    bench.add(a_run(1), b"1")
    await until(lambda: len(bench.store.writes) == 1)
    report = bench.close(a_run(1))
    assert report.progress == b"1"
    bench.store.free.set()
    bench.saves.applied([(a_run(1), report)], [True])
    await until(lambda: bench.told == [("1", True)])
    assert await bench.saves.settle(10)
    assert bench.store.values == [{1: b"1"}]


async def test_a_success_leaves_none(bench: Bench) -> None:
    bench.add(a_run(1), b"1")
    await until(lambda: bench.told == [("1", True)])
    assert bench.close(a_run(1), State.SUCCESS).progress == NO_PROGRESS


@pytest.mark.parametrize("given", [b"1", NO_PROGRESS])
async def test_a_success_leaves_none_of_earlier_runs(bench: Bench, given: bytes) -> None:
    run = replace(a_run(1), progress=given)
    assert bench.close(run, State.SUCCESS).progress == NO_PROGRESS
    assert bench.close(run, State.RETRY).progress is None


async def test_a_success_before_anything_was_written_has_nothing_to_say(bench: Bench) -> None:
    """So that a short run may still be stored with its end."""
    bench.store.free.clear()
    bench.add(a_run(2), b"2")
    await until(lambda: len(bench.store.writes) == 1)
    bench.add(a_run(1), b"1")
    assert bench.close(a_run(1), State.SUCCESS).progress is None
    assert bench.told == [("1", True)]


@pytest.mark.parametrize("ok", [True, False])
async def test_who_waits_is_told_what_becomes_of_the_report(bench: Bench, ok: bool) -> None:
    bench.unstored = {1}
    bench.add(a_run(1), b"1")
    report = bench.close(a_run(1))
    await bench.saves.settle(0.05)
    assert bench.told == []
    bench.saves.applied([(a_run(1), report)], [ok])
    assert bench.told == [("1", ok)]


async def test_what_is_saved_after_the_end_is_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_S", 0.02)
    context = bench.context(a_run(1))
    context.end()
    assert bench.close(a_run(1), context=context).progress is None
    assert context.save("late") is False
    bench.saves.note(context)
    assert await bench.saves.settle(10)
    assert bench.store.values == []
    assert not bench.saves


async def test_a_store_that_refuses_is_asked_again_with_what_is_last_then(bench: Bench) -> None:
    bench.store.refusals = 3
    bench.add(a_run(1), b"1")
    await until(lambda: len(bench.store.writes) == 1)
    assert bench.saves.trouble == "full"
    bench.add(a_run(1), b"2")
    bench.context(a_run(2)).save(3)
    await until(lambda: bench.told == [("1", True), ("2", True)])
    assert bench.store.values[-1] == {1: b"2"}
    assert bench.saves.trouble is None
    assert await bench.saves.settle(10)
    assert bench.store.values[-1] == {2: b"3"}


async def test_of_a_run_that_is_over_elsewhere_it_is_stale(bench: Bench) -> None:
    bench.store.stale = {1}
    bench.add(a_run(1), b"1")
    bench.add(a_run(2), b"2")
    await until(lambda: len(bench.told) == 2)
    assert sorted(bench.told) == [("1", False), ("2", True)]


async def test_what_is_not_stored_yet_waits_for_that_and_hurries_it(bench: Bench) -> None:
    bench.unstored = {1}
    bench.add(a_run(1), b"1")
    assert bench.hurried == 1
    bench.add(a_run(2), b"2")
    await until(lambda: bench.told == [("2", True)])
    bench.unstored.clear()
    bench.saves.look_again()
    await until(lambda: bench.told == [("2", True), ("1", True)])
    assert bench.store.values == [{2: b"2"}, {1: b"1"}]


async def test_many_bytes_are_written_in_parts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAVE_BYTES", 10)
    monkeypatch.setattr(module, "SAVE_RUNS", 4)
    for n in range(9):
        bench.add(a_run(n), b"1" * (9 if n < 4 else 1), str(n))
    await until(lambda: len(bench.told) == 9)
    assert [len(values) for values in bench.store.values] == [2, 2, 4, 1]


async def test_too_much_that_waits_is_too_much(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 105)
    bench.store.free.clear()
    for n in range(11):
        assert not bench.saves.is_full
        bench.add(a_run(n), b"1" * 10)
    assert bench.saves.is_full
    bench.add(a_run(10), b"1")
    assert not bench.saves.is_full
    for n in range(11):
        bench.add(a_run(n), b"1" * 10)
    bench.store.free.set()
    await until(lambda: len(bench.told) == 23)
    assert bench.saves._bytes == 0


async def test_a_stop_writes_what_there_is(bench: Bench) -> None:
    bench.context(a_run(1)).save(1)
    bench.add(a_run(2), b"2")
    assert await bench.saves.settle(10)
    assert {n: value for values in bench.store.values for n, value in values.items()} == {1: b"1", 2: b"2"}
    assert bench.store.writes[-1][1] is True


async def test_a_stop_does_not_wait_for_ever(bench: Bench) -> None:
    bench.store.free.clear()
    bench.add(a_run(1), b"1")
    assert not await bench.saves.settle(0.05)
    await bench.saves.stop()
    bench.add(a_run(2), b"2")
    await idle()
    assert bench.store.values == [{1: b"1"}]


async def test_memory_is_let_go_with_the_runs(bench: Bench) -> None:
    runs = [a_run(n) for n in range(50)]
    for run in runs:
        bench.add(run, b"x" * 100)
    await until(lambda: len(bench.told) == 50)
    for run in runs:
        report = bench.close(run, State.SUCCESS)
        bench.saves.applied([(run, report)], [True])
    for held in ("_runs", "_asked", "_lazy", "_kept_back", "_ending"):
        assert not getattr(bench.saves, held), held
    assert bench.saves._bytes == 0
