"""Torn tails that starts set aside: told, and bounded."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from kqs.journal import recovery
from kqs.journal.format import HEADER_BYTES
from kqs.journal.survey import verify
from tests.support.files import MemoryFiles
from tests.support.journal import DIR, a_disk_with, a_journal

FIRST = DIR / "000000000001.kqj"


async def torn(disk: MemoryFiles) -> None:
    """Tear the last batch of the last segment."""
    last = max(path for path in disk.names if path.suffix == ".kqj")
    whole = disk.data(last).rstrip(b"\0")
    disk.put(last, whole[:-1] + bytes([whole[-1] ^ 1]))


async def test_what_a_start_set_aside_is_told() -> None:
    disk = await a_disk_with(["0"], ["1"])
    await torn(disk)
    journal = a_journal(disk)
    with capture_logs() as logs:
        await journal.start()
    size = len(disk.data(DIR / f"{FIRST.name}.torn"))
    assert journal.notes() == [f"torn tails of {size} bytes are kept in {DIR}: {FIRST.name}.torn"]
    assert {"event": "torn tails are kept", "log_level": "info", "files": f"{FIRST.name}.torn", "bytes": size} in logs
    await journal.stop()
    assert verify(DIR, disk).kept_aside == [(f"{FIRST.name}.torn", size)]


async def test_a_journal_without_any_has_nothing_to_tell() -> None:
    journal = a_journal(MemoryFiles())
    await journal.start()
    assert journal.notes() == []
    await journal.stop()


async def test_the_newest_are_kept() -> None:
    disk = await a_disk_with(["0"])
    for number in range(100, 120):
        disk.put(DIR / f"{number:012d}.kqj.torn", b"x")
    journal = a_journal(disk)
    await journal.start()
    await journal.stop()
    kept = [name for name, _ in recovery.kept_aside(disk, DIR, ".torn")]
    assert kept == [f"{number:012d}.kqj.torn" for number in range(112, 120)]


async def test_long_ones_are_fewer_but_the_newest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "MAX_TORN_BYTES", 3 * HEADER_BYTES)
    disk = await a_disk_with(["0"])
    for size, kept in ((HEADER_BYTES, 3), (5 * HEADER_BYTES, 1)):
        for number in range(100, 105):
            disk.put(DIR / f"{number:012d}.kqj.torn", bytes(size))
        journal = a_journal(disk)
        await journal.start()
        await journal.stop()
        assert len(recovery.kept_aside(disk, DIR, ".torn")) == kept
