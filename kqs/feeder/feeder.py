"""The feeder: brings journaled jobs into the queue, in order, and tells the journal how far.

Rules. Nothing is skipped: a store that refuses is asked again until it takes the batch, and whatever goes wrong leaves the
cursor (kqs.feeder.cursor) before it. The checkpoint never passes what the store has made durable. The journal is the buffer:
how long jobs gather there follows from how long they have waited (kqs.feeder.pace); a consumer with room wakes the feeder at
once. What does not fit the bounded hand-over list is read back from the journal later. A lone job that meets a waiting lane is
claimed in the journal itself and begins as soon as it is flushed: its way into the store costs it no time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable

from kqs.errors import JournalCorruptError, JournalError, StoreUnavailableError
from kqs.feeder import pace
from kqs.feeder.alike import Alike
from kqs.feeder.checkpoints import Checkpoints
from kqs.feeder.cursor import Cursor
from kqs.feeder.held import Batch, Held, Reach
from kqs.feeder.intake import Intake
from kqs.feeder.waiting import Waiting
from kqs.ids import Ids
from kqs.job import Accepted
from kqs.journal import Journal, Record
from kqs.log import get_logger
from kqs.options import Cascade
from kqs.queue.consumer import Consumer
from kqs.queue.queue import Queue
from kqs.store.base import Store, StoreInfo
from kqs.tasks import spawn
from kqs.trouble import Trouble

log = get_logger("kqs.feeder")

#: held jobs that are all alike go straight to lanes that have room: stored and claimed in one commit, at two thirds of the
#: cost. They wait for that as long as lanes had room within so long, in s
RECENT_S = 0.05
FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 5.0
#: who asks for a job does not wait longer for a store that is behind; shorter than a server's stop
CATCH_UP_S = 5.0
#: how long a stop waits for the batch that the store has in hand
STOP_WAIT_S = 5.0


class Feeder:
    """See the module docstring. One task; call from the loop thread."""

    def __init__(self, journal: Journal, queue: Queue, store: Store, ids: Ids, cascade: Cascade) -> None:
        self._journal = journal
        self._queue = queue
        self._intake = Intake(ids, cascade)
        self._held = Held(self._intake)
        self._alike = Alike()
        self._cursor = Cursor()
        self._wake = asyncio.Event()
        self._checkpoints = Checkpoints(journal, store, self._wake.set)
        self._behind = True  # until `start`, nothing is held
        self._reading: AsyncGenerator[list[Record], None] | None = None  # of what is not held
        self._claimed: tuple[Accepted, Consumer] | None = None  # by the record that is being flushed
        self._claimed_seq = 0  # after the last record whose job was claimed with it
        self._let_go = asyncio.Event()
        self._moved = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurried = 0
        self._monotonic = queue.clock.monotonic
        self._waiting = Waiting()
        self._wanted_at = -math.inf
        self._looked_at = self._monotonic()
        self._speeds = pace.Speeds()
        self._fed_jobs = 0  # of the last batch
        self._task: asyncio.Task[None] | None = None
        self.on_task_death: Callable[[BaseException], None] = lambda error: None
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
        self._waiting = Waiting(self._journal.durable_seq)
        self._alike = Alike(self._journal.durable_seq)
        self._checkpoints.start(info)
        self._behind = info.fed_seq < self._journal.durable_seq
        self._wake.set()
        self._queue.on_hungry = self._let_go.set
        self._task = spawn(self._run(), name="feeder")
        self._task.add_done_callback(self._task_done)

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
            self._let_go.set()
            await asyncio.wait([task], timeout=STOP_WAIT_S)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._end_reading()
            await self._checkpoints.move()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.on_task_death(error)

    def before_flush(self, batch: list[Record]) -> None:
        """Claim the job of a lone record that is flushed on the loop, if it can be; see `kqs.journal.Listener`."""
        if batch[0].alone:
            batch[0].claimed = self.claim(batch[0])

    def failed(self, _batch: list[Record]) -> None:
        """Take in that a batch may not be durable: what was claimed of it does not run."""
        self._claimed = None

    def claim(self, record: Record) -> bool:
        """Claim the job of a record that is about to be flushed, to run before it is stored; tell whether that was done.

        It is if a lane waits for it, the store has all that came before, it may run now, and its id need not be looked for.
        """
        jobs = record.jobs
        if self._behind or self._stopping.is_set() or self.fed_seq != self._journal.durable_seq:
            return False
        if not jobs or len(jobs) > 1 or jobs[0].id is not None:
            return False
        consumer = self._queue.idle_consumer(jobs[0].type)
        if consumer is None:
            return False
        (job,) = self._intake.accepted(record)
        if not self._queue.admits(job):
            return False
        self._claimed = (job, consumer)
        return True

    def flushed(self, records: list[Record]) -> None:
        """Take a flushed batch; the journal calls this after every flush."""
        self._waiting.flushed(records[0].seq, sum([record.count for record in records]), self._monotonic())
        for record in records:
            self._alike.note(record)
        claimed, self._claimed = self._claimed, None
        if not self._behind:
            if self._held.is_full or records[0].seq != self._cursor.held:
                self._behind = True
            elif records[0].claimed and claimed is not None:
                self._run_claimed(records[0], *claimed)
            else:
                self._hold(records)
        self._wake.set()

    def _run_claimed(self, record: Record, job: Accepted, consumer: Consumer) -> None:
        self._held.add(record, [job])
        self._cursor.hold(record.seq + 1, self._journal.durable_seq)
        self._claimed_seq = self._cursor.held
        self._let_go.set()
        try:
            self._queue.run_claimed(job, consumer)
        except Exception as error:  # it is held, so it is not lost; but nobody runs it
            self.on_task_death(error)

    def _hold(self, records: list[Record]) -> None:
        """Hold records one by one, so that each counts as held only when it is."""
        idle_consumer, durable_seq = self._queue.idle_consumer, self._journal.durable_seq
        for record in records:
            types = self._held.add(record, type_=self._alike.type_from(record.seq))
            self._cursor.hold(record.seq + 1, durable_seq)
            if any(map(idle_consumer, types)):
                self._let_go.set()

    async def catch_up(self) -> None:
        """Return when all that was flushed before this call is in the store.

        Raises: StoreUnavailableError: it is not there after `CATCH_UP_S`.
        """
        wanted = self._journal.durable_seq
        if self.fed_seq >= wanted:
            return
        self._hurried += 1
        self._let_go.set()
        try:
            async with asyncio.timeout(CATCH_UP_S):
                while self.fed_seq < wanted:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            raise StoreUnavailableError(f"the store is {self.lag_records} records behind the journal") from None
        finally:
            self._hurried -= 1

    @property
    def lag_records(self) -> int:
        """Return how many journal records the store does not have yet."""
        return self._journal.durable_seq - self.fed_seq

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        return [trouble for trouble in (self.trouble, self._checkpoints.trouble) if trouble]

    async def _run(self) -> None:
        while not self._may_end:
            await self._wait_for_work()
            while self._has_work and not self._may_end:
                if self._behind and self._held.count < pace.BATCH_JOBS:
                    await self._read_on()
                if self._held:
                    await self._feed(self._held.take(await self._gather()))
                elif self.fed_seq < self._cursor.held:  # what was lost and repaired has nothing to feed, but counts
                    await self._feed(Batch([], Reach(self._cursor.held, 0), 0))

    @property
    def _has_work(self) -> bool:
        return bool(self._held) or self._behind or self.fed_seq < self._cursor.held

    @property
    def _may_end(self) -> bool:
        return self._stopping.is_set() and self.fed_seq >= self._claimed_seq

    async def _wait_for_work(self) -> None:
        if self._has_work or self._stopping.is_set():
            return
        if self._checkpoints.is_due:
            await self._checkpoints.move()
            return
        self._wake.clear()
        self._checkpoints.arm()
        await self._wake.wait()
        self._looked_at = self._monotonic()

    async def _gather(self) -> int:
        """Let more jobs gather as long as that is best; return how many to feed at most."""
        came_jobs, since_s = self._look()
        self._speeds = self._speeds.after_batch(came_jobs, since_s, self._fed_jobs)
        rest_s = pace.rest_s(self._age_s, self._speeds, was_full=self._fed_jobs >= pace.BATCH_JOBS)
        while not (self._let_go.is_set() or self._hurried or self._stopping.is_set()) and (rest_s > 0 or self._may_hold()):
            await _wait(self._let_go, rest_s or pace.GATHER_S)
            rest_s = 0.0
            came_jobs, since_s = self._look()
            self._speeds = self._speeds.after_rest(came_jobs, since_s)
        is_wanted = self._let_go.is_set()
        self._let_go.clear()
        if is_wanted:
            self._wanted_at = self._monotonic()
        if not is_wanted or self._hurried:
            return pace.BATCH_JOBS
        return pace.most_jobs(self._queue.room, self._age_s, is_pouring=came_jobs > 0, is_ordered=self._is_ordered)

    def _look(self) -> tuple[int, float]:
        """Return how many jobs came since the last look, and how long ago that was."""
        before, self._looked_at = self._looked_at, self._monotonic()
        return self._waiting.take_jobs(), self._looked_at - before

    @property
    def _age_s(self) -> float:
        return self._waiting.age_s(self.fed_seq, self._journal.durable_seq, self._monotonic())

    def _may_hold(self) -> bool:
        """Tell whether lanes had room a moment ago, and so will soon again, and no job has a right to overtake another."""
        return bool(self._held) and self._is_ordered and self._monotonic() - self._wanted_at < RECENT_S

    @property
    def _is_ordered(self) -> bool:
        """Tell whether no job that waits, in memory or on disk, has a right to overtake another."""
        type_ = self._held.type
        return type_ is not None and (not self._behind or self._alike.type_from(self._cursor.held) == type_)

    async def _read_on(self) -> None:
        """Hold more from disk; a disk that cannot be read now (no free file descriptor, EIO) is read again."""
        wait_s = FIRST_WAIT_S
        while self._behind and not self._stopping.is_set():
            try:
                await self._hold_from_disk()
            except JournalCorruptError:
                raise
            except JournalError as error:
                await self._end_reading()
                await self._pause(f"new jobs cannot be read back from the journal, where they wait: {error}", wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            else:
                self._end_trouble()
                return

    async def _hold_from_disk(self) -> None:
        """Read what is not held, until there is enough or the list and the disk meet."""
        while self._held.count < 2 * pace.BATCH_JOBS and not self._held.is_full:
            durable_seq = self._journal.durable_seq
            if self._reading is None:
                self._reading = self._journal.read(self._cursor.held)
            records = await anext(self._reading, None)
            if records is not None:
                self._hold(records)
                continue
            self._reading = None
            self._cursor.hold(max(self._cursor.held, durable_seq), durable_seq)
            self._behind = self._cursor.held < self._journal.durable_seq
            if not self._behind:
                return

    async def _end_reading(self) -> None:
        if self._reading is not None:
            reading, self._reading = self._reading, None
            await reading.aclose()

    async def _pause(self, trouble: str, wait_s: float) -> None:
        """Wait before the next attempt; a stop ends the wait once."""
        self.trouble = trouble
        self._lasting.met(reason=trouble)
        if self._stopping.is_set():
            await asyncio.sleep(wait_s)
            return
        await _wait(self._stopping, wait_s)

    async def _feed(self, batch: Batch) -> None:
        """Store a batch, however often it must be tried; unless stopped, it is in the store when this returns."""
        wait_s = FIRST_WAIT_S
        while not self._may_end:
            try:
                await self._queue.accept(batch.jobs, batch.reach.seq)
            except StoreUnavailableError as error:
                self._checkpoints.arm()
                if self._checkpoints.is_due:
                    await self._checkpoints.move()
                await self._pause(f"the store refuses new jobs, which wait in the journal: {error}", wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            else:
                self._fed_jobs = len(batch.jobs)
                await self._note_fed(batch)
                return

    def _end_trouble(self) -> None:
        self.trouble = None
        self._lasting.over()

    async def _note_fed(self, batch: Batch) -> None:
        self._end_trouble()
        self._cursor.feed(batch.reach.seq)
        self._moved.set()
        self._checkpoints.fed(batch.reach, batch.size_bytes)
        if self._checkpoints.is_overdue:
            await self._checkpoints.move()


async def _wait(event: asyncio.Event, at_most_s: float) -> None:
    """Return when `event` is set, or after so long."""
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        pass
