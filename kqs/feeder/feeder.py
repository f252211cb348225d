"""The feeder: brings journaled jobs into the queue, in order, and tells the journal how far.

Rules. Nothing is skipped: a store that refuses is asked again until it takes the batch. The checkpoint never passes
what the store has made durable. The journal is the buffer: while jobs pour in that nobody waits for, the feeder rests
between batches, so that it commits few large ones and leaves the machine to the inserts; a taker with room wakes it at
once. What does not fit the bounded hand-over list is read back from the journal later. A lone job that meets a waiting lane is
claimed in the journal itself and begins as soon as it is flushed: its way into the store costs it no time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import aclosing

from kqs.errors import JournalCorruptError, JournalError, StoreUnavailableError
from kqs.feeder.checkpoints import Checkpoints
from kqs.feeder.held import Batch, Held, Reach
from kqs.feeder.intake import Intake, decoded
from kqs.ids import Ids
from kqs.job import Accepted
from kqs.journal import Journal, Record
from kqs.log import get_logger
from kqs.options import Cascade
from kqs.queue.dispatch import Taker
from kqs.queue.queue import Queue
from kqs.store.base import Store, StoreInfo

log = get_logger("kqs.feeder")

#: a batch is at least worth its commit: COSTS puts the knee near a thousand rows
BATCH_JOBS = 4000
#: while inserts pour in that nobody waits for, it rests at least so long, and this many times as long as the last batch took
REST_S = 0.1
REST_SHARE = 3.0
MAX_REST_S = 0.25
#: held jobs that are all alike go straight to lanes that have room: stored and claimed in one commit, at two thirds of the
#: cost. They wait for that as long as lanes had room within `RECENT_S`, and are fed at least so many at a time
RECENT_S = 0.05
LEAST_JOBS = 64
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
        self._held = Held(self._intake.accepted)
        self._wake = asyncio.Event()
        self._checkpoints = Checkpoints(journal, store, self._wake.set)
        self._held_seq = 0  # after the last record that is held, or was
        self._behind = True  # until `start`, nothing is held
        self._claimed: tuple[Accepted, Taker] | None = None  # by the record that is being flushed
        self._claimed_seq = 0  # after the last record whose job was claimed with it
        self._let_go = asyncio.Event()
        self._moved = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurried = 0
        self._monotonic = queue.clock.monotonic
        self._seen_seq = 0
        self._wanted_at = -math.inf
        self._fed_in_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self.on_task_death: Callable[[BaseException], None] = lambda error: None
        self.fed_seq = 0
        self.trouble: str | None = None

    @property
    def checkpointed_order(self) -> int:
        """Return an order that no replay can bring back a job below."""
        return self._checkpoints.order

    async def start(self, info: StoreInfo) -> None:
        """Begin after what the store has already; the rest is read from the journal."""
        self.trouble = None
        self.fed_seq = self._held_seq = info.fed_seq
        self._checkpoints.start(info)
        self._behind = info.fed_seq < self._journal.durable_seq
        self._wake.set()
        self._queue.on_hungry = self._let_go.set
        self._task = asyncio.get_running_loop().create_task(self._run(), name="feeder")
        self._task.add_done_callback(self._task_done)

    def wait_for_store(self, fed_seq: int) -> None:
        """Take it that the store has the journal up to `fed_seq` (exclusive), until `start` says how far it has."""
        self.fed_seq = fed_seq

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
            await self._checkpoints.move()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.on_task_death(error)

    def claim(self, record: Record) -> bool:
        """Claim the job of a record that is about to be flushed, to run before it is stored; tell whether that was done.

        It is if a lane waits for it, the store has all that came before, it may run now, and its id need not be looked for.
        """
        jobs = record.jobs
        if self._behind or self._stopping.is_set() or self.fed_seq != self._journal.durable_seq:
            return False
        if not jobs or len(jobs) > 1 or jobs[0].id is not None:
            return False
        taker = self._queue.idle_taker(jobs[0].type)
        if taker is None:
            return False
        (job,) = self._intake.accepted(record)
        if not self._queue.admits(job):
            return False
        self._claimed = (job, taker)
        return True

    def committed(self, records: list[Record]) -> None:
        """Take a flushed batch; the journal calls this after every flush."""
        if not self._behind:
            if self._held.is_full or records[0].seq != self._held_seq:
                self._behind = True
            elif records[0].claimed and self._claimed is not None:
                self._run_claimed(records[0], *self._claimed)
            else:
                self._hold(records)
        self._wake.set()

    def _run_claimed(self, record: Record, job: Accepted, taker: Taker) -> None:
        self._held.add(record, [job])
        self._held_seq = self._claimed_seq = record.seq + 1
        self._let_go.set()
        try:
            self._queue.run_claimed(job, taker)
        except Exception as error:  # it is held, so it is not lost; but nobody runs it
            self.on_task_death(error)

    def _hold(self, records: list[Record]) -> None:
        self._held_seq = records[-1].seq + 1
        idle_taker = self._queue.idle_taker
        for record in records:
            if any(map(idle_taker, self._held.add(record))):
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
                if self._behind and self._held.count < BATCH_JOBS:
                    await self._read_on()
                if self._held:
                    is_wanted = await self._rest() and not self._hurried
                    await self._feed(self._held.take(max(self._queue.room, LEAST_JOBS) if is_wanted else BATCH_JOBS))
                elif self.fed_seq < self._held_seq:  # what was lost and repaired has nothing to feed, but counts
                    await self._feed(Batch([], Reach(self._held_seq, 0), 0))

    @property
    def _has_work(self) -> bool:
        return bool(self._held) or self._behind or self.fed_seq < self._held_seq

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

    async def _rest(self) -> bool:
        """Let more gather while inserts pour in or lanes get through what they have; True if somebody has room meanwhile."""
        is_pouring = self._journal.durable_seq > self._seen_seq
        while not (self._let_go.is_set() or self._hurried or self._stopping.is_set()) and (is_pouring or self._may_hold()):
            is_pouring = False
            try:
                async with asyncio.timeout(min(max(REST_S, REST_SHARE * self._fed_in_s), MAX_REST_S)):
                    await self._let_go.wait()
            except TimeoutError:
                pass
        is_wanted = self._let_go.is_set()
        self._let_go.clear()
        self._seen_seq = self._journal.durable_seq
        if is_wanted:
            self._wanted_at = self._monotonic()
        return is_wanted

    def _may_hold(self) -> bool:
        """Tell whether lanes had room a moment ago, and so will soon again, and no held job has a right to overtake another."""
        return bool(self._held) and self._held.is_uniform and self._monotonic() - self._wanted_at < RECENT_S

    async def _read_on(self) -> None:
        """Hold more from disk; a disk that cannot be read now (no free file descriptor, EIO) is read again."""
        wait_s = FIRST_WAIT_S
        while self._behind and not self._stopping.is_set():
            try:
                await self._hold_from_disk()
            except JournalCorruptError:
                raise
            except JournalError as error:
                await self._pause(f"new jobs cannot be read back from the journal, where they wait: {error}", wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            else:
                self.trouble = None
                return

    async def _hold_from_disk(self) -> None:
        """Read what is not held, until there is enough or the list and the disk meet."""
        durable_seq = self._journal.durable_seq
        async with aclosing(self._journal.read(self._held_seq)) as slices:
            async for records in slices:
                for record in records:
                    record.jobs = decoded(record)
                self._hold(records)
                if self._held.count >= 2 * BATCH_JOBS or self._stopping.is_set():
                    return
                await asyncio.sleep(0)
        self._held_seq = max(self._held_seq, durable_seq)
        self._behind = self._held_seq < self._journal.durable_seq

    async def _pause(self, trouble: str, wait_s: float) -> None:
        """Wait before the next attempt; a stop ends the wait once."""
        self.trouble = trouble
        log.warning(f"{trouble}; trying again", retry_s=wait_s)
        if self._stopping.is_set():
            await asyncio.sleep(wait_s)
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _feed(self, batch: Batch) -> None:
        """Store a batch, however often it must be tried; unless stopped, it is in the store when this returns."""
        wait_s = FIRST_WAIT_S
        while not self._may_end:
            began = self._monotonic()
            try:
                await self._queue.accept(batch.jobs, batch.reach.seq)
            except StoreUnavailableError as error:
                self._checkpoints.arm()
                if self._checkpoints.is_due:
                    await self._checkpoints.move()
                await self._pause(f"the store refuses new jobs, which wait in the journal: {error}", wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            else:
                self._fed_in_s = self._monotonic() - began
                await self._note_fed(batch)
                return

    async def _note_fed(self, batch: Batch) -> None:
        self.trouble = None
        self.fed_seq = batch.reach.seq
        self._moved.set()
        self._checkpoints.fed(batch.reach, batch.size_bytes)
        if self._checkpoints.is_overdue:
            await self._checkpoints.move()
