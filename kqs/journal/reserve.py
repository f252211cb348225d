"""Room that a start needs and a full disk has not: kept in a file while there is plenty, given back by the start itself.

A start takes it for a new segment, in which the last batch is flushed again, for the copy of a torn tail, and for what the
store writes when it is opened.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from kqs.journal.files import Files, keep_room

NAME = "reserve"
#: what a start takes: the last batch again, usually at most 1 MiB, and what the store writes
RESERVE_BYTES = 2 * 1024 * 1024


def keep_reserve(files: Files, directory: Path, size: int) -> None:
    """Take the room, unless it is taken; where there is none, it is tried the next time. Not flushed: a start makes another."""
    keep_room(files, directory / NAME, size)


def use_reserve(files: Files, directory: Path) -> None:
    """Give the room back to the disk. Raises: OSError."""
    with suppress(FileNotFoundError):
        files.unlink(directory / NAME)
