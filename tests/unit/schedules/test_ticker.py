"""Schedules on a real store, with a clock and a journal that do what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kqs.config import StoreSection
from kqs.errors import CallError, JournalFailedError, NoSpaceError, StoreUnavailableError
from kqs.ids import Ids
from kqs.inserter import Inserter
from kqs.options import Cascade, CatchUp
from kqs.queue.rules import accept
from kqs.schedules import journaling as journaling_module
from kqs.schedules import schedules as module
from kqs.schedules import ticker as ticker_module
from kqs.schedules.decision import Decision, decide
from kqs.schedules.schedules import Schedules
from kqs.schedules.ticker import BEHIND_S, RETRY_S, TAKE_OVER_S
from kqs.states import State
from kqs.store.sqlite import SqliteStore
from kqs.store.ticks import Plan, Schedule, tick_of
from kqs.wire.replayed import replay_jobs
from tests.support.backend import MemoryJournal, MemoryVerdicts
from tests.support.clock import FakeClock
from tests.support.jobs import listed
from tests.support.supervising import StrictSupervisor

JOB = '{"type":"mail"}'
MINUTELY = Plan(JOB, every=60.0)


class Node:
    """A node's schedules; what it journals goes into the store when that is to catch up."""

    def __init__(self, folder: Path, clock: FakeClock, plans: Mapping[str, Plan] | None = None) -> None:
        self.clock = clock
        self.supervisor = StrictSupervisor()
        self.store = SqliteStore(folder / "store.sqlite", StoreSection(), clock, self.supervisor)
        self.journal = MemoryJournal()
        self.ids = Ids("0000beef")
        inserter = Inserter(self.journal, self.ids, clock.now, MemoryVerdicts())
        self.schedules = Schedules(plans or {}, self.store, inserter, clock, self.supervisor, self.feed)
        self._fed = 0

    async def start(self) -> None:
        await self.store.open("0" * 32, "0000beef")
        await self.schedules.start()
        await self.schedules.settle()

    async def stop(self) -> None:
        await self.schedules.stop()
        await self.store.close()

    async def feed(self) -> None:
        records, self._fed = self.journal.records[self._fed :], len(self.journal.records)
        options = Cascade({}, {}).of_type["mail"]
        jobs = [
            accept(job, order, job.id or self.ids.of(order), options, record.accepted_at, None)
            for record in records
            for order, job in enumerate(replay_jobs(record.payload), record.first_order)
        ]
        await self.store.insert(jobs, len(self.journal.records), "w", self.clock.now())

    def jump(self, seconds: float) -> None:
        """Set the wall clock, and have it looked at."""
        self.clock.jump(seconds)
        self.schedules.ticker.wake()

    async def ids_of_jobs(self) -> list[str]:
        await self.feed()
        return sorted(record.id for record in await listed(self.store))

    async def until(self, looked: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(20):
            while True:
                if await looked():
                    break
                await asyncio.sleep(0)

    async def pass_turns(self) -> None:
        """Let the ticker look at the clock."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def until_jobs(self, *instants: float) -> None:
        wanted = sorted(tick_of("a", at) for at in instants)

        async def are_there() -> bool:
            return await self.ids_of_jobs() == wanted

        await self.until(are_there)

    async def until_counted(self, **counts: int) -> None:
        async def are_counted() -> bool:
            return self.schedules.stats().items() >= counts.items()

        await self.until(are_counted)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    node = Node(tmp_path, FakeClock())
    await node.start()
    yield node
    await node.stop()


async def test_tick_waits_while_inserts_are_refused_and_health_says_so(node: Node) -> None:
    begin = node.clock.now()
    await node.schedules.put("a", MINUTELY)
    node.journal.failure = NoSpaceError("3 bytes are free")
    node.jump(61)

    async def is_told() -> bool:
        return node.schedules.problems() == ["the schedule 'a' cannot insert: 3 bytes are free"]

    await node.until(is_told)
    node.journal.failure = None
    node.jump(RETRY_S)
    await node.until_jobs(begin + 60)

    async def is_well() -> bool:
        return node.schedules.problems() == []

    await node.until(is_well)


async def test_tick_that_waits_by_a_clock_that_was_ahead_does_not_wait_for_it(node: Node) -> None:
    begin, ahead_s = node.clock.now(), 10 * 86400 + 1
    await node.schedules.put("a", msgspec.structs.replace(MINUTELY, every=86400.0, catch_up="all"))
    node.journal.failure = NoSpaceError("3 bytes are free")
    node.jump(ahead_s)

    async def is_refused() -> bool:
        return bool(node.schedules.problems())

    await node.until(is_refused)
    node.journal.failure = None
    node.jump(-ahead_s)
    await node.pass_turns()
    node.jump(86401)
    await node.until_jobs(begin + 86400)


async def test_tick_that_waited_too_long_is_missed(node: Node) -> None:
    await node.schedules.put("a", msgspec.structs.replace(MINUTELY, every=3600.0, catch_up="skip"))
    node.journal.failure = NoSpaceError("full")
    node.jump(3601)

    async def is_refused() -> bool:
        return bool(node.schedules.problems())

    await node.until(is_refused)
    node.jump(60)
    await node.until_counted(ticks_missed=1)
    assert await node.ids_of_jobs() == []
    assert (await node.store.schedules())[0].missed == 1


async def test_flush_that_failed_may_have_kept_the_tick_and_it_is_there_once(node: Node) -> None:
    begin = node.clock.now()
    await node.schedules.put("a", MINUTELY)
    node.journal.failure = JournalFailedError("EIO")
    node.jump(61)

    async def is_refused() -> bool:
        return bool(node.schedules.problems())

    await node.until(is_refused)
    await node.until_jobs()
    node.journal.failure = None
    node.jump(RETRY_S)
    await node.until_jobs(begin + 60)


@pytest.mark.parametrize(("catch_up", "kept", "missed"), [("one", [5], 4), ("skip", [5], 4), ("all", [1, 2, 3, 4, 5], 0)])
async def test_clock_that_is_put_on_makes_ticks_late(node: Node, catch_up: CatchUp, kept: list[int], missed: int) -> None:
    begin = node.clock.now()
    await node.schedules.put("a", msgspec.structs.replace(MINUTELY, catch_up=catch_up))
    node.jump(5 * 60 + 1)
    await node.until_jobs(*[begin + 60 * number for number in kept])
    await node.until_counted(ticks_missed=missed)
    assert (await node.store.schedules())[0].missed == missed


async def test_counting_the_ticks_of_years_leaves_the_loop_to_others_in_between(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = 0
    turns_of: list[int] = []

    def decide_for_long(*args: Any, **options: Any) -> Decision:
        node.clock.advance(2 * ticker_module.SLICE_S)
        turns_of.append(turns)
        return decide(*args, **options)

    async def take_turns() -> None:
        nonlocal turns
        while len(turns_of) < 5:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(ticker_module, "decide", decide_for_long)
    for name in "abcde":
        await node.schedules.put(name, MINUTELY)
    node.jump(10 * 365 * 86400)
    async with asyncio.timeout(20):
        await take_turns()
    assert len(set(turns_of)) == 5


async def test_records_of_ticks_leave_the_loop_to_others_in_between(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journaling_module, "RECORD_JOBS", 10)
    node.journal.held = True
    await node.schedules.put("a", msgspec.structs.replace(MINUTELY, catch_up="all"))
    node.jump(3600 + 1)
    seen = set()
    async with asyncio.timeout(20):
        while node.journal.waiting_count < 6:
            seen.add(node.journal.waiting_count)
            await asyncio.sleep(0)
    assert seen >= {1, 2, 3, 4, 5}
    node.journal.held = False
    node.journal.flush()


async def test_tick_that_is_refused_is_not_passed_by_a_later_one_that_is_taken(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journaling_module, "RECORD_JOBS", 2)
    begin = node.clock.now()
    await node.schedules.put("a", msgspec.structs.replace(MINUTELY, catch_up="all"))
    node.journal.refuse_next(NoSpaceError("3 bytes are free"))
    node.jump(5 * 60 + 1)

    async def is_told() -> bool:
        return node.schedules.problems() == ["the schedule 'a' cannot insert: 3 bytes are free"]

    await node.until(is_told)
    node.jump(RETRY_S)
    await node.until_jobs(*[begin + 60 * number for number in (1, 2, 3, 4, 5)])


async def test_clock_that_is_set_back_repeats_no_tick_and_health_says_so(node: Node) -> None:
    begin = node.clock.now()
    await node.schedules.put("a", MINUTELY)
    node.jump(3601)
    await node.until_jobs(begin + 3600)
    node.jump(-3500)
    assert "ticked ahead of the clock" in node.schedules.problems()[0]
    (entry,) = await node.schedules.shown(["a"])
    assert entry.next_at() == begin + 3660
    # given again by its owner, it does not wait for the clock
    await node.schedules.put("a", MINUTELY)
    again = node.clock.now()
    assert node.schedules.problems() == []
    node.jump(BEHIND_S + 1)
    await node.until_jobs(begin + 3600, again + 60)


@pytest.mark.parametrize("is_resumed", [False, True])
async def test_clock_set_back_before_the_first_tick_of_a_schedule_is_told_by_health(node: Node, is_resumed: bool) -> None:
    begin = node.clock.now()
    if is_resumed:
        await node.schedules.put("a", MINUTELY)
        await node.schedules.suspend("a")
    node.jump(3 * 3600)
    await (node.schedules.resume("a") if is_resumed else node.schedules.put("a", MINUTELY))
    assert node.schedules.problems() == []
    node.jump(BEHIND_S - 3 * 3600)
    assert node.schedules.problems() == [
        "the schedule 'a' began ahead of the clock, which was set back, and waits until it comes there again"
    ]
    await node.schedules.put("a", msgspec.structs.replace(MINUTELY, every=30.0))
    assert node.schedules.problems() == []
    node.jump(31)
    await node.until_jobs(begin + BEHIND_S + 30)


async def test_one_that_began_ahead_of_the_clock_is_given_anew_by_the_same_call(node: Node) -> None:
    begin = node.clock.now()
    node.jump(3 * 3600)
    ahead = await node.schedules.put("a", MINUTELY)
    assert (await node.schedules.put("a", MINUTELY)).revision == ahead.revision
    node.jump(-3 * 3600)
    assert "began ahead of the clock" in node.schedules.problems()[0]
    await node.schedules.put("a", MINUTELY)
    assert node.schedules.problems() == []
    node.jump(61)
    await node.until_jobs(begin + 60)


async def test_one_that_is_given_again_stays_while_the_clock_is_a_little_behind_its_last_tick(node: Node) -> None:
    begin = node.clock.now()
    kept = await node.schedules.put("a", MINUTELY)
    node.jump(60)
    await node.until_jobs(begin + 60)
    node.jump(-0.1)
    assert (await node.schedules.put("a", MINUTELY)).revision == kept.revision
    node.jump(60.1)
    await node.until_jobs(begin + 60, begin + 120)


async def test_tick_after_a_skipped_one_comes_at_its_instant(node: Node) -> None:
    begin = node.clock.now()
    every_s = RETRY_S / 4
    await node.schedules.put("a", msgspec.structs.replace(MINUTELY, every=every_s, overlap="skip"))
    node.jump(every_s)
    await node.until_jobs(begin + every_s)
    for number in range(1, 5):
        node.jump(every_s)
        await node.until_counted(ticks_skipped=number, ticks_missed=0)
    assert (await node.store.schedules())[0].skipped == 4


async def test_a_first_server_that_left_a_tick_is_not_waited_for_at_the_next(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = node.clock.now()
    monkeypatch.setattr(node.store, "is_shared", True)
    monkeypatch.setattr(node.store, "is_first", False)
    await node.schedules.put("a", msgspec.structs.replace(MINUTELY, every=1.0))
    node.jump(TAKE_OVER_S)
    assert await node.ids_of_jobs() == []
    node.jump(1)
    await node.until_jobs(begin + 3)
    node.jump(1)
    await node.until_jobs(begin + 3, begin + 4)
    assert node.schedules.stats()["ticks_missed"] == 2


async def test_store_that_is_away_holds_up_only_what_needs_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = node.clock.now()
    await node.schedules.put("a", MINUTELY)
    await node.schedules.put("b", msgspec.structs.replace(MINUTELY, overlap="skip"))

    async def away(*_args: object) -> None:
        raise StoreUnavailableError("away")

    with monkeypatch.context() as context:
        context.setattr(node.store, "look", away)
        context.setattr(node.store, "schedules", away)
        node.jump(61)

        async def is_inserted() -> bool:
            return await node.ids_of_jobs() == [tick_of("a", begin + 60)]

        await node.until(is_inserted)
    node.jump(RETRY_S)

    async def are_both() -> bool:
        return await node.ids_of_jobs() == [tick_of("a", begin + 60), tick_of("b", begin + 60)]

    await node.until(are_both)


async def test_many_at_one_instant_are_all_inserted_in_few_records(node: Node) -> None:
    begin = node.clock.now()
    for number in range(100):
        await node.schedules.put(f"n{number}", MINUTELY)
    node.jump(61)
    await node.until_counted(ticks_inserted=100)
    await node.feed()
    assert (await node.store.counts())["mail"][State.NEW] == 100
    assert len(node.journal.records) < 10
    assert (await node.store.schedules(["n7"]))[0].tick_at == begin + 60


async def test_a_tick_that_another_server_has_inserted_is_counted_and_no_second_job(node: Node) -> None:
    begin = node.clock.now()
    await node.schedules.put("a", MINUTELY)
    job_id = tick_of("a", begin + 60)
    (job,) = replay_jobs(msgspec.json.encode({"type": "mail", "id": job_id}))
    theirs = accept(job, 1000, job_id, Cascade({}, {}).of_type["mail"], begin, None)
    await node.store.insert([theirs], 1001, "other", begin)
    node.jump(61)
    await node.until_counted(ticks_inserted=1)
    assert await node.ids_of_jobs() == [job_id]
    assert len(node.journal.records) == 1


async def test_one_that_is_suspended_or_gone_ticks_no_more(node: Node) -> None:
    await node.schedules.put("a", MINUTELY)
    await node.schedules.put("b", MINUTELY)
    await node.schedules.put("c", MINUTELY)
    await node.schedules.suspend("a")
    await node.schedules.remove("b")
    node.jump(61)
    await node.until_counted(ticks_inserted=1)
    assert [job_id[0] for job_id in await node.ids_of_jobs()] == ["c"]


async def test_there_is_a_most(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SCHEDULES", 1)
    await node.schedules.put("a", MINUTELY)
    with pytest.raises(CallError, match="1 schedules, which is the most") as refused:
        await node.schedules.put("b", MINUTELY)
    assert refused.value.call_code == "busy"
    await node.schedules.put("a", msgspec.structs.replace(MINUTELY, every=5.0))


async def test_what_another_version_has_kept_is_told_and_holds_up_nobody(node: Node) -> None:
    begin = node.clock.now()
    await node.schedules.put("a", MINUTELY)
    strange = msgspec.structs.replace(MINUTELY, every=None, cron="1 2 3 * * 2099")
    await node.store.put_schedule(Schedule("x", strange, "call", begin, begin, 9))
    (entry,) = await node.schedules.shown(["x"])
    assert entry.next_at() is None
    assert "the schedule 'x' cannot be read here: expected five fields" in node.schedules.problems()[0]
    node.jump(61)
    await node.until_jobs(begin + 60)


async def test_what_a_config_changes_is_asked_of_the_store_together(tmp_path: Path) -> None:
    clock, begun, most = FakeClock(), 0, 0
    for names in (range(250), range(200, 300)):
        here = Node(tmp_path, clock, {f"s{number}": MINUTELY for number in names})

        async def put(schedule: Schedule, node: str | None = None, *, store: SqliteStore = here.store) -> Schedule:
            nonlocal begun, most
            begun, most = begun + 1, max(most, begun + 1)
            try:
                return await SqliteStore.put_schedule(store, schedule, node)
            finally:
                begun -= 1

        here.store.put_schedule = put  # type: ignore[method-assign]
        await here.start()
        assert here.schedules.names == sorted(f"s{number}" for number in names)
        await here.stop()
    assert most == module._TURN


async def test_a_store_that_fails_meanwhile_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticker_module, "RETRY_S", 0.001)
    here = Node(tmp_path, FakeClock(), {f"s{number}": MINUTELY for number in range(250)})
    refused = {"s7", "s140"}

    async def put(schedule: Schedule, node: str | None = None) -> Schedule:
        if schedule.name in refused:
            refused.remove(schedule.name)
            raise StoreUnavailableError("the disk is gone")
        return await SqliteStore.put_schedule(here.store, schedule, node)

    here.store.put_schedule = put  # type: ignore[method-assign]
    await here.start()
    assert len(here.schedules.names) == 250
    assert not refused
    await here.stop()
