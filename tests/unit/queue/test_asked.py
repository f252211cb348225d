"""What the store makes of jobs reaches who asked for it: when it is durable, once, and never later than the bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kqs.errors import CallError, KqsError, StoreUnavailableError
from kqs.inserter import Found, Question
from kqs.queue import asked as module
from kqs.queue.asked import Asked
from kqs.store.base import Known
from tests.support.clock import FakeClock
from tests.support.jobs import ORDER, an_accepted
from tests.support.supervising import StrictSupervisor
from tests.support.turning import until


class Syncs:
    """A store that is durable when the test says so."""

    def __init__(self) -> None:
        self.count = 0
        self.refusals = 0
        self.free = asyncio.Event()
        self.free.set()

    async def sync(self) -> int:
        self.count += 1
        await self.free.wait()
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailableError("away")
        return 0


class Bench:
    def __init__(self) -> None:
        self.store = Syncs()
        self.clock = FakeClock()
        store: Any = self.store  # as much of one as is asked
        self.asked = Asked(store, self.clock, StrictSupervisor())
        self.told: list[tuple[str, Found | KqsError]] = []

    def ask(self, name: str, *numbers: int, is_lasting: bool = True, is_flushed: bool = True) -> Question:
        orders = [ORDER + number for number in numbers]
        question = Question(orders, lambda found: self.told.append((name, found)), is_lasting=is_lasting)
        self.asked.ask(question)
        if is_flushed:
            self.asked.flushed(question)
        return question

    def stored(self, *numbers: int, known: Known | None = None) -> None:
        self.asked.stored([an_accepted(number) for number in numbers], Known() if known is None else known)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.told]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    running = asyncio.ensure_future(bench.asked.run())
    yield bench
    running.cancel()
    await asyncio.wait([running])
    bench.asked.close()


async def test_a_known_job_that_a_lost_attempt_has_stored_is_new(bench: Bench) -> None:
    bench.ask("one", 0, 1)
    bench.stored(0, 1, known=Known([ORDER, ORDER + 1], made={ORDER}))
    await until(lambda: bench.told == [("one", Found({ORDER + 1}, {}))])


async def test_each_hears_what_became_of_its_jobs_when_all_are_stored(bench: Bench) -> None:
    bench.ask("one", 0)
    bench.ask("two", 1, 2, 4)
    bench.stored(0, 1, 3)
    await until(lambda: bench.names == ["one"])
    assert bench.asked
    bench.stored(2, 4, known=Known([ORDER + 2, ORDER + 4], joined={ORDER + 4: "other"}))
    await until(lambda: bench.names == ["one", "two"])
    assert [found for _, found in bench.told] == [(set(), {}), ({ORDER + 2}, {ORDER + 4: "other"})]
    assert not bench.asked.open


async def test_nothing_of_a_key_is_told_before_it_is_durable(bench: Bench) -> None:
    bench.store.free.clear()
    bench.ask("lasting", 0)
    bench.stored(0)
    await until(lambda: bench.store.count == 1)
    assert bench.told == []
    bench.store.free.set()
    await until(lambda: bench.names == ["lasting"])


async def test_an_id_needs_no_sync_since_a_replay_finds_it_again(bench: Bench) -> None:
    bench.ask("id", 0, is_lasting=False)
    bench.stored(0)
    await until(lambda: bench.names == ["id"])
    assert bench.store.count == 0


async def test_a_store_that_cannot_be_made_durable_is_asked_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STORE_FIRST_S", 0.0)
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.0)
    bench.store.refusals = 3
    bench.ask("lasting", 0)
    bench.stored(0)
    await until(lambda: bench.names == ["lasting"])
    assert bench.store.count == 4


async def test_who_asks_about_a_record_that_is_not_kept_hears_nothing(bench: Bench) -> None:
    question = bench.ask("lost", 0, is_flushed=False)
    bench.asked.withdraw(question)
    bench.stored(0)
    assert not bench.asked.open
    assert bench.told == []


async def test_a_store_that_is_behind_is_not_waited_for_longer_than_the_bound(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WITHIN_S", 0.02)
    bench.ask("late", 0)
    monkeypatch.setattr(module, "WITHIN_S", 60.0)
    bench.ask("patient", 1)
    bench.clock.advance(0.02)
    await until(lambda: bench.names == ["late"])
    ((_, error),) = bench.told
    assert isinstance(error, CallError)
    assert (error.call_code, "the job is kept" in str(error)) == ("timeout", True)
    bench.stored(0, 1)
    await until(lambda: bench.names == ["late", "patient"])


async def test_what_is_decided_and_not_durable_in_time_is_told_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WITHIN_S", 0.02)
    bench.store.free.clear()
    bench.ask("late", 0)
    bench.stored(0)
    bench.clock.advance(0.02)
    await until(lambda: bench.names == ["late"])
    bench.store.free.set()
    monkeypatch.setattr(module, "WITHIN_S", 60.0)
    bench.ask("next", 1)
    bench.stored(1)
    await until(lambda: bench.names == ["late", "next"])


async def test_a_stop_tells_all_who_wait(bench: Bench) -> None:
    bench.ask("one", 0)
    bench.ask("two", 1)
    bench.ask("not flushed", 2, is_flushed=False)
    bench.asked.close()
    assert bench.names == ["one", "two"]
    assert all(isinstance(error, CallError) and "the server stops" in str(error) for _, error in bench.told)


async def test_whose_jobs_are_flushed_after_a_stop_is_told_then(bench: Bench) -> None:
    bench.ask("one", 0)
    late = bench.ask("late", 1, is_flushed=False)
    bench.asked.close()
    bench.asked.flushed(late)
    assert bench.names == ["one", "late"]


async def test_too_many_questions_are_refused_but_one_always_has_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_JOBS", 2)
    bench.asked.check_room(3)
    bench.ask("one", 0)
    bench.asked.check_room(1)
    with pytest.raises(CallError) as caught:
        bench.asked.check_room(2)
    assert caught.value.call_code == "busy"


async def test_who_need_not_wait_for_the_disk_does_not_wait_behind_who_must(bench: Bench) -> None:
    bench.store.free.clear()
    bench.ask("lasting", 1)
    bench.stored(1)
    await until(lambda: bench.store.count == 1)
    bench.ask("passing", 2, is_lasting=False)
    bench.stored(2)
    assert bench.names == ["passing"]
    bench.store.free.set()
    await until(lambda: bench.names == ["passing", "lasting"])
