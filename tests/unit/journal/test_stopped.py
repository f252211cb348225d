from __future__ import annotations

from contextlib import aclosing

import pytest

from kqs.errors import JournalError, JournalLockedError
from kqs.journal.segment import segment_name
from kqs.journal.stopped import StoppedJournal, stopped_journal
from tests.support.files import MemoryFiles
from tests.support.journal import DIR, a_disk_with, a_journal


async def payloads(journal: StoppedJournal) -> list[bytes]:
    async with aclosing(journal.read()) as slices:
        return [record.payload async for records in slices for record in records]


@pytest.fixture
async def disk() -> MemoryFiles:
    """Three records, of which the store has the first."""
    disk = await a_disk_with(["a"], ["b"], ["c"])
    journal = a_journal(disk)
    await journal.start()
    await journal.checkpoint(1)
    await journal.stop()
    return disk


async def test_what_the_store_may_lack_is_read(disk: MemoryFiles) -> None:
    with stopped_journal(DIR, disk) as journal:
        assert await payloads(journal) == [b"b", b"c"]
        assert journal.from_seq == 1


async def test_everything_is_read_if_asked_for(disk: MemoryFiles) -> None:
    with stopped_journal(DIR, disk, everything=True) as journal:
        assert (await payloads(journal))[-2:] == [b"b", b"c"]


async def test_no_server_can_start_on_it_meanwhile(disk: MemoryFiles) -> None:
    with stopped_journal(DIR, disk), pytest.raises(JournalLockedError):
        await a_journal(disk).start()


async def test_one_that_a_server_runs_on_is_refused(disk: MemoryFiles) -> None:
    journal = a_journal(disk)
    await journal.start()
    with pytest.raises(JournalLockedError), stopped_journal(DIR, disk):
        pass
    await journal.stop()


@pytest.mark.parametrize("content", [None, b""], ids=["an empty folder", "a segment that was never finished"])
def test_what_holds_no_record_is_no_journal(content: bytes | None) -> None:
    disk = MemoryFiles()
    disk.make_dir(DIR)
    if content is not None:
        disk.put(DIR / segment_name(1), content)
    with pytest.raises(JournalError, match="no journal"), stopped_journal(DIR, disk):
        pass
