from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kqs.errors import JournalVersionError
from kqs.journal.format import HEADER_BYTES, MAJOR
from kqs.journal.repair import repair
from tests.support.files import FaultyFiles, MemoryFiles
from tests.support.journal import DIR, a_disk_with

FIRST = DIR / "000000000001.kqj"


async def of_a_newer_version() -> bytes:
    data = bytearray((await a_disk_with(["newer"])).data(FIRST))
    data[8] = MAJOR + 2
    data[8] ^= 4  # two bits off: no flipped bit
    return bytes(data)


async def test_a_segment_of_a_newer_version_is_not_touched_and_a_file_of_one_is_let_be() -> None:
    newer = await of_a_newer_version()
    disk = await a_disk_with(["0"])
    disk.put(DIR / "other", newer)
    assert repair(DIR, disk).set_aside == []
    disk.put(DIR / "000000000002.kqj", newer)
    before = disk.snapshot()
    with pytest.raises(JournalVersionError):
        repair(DIR, disk)
    assert disk.snapshot() == before


async def test_a_file_that_cannot_be_read_is_in_the_way_only_under_a_segments_name(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = await a_disk_with(["0"])
    files = FaultyFiles(disk)
    unreadable: set[Path] = {DIR / "other"}
    disk.put(DIR / "other", bytes(HEADER_BYTES))
    whole = disk.open

    def refuse(path: Path, *, writable: bool = False) -> int:
        if path in unreadable:
            raise OSError(errno.EACCES, "not yours")
        return whole(path, writable=writable)

    monkeypatch.setattr(disk, "open", refuse)
    assert repair(DIR, files).set_aside == []
    unreadable.add(FIRST)
    with pytest.raises(OSError, match="not yours"):
        repair(DIR, files)


async def test_a_damaged_file_that_holds_another_segments_place_is_set_aside() -> None:
    disk = await a_disk_with(["0"])
    own = disk.data(FIRST)
    disk.put(DIR / "000000000005.kqj", own)
    disk.put(FIRST, b"?" * len(own))
    report = repair(DIR, disk)
    assert (report.problems, report.lost, report.set_aside) == ([], [], ["000000000001.kqj.stray"])
    assert disk.data(FIRST) == own


async def test_of_two_copies_the_whole_one_is_taken() -> None:
    disk = await a_disk_with(["0"], ["1"])
    own = disk.data(FIRST)
    for at in (len(own.rstrip(b"\0")) - 1, 100):
        damaged = bytearray(own)
        damaged[at] ^= 1
        files = MemoryFiles({FIRST: bytes(damaged), DIR / "000000000005.kqj": own})
        assert repair(DIR, files).problems == []
        assert files.data(FIRST) == own
