"""Claims in the journal: jobs that meet room begin as soon as that is durable, before the store has them.

Two may be under way. One is part of a batch that is being flushed: its records say that they are claimed, each whole or not at
all. The other is a record of its own, which names the first of the held jobs. Invariants:

1. What is under way is settled once: its runs begin, or it is taken back, and its room. A consumer's stop waits for that.
2. While held jobs are being claimed, none of them is fed: the store would have another truth about them.
3. What the store must be asked about first is not claimed: a job with an id of its own may be known.
4. Nor is what stands in its batch behind such a job, or behind one that might begin if its record could be claimed whole: there
   may be room, or a slot of its type, for one of the two only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain
from operator import attrgetter

from kqs.errors import JournalError
from kqs.feeder.held import Held
from kqs.feeder.intake import PIECE_JOBS, Intake
from kqs.job import Accepted
from kqs.journal import Journal, Record, claims_record
from kqs.options import PlainJob
from kqs.queue.consumer import Consumer
from kqs.queue.queue import Queue
from kqs.queue.reservation import Reservation

#: no more are claimed while so many claimed jobs are held: each is a run whose end is kept in memory until it is stored. At
#: 100,000 jobs/s half of it gather while the store has a batch in hand
MOST_CLAIMED = 20_000
#: nor when the first of them has waited so long for the store, in s: a kill would have all of them run again
LATE_S = 1.0

_count_of = attrgetter("count")
_claimed_at_of = attrgetter("claimed_at")


class Claims:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, journal: Journal, queue: Queue, intake: Intake, held: Held, on_refused: Callable[[], None]) -> None:
        """Args: on_refused: called when held jobs that were being claimed have to go by way of the store."""
        self._journal = journal
        self._queue = queue
        self._intake = intake
        self._held = held
        self._on_refused = on_refused
        self._of_batch: Reservation | None = None
        self._taker: Consumer | None = None  # who will have all of the batch
        #: the jobs of the records of the batch, in their places, as far as they are known; None if none is claimed
        self.accepted: Sequence[list[Accepted] | None] | None = None
        self._of_held: Reservation | None = None
        self._settled = asyncio.Event()
        self._settled.set()
        #: the seq after the last record with a claimed job
        self.end_seq = 0

    @property
    def may_be_made(self) -> bool:
        """Tell whether more runs may begin before their jobs are stored: the ends of those that did are in memory till then."""
        held = self._held
        if self._queue.has_too_many_ends or held.claimed_first >= MOST_CLAIMED:
            return False
        return not held.claimed_first or self._queue.clock.monotonic() - held.claimed_since < LATE_S

    @property
    def are_of_held(self) -> bool:
        """Tell whether the first held jobs are being claimed."""
        return self._of_held is not None

    async def settled(self) -> None:
        """Return when no held jobs are being claimed."""
        await self._settled.wait()

    def of_batch(self, batch: Sequence[Record]) -> None:
        """Claim what meets room in a batch that is about to be flushed.

        `prepare_batch` follows, unless this raises; `begin_batch` or `take_back_batch` in any case. No job that waits may have
        a right to begin before those of the batch.
        """
        admission = self._queue.admission
        self._taker = self._taker_of_all(batch)
        if self._taker is not None:
            for record in batch:
                record.claimed = True
            return
        room = admission.journal_room
        if room <= 0 or not (sum(map(_count_of, batch)) <= room or all(map(_is_plain, batch))):
            return  # a later one may have the right to be the first
        accepted = _accepted(batch, self._intake, room)
        jobs = list(chain.from_iterable(filter(None, accepted)))
        reservation = self._of_batch = admission.admit(jobs, self._queue.clock.now(), in_journal=True)
        parts: list[Accepted] = []
        for record, its_jobs in zip(batch, accepted, strict=True):
            if its_jobs:
                record.claimed = not parts and all(map(_claimed_at_of, its_jobs))
                if not record.claimed:
                    parts += filter(_claimed_at_of, its_jobs)
        if parts:
            reservation.withdraw(parts)
        self.accepted = accepted

    def _taker_of_all(self, batch: Sequence[Record]) -> Consumer | None:
        """Return who will have each job of a batch, where that is plain before they are made."""
        types: set[str] = set()
        count = 0
        for record in batch:
            its_types = self._intake.ready_types(record)
            if its_types is None:
                return None
            types.update(its_types)
            count += record.count
        return self._queue.admission.taker_of_all(types, count)

    def prepare_batch(self, batch: Sequence[Record]) -> None:
        """Make the jobs of a batch that is being flushed, and their claims, if one consumer will have all of them."""
        taker, self._taker = self._taker, None
        if taker is not None:
            self.accepted = accepted = [self._intake.ready(record) for record in batch]
            jobs = list(chain.from_iterable(accepted))
            self._of_batch = self._queue.admission.claim(taker, jobs, self._queue.clock.now())

    def begin_batch(self, batch: Sequence[Record]) -> None:
        """Let the jobs begin of those records that are claimed; `take_back_batch` follows. The batch is flushed, and held."""
        for record in batch:
            if record.claimed:
                self.end_seq = record.seq + 1
        if self._of_batch is not None and self.end_seq > batch[0].seq:
            self._queue.run_claimed(self._of_batch)

    def take_back_batch(self) -> None:
        """Take back what was claimed in a batch and has not begun. Idempotent."""
        self._taker = self.accepted = None
        reservation, self._of_batch = self._of_batch, None
        if reservation is not None:
            reservation.undo()

    def of_held(self) -> bool:
        """Claim those held jobs that wait first, as far as there is room; `begin_held` follows. False: it cannot be done.

        All that waits must be alike. While such a claim is under way no other is made.
        """
        if self._of_held is not None:
            return True
        admission = self._queue.admission
        jobs = self._held.unclaimed(min(admission.journal_room, MOST_CLAIMED))
        reservation = admission.admit(jobs, self._queue.clock.now(), in_journal=True)
        orders = reservation.orders
        if not orders or orders[-1] != jobs[len(orders) - 1].order:  # one before the last may not run now
            reservation.undo()
            return False
        record = claims_record(orders)
        record.done = self._held_settled
        self._of_held = reservation
        self._settled.clear()
        try:
            self._journal.append(record)
        except JournalError:
            self.take_back_held()
            return False
        return True

    def begin_held(self) -> int:
        """Let the held jobs begin whose claim was flushed; return how many."""
        reservation = self._of_held
        assert reservation is not None, "it was under way"
        try:
            count = len(reservation.orders)
            self.end_seq = max(self.end_seq, self._held.claim(count, self._queue.clock.monotonic()))
            self._queue.run_claimed(reservation)
        finally:
            self.take_back_held()
        return count

    def take_back_held(self) -> None:
        """Take back a claim of held jobs that have not begun. Idempotent."""
        reservation, self._of_held = self._of_held, None
        self._settled.set()
        if reservation is not None:
            reservation.undo()

    def _held_settled(self, error: JournalError | None) -> None:
        if error is not None:
            self.take_back_held()
            self._on_refused()


def _accepted(batch: Sequence[Record], intake: Intake, room: int) -> list[list[Accepted] | None]:
    """Return the jobs of the first records that may be claimed and have `room`, in their places."""
    accepted: list[list[Accepted] | None] = []
    for record in batch:
        jobs = intake.claimable(record) if record.count <= room else None
        accepted.append(jobs)
        room = room - record.count if jobs is not None else 0
    return accepted


def _is_plain(record: Record) -> bool:
    """Tell whether no job of a record has settings of its own, so that each type's jobs are in order."""
    jobs = record.jobs
    if jobs is None or record.count > PIECE_JOBS:
        return False
    return type(jobs[0]) is PlainJob if record.count == 1 else {type(job) for job in jobs} == {PlainJob}
