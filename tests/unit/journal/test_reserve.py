from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kqs.journal.reserve import NAME, keep_reserve, use_reserve
from tests.support.files import FaultyFiles, FullFiles, MemoryFiles

DIR = Path("/journal")


def test_it_is_taken_once_and_given_back() -> None:
    files = MemoryFiles()
    for _ in range(2):
        keep_reserve(files, DIR, 100)
        assert len(files.data(DIR / NAME)) == 100
    for _ in range(2):
        use_reserve(files, DIR)
        assert files.list(DIR) == []


def test_where_there_is_no_room_nothing_is_left() -> None:
    files = FaultyFiles(MemoryFiles())
    files.plan = lambda _index, name: OSError(errno.ENOSPC, "full") if name == "allocate" else None
    keep_reserve(files, DIR, 100)
    assert (files.inner.list(DIR), files.inner.handles) == ([], {})
    full = FullFiles()
    full.is_full = True
    keep_reserve(full, DIR, 100)
    assert full.list(DIR) == []


def test_one_that_cannot_be_given_back_says_so() -> None:
    files = FaultyFiles(MemoryFiles())
    files.plan = lambda _index, name: OSError(errno.EIO, "gone") if name == "unlink" else None
    with pytest.raises(OSError, match="gone"):
        use_reserve(files, DIR)
