from __future__ import annotations

import errno
import itertools
from pathlib import Path

import pytest

from kqs.errors import JournalError, JournalLockedError
from kqs.journal import JournalName, renewal
from kqs.journal.lock import JournalLock
from kqs.journal.renewal import is_renewed, renew, settle
from tests.support.files import FaultyFiles, MemoryFiles, failing
from tests.support.journal import DIR, a_disk_with, a_journal

SEGMENT = "000000000001.kqj"


async def test_what_is_left_is_put_aside_whole_and_nothing_else() -> None:
    disk = await a_disk_with(["a job"])
    segment = disk.data(DIR / SEGMENT)
    for name in ("store.sqlite", f"{SEGMENT}.torn", "checkpoint"):
        disk.put(DIR / name, b"as it was")
    assert renew(DIR, disk) == DIR / "lost-1"
    assert disk.data(DIR / "lost-1" / SEGMENT) == segment
    assert {disk.data(DIR / "lost-1" / name) for name in (f"{SEGMENT}.torn", "checkpoint")} == {b"as it was"}
    assert disk.data(DIR / "store.sqlite") == b"as it was"
    assert not [name for name in disk.list(DIR) if name.endswith(".kqj")]


async def test_it_may_be_repeated_and_keeps_all_that_was_put_aside() -> None:
    disk = await a_disk_with(["a job"])
    assert renew(DIR, disk) == DIR / "lost-1"
    assert renew(DIR, disk) is None
    disk.put(DIR / SEGMENT, b"another")
    assert renew(DIR, disk) == DIR / "lost-2"
    assert disk.data(DIR / "lost-2" / SEGMENT) == b"another"


async def test_it_is_said_until_the_store_knows() -> None:
    disk = await a_disk_with([])
    assert not is_renewed(disk, DIR)
    renew(DIR, disk)
    assert is_renewed(disk, DIR)
    settle(disk, DIR)
    assert not is_renewed(disk, DIR)


async def test_it_goes_on_from_wherever_it_was_stopped() -> None:
    before = (await a_disk_with(["a job"])).snapshot()
    for stopped_at in itertools.count():
        disk = MemoryFiles(before)
        files = FaultyFiles(disk)
        files.plan = lambda index, _name, stopped_at=stopped_at: OSError("killed") if index == stopped_at else None  # type: ignore[misc]
        try:
            renew(DIR, files)
        except OSError:
            disk.locked.clear()
            assert not (is_renewed(disk, DIR) and any(path.match("/journal/*.kqj") for path in disk.names))
            renew(DIR, disk)
        assert is_renewed(disk, DIR)
        assert [disk.data(path) for path in disk.names if path.suffix == ".kqj" and path.parent != DIR] == [
            before[DIR / SEGMENT]
        ]
        if stopped_at >= len(files.calls):
            break
    assert stopped_at > 8


async def test_a_running_server_keeps_its_journal() -> None:
    disk = await a_disk_with(["a job"])
    lock = JournalLock(disk, DIR)
    with pytest.raises(JournalLockedError):
        renew(DIR, disk)
    lock.release()
    assert not is_renewed(disk, DIR)


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        renew(tmp_path / "typo")
    assert renewal.NAME not in {path.name for path in tmp_path.rglob("*")}


async def test_a_journal_says_that_the_store_goes_on_with_it_once_the_disk_takes_that() -> None:
    disk = await a_disk_with(["a job"])
    renew(DIR, disk)
    files = FaultyFiles(disk)
    journal = a_journal(files)
    name = JournalName(b"lost" * 4, b"node")
    recovery = await journal.start(lambda: name)
    assert recovery.is_renewed
    assert (recovery.journal_id, recovery.node) == (name.journal_id.hex(), name.node.hex())
    files.plan = failing("unlink", OSError(errno.EIO, "no"))
    with pytest.raises(JournalError, match="cannot be used"):
        await journal.settle_renewal()
    assert is_renewed(disk, DIR)
    files.plan = lambda _index, _name: None
    await journal.settle_renewal()
    assert not is_renewed(disk, DIR)
    await journal.stop()
