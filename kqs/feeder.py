"""The feeder: brings journaled jobs into the queue, in order, and tells the journal how far.

Rules. Nothing is skipped: a store that refuses is asked again until it takes the batch. The checkpoint never passes
what the store has made durable. The journal is the buffer: while jobs pour in that nobody waits for, the feeder rests
between batches, so that it commits few large ones and leaves the machine to the inserts; a taker with room wakes it at
once. What does not fit the bounded hand-over list is read back from the journal later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from kqs.errors import JournalCorruptError, JournalError, StoreError, StoreUnavailableError
from kqs.ids import Ids
from kqs.job import Accepted
from kqs.journal import Journal, Kind, Record
from kqs.options import Cascade, JobFields, PlainJob
from kqs.queue.queue import Queue
from kqs.queue.rules import accept, accept_plain
from kqs.store.base import Store, StoreInfo
from kqs.wire.jobs import at_seconds
from kqs.wire.qrpc import replay_calls, replay_jobs

log = structlog.get_logger("kqs.feeder")

#: a batch is at least worth its commit: COSTS puts the knee near a thousand rows
BATCH_JOBS = 4000
#: while inserts pour in that nobody waits for, it rests at least so long, and this many times as long as the last batch took
REST_S = 0.01
REST_SHARE = 3.0
MAX_REST_S = 0.25
#: hand-over list: beyond either, records are forgotten here and read back from the journal
MAX_HELD_JOBS = 50_000
MAX_HELD_BYTES = 32 * 1024 * 1024
#: unfed or uncheckpointed bytes that a restart may have to read again
CHECKPOINT_BYTES = 64 * 1024 * 1024
CHECKPOINT_IDLE_S = 2.0
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
        self._store = store
        self._ids = ids
        self._cascade = cascade
        self._held: deque[Record] = deque()
        self._held_jobs = 0
        self._held_bytes = 0
        self._behind = False
        self._wake = asyncio.Event()
        self._let_go = asyncio.Event()
        self._moved = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurried = 0
        self._monotonic = queue.clock.monotonic
        self._seen_seq = 0
        self._fed_in_s = 0.0
        self._uncheckpointed_bytes = 0
        self._checkpointed_seq = 0
        self._next_order = 0
        self._task: asyncio.Task[None] | None = None
        self.on_task_death: Callable[[BaseException], None] = lambda error: None
        #: no replay can bring back a job with an order below this one
        self.checkpointed_order = 0
        self.fed_seq = 0
        self.trouble: str | None = None

    async def start(self, info: StoreInfo) -> None:
        """Begin after what the store has already; the rest is read from the journal."""
        self.fed_seq = self._checkpointed_seq = info.fed_seq
        self._next_order = self.checkpointed_order = info.last_order + 1
        self._behind = info.fed_seq < self._journal.durable_seq
        self._wake.set()
        self._queue.on_hungry = self._let_go.set
        self._task = asyncio.get_running_loop().create_task(self._run(), name="feeder")
        self._task.add_done_callback(self._task_done)

    async def stop(self) -> None:
        """End between two batches. What was not fed stays in the journal, for the next start.

        A batch in the store's hands is waited for, within bounds: it may hold claimed jobs, whose lanes must hear of it.
        """
        task, self._task = self._task, None
        if task is not None:
            self._stopping.set()
            self._wake.set()
            self._let_go.set()
            await asyncio.wait([task], timeout=STOP_WAIT_S)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._checkpoint()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.on_task_death(error)

    def committed(self, records: list[Record]) -> None:
        """Take a flushed batch; the journal calls this after every flush."""
        if not self._behind:
            if self._held_jobs > MAX_HELD_JOBS or self._held_bytes > MAX_HELD_BYTES:
                self._behind = True
            else:
                self._hold(records)
        self._wake.set()

    def _hold(self, records: list[Record]) -> None:
        self._held.extend(records)
        wants = self._queue.wants
        for record in records:
            self._held_jobs += record.count
            self._held_bytes += len(record.payload)
            if record.jobs and wants(record.jobs[0].type):
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
        return [self.trouble] if self.trouble else []

    async def _run(self) -> None:
        while not self._stopping.is_set():
            await self._wait_for_work()
            while (self._held or self._behind) and not self._stopping.is_set():
                if self._held:
                    await self._rest()
                    await self._feed_held()
                else:
                    await self._catch_up_from_disk()

    async def _wait_for_work(self) -> None:
        if self._held or self._behind or self._stopping.is_set():
            return
        self._wake.clear()
        try:
            idle_s = CHECKPOINT_IDLE_S if self.fed_seq > self._checkpointed_seq else None
            async with asyncio.timeout(idle_s):
                await self._wake.wait()
        except TimeoutError:
            await self._checkpoint()

    async def _rest(self) -> None:
        """Let more gather while inserts pour in, unless somebody waits for these jobs."""
        if self._journal.durable_seq > self._seen_seq and not self._hurried and not self._let_go.is_set():
            try:
                async with asyncio.timeout(min(max(REST_S, REST_SHARE * self._fed_in_s), MAX_REST_S)):
                    await self._let_go.wait()
            except TimeoutError:
                pass
        self._let_go.clear()
        self._seen_seq = self._journal.durable_seq

    async def _feed_held(self) -> None:
        batch: list[Accepted] = []
        size = 0
        while self._held and len(batch) < BATCH_JOBS:
            record = self._held.popleft()
            self._held_jobs -= record.count
            size += len(record.payload)
            batch.extend(self._accepted(record))
        self._held_bytes -= size
        await self._feed(batch, record.seq + 1, size)

    async def _catch_up_from_disk(self) -> None:
        """Feed from disk; a disk that cannot be read now (no free file descriptor, EIO) is read again."""
        wait_s = FIRST_WAIT_S
        while self._behind and not self._stopping.is_set():
            fed_seq = self.fed_seq
            try:
                await self._feed_from_disk()
            except JournalCorruptError:
                raise
            except JournalError as error:
                wait_s = FIRST_WAIT_S if self.fed_seq > fed_seq else wait_s
                await self._pause(f"new jobs cannot be read back from the journal, where they wait: {error}", wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    async def _pause(self, trouble: str, wait_s: float) -> None:
        """Wait before the next attempt; a stop ends the wait."""
        self.trouble = trouble
        log.warning(f"{trouble}; trying again", retry_s=wait_s)
        try:
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _feed_from_disk(self) -> None:
        """Read what is not held, batch by batch, until the list and the disk meet."""
        batch: list[Accepted] = []
        size, seq = 0, self.fed_seq
        async for records in self._journal.read(self.fed_seq):
            for record in records:
                batch.extend(self._accepted(record))
                size += len(record.payload)
                seq = record.seq + 1
                if len(batch) >= BATCH_JOBS:
                    await self._rest()
                    await self._feed(batch, seq, size)
                    batch, size = [], 0
                if self._stopping.is_set():
                    return
            await asyncio.sleep(0)
        if seq > self.fed_seq:
            await self._feed(batch, seq, size)
        if self.fed_seq >= self._journal.durable_seq:
            self._behind = False
            self.trouble = None

    async def _feed(self, batch: list[Accepted], fed_seq: int, size: int) -> None:
        """Store a batch, however often it must be tried; unless stopped, it is in the store when this returns."""
        wait_s = FIRST_WAIT_S
        while not self._stopping.is_set():
            began = self._monotonic()
            try:
                await self._queue.accept(batch, fed_seq)
            except StoreUnavailableError as error:
                await self._pause(f"the store refuses new jobs, which wait in the journal: {error}", wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            else:
                self._fed_in_s = self._monotonic() - began
                await self._note_fed(batch, fed_seq, size)
                return

    async def _note_fed(self, batch: list[Accepted], fed_seq: int, size: int) -> None:
        self.trouble = None
        self.fed_seq = fed_seq
        if batch:
            self._next_order = batch[-1].order + 1
        self._moved.set()
        self._uncheckpointed_bytes += size
        if self._uncheckpointed_bytes >= CHECKPOINT_BYTES:
            await self._checkpoint()

    async def _checkpoint(self) -> None:
        if self.fed_seq <= self._checkpointed_seq:
            return
        self._uncheckpointed_bytes = 0
        next_order = self._next_order
        try:
            durable_seq = await self._store.sync()
        except StoreError as error:
            log.warning("the store cannot be made durable, no checkpoint yet", error=str(error))
            return
        try:
            await self._journal.checkpoint(durable_seq)
        except JournalError as error:
            log.warning("the checkpoint cannot be written, trying again later", error=str(error))
            return
        self._checkpointed_seq = durable_seq
        self.checkpointed_order = next_order

    def _accepted(self, record: Record) -> list[Accepted]:
        jobs = record.jobs
        if jobs is None:
            jobs = replay_calls(record.payload) if record.kind is Kind.CALLS else replay_jobs(record.payload)
        order, name, for_type = record.first_order, self._ids.of, self._cascade.for_type
        return [
            accept_plain(job, number, job.id or name(number), for_type(job.type))
            if isinstance(job, PlainJob)
            else self._accept_full(job, number)
            for number, job in enumerate(jobs, order)
        ]

    def _accept_full(self, job: JobFields, order: int) -> Accepted:
        at_s = at_seconds(job.at) if job.at is not None else None
        return accept(job, order, job.id or self._ids.of(order), self._cascade.for_type(job.type), at_s)
