"""A new journal in the place of one that is lost, for the store that outlived it. Blocking; takes the lock.

What is left of the old one is put aside, and a file says that the next start begins a journal with the identity that the store
knows, which goes on behind what that has. The file goes once the store has gone on with it, so it does not matter where a kill
comes: the start, or the command, is repeated.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

from kqs.journal import checkpoint
from kqs.journal.files import Files, OsFiles, write_whole
from kqs.journal.lock import JournalLock
from kqs.journal.segment import SEGMENT_MARK

#: says to the next start that the journal takes the place of the one that the store knows
NAME = "renewed"
#: the folder of what is put aside, with a number
_ASIDE = "lost"


def renew(directory: Path, files: Files | None = None) -> Path | None:
    """Let the next start begin a new journal for the store; return the folder with what is left of the old one, if anything is.

    Raises: JournalLockedError: a server is running. OSError: there is no such folder, or it is to be run again.
    """
    files = files or OsFiles()
    lock = JournalLock(files, directory)
    try:
        aside = _put_aside(files, directory)
        write_whole(files, directory / NAME, b"")
        return aside
    finally:
        lock.release()


def _put_aside(files: Files, directory: Path) -> Path | None:
    there = files.list(directory) + files.list_others(directory)  # links as well: a start would refuse them
    left = [name for name in there if SEGMENT_MARK in name or name.startswith(checkpoint.NAME)]
    if not left:
        return None
    folders = (directory / f"{_ASIDE}-{number}" for number in count(1))
    aside = next(folder for folder in folders if files.identity_of(folder) is None)
    files.make_dir(aside)
    for name in left:
        files.rename(directory / name, aside / name)
    files.flush_dir(aside)
    return aside


def is_renewed(files: Files, directory: Path) -> bool:
    """Tell whether the store is still to go on with this journal in place of its own."""
    return files.identity_of(directory / NAME) is not None


def settle(files: Files, directory: Path) -> None:
    """Take in that the store knows. Raises: OSError: it will be told again."""
    files.unlink(directory / NAME)
    files.flush_dir(directory)
