from __future__ import annotations

import asyncio
import errno
import itertools
import os
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import pytest

from kqs.errors import (
    JournalClosedError,
    JournalCorruptError,
    JournalError,
    JournalFailedError,
    JournalLockedError,
    JournalVersionError,
)
from kqs.journal import JOURNAL_FILES, Journal, OsFiles, Record
from kqs.journal.condition import Acceptance
from kqs.journal.flusher import ThreadFlusher
from kqs.journal.format import FRAME_BYTES, HEADER_BYTES, MINOR, RECORD_BYTES, encode_header, reseal_frame, salt_of
from kqs.journal.recovery import mend
from kqs.journal.reserve import NAME
from kqs.journal.scan import scan
from kqs.journal.segment import read_header
from kqs.service import SystemClock
from tests.support.clock import FakeClock
from tests.support.files import FaultyFiles, MemoryFiles, failing
from tests.support.journal import (
    DIR,
    Told,
    a_disk_with,
    a_journal,
    a_record,
    a_section,
    all_records,
    all_settled,
    appended,
    recovered,
    until_accepting,
)
from tests.support.raising import raise_into

FIRST = DIR / "000000000001.kqj"


def open_below(folder: Path) -> list[str]:
    """Return the files in a folder that this process has open."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the folder itself
            found.append(str(path.readlink()))
    return [name for name in found if name.startswith(str(folder))]


async def a_started(files: Any = None, **settings: Any) -> Journal:
    journal = a_journal(files if files is not None else MemoryFiles(), **settings)
    await journal.start()
    return journal


async def test_a_real_directory_is_made_written_and_read_again(tmp_path: Path) -> None:
    settings = a_section(tmp_path / "journal", segment_bytes=1 << 16)
    journal = Journal(settings, SystemClock())
    first = await journal.start()
    for order in range(1, 4):
        await appended(journal, a_record("x" * 30_000, order * 10, 2))
    with pytest.raises(JournalLockedError, match=f"process {os.getpid()}"):
        await Journal(settings, SystemClock()).start()
    await journal.stop()
    journal = Journal(settings, SystemClock())
    again = await journal.start()
    assert (again.journal_id, again.node) == (first.journal_id, first.node)
    assert (again.next_seq, again.last_order, journal.stats()["torn_bytes"]) == (3, 31, 0)
    assert [len(record.payload) for record in await all_records(journal)] == [30_000] * 3
    await journal.stop()


async def test_a_passing_journal_keeps_what_any_does_while_it_lasts_and_begins_no_thread(tmp_path: Path) -> None:
    settings = a_section(tmp_path / "journal", segment_bytes=1 << 16)
    threads = set(threading.enumerate())
    journal = Journal(settings, SystemClock(), is_passing=True)
    first = await journal.start()
    for order in range(1, 7):
        await appended(journal, a_record("x" * 30_000, order * 10, 2))
    journal.append((told := Told()).of(a_record("y" * 30_000, 70, 2)))
    journal.append(a_record("z" * 30_000, 80, 2))
    await all_settled(journal)
    assert told.acknowledged == [b"y" * 30_000]
    assert [len(record.payload) for record in await all_records(journal)] == [30_000] * 8
    await journal.checkpoint(5)
    assert (journal.checkpoint_seq, journal.stats()["segments"]) == (5, 2)
    await journal.stop()
    journal = Journal(settings, SystemClock(), is_passing=True)
    again = await journal.start()
    assert (again.node, again.next_seq, again.checkpoint_seq) == (first.node, 8, 5)
    assert (journal.skip_to(20), journal.next_seq) == (True, 20)
    await journal.stop()
    assert set(threading.enumerate()) <= threads


async def test_a_new_journal_holds_nothing() -> None:
    journal = a_journal(MemoryFiles())
    recovery = await journal.start()
    assert (recovery.next_seq, recovery.last_order, recovery.checkpoint_seq) == (0, 0, 0)
    assert (len(recovery.journal_id), len(recovery.node)) == (32, 8)
    assert await all_records(journal) == []
    await journal.stop()


async def test_a_directory_that_cannot_be_used_says_so() -> None:
    files = FaultyFiles(MemoryFiles())
    files.plan = lambda _index, name: OSError(errno.EROFS, "read-only") if name == "create" else None
    with pytest.raises(JournalError, match="read-only"):
        await a_journal(files).start()
    files.plan = lambda _index, _name: None
    await (await a_started(files)).stop()


def at_step(step: int) -> Callable[[int, str], OSError | None]:
    """Return a plan by which that call, counted from 0, raises."""
    return lambda index, _name: OSError(errno.EIO, "bad sector") if index == step else None


async def test_a_start_that_fails_at_any_step_holds_no_file() -> None:
    for step in itertools.count():
        inner = MemoryFiles()
        journal = await a_started(inner)
        await appended(journal, a_record("one"))
        await journal.stop()
        files = FaultyFiles(inner)
        files.plan = at_step(step)
        journal = a_journal(files)
        with suppress(JournalError):
            await journal.start()
            if len(files.calls) <= step:
                break
            files.plan = failing("nothing", OSError())  # it bore the fault
            await journal.stop()
        assert inner.handles == {}, step
    assert step > 20
    await journal.stop()


async def test_a_start_that_is_cancelled_keeps_its_lock_until_its_thread_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, read_on = threading.Event(), threading.Event()
    settings = a_section(tmp_path / "journal")
    first = Journal(settings, SystemClock())
    await first.start()
    await first.stop()

    def held_list(files: OsFiles, path: Path) -> list[str]:
        reading.set()
        read_on.wait()
        return true_list(files, path)

    true_list = OsFiles.list
    monkeypatch.setattr(OsFiles, "list", held_list)
    journal = Journal(settings, SystemClock())
    starting = asyncio.ensure_future(journal.start())
    await asyncio.to_thread(reading.wait)
    starting.cancel()
    with pytest.raises(JournalLockedError):
        await Journal(settings, SystemClock()).start()
    read_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert open_below(tmp_path) == []
    await journal.stop()
    again = Journal(settings, SystemClock())
    await again.start()
    await again.stop()


async def test_stop_is_idempotent_and_tolerates_never_started() -> None:
    journal = a_journal(MemoryFiles())
    await journal.stop()
    await journal.start()
    journal.append(told := Told().of(a_record()))
    await asyncio.gather(journal.stop(), journal.stop())
    assert told.seq == 0
    assert (journal.accepting, journal.problems()) == (False, [])


async def test_a_closed_journal_refuses() -> None:
    journal = await a_started()
    await journal.stop()
    with pytest.raises(JournalClosedError):
        journal.append(a_record())
    with pytest.raises(JournalClosedError):
        await journal.checkpoint(0)


async def test_records_are_acknowledged_in_order_and_committed_by_batch() -> None:
    batches: list[list[int]] = []
    journal = await a_started(flushed=lambda records: batches.append([record.seq for record in records]))
    told = Told()
    for text in "abc":
        journal.append(told.of(a_record(text)))
    assert (journal.next_seq, journal.durable_seq) == (3, 0)
    await all_settled(journal)
    await appended(journal, a_record("d"))
    assert told.acknowledged == [b"a", b"b", b"c"]
    assert batches == [[0, 1, 2], [3]]
    assert journal.stats()["batches"] == 2
    await journal.stop()


async def test_what_arrives_during_a_flush_is_the_next_batch() -> None:
    batches: list[int] = []
    journal = await a_started(flushed=lambda records: batches.append(len(records)))
    for _ in range(2):
        journal.append(a_record())
    await asyncio.sleep(0)
    for _ in range(3):
        journal.append(a_record())
    await all_settled(journal)
    assert batches == [2, 3]
    await journal.stop()


async def test_a_lone_record_that_arrives_during_a_flush_waits_for_the_tick() -> None:
    batches: list[int] = []
    journal = await a_started(flushed=lambda records: batches.append(len(records)))
    for _ in range(2):
        journal.append(a_record())
    await asyncio.sleep(0)
    journal.append(a_record())
    await all_settled(journal)
    assert batches == [2, 1]
    await journal.stop()


async def test_batches_are_capped_by_records_and_bytes_but_take_any_single_record() -> None:
    batches: list[int] = []
    journal = await a_started(flushed=lambda records: batches.append(len(records)), batch_records=3, batch_bytes=500)
    for size in (1, 1, 1, 1, 300, 2000, 300):
        journal.append(a_record("x" * size))
    await all_settled(journal)
    assert batches == [3, 2, 1, 1]
    await journal.stop()


async def test_a_record_may_be_appended_while_another_is_acknowledged() -> None:
    journal = await a_started()
    told = Told()
    record = a_record("first")
    record.done = lambda _error: journal.append(told.of(a_record("second")))
    journal.append(record)
    await all_settled(journal)
    await all_settled(journal)
    assert told.acknowledged == [b"second"]
    await journal.stop()


def fail(_news: Any) -> None:
    raise ValueError("a listener's fault")


async def test_a_callback_that_raises_stops_no_other() -> None:
    journal = await a_started(flushed=fail)
    told = Told()
    bad = a_record("bad")
    bad.done = fail
    for record in (bad, told.of(a_record("good"))):
        journal.append(record)
    await all_settled(journal)
    assert told.acknowledged == [b"good"]
    assert journal.accepting
    await journal.stop()


async def test_a_bug_in_what_is_done_for_the_next_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    faults: asyncio.Queue[BaseException] = asyncio.Queue()
    monkeypatch.setattr("kqs.journal.disk.keep_reserve", lambda *_: 1 / 0)
    journal = a_journal(MemoryFiles(), on_fault=faults.put_nowait)
    await journal.start()
    async with asyncio.timeout(10):
        assert isinstance(await faults.get(), ZeroDivisionError)
    await journal.stop()


async def test_a_thread_that_is_ended_from_outside_is_told_and_keeps_nobody_waiting() -> None:
    faults: asyncio.Queue[BaseException] = asyncio.Queue()
    told = Told()
    journal = a_journal(MemoryFiles(), on_fault=faults.put_nowait)
    await journal.start()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "kqs-journal"]
    raise_into(thread, cast("ThreadFlusher", journal._commit._flusher)._work)
    for text in ("one", "two"):
        journal.append(told.of(a_record(text)))
    async with asyncio.timeout(10):
        assert isinstance(await faults.get(), ZeroDivisionError)
        await all_settled(journal)
        await journal.stop()
    assert told.failed == [b"one", b"two"]


async def test_a_thread_that_was_ended_from_outside_is_not_waited_for() -> None:
    faults: asyncio.Queue[BaseException] = asyncio.Queue()
    journal = a_journal(MemoryFiles(), on_fault=faults.put_nowait)
    await journal.start()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "kqs-journal"]
    raise_into(thread, cast("ThreadFlusher", journal._commit._flusher)._work)
    async with asyncio.timeout(10):
        assert isinstance(await faults.get(), ZeroDivisionError)
        with pytest.raises(ZeroDivisionError):
            journal.skip_to(5)
        await journal.stop()


class EndingQueue(SimpleQueue[Any]):
    """Work whose taker is ended as it takes it."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        super().get(block, timeout)
        raise ZeroDivisionError


async def test_who_waits_for_a_thread_hears_of_its_end_though_the_loop_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kqs.journal.flusher.SimpleQueue", EndingQueue)
    flusher, heard = ThreadFlusher(lambda _death: None), SimpleQueue[BaseException]()

    def wait() -> None:
        try:
            flusher.wait_for(lambda: None)
        except ZeroDivisionError as death:
            heard.put(death)

    for _ in ("as it takes the work", "before that"):
        threading.Thread(target=wait, daemon=True).start()
        assert isinstance(heard.get(timeout=10), ZeroDivisionError)
    await flusher.stop()


async def test_slow_flushes_leave_the_loop() -> None:
    clock = FakeClock()
    files = FaultyFiles(MemoryFiles())
    threads = []
    journal = a_journal(files, clock)
    await journal.start()

    def slow(_index: int, name: str) -> None:
        if name == "flush":
            threads.append(asyncio._get_running_loop() is None)
            clock.advance(0.02)

    files.plan = slow
    for _ in range(3):
        await appended(journal, a_record())
    assert threads == [False, True, True]
    await journal.stop()


async def test_a_full_segment_is_followed_by_another_and_cut_to_its_length() -> None:
    journal = await a_started(files := MemoryFiles(), segment_bytes=300)
    for index in range(4):
        await appended(journal, a_record(str(index)))
    assert journal.stats()["segments"] == 2
    assert len(files.data(FIRST)) == HEADER_BYTES + 2 * (FRAME_BYTES + RECORD_BYTES + 1)
    assert [record.seq for record in await all_records(journal, 1)] == [1, 2, 3]
    await journal.stop()


async def test_reading_ends_at_the_durable_end_and_may_begin_anywhere() -> None:
    journal = await a_started(segment_bytes=5 << 20)
    for index in range(5):
        await appended(journal, a_record(str(index) * 700_000))
    for start in range(6):
        assert [record.seq for record in await all_records(journal, start)] == [*range(start, 5)]
    await journal.stop()


async def test_damage_met_while_reading_is_named() -> None:
    journal = await a_started(files := MemoryFiles())
    await appended(journal, a_record("abc"))
    files.nodes[files.names[FIRST]][HEADER_BYTES + FRAME_BYTES + RECORD_BYTES] ^= 1
    with pytest.raises(JournalCorruptError, match=rf"^{FIRST}:{HEADER_BYTES} batch checksum differs"):
        await all_records(journal)
    await journal.stop()


async def test_a_disk_that_refuses_to_be_read_says_so() -> None:
    journal = await a_started(files := FaultyFiles(MemoryFiles()))
    await appended(journal, a_record("abc"))
    files.plan = lambda _index, name: OSError(errno.EIO, "gone") if name == "read" else None
    with pytest.raises(JournalError, match="gone"):
        await all_records(journal)
    await journal.stop()


async def test_a_checkpoint_lets_whole_segments_go_but_never_the_last() -> None:
    journal = await a_started(files := MemoryFiles(), segment_bytes=300)
    for index in range(6):
        await appended(journal, a_record("x", 10 + index))
    await journal.checkpoint(3)
    assert journal.stats()["segments"] == 2
    assert [record.first_order for record in await all_records(journal)] == [12, 13, 14, 15]
    assert journal.backlog_bytes > 0
    await journal.checkpoint(6)
    assert (journal.stats()["segments"], journal.backlog_bytes) == (1, 0)
    assert [record.first_order for record in await all_records(journal)] == [14, 15]
    await journal.checkpoint(6)
    await journal.stop()
    recovery = await (journal := a_journal(files)).start()
    assert (recovery.checkpoint_seq, recovery.next_seq) == (6, 6)
    await journal.stop()


async def test_a_checkpoint_that_fails_can_be_tried_again() -> None:
    journal = await a_started(files := FaultyFiles(MemoryFiles()), segment_bytes=300)
    for _ in range(4):
        await appended(journal, a_record())
    flushes = iter([None, OSError(errno.EIO, "gone")])
    files.plan = lambda _index, name: next(flushes, None) if name == "flush_dir" else None
    with pytest.raises(JournalError, match="gone"):
        await journal.checkpoint(4)
    assert journal.stats()["segments"] == 2
    await journal.checkpoint(4)
    assert journal.stats()["segments"] == 1
    await journal.stop()


async def test_a_torn_tail_is_reported() -> None:
    disk = await a_disk_with(["one"], ["two"])
    found = scan(disk, DIR)
    assert found.last_frame is not None
    disk.put(FIRST, disk.data(FIRST)[: found.last_frame.end - 1])
    journal = a_journal(disk)
    await journal.start()
    assert journal.stats()["torn_bytes"] == FRAME_BYTES + RECORD_BYTES + 2
    await journal.stop()


async def test_a_torn_tail_is_cut_off_only_when_its_copy_is_safe() -> None:
    disk = await a_disk_with(["one"], ["two"])
    found = scan(disk, DIR)
    assert found.last_frame is not None
    disk.put(FIRST, disk.data(FIRST)[: found.last_frame.end - 1])
    files = FaultyFiles(disk)
    mend(files, DIR, scan(disk, DIR))
    changes = [name for name in files.calls if name not in ("open", "read", "list", "close", "size")]
    assert changes == ["create", "write", "flush", "rename", "flush_dir", "truncate", "flush", "unlink"]


async def test_the_last_batch_is_flushed_again_in_the_new_segment() -> None:
    disk = await a_disk_with(["one"], ["two"])
    journal = await a_started(disk)
    second = read_header(disk, DIR, "000000000002.kqj")
    assert second.first_seq == 1
    assert b"two" in disk.data(DIR / "000000000002.kqj")
    assert [record.payload for record in await all_records(journal)] == [b"one", b"two"]
    await journal.stop()


async def test_leftovers_of_a_killed_server_are_taken_away() -> None:
    disk = await a_disk_with(["one"])
    disk.put(DIR / "000000000002.kqj.new", b"half")
    disk.put(DIR / "checkpoint.new", b"half")
    disk.put(DIR / "notes.txt", b"mine")
    await (await a_started(disk)).stop()
    assert disk.list(DIR) == ["000000000001.kqj", "000000000002.kqj", "checkpoint.new", "lock", "notes.txt", "reserve"]
    assert not any(disk.data(DIR / "checkpoint.new"))


async def test_a_disk_too_small_for_a_segment_says_how_long_one_is_and_keeps_nothing() -> None:
    files = FaultyFiles(MemoryFiles())
    for code, told in ((errno.ENOSPC, "a segment of 4096 bytes .* segment_bytes"), (errno.EIO, "EIO$")):
        files.plan = failing("allocate", OSError(code, "EIO"))
        with pytest.raises(JournalError, match=told):
            await a_journal(files).start()
        assert files.inner.list(DIR) == ["lock"]


async def test_a_newer_major_version_refuses_and_touches_nothing() -> None:
    disk = await a_disk_with(["one"])
    data = bytearray(disk.data(FIRST))
    struct.pack_into("<H", data, 8, 2)
    disk.put(FIRST, bytes(data))
    before = disk.snapshot()
    with pytest.raises(JournalVersionError, match="newer than 1"):
        await a_journal(disk).start()
    disk.unlink(DIR / "lock")
    assert disk.snapshot() == before


async def test_a_newer_minor_version_is_read_if_its_records_can_be() -> None:
    disk = await a_disk_with(["one"])
    header = read_header(disk, DIR, FIRST.name)
    disk.put(FIRST, encode_header(header._replace(minor=MINOR + 1)) + disk.data(FIRST)[HEADER_BYTES:])
    assert [record.payload for record in recovered(disk)] == [b"one"]


async def test_a_newer_minor_version_whose_records_do_not_add_up_is_corrupt() -> None:
    disk = await a_disk_with(["one"])
    header = read_header(disk, DIR, FIRST.name)
    frame = scan(disk, DIR).last_frame
    assert frame is not None
    _, torn = reseal_frame(frame.header, frame.payload[:-1], salt_of(header.id))
    disk.put(FIRST, encode_header(header._replace(minor=MINOR + 1)) + torn)
    with pytest.raises(JournalCorruptError, match=f"{FIRST}:{HEADER_BYTES} record 0 is longer than its frame"):
        recovered(disk)


async def test_a_follower_of_another_segment_refuses() -> None:
    disk = await a_disk_with(*([str(index)] for index in range(4)), segment_bytes=300)
    second = DIR / "000000000002.kqj"
    header = read_header(disk, DIR, second.name)
    disk.put(second, encode_header(header._replace(previous_id=b"?" * 16)) + disk.data(second)[HEADER_BYTES:])
    with pytest.raises(JournalCorruptError, match="follows another segment 1"):
        recovered(disk)


async def test_a_gap_between_segments_refuses() -> None:
    disk = await a_disk_with(*([str(index)] for index in range(4)), segment_bytes=300)
    second = DIR / "000000000002.kqj"
    header = read_header(disk, DIR, second.name)
    disk.put(second, encode_header(header._replace(first_seq=9)) + disk.data(second)[HEADER_BYTES:])
    with pytest.raises(JournalCorruptError, match="sequence gap before record 9"):
        recovered(disk)


async def test_a_waiting_append_is_told_of_failure() -> None:
    journal = await a_started(files := FaultyFiles(MemoryFiles()))
    files.plan = lambda _index, name: OSError(errno.EIO, "gone") if name == "flush" else None
    with pytest.raises(JournalFailedError, match="gone"):
        await appended(journal, a_record())
    await journal.stop()


async def test_a_cancelled_waiter_does_not_withdraw_its_record() -> None:
    journal = await a_started()
    waiting = [asyncio.create_task(appended(journal, a_record())), asyncio.create_task(appended(journal, a_record()))]
    flushing = asyncio.create_task(all_settled(journal))
    await asyncio.sleep(0)
    for task in (*waiting, flushing):
        task.cancel()
    await asyncio.wait([*waiting, flushing])
    await all_settled(journal)
    assert journal.durable_seq == 2
    await journal.stop()


async def test_a_failure_of_records_nobody_waits_for_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Acceptance, "REOPEN_FIRST_S", 0.0)
    journal = await a_started(files := FaultyFiles(MemoryFiles()))
    failing = iter([OSError(errno.EIO, "gone")])
    files.plan = lambda _index, name: next(failing, None) if name == "flush" else None
    journal.append(a_record())
    await all_settled(journal)
    await until_accepting(journal)
    assert journal.problems() == []
    await journal.stop()


async def test_a_disk_that_fails_every_flush_is_not_filled_with_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Acceptance, "REOPEN_FIRST_S", 0.0)
    journal = await a_started(files := FaultyFiles(MemoryFiles()))
    for _ in range(4):
        files.plan = lambda _index, name: OSError(errno.EIO, "gone") if name == "write" else None
        journal.append(a_record())
        await all_settled(journal)
        files.plan = lambda _index, _name: None
        await until_accepting(journal)
    await appended(journal, a_record("at last"))
    assert journal.stats()["segments"] == 1
    await journal.stop()
    assert [record.payload for record in recovered(files.inner)] == [b"at last"]


async def test_stopping_while_a_new_segment_is_tried_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Acceptance, "REOPEN_FIRST_S", 0.0)
    journal = await a_started(files := FaultyFiles(MemoryFiles()))
    files.plan = lambda _index, name: OSError(errno.EIO, "gone") if name == "write" else None
    journal.append(a_record())
    await all_settled(journal)
    await asyncio.sleep(0)
    await asyncio.wait_for(journal.stop(), 10)
    assert (journal.accepting, journal.problems()) == (False, [])


async def test_a_segment_that_cannot_be_begun_is_tried_until_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Acceptance, "REOPEN_FIRST_S", 0.0)
    journal = await a_started(files := FaultyFiles(MemoryFiles()))
    failing = iter([OSError(errno.EIO, "gone")] * 5)
    files.plan = lambda _index, name: next(failing, None) if name in ("write", "create") else None
    journal.append(a_record())
    await all_settled(journal)
    await until_accepting(journal)
    assert files.calls.count("create") == 2 + 4 + 1
    await journal.stop()


async def test_a_flush_that_fails_while_stopping_is_told() -> None:
    journal = await a_started(files := FaultyFiles(MemoryFiles()))
    files.plan = lambda _index, name: OSError(errno.EIO, "gone") if name == "flush" else None
    told = Told()
    journal.append(told.of(a_record()))
    await journal.stop()
    assert (told.failed, journal.problems()) == ([b"x"], [])


async def lone_ticks(journal: Journal, count: int) -> None:
    for number in range(count):
        await appended(journal, a_record(f"lone {number}"))


async def test_a_lone_record_goes_without_waiting_once_no_tick_has_brought_company() -> None:
    journal = a_journal(MemoryFiles(), segment_bytes=1 << 20)
    await journal.start()
    told = Told()
    journal.append(told.of(a_record("early")))
    journal.flush_if_alone()
    assert told.acknowledged == []
    await all_settled(journal)
    await lone_ticks(journal, 16)
    journal.append(told.of(a_record("late")))
    journal.flush_if_alone()
    assert told.acknowledged == [b"early", b"late"]
    await journal.stop()


async def test_what_is_appended_as_a_lone_record_is_settled_goes_with_the_end_of_the_tick() -> None:
    journal = a_journal(MemoryFiles(), segment_bytes=1 << 20)
    await journal.start()
    await lone_ticks(journal, 16)
    told, first = Told(), a_record("first")
    first.done = lambda _error: journal.append(told.of(a_record("second")))
    journal.append(first)
    journal.flush_if_alone()
    assert (journal.durable_seq, told.acknowledged) == (17, [])
    await all_settled(journal)
    assert told.acknowledged == [b"second"]
    await journal.stop()


async def test_every_few_lone_records_one_waits_for_company_all_the_same() -> None:
    journal = a_journal(MemoryFiles(), segment_bytes=1 << 20)
    await journal.start()
    await lone_ticks(journal, 16)
    told, waited = Told(), 0
    for number in range(64):
        journal.append(told.of(a_record(f"{number}")))
        journal.flush_if_alone()
        waited += len(told.acknowledged) <= number
        await all_settled(journal)
    assert waited == 2
    await journal.stop()


async def test_company_in_a_tick_makes_lone_records_wait_again() -> None:
    journal = a_journal(MemoryFiles(), segment_bytes=1 << 20)
    await journal.start()
    await lone_ticks(journal, 16)
    told = Told()
    journal.append(told.of(a_record("one")))
    journal.append(told.of(a_record("two")))
    journal.flush_if_alone()
    assert told.acknowledged == []
    await all_settled(journal)
    journal.append(told.of(a_record("three")))
    journal.flush_if_alone()
    assert told.acknowledged == [b"one", b"two"]
    await journal.stop()


async def test_a_lone_record_that_needs_a_new_segment_leaves_it_to_the_tick() -> None:
    journal = a_journal(MemoryFiles(), segment_bytes=4096)
    await journal.start()
    await lone_ticks(journal, 16)
    told = Told()
    journal.append(told.of(a_record("x" * 4000)))
    journal.flush_if_alone()
    assert told.acknowledged == []
    await all_settled(journal)
    assert told.acknowledged == [b"x" * 4000]
    await journal.stop()


def claim(batch: list[Record]) -> None:
    for record in batch:
        record.claimed = record.payload.startswith(b"yes")


async def test_the_listener_may_claim_any_record_of_a_batch_and_the_disk_says_so() -> None:
    files = MemoryFiles()
    alone: list[list[bool]] = []
    flushed: list[Record] = []

    def note(batch: list[Record]) -> None:
        flushed.extend(batch)
        alone.append([record.alone for record in batch])

    journal = await a_started(files, before_flush=claim, flushed=note, segment_bytes=400)
    for texts in (["yes"], ["no"], ["yes, jobs of an array", "no", "yes" + 200 * "."]):
        for text in texts:
            journal.append(a_record(text, count=3))
        await all_settled(journal)
    await journal.stop()
    assert alone == [[True], [True], [False, False, False]]
    assert [record.claimed for record in flushed] == [True, False, True, False, True]
    assert [(record.payload, record.count, record.claimed) for record in recovered(files)] == [
        (record.payload, 3, record.claimed) for record in flushed
    ]


@pytest.mark.parametrize("texts", [["yes"], ["no", "yes"], ["no"], ["no", "no"]])
async def test_answers_go_before_the_listener_unless_runs_wait_for_it(texts: list[str]) -> None:
    heard: list[str] = []
    journal = await a_started(MemoryFiles(), before_flush=claim, flushed=lambda batch: heard.append("listener"))
    for text in texts:
        record = a_record(text)
        record.done = lambda error: heard.append("done")
        journal.append(record)
    await all_settled(journal)
    await journal.stop()
    answers = ["done"] * len(texts)
    assert heard == (["listener", *answers] if "yes" in texts else [*answers, "listener"])


@pytest.mark.parametrize("texts", [["yes"], ["yes", "no"]], ids=["on the loop", "in the thread"])
async def test_a_batch_whose_flush_fails_is_taken_back_before_anybody_hears_of_it(texts: list[str]) -> None:
    files = FaultyFiles(MemoryFiles())
    heard: list[tuple[str, bytes]] = []
    journal = await a_started(
        files,
        before_flush=claim,
        flushed=fail,
        failed=lambda batch: heard.extend(("failed", record.payload) for record in batch),
    )
    files.plan = lambda _index, name: OSError(errno.EIO, "gone") if name == "flush" else None
    for text in texts:
        record = a_record(text)
        record.done = lambda _error, payload=record.payload: heard.append(("done", payload))
        journal.append(record)
    if len(texts) > 1:
        await asyncio.sleep(0)
        record = a_record("yes, but of no batch")
        record.done = lambda _error: heard.append(("done", b"later"))
        journal.append(record)
    await all_settled(journal)
    payloads = [text.encode() for text in texts]
    later = [("done", b"later")] if len(texts) > 1 else []
    assert heard == [("failed", payload) for payload in payloads] + [("done", payload) for payload in payloads] + later
    files.plan = lambda _index, _name: None
    await journal.stop()


async def test_a_batch_for_which_no_segment_could_be_begun_was_never_offered() -> None:
    files = FaultyFiles(MemoryFiles())
    heard: list[bytes] = []
    journal = await a_started(
        files, segment_bytes=300, before_flush=lambda batch: heard.append(batch[0].payload), failed=fail, on_fault=fail
    )
    await appended(journal, a_record("x" * 200))
    files.plan = lambda _call, name: OSError(errno.EIO, "gone") if name == "allocate" else None
    with pytest.raises(JournalFailedError, match="gone"):
        await appended(journal, a_record("y" * 200))
    assert heard == [b"x" * 200]
    files.plan = lambda _index, _name: None
    await journal.stop()


async def test_what_is_appended_while_a_lone_record_is_told_of_has_a_batch_of_its_own_after_it() -> None:
    heard: list[bytes] = []
    journal = a_journal(
        MemoryFiles(),
        segment_bytes=1 << 20,
        before_flush=lambda batch: heard.append(b"before " + batch[0].payload),
        flushed=lambda batch: heard.append(b"flushed " + batch[0].payload),
    )
    await journal.start()
    await lone_ticks(journal, 16)
    heard.clear()

    def insert_another(_error: Exception | None) -> None:
        journal.append(a_record("second"))
        journal.flush_if_alone()

    first = a_record("first")
    first.done = insert_another
    journal.append(first)
    journal.flush_if_alone()
    await journal.stop()
    assert heard == [b"before first", b"flushed first", b"before second", b"flushed second"]


async def test_a_lone_job_that_begins_with_its_flush_is_answered_behind_what_the_listener_had_the_loop_call() -> None:
    heard: list[str] = []

    def begin(batch: list[Record]) -> None:
        asyncio.get_running_loop().call_soon(heard.append, f"{batch[0].payload.decode()} runs")

    journal = a_journal(MemoryFiles(), segment_bytes=1 << 20, before_flush=claim, flushed=begin)
    await journal.start()
    await lone_ticks(journal, 16)
    await asyncio.sleep(0)
    heard.clear()
    for text in ("yes 1", "yes 2", "no"):
        record = a_record(text)
        record.done = lambda _error, text=text: heard.append(f"{text} is answered")
        journal.append(record)
        journal.flush_if_alone()
        if text == "yes 1":
            await asyncio.sleep(0)
    assert heard == ["yes 1 runs", "yes 1 is answered", "yes 2 is answered", "no is answered"], "in the order of append"
    await journal.stop()


def claim_and_fail(batch: list[Record]) -> None:
    claim(batch)
    fail(batch)


@pytest.mark.parametrize("texts", [["yes"], ["yes", "yes"]], ids=["on the loop", "in the thread"])
async def test_a_listener_that_fails_to_claim_has_claimed_nothing_and_prepares_nothing(texts: list[str]) -> None:
    faults: list[Exception] = []
    flushed: list[Record] = []
    journal = await a_started(on_fault=faults.append, before_flush=claim_and_fail, during_flush=fail, flushed=flushed.extend)
    for text in texts:
        journal.append(a_record(text))
    await all_settled(journal)
    assert [record.claimed for record in await all_records(journal)] == [False] * len(texts)
    assert ([str(fault) for fault in faults], len(flushed)) == (["a listener's fault"], len(texts))
    await journal.stop()


async def test_the_disk_is_told_to_write_a_lone_record_and_meanwhile_the_listener_prepares() -> None:
    files, heard = FaultyFiles(MemoryFiles()), list[str]()
    journal = await a_started(
        files,
        before_flush=lambda _batch: heard.append("before_flush"),
        during_flush=lambda _batch: heard.append("during_flush"),
        flushed=lambda _batch: heard.append("flushed"),
    )
    of_flush = ("write", "begin_flush", "name_of", "flush")
    files.plan = lambda _index, name: heard.append(name) if name in of_flush else None
    await appended(journal, a_record())
    assert heard == ["before_flush", "write", "begin_flush", "during_flush", "name_of", "flush", "flushed"]
    await journal.stop()


async def test_while_the_thread_flushes_a_batch_the_listener_prepares() -> None:
    heard: list[tuple[str, int]] = []
    journal = await a_started(
        MemoryFiles(),
        before_flush=lambda batch: heard.append(("before", len(batch))),
        during_flush=lambda batch: heard.append(("during", len(batch))),
        flushed=lambda batch: heard.append(("flushed", len(batch))),
    )
    for _ in range(2):
        journal.append(a_record())
    await all_settled(journal)
    assert heard == [("before", 2), ("during", 2), ("flushed", 2)]
    await journal.stop()


@pytest.mark.parametrize("method", ["during_flush", "flushed", "failed"])
async def test_what_a_listener_raises_is_told_and_costs_nobody_the_news(method: str) -> None:
    files = FaultyFiles(MemoryFiles())
    faults: list[Exception] = []
    given_up: list[int] = []
    journal = await a_started(files, on_fault=faults.append, give_up=lambda: given_up.append(len(faults)), **{method: fail})
    told = Told()
    files.plan = lambda _index, name: OSError(errno.EIO, "gone") if (name, method) == ("flush", "failed") else None
    journal.append(told.of(a_record()))
    await all_settled(journal)
    assert len(told.news) == 1
    assert ([str(fault) for fault in faults], given_up) == (["a listener's fault"], [1])
    files.plan = lambda _index, _name: None
    await journal.stop()


async def test_a_listener_that_cannot_even_give_up_costs_nobody_the_news() -> None:
    faults: list[Exception] = []
    journal = await a_started(on_fault=faults.append, flushed=fail, give_up=lambda: fail(None))
    told = Told()
    journal.append(told.of(a_record()))
    await all_settled(journal)
    assert (len(told.acknowledged), [str(fault) for fault in faults]) == (1, ["a listener's fault"] * 2)
    await journal.stop()


@pytest.mark.parametrize("count", [1, 2], ids=["on the loop", "in the thread"])
async def test_an_error_of_its_own_that_nothing_foresees_is_told_and_holds_up_no_stop(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[Exception] = []
    failed: list[Record] = []
    told = Told()
    journal = await a_started(on_fault=faults.append, failed=failed.extend)
    monkeypatch.setattr(journal._kept.current.__class__, "grow", lambda *_: fail(None))
    for _ in range(count):
        journal.append(told.of(a_record()))
    async with asyncio.timeout(10):
        await all_settled(journal)
        assert (len(told.failed), len(failed)) == (count, count)
        assert [str(fault) for fault in faults] == ["a listener's fault"]
        assert journal.problems() == ["the journal met an unexpected error: ValueError: a listener's fault"]
        with pytest.raises(JournalFailedError):
            journal.append(a_record())
        await journal.stop()


async def test_what_a_signals_handler_raises_goes_on_and_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    faults: list[BaseException] = []
    told = Told()
    files = MemoryFiles()
    journal = await a_started(files, on_fault=faults.append, segment_bytes=1 << 20)
    await lone_ticks(journal, 16)
    journal.append(told.of(a_record()))
    monkeypatch.setattr(files, "flush", interrupted)
    with pytest.raises(KeyboardInterrupt):
        journal.flush_if_alone()
    async with asyncio.timeout(10):
        await all_settled(journal)
        assert (len(told.failed), [type(fault) for fault in faults]) == (1, [KeyboardInterrupt])
        await journal.stop()


async def test_what_was_appended_as_a_signals_handler_raised_is_flushed_by_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    told = Told()
    journal = await a_started()
    with monkeypatch.context() as patched:
        patched.setattr(journal._commit, "_ask_for_tick", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append(told.of(a_record()))
    async with asyncio.timeout(10):
        await journal.stop()
    assert len(told.acknowledged) == 1


class NotingFiles(MemoryFiles):
    """Notes the names of the files that are opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: set[str] = set()

    def create(self, path: Path) -> int:
        self.opened.add(path.name)
        return super().create(path)

    def open(self, path: Path, *, writable: bool = False) -> int:
        self.opened.add(path.name)
        return super().open(path, writable=writable)


async def test_whatever_a_journal_opens_is_known_to_be_its_own() -> None:
    files = NotingFiles()
    for _ in range(2):
        journal = a_journal(files)
        await journal.start()
        await appended(journal, a_record())
        await journal.checkpoint(1)
        await journal.stop()
    assert files.opened > {"checkpoint", NAME}
    assert [name for name in files.opened if not any(fnmatch(name, pattern) for pattern in JOURNAL_FILES)] == []
