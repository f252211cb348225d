"""A journal that is removed, renamed or replaced under its server: no answer is given for what no start would find."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kqs.errors import JournalError, JournalFailedError
from kqs.journal import Files, Journal
from kqs.journal.condition import Acceptance
from kqs.journal.disk import Disk as JournalDisk
from kqs.journal.scan import scan
from kqs.service import SystemClock
from tests.support.files import FaultyFiles, MemoryFiles
from tests.support.journal import DIR, a_disk_with, a_record, a_section, all_records, appended, until_accepting

FIRST = DIR / "000000000001.kqj"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JournalDisk, "LOOK_S", 0.001)
    monkeypatch.setattr(Acceptance, "REOPEN_FIRST_S", 0.001)
    monkeypatch.setattr(Acceptance, "REOPEN_LAST_S", 0.002)


async def a_started(files: Files, segment_bytes: int = 4096, owed: Callable[[], int] = lambda: 0) -> Journal:
    journal = Journal(a_section(DIR, segment_bytes), SystemClock(), files, owed=owed)
    await journal.start()
    return journal


async def until_failed(journal: Journal, why: str = "") -> None:
    async with asyncio.timeout(10):
        while not any("failed" in problem and why in problem for problem in journal.problems()):  # noqa: ASYNC110
            await asyncio.sleep(0)


def unlink_segment(files: MemoryFiles) -> None:
    files.unlink(FIRST)


def replace_segment(files: MemoryFiles) -> None:
    files.put(FIRST, files.data(FIRST))


def rename_segment(files: MemoryFiles) -> None:
    files.rename(FIRST, DIR / "aside")


def replace_folder(files: MemoryFiles) -> None:
    files.replace_dir(DIR)


async def test_a_segment_that_was_emptied_is_noticed_though_its_length_comes_back() -> None:
    journal = await a_started(files := MemoryFiles())
    await appended(journal, a_record("kept"))
    files.nodes[files.names[FIRST]].clear()
    with suppress(JournalFailedError):  # it may be noticed by now
        await appended(journal, a_record("answered as the file was emptied"))
    await until_failed(journal, "was cut short")
    with pytest.raises(JournalFailedError):
        await appended(journal, a_record("answered by nobody"))
    await journal.stop()


async def test_the_looks_at_an_open_segment_take_no_descriptor() -> None:
    files = FaultyFiles(MemoryFiles())
    journal = await a_started(files)
    await appended(journal, a_record("one"))
    looks = files.calls.count("identity_of")
    files.plan = lambda _index, name: OSError(errno.EMFILE, "too many open files") if name == "open" else None
    async with asyncio.timeout(10):
        while files.calls.count("identity_of") < looks + 6:  # noqa: ASYNC110
            await asyncio.sleep(0)
    await appended(journal, a_record("two"))
    await journal.stop()


@pytest.mark.parametrize("lose", [unlink_segment, replace_segment, rename_segment, replace_folder])
@pytest.mark.parametrize("count", [1, 3])
async def test_what_a_start_would_not_find_is_not_acknowledged(lose: Callable[[MemoryFiles], None], count: int) -> None:
    journal = await a_started(files := MemoryFiles())
    await appended(journal, a_record("kept"))
    lose(files)
    told = await asyncio.gather(*(appended(journal, a_record(f"{n}")) for n in range(count)), return_exceptions=True)
    assert [type(one) for one in told] == [JournalFailedError] * count
    await until_failed(journal, "was removed or replaced")
    await journal.stop()


@pytest.mark.parametrize("lose", [unlink_segment, replace_segment, replace_folder])
async def test_it_is_noticed_though_nobody_inserts(lose: Callable[[MemoryFiles], None]) -> None:
    journal = await a_started(files := MemoryFiles())
    await appended(journal, a_record("kept"))
    lose(files)
    await until_failed(journal, "was removed or replaced")
    await journal.stop()


@pytest.mark.parametrize("name", ["", FIRST.name])
async def test_what_is_put_back_is_gone_on_from(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    journal = Journal(a_section(folder), SystemClock())
    await journal.start()
    await appended(journal, a_record("kept"))
    (folder / name).rename(tmp_path / "aside")
    await until_failed(journal)
    (tmp_path / "aside").rename(folder / name)
    await until_accepting(journal)
    await appended(journal, a_record("later"))
    await journal.stop()
    journal = Journal(a_section(folder), SystemClock())
    await journal.start()
    assert [record.payload for record in await all_records(journal)] == [b"kept", b"later"]
    await journal.stop()


@pytest.mark.parametrize("fault", ["as it is full", "after a failure"])
async def test_a_segment_that_was_begun_in_another_folder_takes_nothing(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JournalDisk, "LOOK_S", 3600)
    journal = await a_started(files := FaultyFiles(memory := MemoryFiles()), segment_bytes=256)
    await appended(journal, a_record("kept" * 20))
    is_replaced = False

    def replace_as_it_is_made(_index: int, name: str) -> OSError | None:
        nonlocal is_replaced
        if name == "create" and not is_replaced:
            is_replaced = True
            memory.replace_dir(DIR)
        return OSError(errno.EIO, "gone") if name == "write" and fault == "after a failure" and not is_replaced else None

    files.plan = replace_as_it_is_made
    with pytest.raises(JournalFailedError):
        await appended(journal, a_record("fails" if fault == "after a failure" else "to another folder" * 10))
    await until_failed(journal, "was removed or replaced")
    with pytest.raises(JournalFailedError):
        journal.append(a_record("to another folder"))
    await journal.stop()


async def test_a_lost_segment_is_gone_on_from_once_the_store_has_all_of_it() -> None:
    journal = await a_started(files := MemoryFiles())
    await appended(journal, a_record("one"))
    unlink_segment(files)
    await until_failed(journal)
    with pytest.raises(JournalFailedError, match=r"000000000001.kqj was removed or replaced"):
        journal.append(a_record())
    await journal.checkpoint(1)
    await until_accepting(journal)
    await appended(journal, a_record("two"))
    await journal.stop()
    assert [(segment.header.first_seq, segment.end_seq) for segment in scan(files, DIR).segments] == [(1, 2)]


async def test_a_lost_segment_that_held_nothing_is_made_again() -> None:
    journal = await a_started(files := MemoryFiles())
    unlink_segment(files)
    await until_failed(journal)
    await until_accepting(journal)
    await appended(journal, a_record("one"))
    await journal.stop()
    assert [segment.name for segment in scan(files, DIR).segments] == [FIRST.name]


async def test_a_stop_leaves_a_journal_that_starts_if_the_store_has_what_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Acceptance, "REOPEN_FIRST_S", 600)
    journal = await a_started(files := MemoryFiles())
    await appended(journal, a_record("one"))
    unlink_segment(files)
    await until_failed(journal)
    await journal.checkpoint(1)
    await journal.stop()
    assert scan(files, DIR).checkpoint_seq == scan(files, DIR).segments[0].header.first_seq == 1


async def test_a_roll_writes_nothing_into_another_folder() -> None:
    journal = await a_started(files := MemoryFiles(), 300)
    await appended(journal, a_record("x" * 250))
    replace_folder(files)
    with pytest.raises(JournalFailedError):
        await appended(journal, a_record("y" * 250))
    with pytest.raises(JournalError, match="was removed or replaced"):
        await journal.checkpoint(1)
    await journal.stop()
    assert [name for name in files.list(DIR) if name != "reserve"] == []


async def test_a_removed_lock_is_taken_again() -> None:
    journal = await a_started(files := MemoryFiles())
    files.unlink(DIR / "lock")
    await until_failed(journal, "the lock /journal/lock was removed or replaced")
    await until_accepting(journal)
    await appended(journal, a_record())
    assert DIR / "lock" in files.names
    await journal.stop()


async def test_while_another_server_has_the_folder_nothing_is_accepted_nor_after_it_wrote_there() -> None:
    journal = await a_started(files := MemoryFiles())
    await appended(journal, a_record("ours"))
    files.unlink(DIR / "lock")
    theirs = files.lock(DIR / "lock", "4711\n")
    await until_failed(journal, "locked")
    other = await a_disk_with(["theirs"])
    files.put(DIR / "000000000002.kqj", other.data(FIRST)[:24] + b"?" + other.data(FIRST)[25:])
    files.close(theirs)
    await until_failed(journal, "000000000002.kqj:0")
    files.put(DIR / "000000000002.kqj", b"KQSJRNL\n" + other.data(FIRST)[8:])
    await until_failed(journal, "this is segment 1 under another name")
    await journal.stop()


async def test_a_segment_of_another_server_behind_ours_is_never_overwritten() -> None:
    files = MemoryFiles()
    journal = await a_started(files)
    await appended(journal, a_record("ours"))
    theirs = MemoryFiles({path: data for path, data in files.snapshot().items() if path.name != "lock"})
    successor = await a_started(theirs)
    files.unlink(DIR / "lock")
    files.put(DIR / "000000000002.kqj", theirs.data(DIR / "000000000002.kqj"))
    before = files.data(DIR / "000000000002.kqj")
    await until_failed(journal, "another server has written /journal/000000000002.kqj; start this one again")
    await journal.stop()
    await successor.stop()
    assert files.data(DIR / "000000000002.kqj") == before


async def test_a_segment_of_its_own_that_did_not_get_through_is_in_nobodys_way() -> None:
    files = FaultyFiles(MemoryFiles())
    journal = await a_started(files)
    await appended(journal, a_record("one"))
    fault = OSError(errno.EIO, "gone")
    files.plan = lambda _index, name: fault if name in ("flush", "flush_dir") else None
    with pytest.raises(JournalFailedError):
        await appended(journal, a_record("two"))
    files.plan = lambda _index, name: fault if name == "flush_dir" else None
    async with asyncio.timeout(10):
        while DIR / "000000000002.kqj" not in files.inner.names:  # noqa: ASYNC110
            await asyncio.sleep(0)
    files.inner.unlink(DIR / "lock")
    files.plan = lambda _index, _name: None
    await until_accepting(journal)
    await appended(journal, a_record("two"))
    await journal.stop()


async def test_a_quiet_journal_asks_the_disk_nothing_on_the_loop() -> None:
    asked: list[str] = []
    has_looked = threading.Event()

    def note(name: str) -> None:
        if asyncio._get_running_loop() is not None:
            asked.append(name)

    def owed() -> int:
        note("owed")
        has_looked.set()
        return 0

    files = FaultyFiles(MemoryFiles())
    journal = await a_started(files, owed=owed)
    asked.clear()
    has_looked.clear()
    files.plan = lambda _index, name: note(name)
    await asyncio.to_thread(has_looked.wait)
    await journal.checkpoint(0)
    assert asked == []
    await journal.stop()


async def test_a_checkpoint_that_cannot_look_at_its_folder_fails() -> None:
    files = FaultyFiles(MemoryFiles())
    journal = await a_started(files)
    files.plan = lambda _index, name: OSError(errno.EIO, "gone") if name == "identity_of" else None
    with pytest.raises(JournalError, match=r"checkpoint in .* failed: .*gone"):
        await journal.checkpoint(0)
    await journal.stop()


async def test_a_segment_is_abandoned_once() -> None:
    journal = await a_started(files := MemoryFiles())
    writer = journal._commit._disk._writer
    for _ in range(2):
        writer.abandon()
    files.unlink(FIRST)
    await until_failed(journal)
    await journal.stop()
    assert files.handles == {}
