"""What the journal reads of the [journal] section, and where its lock is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

#: held with flock for as long as a server lives; the holder's pid is its content
LOCK_NAME = "lock"
#: what a journal keeps open files under, as fnmatch has it
JOURNAL_FILES = (LOCK_NAME, "*.kqj", "*.kqj.*", "checkpoint", "checkpoint.*", "reserve")


class JournalSettings(Protocol):
    """`kqs.config` provides it.

    segment_bytes: preallocated length of a segment. min_free_bytes: what must stay free beyond what the backlog takes.
    batch_bytes, batch_records: a batch takes no further record above either; a longer record is a batch of its own.
    """

    @property
    def dir(self) -> Path:
        """Return the directory."""
        ...

    @property
    def segment_bytes(self) -> int:
        """See the class."""
        ...

    @property
    def min_free_bytes(self) -> int:
        """See the class."""
        ...

    @property
    def batch_bytes(self) -> int:
        """See the class."""
        ...

    @property
    def batch_records(self) -> int:
        """See the class."""
        ...
