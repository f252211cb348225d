"""Whatever tries again until it works writes a line when it fails first and one when it works, however often it tried."""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

import kqs.broker.memory
import kqs.feeder.checkpoints
import kqs.feeder.feeder
import kqs.queue.dispatch
import kqs.queue.housekeeping
import kqs.queue.reports
import kqs.queue.timetable
from kqs.broker.memory import MemoryBroker
from kqs.errors import StoreUnavailableError
from kqs.job import Entry
from kqs.journal.condition import Acceptance, Event
from kqs.trouble import TOLD_EVERY_S
from tests.support.clock import FakeClock
from tests.support.feeding import Feeding, caught_up
from tests.support.files import FaultyFiles, MemoryFiles
from tests.support.jobs import an_accepted
from tests.support.journal import a_journal, a_record, all_settled, until_accepting
from tests.support.queueing import Rig
from tests.support.supervising import StrictSupervisor
from tests.support.turning import until

TIMES = 20
WAITS = [
    (kqs.queue.dispatch, "RETRY_WAIT_S"),
    (kqs.queue.housekeeping, "HOUSEKEEPING_S"),
    (kqs.broker.memory, "BACKOFF_FIRST_S"),
    (kqs.broker.memory, "BACKOFF_LAST_S"),
    *((module, f"STORE_{name}_S") for module in (kqs.queue.reports, kqs.feeder.feeder) for name in ("FIRST", "LONGEST")),
    (kqs.feeder.checkpoints, "AFTER_S"),
]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in WAITS:
        monkeypatch.setattr(module, name, 0.001)
    monkeypatch.setattr(kqs.queue.timetable, "RETRY_WAIT_S", 0.0)


class Refusals:
    """Makes a method of the store refuse `TIMES` times, and tells when it has worked again."""

    def __init__(self, store: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._real: Callable[..., Awaitable[Any]] = getattr(store, name)
        self._left = TIMES
        self.worked = asyncio.Event()
        monkeypatch.setattr(store, name, self._refuse)

    async def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        if self._left:
            self._left -= 1
            raise StoreUnavailableError("database is locked")
        answer = await self._real(*args, **kwargs)
        self.worked.set()
        return answer


async def report(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted())
    await hand.end(await hand.take())


async def claim(rig: Rig) -> None:
    await rig.accept(an_accepted())
    await rig.hand(1).take()


async def keep_house(_rig: Rig) -> None:
    pass


@pytest.mark.parametrize(
    ("refused", "work", "lines"),
    [
        ("report", report, ["the store refuses reports, trying again", "the store takes reports again"]),
        ("claim", claim, ["cannot reserve, trying again", "reserves again"]),
        ("orphans", keep_house, ["cannot keep house, trying again", "keeps house again"]),
    ],
)
async def test_the_queue_tells_once_that_the_store_refuses(
    refused: str,
    work: Callable[[Rig], Awaitable[None]],
    lines: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    with structlog.testing.capture_logs() as said:
        refusals = Refusals(rig.store, refused, monkeypatch)
        async with asyncio.timeout(20):
            await work(rig)
            await refusals.worked.wait()
            await until(lambda: lines[1] in [line["event"] for line in said])
        await rig.stop()
    assert [line["event"] for line in said if line["event"] in lines] == lines


def told(said: list[Any], lines: list[str]) -> list[str]:
    return [line["event"] for line in said if line["event"] in lines]


async def test_the_broker_tells_once_that_a_refill_failed() -> None:
    lines = ["cannot fetch what waits in the store, trying again", "fetches from the store again"]
    broker, failures = MemoryBroker(StrictSupervisor(), 10), [StoreUnavailableError("database is locked")] * TIMES

    async def refill(*_: object) -> list[Entry]:
        if failures:
            raise failures.pop()
        return [Entry(1, "a", "mail", 1)]

    await broker.start(refill, {"mail": 1})
    with structlog.testing.capture_logs() as said:
        async with asyncio.timeout(20):
            while not await broker.reserve({"mail": 1}, 1):
                await broker.wait_ready(frozenset({"mail"}))
    await broker.close()
    assert told(said, lines) == lines


@pytest.mark.parametrize(
    ("refused", "alarm", "lines"),
    [
        ("wake", "_due", ["cannot wake what is due, trying again", "wakes what is due again"]),
        ("expire", "_expiring", ["cannot end what expired, trying again", "ends what expired again"]),
    ],
)
async def test_the_timetable_tells_once_that_the_store_refuses(
    refused: str, alarm: str, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    refusals = Refusals(rig.store, refused, monkeypatch)
    with structlog.testing.capture_logs() as said:
        async with asyncio.timeout(20):
            while not refusals.worked.is_set():
                getattr(rig.queue._timetable, alarm).note(rig.clock.now() - 1)
                await asyncio.sleep(0)
            await until(lambda: lines[1] in told(said, lines))
        await rig.stop()
    assert told(said, lines) == lines


async def test_the_feeder_tells_once_that_the_store_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["jobs wait in the journal, trying again", "jobs go on from the journal"]
    rig = Rig(tmp_path)
    await rig.start()
    feeding = Feeding(rig, tmp_path)
    feeder = await feeding.start()
    Refusals(rig.store, "insert", monkeypatch)
    with structlog.testing.capture_logs() as said:
        await feeding.insert(b'{"type":"mail"}')
        await caught_up(feeder)
    await feeding.stop()
    await rig.stop()
    assert told(said, lines) == lines


async def test_checkpoints_that_fail_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["the checkpoint cannot move, trying again until it can", "the checkpoint moves again"]
    rig = Rig(tmp_path)
    await rig.start()
    feeding = Feeding(rig, tmp_path)
    feeder = await feeding.start()
    refusals = Refusals(rig.store, "sync", monkeypatch)
    with structlog.testing.capture_logs() as said:
        await feeding.insert(b'{"type":"mail"}')
        await caught_up(feeder)
        async with asyncio.timeout(20):
            await refusals.worked.wait()
            await until(lambda: len(told(said, lines)) >= len(lines))
    await feeding.stop()
    await rig.stop()
    assert told(said, lines) == lines


async def test_the_journal_tells_once_that_it_can_begin_no_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["journal cannot begin a new segment, trying again", "journal has a new segment"]
    monkeypatch.setattr("kqs.journal.condition.Acceptance.REOPEN_FIRST_S", 0.001)
    monkeypatch.setattr("kqs.journal.condition.Acceptance.REOPEN_LAST_S", 0.001)
    files, tries = FaultyFiles(MemoryFiles()), []
    journal = a_journal(files)
    await journal.start()

    def refuse(_index: int, name: str) -> OSError | None:
        if name == "create":
            tries.append(name)
        return OSError(errno.EIO, "gone") if name in ("write", "create") and len(tries) <= TIMES else None

    files.plan = refuse
    with structlog.testing.capture_logs() as said:
        journal.append(a_record())
        await all_settled(journal)
        async with asyncio.timeout(20):
            await until_accepting(journal)
    await journal.stop()
    assert told(said, lines) == lines


async def test_a_journal_that_fails_and_works_in_turns_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["journal failed", "journal works again"]
    monkeypatch.setattr("kqs.journal.condition.Acceptance.REOPEN_FIRST_S", 0.001)
    files, writes = FaultyFiles(MemoryFiles()), itertools.count()
    journal = a_journal(files)
    await journal.start()

    def refuse_some(_index: int, name: str) -> OSError | None:
        return OSError(errno.EIO, "gone") if name == "write" and next(writes) % 4 == 0 else None

    files.plan = refuse_some
    with structlog.testing.capture_logs() as said:
        async with asyncio.timeout(20):
            while journal.stats()["failures"] < TIMES:
                await until_accepting(journal)
                journal.append(a_record())
                await all_settled(journal)
            files.plan = lambda _index, _name: None
            await until_accepting(journal)
    await journal.stop()
    assert told(said, lines) == lines


def test_a_disk_that_is_full_now_and_then_is_told_of_once_a_minute() -> None:
    lines = ["journal refuses new jobs: the disk is nearly full", "journal accepts jobs again"]
    clock = FakeClock()
    acceptance = Acceptance(100 << 20, clock.monotonic)
    acceptance.take(Event.STARTED)
    with structlog.testing.capture_logs() as said:
        for _ in range(TIMES):
            for free in (1 << 20, 1 << 30):
                clock.advance(1)
                acceptance.measure(free, 0, 0)
        assert told(said, lines) == lines
        for _ in range(int(TOLD_EVERY_S)):
            clock.advance(1)
            acceptance.measure(1 << 20, 0, 0)
    assert told(said, lines) == [*lines, lines[0]]
