"""The feeder: brings journaled jobs into the queue, in order, and tells the journal how far.

Rules. Nothing is skipped: a store that refuses is asked again until it takes the batch. The checkpoint never passes
what the store has made durable. The journal is the buffer: while nobody waits for the jobs that come in, the feeder
rests `REST_S` between batches, so that it commits few large batches and leaves the machine to the inserts; a taker with
room wakes it at once. What does not fit the bounded hand-over list is read back from the journal later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from kqs.errors import StoreError, StoreUnavailableError
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
REST_S = 0.01
#: hand-over list: beyond either, records are forgotten here and read back from the journal
MAX_HELD_JOBS = 50_000
MAX_HELD_BYTES = 32 * 1024 * 1024
#: unfed or uncheckpointed bytes that a restart may have to read again
CHECKPOINT_BYTES = 64 * 1024 * 1024
CHECKPOINT_IDLE_S = 2.0
FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 5.0


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
        self._hurried = 0
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
        """End between two batches. What was not fed stays in the journal, for the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
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
        """Return when all that was flushed before this call is in the store."""
        wanted = self._journal.durable_seq
        if self.fed_seq >= wanted:
            return
        self._hurried += 1
        self._let_go.set()
        try:
            while self.fed_seq < wanted:
                self._moved.clear()
                await self._moved.wait()
        finally:
            self._hurried -= 1

    @property
    def lag_records(self) -> int:
        """Return how many journal records the store does not have yet."""
        return self._journal.durable_seq - self.fed_seq

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        return [f"the store refuses new jobs, which wait in the journal: {self.trouble}"] if self.trouble else []

    async def _run(self) -> None:
        while True:
            await self._wait_for_work()
            while self._held or self._behind:
                if self._held:
                    await self._rest()
                    await self._feed_held()
                else:
                    await self._feed_from_disk()

    async def _wait_for_work(self) -> None:
        self._wake.clear()
        if self._held or self._behind:
            return
        try:
            idle_s = CHECKPOINT_IDLE_S if self.fed_seq > self._checkpointed_seq else None
            async with asyncio.timeout(idle_s):
                await self._wake.wait()
        except TimeoutError:
            await self._checkpoint()

    async def _rest(self) -> None:
        """Let more gather, unless somebody waits for these jobs."""
        if self._held_jobs < BATCH_JOBS and not self._hurried and not self._let_go.is_set():
            try:
                async with asyncio.timeout(REST_S):
                    await self._let_go.wait()
            except TimeoutError:
                pass
        self._let_go.clear()

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
                    await self._feed(batch, seq, size)
                    batch, size = [], 0
            await asyncio.sleep(0)
        if seq > self.fed_seq:
            await self._feed(batch, seq, size)
        if self.fed_seq >= self._journal.durable_seq:
            self._behind = False

    async def _feed(self, batch: list[Accepted], fed_seq: int, size: int) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            try:
                await self._queue.accept(batch, fed_seq)
            except StoreUnavailableError as error:
                self.trouble = str(error)
                log.warning("the store refuses new jobs, trying again", error=str(error), count=len(batch))
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            else:
                break
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
        await self._journal.checkpoint(durable_seq)
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
