"""The journal of a server that does not run: held, so that none can start on it meanwhile, and read. It is not changed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from pathlib import Path

from kqs.journal.files import Files, OsFiles
from kqs.journal.format import Record
from kqs.journal.kept import KeptSegments
from kqs.journal.lock import JournalLock
from kqs.journal.recovery import absent
from kqs.journal.scan import Found, scan
from kqs.journal.survey import segment_names


class StoppedJournal:
    """What stands in it. A torn tail, which nobody was promised, is left out.

    node: 8 hex digits, the end of every id that its server made. from_seq: the first record that may not be in the store.
    """

    def __init__(self, files: Files, directory: Path, found: Found, *, everything: bool) -> None:
        """Args: everything: begin with the oldest record kept, whatever the checkpoint says."""
        self._kept = KeptSegments(files, directory)
        self._kept.load(found.segments, None if everything else found.checkpoint_seq)
        self.node = found.segments[-1].header.node.hex()
        self.from_seq = self._kept.checkpoint_seq
        self.size_bytes = self._kept.backlog_bytes

    def read(self) -> AsyncGenerator[list[Record], None]:
        """Yield the records from `from_seq` on, in order, about a MiB at a time; they have payload and seq, but no jobs.

        Raises: JournalError: the disk refused, or has changed since.
        """
        return self._kept.read(self.from_seq)


@contextmanager
def stopped_journal(directory: Path, files: Files | None = None, *, everything: bool = False) -> Iterator[StoppedJournal]:
    """Hold the journal in `directory` while the block runs.

    Raises: JournalLockedError: a server runs on it. JournalCorruptError, JournalVersionError: as at a start. JournalError:
        there is none. OSError.
    """
    files = files or OsFiles()
    if not segment_names(files, directory):
        raise absent(directory)
    lock = JournalLock(files, directory)
    try:
        found = scan(files, directory, everything=everything)
        if not found.segments:
            raise absent(directory)
        yield StoppedJournal(files, directory, found, everything=everything)
    finally:
        lock.release()
