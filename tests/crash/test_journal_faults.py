"""Each file operation of a journal's life fails: once and for good, with EIO, with ENOSPC, and as a short write.

Oracle: no hang; acknowledged ⊆ recovered ⊆ attempted whatever the disk kept, but for what the store had taken; a refused
record never comes back; after a failure that passes, the journal accepts again by itself.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from kqs.errors import JournalError, JournalFailedError, NoSpaceError
from kqs.journal.condition import Acceptance
from kqs.journal.disk import Disk as JournalDisk
from kqs.journal.space import LEAST_FREE_BYTES
from tests.support.clock import FakeClock
from tests.support.files import Disk, FaultyFiles, MemoryFiles, PowerLossFiles
from tests.support.journal import (
    DIR,
    Heard,
    Told,
    a_journal,
    a_record,
    all_records,
    all_settled,
    appended,
    recovered,
    until_accepting,
)

SEGMENT_BYTES = 1500
Fault = OSError | str


@pytest.fixture(autouse=True)
def _quick_reopening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Acceptance, "REOPEN_FIRST_S", 0.0005)


class Fed(NamedTuple):
    """What the store has from here on."""

    payloads: list[bytes]


class Life:
    """One journal on a disk that may fail; keeps account of what it was told."""

    def __init__(self) -> None:
        self.disk = PowerLossFiles()
        self.files = FaultyFiles(self.disk)
        self.journal = a_journal(self.files, segment_bytes=SEGMENT_BYTES)
        self.journal.listen(heard := Heard())
        self.heard = heard
        self.told = Told()
        self.refused: list[bytes] = []
        self.attempted: list[bytes] = []
        self.fed: list[bytes] = []

    async def live(self, *, recover: bool = False) -> None:
        """Start, insert over three segments, checkpoint twice, stop; every refusal is taken as it comes, or its end awaited."""
        try:
            await self.journal.start()
        except JournalError:
            return
        await self.insert(10)
        await self.insert(600, 5)
        await self.insert(1000)
        if recover:
            await until_accepting(self.journal)
        await self.checkpoint()
        await self.insert(1200, 3)
        if recover:
            await until_accepting(self.journal)
        await self.checkpoint()
        await self.insert(7)
        await self.journal.stop()

    async def insert(self, *sizes: int) -> None:
        for size in sizes:
            record = a_record(f"{len(self.attempted)}:{'x' * size}")
            record.done = lambda error, payload=record.payload: self.hear(payload, error)
            self.attempted.append(record.payload)
            try:
                self.journal.append(record)
            except JournalError:
                self.refused.append(record.payload)
        await all_settled(self.journal)

    def hear(self, payload: bytes, error: JournalError | None) -> None:
        self.told.news.append((payload, error))
        if error is None:
            self.disk.mark(payload)

    async def checkpoint(self) -> None:
        """Let the store have all that was acknowledged but the last."""
        self.fed = self.told.acknowledged[:-1]
        self.disk.mark(Fed(self.fed))
        try:
            await self.journal.checkpoint(len(self.fed))
        except JournalError:
            return

    async def accepts_again(self) -> bool:
        await until_accepting(self.journal)
        await self.insert(1)
        return self.told.acknowledged[-1:] == self.attempted[-1:]

    def check(self) -> None:
        """Compare the account with every state the disk may be in now."""
        disk = Disk()
        for op in self.disk.ops:
            disk.take(op)
        assert self.heard.open is None
        assert [record.payload for batch in self.heard.flushed_batches for record in batch] == self.told.acknowledged
        assert {record.payload for batch in self.heard.failed_batches for record in batch} <= {*self.told.failed}
        assert len(self.told.news) + len(self.refused) == len(self.attempted)
        for state in [*disk.states(random.Random(1), 4), self.disk.snapshot()]:
            self.check_state(state, set(self.told.acknowledged) - set(self.fed))

    def check_every_moment(self) -> None:
        """As `check`, but for a power cut after each operation of the life."""
        disk, rng, needed = Disk(), random.Random(1), set[bytes]()
        for op in self.disk.ops:
            if isinstance(op.mark, Fed):
                needed -= set(op.mark.payloads)
            elif op.what == "mark":
                needed.add(op.mark)
            disk.take(op)
            for state in disk.states(rng, 1):
                self.check_state(state, needed)

    def check_state(self, state: dict[Path, bytes], needed: set[bytes]) -> None:
        payloads = [record.payload for record in recovered(MemoryFiles(state), SEGMENT_BYTES)]
        assert needed <= set(payloads) <= set(self.attempted) - set(self.refused)
        assert payloads == sorted(payloads, key=self.attempted.index)


def at(index: int, fault: Fault) -> Callable[[int, str], Fault | None]:
    return lambda call, _name: fault if call == index else None


def from_on(index: int, fault: Fault, calls: list[str]) -> Callable[[int, str], Fault | None]:
    return lambda call, name: fault if call >= index and name == calls[index] else None


async def calls_of_a_life() -> list[str]:
    life = Life()
    await life.live()
    return life.files.calls


FAULTS = [OSError(code, os.strerror(code)) for code in (errno.EIO, errno.ENOSPC)]


@pytest.mark.parametrize("fault", [*FAULTS, "short"], ids=["EIO", "ENOSPC", "short"])
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for_good"])
async def test_no_failing_call_leads_to_a_false_answer_or_a_hang(fault: Fault, for_good: bool) -> None:
    calls = await calls_of_a_life()
    for index in range(len(calls)):
        life = Life()
        life.files.plan = from_on(index, fault, calls) if for_good else at(index, fault)
        async with asyncio.timeout(10):
            await life.live()
        life.check()


async def test_no_power_cut_after_a_passing_failure_loses_an_acknowledged_record() -> None:
    calls = await calls_of_a_life()
    for index in [index for index, name in enumerate(calls) if name in ("write", "flush", "rename", "flush_dir", "truncate")]:
        life = Life()
        life.files.plan = at(index, FAULTS[0])
        await life.live(recover=True)
        life.check_every_moment()


@pytest.mark.parametrize("name", ["write", "flush", "create", "allocate", "rename", "flush_dir"])
async def test_after_a_failure_that_passes_inserts_work_again(name: str) -> None:
    life = Life()
    await life.journal.start()
    failing = iter([OSError(errno.EIO, "gone")])
    life.files.plan = lambda _call, called: next(failing, None) if called == name else None
    for size in (1000, 1000, 1000):
        await life.insert(size)
    assert await life.accepts_again()
    await life.journal.stop()
    life.check()


async def test_a_failed_file_is_never_touched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Acceptance, "REOPEN_FIRST_S", 0.1)  # what a try to reopen asks must not come before the look
    monkeypatch.setattr(JournalDisk, "LOOK_S", 3600.0)  # nor what is asked each second, on a machine that took one to come here
    life = Life()
    await life.journal.start()
    await life.insert(10)
    life.files.plan = lambda _call, name: OSError(errno.EIO, "gone") if name == "flush" else None
    touched = len(life.files.calls)
    await life.insert(20)
    after = [name for name in life.files.calls[touched:] if name != "begin_flush"]  # as it is on the loop, not in the thread
    assert after[:4] == ["write", "name_of", "flush", "close"]
    assert after[4:6] == ["list", "create"][: len(after) - 4]  # a new one may have been tried already
    life.files.plan = lambda _call, _name: None
    assert await life.accepts_again()
    assert life.journal.stats()["segments"] == 2
    await life.journal.stop()


async def test_while_failed_it_refuses_and_says_so() -> None:
    life = Life()
    await life.journal.start()
    life.files.plan = lambda _call, name: OSError(errno.EIO, "gone") if name in ("flush", "allocate") else None
    await life.insert(20, 30)
    assert life.told.failed == life.attempted
    with pytest.raises(JournalFailedError, match="gone"):
        life.journal.append(a_record())
    assert not life.journal.accepting
    assert "gone" in life.journal.problems()[0]
    await life.journal.stop()


async def test_what_waits_behind_a_failed_flush_fails_too() -> None:
    life = Life()
    await life.journal.start()
    life.files.plan = lambda _call, name: OSError(errno.EIO, "gone") if name == "flush" else None
    for text in ("first", "second"):
        life.journal.append(life.told.of(a_record(text)))
    await asyncio.sleep(0)
    life.journal.append(life.told.of(a_record("while the flush runs")))
    await all_settled(life.journal)
    assert len(life.told.failed) == 3
    await life.journal.stop()


async def test_a_low_disk_refuses_before_anything_is_written_and_resumes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JournalDisk, "LOOK_S", 0.0)
    files = MemoryFiles()
    files.free = 4_000_000 - 1
    asked: list[int] = []
    journal = a_journal(files, min_free_bytes=4_000_000, on_low=lambda: asked.append(files.free))
    await journal.start()
    with pytest.raises(NoSpaceError):
        journal.append(a_record())
    assert journal.problems() == ["3999999 bytes are free on the journal's disk, 5000000 are needed"]
    assert asked == [3_999_999]
    files.free = 1 << 30
    await until_accepting(journal)
    await appended(journal, a_record())
    await journal.stop()


async def test_what_the_thread_has_in_hand_when_the_journal_gives_up_is_settled_as_ever() -> None:
    files, may_flush = FaultyFiles(MemoryFiles()), threading.Event()
    faults: list[Exception] = []
    journal = a_journal(files, batch_records=2, on_fault=faults.append)
    journal.listen(heard := Heard())
    await journal.start()
    told = Told()

    def hold(_call: int, name: str) -> None:
        if name == "flush":
            may_flush.wait()

    files.plan = hold
    for text in "abcd":
        journal.append(told.of(a_record(text)))
    await asyncio.sleep(0)

    def fail() -> None:
        raise ValueError("a bug")

    journal._commit._guard(fail)
    assert (told.acknowledged, told.failed, journal._commit.unsettled) == ([], [b"c", b"d"], 2)
    may_flush.set()
    await journal.stop()
    assert (told.acknowledged, told.failed, journal._commit.unsettled) == ([b"a", b"b"], [b"c", b"d"], 0)
    assert ([len(batch) for batch in heard.flushed_batches], heard.failed_batches, heard.open) == ([2], [], None)
    assert [str(error) for error in faults] == ["a bug"]


async def test_what_waits_for_its_tick_when_the_journal_gives_up_fails_at_once_and_is_not_flushed() -> None:
    files, faults, told = FaultyFiles(MemoryFiles()), list[Exception](), Told()
    journal = a_journal(files, on_fault=faults.append)
    await journal.start()
    journal.append(told.of(a_record("a")))

    def fail() -> None:
        raise ValueError("a bug")

    journal._commit._guard(fail)
    assert told.failed == [b"a"]
    touched = len(files.calls)
    await asyncio.sleep(0)
    assert "write" not in files.calls[touched:]
    assert [str(error) for error in faults] == ["a bug"]
    await journal.stop()


async def test_a_callback_that_raises_at_a_failure_stops_no_other() -> None:
    life = Life()
    await life.journal.start()
    life.files.plan = lambda _call, name: OSError(errno.EIO, "gone") if name == "flush" else None
    bad = a_record("bad")
    bad.done = lambda _error: [][1]
    life.journal.append(bad)
    life.journal.append(life.told.of(a_record("good")))
    await all_settled(life.journal)
    assert life.told.failed == [b"good"]
    await life.journal.stop()


async def test_a_failed_journal_skips_no_records() -> None:
    life = Life()
    await life.journal.start()
    life.files.plan = lambda _call, name: OSError(errno.EIO, "gone") if name in ("flush", "create") else None
    for _ in range(2):
        with pytest.raises(JournalFailedError, match="gone"):
            life.journal.skip_to(7)
    await life.journal.stop()


async def test_the_backlog_counts_against_the_free_space() -> None:
    files = MemoryFiles()
    files.free = 4_000_000 + 3 * 700 - 1
    journal = a_journal(files, clock := FakeClock(), min_free_bytes=4_000_000)
    await journal.start()
    clock.advance(2)
    await appended(journal, a_record("x" * 632))
    assert "bytes are free on the journal's disk" in journal.problems()[0]
    await journal.stop()


async def test_what_the_store_owes_counts_against_the_free_space() -> None:
    files = MemoryFiles()
    files.free = 5_000_000
    journal = a_journal(files, min_free_bytes=4_000_000, owed=lambda: 1_000_001)
    await journal.start()
    assert "bytes are free on the journal's disk" in journal.problems()[0]
    await journal.stop()


async def test_a_fault_of_who_gives_space_back_is_no_fault_of_the_journal() -> None:
    def fail() -> None:
        raise RuntimeError("a bug")

    files = MemoryFiles()
    files.free = 0
    journal = a_journal(files, on_low=fail)
    await journal.start()
    assert "bytes are free on the journal's disk" in journal.problems()[0]
    await journal.stop()


async def test_space_is_asked_for_when_none_is_left_for_a_segment() -> None:
    asked = asyncio.Event()
    files = FaultyFiles(MemoryFiles())
    journal = a_journal(files, segment_bytes=300, on_low=asked.set)
    await journal.start()
    await appended(journal, a_record("x" * 200))
    files.plan = lambda _call, name: OSError(errno.ENOSPC, "full") if name == "allocate" else None
    with pytest.raises(JournalFailedError, match="no space left"):
        await appended(journal, a_record("x" * 200))
    async with asyncio.timeout(10):
        await asked.wait()
    await journal.stop()


async def test_a_segment_is_short_where_a_long_one_would_take_the_last_room() -> None:
    files = MemoryFiles()
    files.free = LEAST_FREE_BYTES + 100_000
    for length in (100_000, 16_384):
        journal = a_journal(files, segment_bytes=1 << 20)
        await journal.start()
        name = max(path for path in files.names if path.suffix == ".kqj")
        assert len(files.data(name)) == length
        await journal.stop()
        files.free = 0


async def test_an_unknown_free_space_changes_nothing() -> None:
    files = FaultyFiles(MemoryFiles())
    files.plan = lambda _call, name: OSError(errno.EIO, "gone") if name == "free_bytes" else None
    journal = a_journal(files, min_free_bytes=1000)
    await journal.start()
    await appended(journal, a_record())
    assert [record.seq for record in await all_records(journal)] == [0]
    await journal.stop()
    assert DIR / "lock" in files.inner.names
