from __future__ import annotations

import pytest

from kqs.journal.checkpoint import decode_checkpoint, encode_checkpoint, load_checkpoint, write_checkpoint
from tests.support.files import FaultyFiles, MemoryFiles
from tests.support.journal import DIR

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
    assert files.calls == ["create", "write", "flush", "close", "rename", "flush_dir"]


@pytest.mark.parametrize("at", range(len(encode_checkpoint(JOURNAL_ID, 4711))))
def test_a_flipped_bit_anywhere_is_seen(at: int) -> None:
    data = bytearray(encode_checkpoint(JOURNAL_ID, 4711))
    data[at] ^= 1
    assert decode_checkpoint(bytes(data), JOURNAL_ID) is None


def test_that_of_another_journal_does_not_count() -> None:
    assert decode_checkpoint(encode_checkpoint(JOURNAL_ID, 4711), bytes(16)) is None
