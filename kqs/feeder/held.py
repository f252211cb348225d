"""What the journal has flushed and the store does not have, as far as it is kept in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import NamedTuple

from kqs.feeder.alike import type_of_all
from kqs.feeder.intake import PIECE_JOBS, Intake, Opened
from kqs.job import Accepted
from kqs.journal import Kind, Record
from kqs.wire.order import may_be_tied

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
    """Records in journal order; of the first, what is left of its jobs.

    Those before the first job that is not claimed stand apart: they need not wait for a lane. Of a record that is claimed in
    part, the first jobs are; as long as others are not, they wait with it.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._claimed: deque[tuple[Record, list[Accepted] | None, float]] = deque()  # and when they were claimed
        self._records: deque[tuple[Record, list[Accepted] | None]] = deque()
        self._unclaimable_seq = -1  # of a record that was looked at
        self._begun = 0  # claimed jobs of the first of `_records`
        self._last: Record | None = None
        self._opened: Opened | None = None  # `_last`, if not all its jobs were taken
        self._type: str | None = None
        self._bytes = 0
        #: jobs of whole records; those of them before the first that is not claimed
        self.count = self.claimed_first = 0
        self._is_uniform = True

    def __bool__(self) -> bool:
        return bool(self._records or self._claimed) or self._opened is not None

    @property
    def is_full(self) -> bool:
        """Tell whether no more should be added."""
        return self.count > MAX_JOBS or self._bytes > MAX_BYTES

    @property
    def is_all_claimed(self) -> bool:
        """Tell whether no job waits for a lane."""
        return not self._records and self._opened is None

    @property
    def type(self) -> str | None:
        """Return the one type of all that wait if they are alike (kqs.feeder.alike) and none may overtake another; or None."""
        return self._type if self._is_uniform else None

    @property
    def claimed_since(self) -> float:
        """Return when the first of those was claimed that come before all that wait; there is one."""
        return self._claimed[0][2]

    def add(
        self, record: Record, now: float, accepted: list[Accepted] | None = None, type_: str | None = None
    ) -> Collection[str]:
        """Keep `record`; return the types of its jobs that wait for a lane, as far as they can be known at once.

        Args: accepted: its jobs as the store takes them, where they are known already. type_: of all, if they are known to be
            alike.
        """
        self.count += record.count
        self._bytes += len(record.payload)
        if record.claimed and self.is_all_claimed:
            self._claimed.append((record, accepted, now))
            self.claimed_first += record.count
            return ()
        if self.is_all_claimed:
            self._type, self._is_uniform = None, True
        self._records.append((record, accepted))
        if record.claimed:
            return ()
        if type_ is None:
            type_ = type_of_all(record)
        if self._type is None:
            self._type = type_
        self._is_uniform = self._is_uniform and type_ is not None and type_ == self._type
        if type_ is not None:
            return (type_,)
        return {job.type for job in record.jobs} if record.jobs is not None and record.count <= PIECE_JOBS else ()

    def unclaimed(self, most: int) -> list[Accepted]:
        """Return the first jobs that wait for a lane, `most` at most: those that may be claimed without asking the store.

        Raises: as `take`.
        """
        if self._opened is not None:
            return []
        jobs: list[Accepted] = []
        skipped = self._begun
        for index, (record, accepted) in enumerate(self._records):
            if len(jobs) >= most or (accepted is None and (accepted := self._accepted(index, record)) is None):
                break
            jobs += accepted[skipped : skipped + most - len(jobs)]
            skipped = 0
        return jobs

    def _accepted(self, index: int, record: Record) -> list[Accepted] | None:
        """Return the jobs of the record in this place, and keep them; None if they may not be claimed."""
        if record.seq == self._unclaimable_seq:
            return None
        accepted = self._intake.claimable(record)
        if accepted is None:
            self._unclaimable_seq = record.seq
            return None
        record.jobs = None
        self._records[index] = (record, accepted)
        return accepted

    def claim(self, count: int, now: float) -> int:
        """Take in that the first `count` jobs of the `unclaimed` were claimed; return the seq after their records."""
        left, end_seq = count + self._begun, 0
        while left and left >= self._records[0][0].count:
            record, accepted = self._records.popleft()
            self._claimed.append((record, accepted, now))
            self.claimed_first += record.count
            left -= record.count
            end_seq = record.seq + 1
        self._begun = left
        return self._records[0][0].seq + 1 if left else end_seq

    def take(self, most: int) -> Batch:
        """Take up to `most` jobs of those held, and about `BATCH_BYTES`; what a record has more comes the next time.

        Raises: whatever is wrong with a record. Nothing of it is lost: it stands in the journal.
        """
        jobs: list[Accepted] = []
        size = taken = 0
        while self and len(jobs) < most and taken < BATCH_BYTES:
            room = most - len(jobs)
            if self._opened is None:
                record, accepted = self._next()
                size += len(record.payload)
                if accepted is not None or record.claimed or _is_whole(record, room):
                    taken += len(record.payload)
                    jobs += self._intake.accepted(record) if accepted is None else accepted
                    continue
                self._opened = Opened(record, self._intake)
            each = self._job_bytes()
            part = self._opened.take(min(room, max(1, (BATCH_BYTES - taken) // each)))
            taken += len(part) * each
            jobs += part
            if self._opened.is_empty:
                self._opened = None
        return Batch(jobs, self._reach(), size)

    def _next(self) -> tuple[Record, list[Accepted] | None]:
        """Take the next record."""
        if self._claimed:
            record, accepted, _ = self._claimed.popleft()
            self.claimed_first -= record.count
        else:
            record, accepted = self._records.popleft()
            self._begun = 0
        self._last = record
        self.count -= record.count
        self._bytes -= len(record.payload)
        return record, accepted

    def _job_bytes(self) -> int:
        """Return how many bytes a job of the opened record has, about."""
        assert self._last is not None, "one is opened"
        return max(1, len(self._last.payload) // self._last.count)

    def _reach(self) -> Reach:
        last = self._last
        assert last is not None, "there is a held job"
        if self._opened is not None:  # a replay would begin with the whole of this record
            return Reach(last.seq, last.first_order)
        return Reach(last.seq + 1, last.last_order + 1)


def _is_whole(record: Record, room: int) -> bool:
    """Tell whether a record is taken at once."""
    if record.kind is Kind.FANNED:  # it is bounded as it is journaled
        return True
    if record.count <= PIECE_JOBS and may_be_tied(record.payload):
        return True
    return record.count <= min(room, PIECE_JOBS) and (record.count <= 1 or len(record.payload) <= BATCH_BYTES)
