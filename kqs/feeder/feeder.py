"""The feeder: brings journaled jobs into the queue, in order, and tells the journal how far.

Rules. Nothing is skipped: a store that refuses is asked again until it takes the batch, and whatever goes wrong leaves the
cursor (kqs.feeder.cursor) before it. The checkpoint never passes what the store has made durable. The journal is the buffer:
how long jobs gather there follows from how long they have waited (kqs.feeder.pace); a consumer with room wakes the feeder at
once. What does not fit the bounded hand-over list is read back from the journal later. Jobs that meet waiting lanes are claimed
in the journal itself and begin as soon as that is flushed (kqs.feeder.claims): their way into the store costs them no time, and
as they gather here for a while, the ends of short runs go in with them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import repeat

from kqs.errors import JournalCorruptError, JournalError, StoreUnavailableError
from kqs.feeder import pace
from kqs.feeder.alike import Alike
from kqs.feeder.backlog import Backlog
from kqs.feeder.checkpoints import Checkpoints
from kqs.feeder.claims import Claims
from kqs.feeder.cursor import Cursor
from kqs.feeder.gathering import Gathering, wait
from kqs.feeder.held import Batch, Held, Reach
from kqs.feeder.intake import Intake
from kqs.ids import Ids
from kqs.job import Accepted
from kqs.journal import Journal, Kind, Record
from kqs.log import get_logger
from kqs.options import Cascade
from kqs.pauses import STORE_FIRST_S, STORE_LONGEST_S, Pauses
from kqs.queue.multicast import Joins, parted
from kqs.queue.queue import Queue
from kqs.store.base import Store, StoreInfo
from kqs.supervisor import Supervisor
from kqs.trouble import Trouble

log = get_logger("kqs.feeder")

#: who asks for a job does not wait longer for a store that is behind; shorter than a server's stop
CATCH_UP_S = 5.0
#: how long a stop waits for the batch that the store has in hand
STOP_WAIT_S = 5.0


class Feeder:
    """See the module docstring. One task; call from the loop thread."""

    def __init__(
        self, journal: Journal, queue: Queue, store: Store, ids: Ids, cascade: Cascade, supervisor: Supervisor
    ) -> None:
        self._journal = journal
        self._supervisor = supervisor
        self._queue = queue
        self._intake = Intake(ids, cascade)
        self._held = Held(self._intake)
        self._alike = Alike()
        self._cursor = Cursor()
        self._wake = asyncio.Event()
        self._checkpoints = Checkpoints(journal, store, self._wake.set, supervisor)
        self._behind = True  # until `start`, nothing is held
        self._backlog = Backlog(journal)
        self._claims = Claims(journal, queue, self._intake, self._held, self._hurry)
        self._first_own_seq = 0  # of the first record of this boot
        self._offered_seq = 0  # after the last one that goes, or went, into the store with a job that is not claimed
        self._moved = asyncio.Event()
        self._stopping = asyncio.Event()
        self._monotonic = queue.clock.monotonic
        self._gathering = Gathering(
            queue, self._held, self._claims, supervisor, is_ordered=self._is_ordered, may_claim=lambda: self._may_claim
        )
        self._task: asyncio.Task[None] | None = None
        self._lasting = Trouble(log, "jobs wait in the journal, trying again", "jobs go on from the journal")
        self.trouble: str | None = None

    @property
    def fed_seq(self) -> int:
        """Return the first seq that the store does not have."""
        return self._cursor.fed

    @property
    def checkpointed_order(self) -> int:
        """Return an order that no replay can bring back a job below."""
        return self._checkpoints.order

    async def start(self, info: StoreInfo) -> None:
        """Begin after what the store has already; the rest is read from the journal."""
        self.trouble = None
        self._cursor = Cursor(info.fed_seq)
        self._gathering.start(self._journal.durable_seq)
        self._alike = Alike(self._journal.durable_seq)
        self._first_own_seq = self._journal.durable_seq
        self._checkpoints.start(info)
        self._behind = info.fed_seq < self._journal.durable_seq
        self._note_known()
        self._wake.set()
        self._queue.wishes.more = self._hurry
        self._queue.wishes.sooner = self._gathering.want
        self._task = self._supervisor.spawn(self._run(), "feeder")

    def wait_for_store(self, fed_seq: int) -> None:
        """Take it that the store has the journal up to `fed_seq` (exclusive), until `start` says how far it has."""
        self._cursor = Cursor(fed_seq)

    async def stop(self) -> None:
        """End between two batches. What was not fed stays in the journal, for the next start.

        A batch in the store's hands is waited for, within bounds: it may hold claimed jobs, whose lanes must hear of it. So
        is a job that was claimed in the journal, or the end of its run would have no record to stand in.
        """
        task, self._task = self._task, None
        self._checkpoints.close()
        if task is not None:
            self._stopping.set()
            self._wake.set()
            self._gathering.end()
            await self._supervisor.end(task, patience_s=STOP_WAIT_S)
            await self._backlog.close()
            await self._checkpoints.move()

    def before_flush(self, batch: list[Record]) -> None:
        """Claim those jobs of a batch that meet room. See Listener.

        None is unless all that came before is in the store, or claimed: it might have the right to begin first.
        """
        is_in_order = not self._behind and self._held.is_all_claimed and self._cursor.fed >= self._offered_seq
        if is_in_order and self._may_claim and not self._held.is_full:  # it will be held when it is flushed
            self._claims.of_batch(batch)

    def during_flush(self, batch: list[Record]) -> None:
        """Have the jobs at hand that will begin. See Listener."""
        self._claims.prepare_batch(batch)

    @property
    def _may_claim(self) -> bool:
        return self.trouble is None and not self._stopping.is_set() and self._claims.may_be_made

    def failed(self, _batch: list[Record]) -> None:
        """See Listener."""
        self._claims.take_back_batch()

    def flushed(self, batch: list[Record]) -> None:
        """Take a flushed batch. See Listener."""
        try:
            self._take(batch)
        finally:
            self._claims.take_back_batch()
            self._wake.set()

    def give_up(self) -> None:
        """Take back all claims under way, for which whoever stops the node would wait. See Listener."""
        self._claims.take_back_batch()
        self._claims.take_back_held()
        self._wake.set()

    def _take(self, batch: list[Record]) -> None:
        now = self._monotonic()
        jobs = batch[0].count if len(batch) == 1 else sum([record.count for record in batch])
        self._gathering.waiting.flushed(batch[0].seq, jobs, now)
        if self._queue.asked.open:
            self._gathering.want()
        for record in batch:
            self._alike.note(record)
            if record.kind is Kind.CLAIMS:
                self._begin_held()
        if not self._behind and (self._held.is_full or batch[0].seq != self._cursor.held):
            self._behind = True
        if not self._behind:
            accepted = self._claims.accepted
            self._hold(batch, now, batch[-1].seq + 1, accepted)
            if accepted is not None:
                self._claims.begin_batch(batch)
                if self._held.claimed_first:
                    self._gathering.ran(now)

    def _begin_held(self) -> None:
        self._gathering.begun(self._claims.begin_held())
        if (type_ := self._held.type) is not None and self._queue.admission.has_room(type_):
            self._hurry()  # who asked meanwhile was told that a claim is under way

    def _hurry(self) -> None:
        """Feed at once, if that gives anybody a job: none has to wait for the store that is claimed already."""
        if self._behind or not self._held.is_all_claimed:
            self._gathering.want()

    def _hold(
        self, records: list[Record], now: float, durable_seq: int, accepted: Sequence[list[Accepted] | None] | None = None
    ) -> None:
        """Hold records one by one, so that each counts as held only when it is."""
        has_room = self._queue.admission.has_room
        for record, jobs in zip(records, accepted or repeat(None), strict=False):
            if record.count:
                types = self._held.add(record, now, jobs, type_=self._alike.type_from(record.seq))
                if any(map(has_room, types)):
                    self._gathering.want()
            self._cursor.hold(record.seq + 1, durable_seq)

    async def catch_up(self, *, unflushed: bool = False) -> None:
        """Return when all that was flushed before this call is in the store. unflushed: and what was on its way to that.

        Raises: StoreUnavailableError: it is not there after `CATCH_UP_S`.
        """
        wanted = self._journal.next_seq if unflushed else self._journal.durable_seq
        if self.fed_seq >= wanted:
            return
        try:
            with self._gathering.hurrying():
                async with asyncio.timeout(CATCH_UP_S):
                    while self.fed_seq < wanted:
                        self._moved.clear()
                        await self._moved.wait()
        except TimeoutError:
            raise StoreUnavailableError(f"the store is {self.lag_records} records behind the journal") from None

    @property
    def lag_records(self) -> int:
        """Return how many journal records the store does not have yet."""
        return self._journal.durable_seq - self.fed_seq

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        return [trouble for trouble in (self.trouble, self._checkpoints.trouble) if trouble]

    async def _run(self) -> None:
        await self._from_disk(self._find_lost_claims)
        while not self._may_end:
            await self._wait_for_work()
            while self._has_work and not self._may_end:
                if self._behind and self._held.count < pace.BATCH_JOBS:
                    await self._from_disk(self._read_on)
                if self._held:
                    await self._feed_held(await self._gathering.batch_jobs(self.fed_seq, lambda: self._journal.durable_seq))
                elif self.fed_seq < self._cursor.held:  # what was lost and repaired has nothing to feed, but counts
                    await self._feed(Batch([], Reach(self._cursor.held, 0), 0))

    @property
    def _has_work(self) -> bool:
        return bool(self._held) or self._behind or self.fed_seq < self._cursor.held

    @property
    def _may_end(self) -> bool:
        return self._stopping.is_set() and not self._claims.are_of_held and self.fed_seq >= self._claims.end_seq

    async def _wait_for_work(self) -> None:
        if self._has_work or self._stopping.is_set():
            return
        if self._checkpoints.is_due:
            await self._checkpoints.move()
            return
        self._wake.clear()
        self._checkpoints.arm()
        await self._wake.wait()
        self._gathering.resume()

    async def _feed_held(self, most: int) -> None:
        if most > self._held.claimed_first:
            await self._claims.settled()
        is_offered = most > self._held.claimed_first
        batch = self._held.take(most)
        if is_offered:
            self._offered_seq = batch.reach.seq
        await self._feed(batch)

    def _is_ordered(self) -> bool:
        """Tell whether no job that waits, in memory or on disk, has a right to overtake another."""
        type_ = self._held.type
        return type_ is not None and (not self._behind or self._alike.type_from(self._cursor.held) == type_)

    async def _find_lost_claims(self) -> None:
        """Learn which jobs that were not fed an earlier boot had claimed."""
        if self._behind:
            self._intake.lost_claims = await self._backlog.lost_claims(self._cursor.held, self._first_own_seq)

    async def _read_on(self) -> None:
        """Hold more from disk, until there is enough or memory and disk meet."""
        while self._behind and self._held.count < 2 * pace.BATCH_JOBS and not self._held.is_full:
            durable_seq = self._journal.durable_seq
            records = await self._backlog.next(self._cursor.held)
            if records is not None:
                for record in records:  # those of this boot began as they were held, or never
                    record.claimed = record.claimed and record.seq < self._first_own_seq
                self._hold(records, self._monotonic(), self._journal.durable_seq)
            else:
                self._cursor.hold(max(self._cursor.held, durable_seq), durable_seq)
                self._behind = self._cursor.held < self._journal.durable_seq

    async def _from_disk(self, read: Callable[[], Awaitable[None]]) -> None:
        """Do `read`; a disk that cannot be read now (no free file descriptor, EIO) is read again until a stop."""
        pauses = Pauses(STORE_FIRST_S, STORE_LONGEST_S)
        while not self._stopping.is_set():
            try:
                await read()
            except JournalCorruptError:
                raise
            except JournalError as error:
                await self._pause(f"new jobs cannot be read back from the journal, where they wait: {error}", pauses.next_s())
            else:
                self._end_trouble()
                return

    async def _pause(self, trouble: str, wait_s: float) -> None:
        """Wait before the next attempt; a stop ends the wait once."""
        self.trouble = trouble
        self._lasting.met(reason=trouble)
        if self._stopping.is_set():
            await asyncio.sleep(wait_s)
            return
        await wait(self._stopping, wait_s)

    async def _feed(self, batch: Batch) -> None:
        """Store a batch; unless stopped, it is in the store when this returns."""
        joins = Joins() if self._intake.has_fanned else None
        first, behind = (batch.jobs, []) if joins is None else parted(batch.jobs)
        if behind and not await self._store(first, 0, joins):
            return
        if await self._store(behind or first, batch.reach.seq, joins):
            self._gathering.fed_jobs = len(batch.jobs)
            await self._note_fed(batch)

    async def _store(self, jobs: Sequence[Accepted], fed_seq: int, joins: Joins | None) -> bool:
        """Store jobs, however often it must be tried; False: a stop came first.

        Args: fed_seq: 0: others that are as old follow. joins: of the batch, if some of it may have copies.
        """
        pauses = Pauses(STORE_FIRST_S, STORE_LONGEST_S)
        while not self._may_end:
            try:
                if joins is not None:
                    jobs = await self._queue.multiply(jobs, joins)
                await self._queue.accept(jobs, fed_seq, joins, has_order=self._intake.has_order)
            except StoreUnavailableError as error:
                self._checkpoints.arm()
                if self._checkpoints.is_due:
                    await self._checkpoints.move()
                await self._pause(f"the store refuses new jobs, which wait in the journal: {error}", pauses.next_s())
            else:
                return True
        return False

    def _end_trouble(self) -> None:
        self.trouble = None
        self._lasting.over()

    async def _note_fed(self, batch: Batch) -> None:
        self._end_trouble()
        self._cursor.feed(batch.reach.seq)
        if not self._queue.bounds.is_known:
            self._note_known()
        self._moved.set()
        self._checkpoints.fed(batch.reach, batch.size_bytes)
        if self._checkpoints.is_overdue:
            await self._checkpoints.move()

    def _note_known(self) -> None:
        """Tell the door if the store has all that earlier boots have journaled."""
        self._queue.bounds.is_known = self._cursor.fed >= self._first_own_seq
