"""What was appended and not begun with: the open batch, and before it those that are full. Pure.

Invariant: full batches stand only before an open one that has a record.
"""

from __future__ import annotations

from collections import deque

from kqs.journal.format import FRAME_BYTES, MAX_PAYLOAD_BYTES, Record


class OpenBatch:
    """True while anything waits. Batches are taken in the order in which their records came."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        """Args: neither is exceeded, but for a single record that is longer."""
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._records: list[Record] = []
        self._bytes = FRAME_BYTES
        self._full: deque[tuple[list[Record], int]] = deque()

    def __bool__(self) -> bool:
        return bool(self._records)

    @property
    def is_lone(self) -> bool:
        """Tell whether one record waits, and no more."""
        return len(self._records) == 1 and not self._full

    @property
    def lone_job_bytes(self) -> int:
        """Return how long the frame of the one job that waits will be; 0 if none waits, or more."""
        return self._bytes if len(self._records) == 1 and not self._full and self._records[0].count == 1 else 0

    def add(self, record: Record) -> None:
        """Take `record` in, into the next batch if this one has no room for it."""
        size = record.size_bytes
        assert size <= MAX_PAYLOAD_BYTES, "a record longer than any frame"
        records = self._records
        if records and (len(records) >= self._max_records or self._bytes + size > self._max_bytes):
            self._full.append((records, self._bytes))
            records = self._records = []
            self._bytes = FRAME_BYTES
        records.append(record)
        self._bytes += size

    @property
    def next_bytes(self) -> int:
        """Return how long the frame of the oldest batch will be."""
        return self._full[0][1] if self._full else self._bytes

    def take(self) -> list[Record]:
        """Take the oldest batch; there is one."""
        if self._full:
            return self._full.popleft()[0]
        records = self._records
        self._records = []
        self._bytes = FRAME_BYTES
        return records

    def take_all(self) -> list[Record]:
        """Take the records of every batch, in order; there may be none."""
        taken: list[Record] = []
        while self._records:
            taken += self.take()
        return taken
