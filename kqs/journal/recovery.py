"""What a start mends before it goes on. Blocking; call from a thread while the lock is held."""

from __future__ import annotations

from pathlib import Path

from kqs.config import JournalSection
from kqs.errors import JournalError
from kqs.journal import checkpoint
from kqs.journal.files import Files, opened, read_all, write_whole
from kqs.journal.format import JournalName
from kqs.journal.reserve import use_reserve
from kqs.journal.scan import Found, TornTail, scan
from kqs.journal.segment import Segment, is_leftover
from kqs.journal.writer import Writer

#: what the names of torn tails end in, and how many of them, of how many bytes, a start keeps
TORN = ".torn"
MAX_TORN_FILES = 8
MAX_TORN_BYTES = 64 * 1024 * 1024


def mend(files: Files, directory: Path, found: Found) -> None:
    """Copy a torn tail to NAME.torn and cut it off, durably; take away what else a killed server left behind.

    Of the copies the newest stay.
    """
    if found.torn is not None:
        _set_aside(files, directory, found.torn)
    elif found.segments:
        last = found.segments[-1]
        _cut(files, directory / last.name, last.end)
    for name in files.list(directory):
        if is_leftover(name):
            files.unlink(directory / name)
    _forget_old_torn(files, directory)


def recover(files: Files, settings: JournalSection, name: JournalName | None = None) -> tuple[Found, Writer, Segment]:
    """Scan, mend, open a new segment, in which the last batch is flushed again, and take the next checkpoint's space.

    Args: name: of a journal that is begun; None: a new one.
    Raises: what `scan` raises; then nothing was touched. OSError: the next start begins anew.
    """
    directory = settings.dir
    found = scan(files, directory)
    use_reserve(files, directory)
    mend(files, directory, found)
    writer = Writer(files, settings)
    segment = writer.start(found.segments[-1] if found.segments else None, found.last_frame, found.next_seq, name)
    checkpoint.keep_spare(files, directory)
    return found, writer, segment


def absent(directory: Path) -> JournalError:
    """Return the error for a folder that holds no journal."""
    return JournalError(f"there is no journal in {directory}")


def kept_aside(files: Files, directory: Path, *suffixes: str) -> list[tuple[str, int]]:
    """Return name and size of the files that were set aside, those of the oldest segments first."""
    kept = []
    for name in files.list(directory):
        if name.rstrip("0123456789").endswith(suffixes):
            with opened(files, directory / name) as handle:
                kept.append((name, files.size(handle)))
    return kept


def _forget_old_torn(files: Files, directory: Path) -> None:
    """Delete all but the newest torn tails: nobody was promised what is in them. The very newest stays, however long it is."""
    total = 0
    for count, (name, size) in enumerate(reversed(kept_aside(files, directory, TORN)), 1):
        total += size
        if count > MAX_TORN_FILES or (count > 1 and total > MAX_TORN_BYTES):
            files.unlink(directory / name)


def _set_aside(files: Files, directory: Path, torn: TornTail) -> None:
    handle = files.open(directory / torn.name, writable=True)
    try:
        data = read_all(files, handle, torn.end - torn.start, torn.start)
        write_whole(files, directory / (torn.name + TORN), data)
        files.truncate(handle, torn.start)
        files.flush(handle)
    finally:
        files.close(handle)


def _cut(files: Files, path: Path, end: int) -> None:
    """Give back preallocated space behind the end of the log; nothing depends on it, so it is not flushed."""
    handle = files.open(path, writable=True)
    try:
        files.truncate(handle, end)
    finally:
        files.close(handle)
