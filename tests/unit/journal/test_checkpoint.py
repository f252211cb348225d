from __future__ import annotations

import errno

import pytest

from kqs.errors import JournalError
from kqs.journal.checkpoint import encode_checkpoint, keep_spare, load_checkpoint, parse_checkpoint, write_checkpoint
from tests.support.files import FaultyFiles, FullFiles, MemoryFiles, failing
from tests.support.journal import DIR, a_journal, a_record, appended

JOURNAL_ID = bytes(range(16))


def test_its_bytes_never_change() -> None:
    assert encode_checkpoint(JOURNAL_ID, 4711) == b"kqs-checkpoint 1 000102030405060708090a0b0c0d0e0f 4711 0f5ab681\n"


def test_it_comes_back_as_it_was_written() -> None:
    files = MemoryFiles()
    assert load_checkpoint(files, DIR, JOURNAL_ID) is None
    write_checkpoint(files, DIR, JOURNAL_ID, 4711)
    assert load_checkpoint(files, DIR, JOURNAL_ID) == 4711


def test_it_is_flushed_before_it_gets_its_name() -> None:
    files = FaultyFiles(MemoryFiles())
    write_checkpoint(files, DIR, JOURNAL_ID, 4711)
    assert files.calls == ["open", "create", "write", "truncate", "flush", "close", "rename", "flush_dir"]


def test_the_spare_takes_it_whatever_it_held() -> None:
    files = FaultyFiles(MemoryFiles({DIR / "checkpoint.new": b"x" * 128}))
    keep_spare(files, DIR)
    write_checkpoint(files, DIR, JOURNAL_ID, 4711)
    assert files.calls == ["list", "open", "write", "truncate", "flush", "close", "rename", "flush_dir"]
    assert files.inner.snapshot() == {DIR / "checkpoint": encode_checkpoint(JOURNAL_ID, 4711)}


def test_a_spare_that_cannot_be_made_leaves_nothing() -> None:
    files = FaultyFiles(MemoryFiles())
    for name in ("list", "create", "allocate"):
        files.plan = failing(name, OSError(errno.ENOSPC, "full"))
        keep_spare(files, DIR)
        assert files.inner.snapshot() == {}


@pytest.mark.parametrize("name", ["write", "flush"])
def test_one_that_failed_half_way_is_begun_anew(name: str) -> None:
    files = FaultyFiles(MemoryFiles())
    keep_spare(files, DIR)
    files.plan = lambda _index, called: OSError(errno.EIO, "gone") if called == name else None
    with pytest.raises(OSError, match="gone"):
        write_checkpoint(files, DIR, JOURNAL_ID, 4711)
    assert files.inner.snapshot() == {}
    files.plan = lambda _index, _called: None
    write_checkpoint(files, DIR, JOURNAL_ID, 4711)
    assert load_checkpoint(files, DIR, JOURNAL_ID) == 4711


async def test_it_gives_a_disk_that_is_full_to_the_last_byte_its_segments_back() -> None:
    files = FullFiles()
    journal = a_journal(files, segment_bytes=600)
    recovery = await journal.start()
    for _ in range(3):
        await appended(journal, a_record("x" * 400))
    files.is_full = True
    await journal.checkpoint(2)
    assert journal.stats()["segments"] == 1
    assert load_checkpoint(files, DIR, bytes.fromhex(recovery.journal_id)) == 2
    await journal.stop()


async def test_without_a_spare_it_waits_for_room() -> None:
    files = FullFiles()
    journal = a_journal(files)
    await journal.start()
    await appended(journal, a_record())
    await appended(journal, a_record())
    files.is_full = True
    await journal.checkpoint(1)
    with pytest.raises(JournalError, match="no space left"):
        await journal.checkpoint(2)
    files.is_full = False
    await journal.checkpoint(2)
    await journal.stop()
    assert files.list(DIR).count("checkpoint.new") == 1


@pytest.mark.parametrize("at", range(len(encode_checkpoint(JOURNAL_ID, 4711))))
def test_a_flipped_bit_anywhere_is_seen(at: int) -> None:
    data = bytearray(encode_checkpoint(JOURNAL_ID, 4711))
    data[at] ^= 1
    assert parse_checkpoint(bytes(data)) is None


def test_that_of_another_journal_does_not_count() -> None:
    files = MemoryFiles()
    files.make_dir(DIR)
    write_checkpoint(files, DIR, JOURNAL_ID, 4711)
    assert load_checkpoint(files, DIR, bytes(16)) is None
