"""What the journal has flushed and the store does not have, as far as it is kept in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from kqs.job import Accepted
from kqs.journal import Record
from kqs.options import Job, PlainJob

#: beyond either, records are forgotten here and read back from the journal
MAX_JOBS = 50_000
MAX_BYTES = 32 * 1024 * 1024


#: a batch is about so many bytes of records, since the store has it in its WAL and in its file at a time
BATCH_BYTES = 1024 * 1024


class Reach(NamedTuple):
    """How far the store has the journal: records below `seq`, and with them jobs below `order`."""

    seq: int
    order: int


class Batch(NamedTuple):
    """Jobs to feed, how far the store has the journal with them, and the bytes of their records."""

    jobs: list[Accepted]
    reach: Reach
    size_bytes: int


class Held:
    """Records in journal order; of the first, what is left of its jobs."""

    def __init__(self, accepted: Callable[[Record], list[Accepted]]) -> None:
        """Args: accepted: returns a record's jobs as the store takes them."""
        self._accepted = accepted
        self._records: deque[tuple[Record, list[Accepted] | None]] = deque()
        self._last: Record | None = None
        self._rest: list[Accepted] = []  # of `_last`
        self._type: str | None = None
        self._bytes = 0
        #: jobs of whole records
        self.count = 0
        #: all jobs are of one type and set no options, so that first come is first served
        self.is_uniform = True

    def __bool__(self) -> bool:
        return bool(self._records or self._rest)

    @property
    def is_full(self) -> bool:
        """Tell whether no more should be added."""
        return self.count > MAX_JOBS or self._bytes > MAX_BYTES

    def add(self, record: Record, accepted: list[Accepted] | None = None) -> set[str]:
        """Keep `record`, which has its `jobs`; return the types of those that wait for a lane.

        Args: accepted: its jobs as the store takes them, where they are known already.
        """
        if not self:
            self._type, self.is_uniform = None, True
        self._records.append((record, accepted))
        self.count += record.count
        self._bytes += len(record.payload)
        if not record.jobs or record.claimed:
            return set()
        types = {job.type for job in record.jobs}
        self.is_uniform = self.is_uniform and self._is_alike(types, record.jobs)
        return types

    def _is_alike(self, types: set[str], jobs: list[Job]) -> bool:
        if self._type is None:
            self._type = jobs[0].type
        return types == {self._type} and {type(job) for job in jobs} == {PlainJob}

    def take(self, most: int) -> Batch:
        """Take up to `most` jobs of those held, and about `BATCH_BYTES` of them; what a record has more comes the next time."""
        if self._rest and self._last is not None:
            most = min(most, _share(self._last, BATCH_BYTES))
        batch, self._rest = self._rest[:most], self._rest[most:]
        size = 0
        while self._records and len(batch) < most and size < BATCH_BYTES:
            record, accepted = self._records.popleft()
            self.count -= record.count
            size += len(record.payload)
            jobs = self._accepted(record) if accepted is None else accepted
            room = min(most - len(batch), _share(record, BATCH_BYTES))
            batch += jobs[:room]
            self._rest = jobs[room:]
            self._last = record
        self._bytes -= size
        last = self._last
        assert last is not None, "there is a held job"
        if self._rest:  # a replay would begin with the whole of this record
            return Batch(batch, Reach(last.seq, last.first_order), size)
        return Batch(batch, Reach(last.seq + 1, last.last_order + 1), size)


def _share(record: Record, size: int) -> int:
    """Return how many of a record's jobs have about `size` bytes, at least one."""
    return max(1, record.count * size // max(1, len(record.payload)))
