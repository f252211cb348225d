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
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from typing import NamedTuple

import structlog

from kqs.errors import JournalCorruptError, JournalError, StoreError, StoreUnavailableError
from kqs.ids import Ids
from kqs.job import Accepted
from kqs.journal import Journal, Kind, Record
from kqs.options import Cascade, Job, JobFields, PlainJob
from kqs.queue.dispatch import Taker
from kqs.queue.queue import Queue
from kqs.queue.rules import accept, accept_plain
from kqs.store.base import Store, StoreInfo
from kqs.wire.jobs import at_seconds
from kqs.wire.qrpc import replay_calls, replay_jobs

log = structlog.get_logger("kqs.feeder")

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
#: hand-over list: beyond either, records are forgotten here and read back from the journal
MAX_HELD_JOBS = 50_000
MAX_HELD_BYTES = 32 * 1024 * 1024
#: unfed or uncheckpointed bytes that a restart may have to read again
CHECKPOINT_BYTES = 64 * 1024 * 1024
CHECKPOINT_AFTER_S = 2.0
FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 5.0
#: who asks for a job does not wait longer for a store that is behind; shorter than a server's stop
CATCH_UP_S = 5.0
#: how long a stop waits for the batch that the store has in hand
STOP_WAIT_S = 5.0


class Reach(NamedTuple):
    """How far the store has the journal: records below `seq`, and with them jobs below `order`."""

    seq: int
    order: int

    @classmethod
    def after(cls, record: Record) -> Reach:
        """Return the reach that ends with `record`."""
        return cls(record.seq + 1, record.last_order + 1)


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
        self._held_seq = 0  # after the last record that is held, or was
        self._behind = True  # until `start`, nothing is held
        self._wake = asyncio.Event()
        self._let_go = asyncio.Event()
        self._moved = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurried = 0
        self._monotonic = queue.clock.monotonic
        self._checkpoint_timer: asyncio.TimerHandle | None = None
        self._checkpoint_is_due = False
        self._seen_seq = 0
        self._wanted_at = -math.inf
        self._held_type: str | None = None
        self._last_record: Record | None = None
        self._rest_of_record: list[Accepted] = []
        self._claimed: tuple[Accepted, Taker] | None = None
        self._is_uniform = True
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
        self.trouble = None
        self.fed_seq = self._held_seq = info.fed_seq
        self._checkpointed_seq = self._journal.checkpoint_seq
        self._next_order = info.last_order + 1
        if self._checkpointed_seq == info.fed_seq:
            self.checkpointed_order = self._next_order
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

        A batch in the store's hands is waited for, within bounds: it may hold claimed jobs, whose lanes must hear of it.
        """
        task, self._task = self._task, None
        if self._checkpoint_timer is not None:
            self._checkpoint_timer.cancel()
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

    def claims(self, record: Record) -> bool:
        """Tell whether the job of a record that is about to be flushed is claimed with it, to run before it is stored.

        It is if a lane waits for it, the store has all that came before, and no rule has to ask the store about it.
        """
        jobs = record.jobs
        if self._behind or self._stopping.is_set() or self.fed_seq != self._journal.durable_seq:
            return False
        if not jobs or len(jobs) > 1 or jobs[0].id is not None:
            return False
        taker = self._queue.idle_taker(jobs[0].type)
        if taker is None:
            return False
        (job,) = self._accepted(record)
        if job.due_at:
            return False
        job.claimed_at = job.order / 1e6
        self._claimed = (job, taker)
        return True

    def committed(self, records: list[Record]) -> None:
        """Take a flushed batch; the journal calls this after every flush."""
        if not self._behind:
            if self._held_jobs > MAX_HELD_JOBS or self._held_bytes > MAX_HELD_BYTES:
                self._behind = True
            else:
                if records[0].claimed and self._claimed is not None:
                    self._queue.run_claimed(*self._claimed)
                    self._let_go.set()
                self._hold(records)
        self._wake.set()

    def _hold(self, records: list[Record]) -> None:
        if not self._held and not self._rest_of_record:
            self._held_type, self._is_uniform = None, True
        self._held.extend(records)
        self._held_seq = records[-1].seq + 1
        idle_taker = self._queue.idle_taker
        for record in records:
            self._held_jobs += record.count
            self._held_bytes += len(record.payload)
            if record.jobs and not record.claimed:
                types = {job.type for job in record.jobs}
                self._is_uniform = self._is_uniform and self._is_alike(types, record.jobs)
                if any(map(idle_taker, types)):
                    self._let_go.set()

    def _is_alike(self, types: set[str], jobs: list[Job]) -> bool:
        """Tell whether these jobs, and those held, are of one type and set no options: first come is then first served."""
        if self._held_type is None:
            self._held_type = jobs[0].type
        return types == {self._held_type} and {type(job) for job in jobs} == {PlainJob}

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
            while self._has_work and not self._stopping.is_set():
                if self._behind and self._held_jobs < BATCH_JOBS:
                    await self._read_on()
                if self._held or self._rest_of_record:
                    is_wanted = await self._rest() and not self._hurried
                    await self._feed_held(max(self._queue.room, LEAST_JOBS) if is_wanted else BATCH_JOBS)
                elif self.fed_seq < self._held_seq:  # what was lost and repaired has nothing to feed, but counts
                    await self._feed([], Reach(self._held_seq, self._next_order), 0)

    @property
    def _has_work(self) -> bool:
        return bool(self._held or self._rest_of_record) or self._behind or self.fed_seq < self._held_seq

    async def _wait_for_work(self) -> None:
        if self._has_work or self._stopping.is_set():
            return
        if self._checkpoint_is_due:
            self._checkpoint_is_due = False
            await self._checkpoint()
            return
        self._wake.clear()
        if self.fed_seq > self._checkpointed_seq and self._checkpoint_timer is None:
            loop = asyncio.get_running_loop()
            self._checkpoint_timer = loop.call_later(CHECKPOINT_AFTER_S, self._let_checkpoint)
        await self._wake.wait()

    def _let_checkpoint(self) -> None:
        self._checkpoint_timer = None
        self._checkpoint_is_due = True
        self._wake.set()

    async def _rest(self) -> bool:
        """Let more gather while inserts pour in or lanes get through what they have; True if somebody has room meanwhile."""
        is_pouring = self._journal.durable_seq > self._seen_seq
        while not self._let_go.is_set() and not self._hurried and (is_pouring or self._may_hold()):
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
        return bool(self._held or self._rest_of_record) and self._is_uniform and self._monotonic() - self._wanted_at < RECENT_S

    async def _feed_held(self, most: int) -> None:
        """Feed up to `most` of the held jobs; the rest of a record that is more than that comes first the next time."""
        batch, self._rest_of_record = self._rest_of_record[:most], self._rest_of_record[most:]
        size = 0
        while self._held and len(batch) < most:
            record = self._held.popleft()
            self._held_jobs -= record.count
            size += len(record.payload)
            jobs = self._accepted(record)
            room = most - len(batch)
            batch += jobs[:room]
            self._rest_of_record = jobs[room:]
            self._last_record = record
        self._held_bytes -= size
        last = self._last_record
        assert last is not None, "there is a held job"
        if self._rest_of_record:  # a replay would begin with the whole of this record
            await self._feed(batch, Reach(last.seq, last.first_order), size)
        else:
            await self._feed(batch, Reach.after(last), size)

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
                    record.jobs = _decoded(record)
                self._hold(records)
                if self._held_jobs >= 2 * BATCH_JOBS or self._stopping.is_set():
                    return
                await asyncio.sleep(0)
        self._held_seq = max(self._held_seq, durable_seq)
        self._behind = self._held_seq < self._journal.durable_seq

    async def _pause(self, trouble: str, wait_s: float) -> None:
        """Wait before the next attempt; a stop ends the wait."""
        self.trouble = trouble
        log.warning(f"{trouble}; trying again", retry_s=wait_s)
        try:
            async with asyncio.timeout(wait_s):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _feed(self, batch: list[Accepted], reach: Reach, size: int) -> None:
        """Store a batch, however often it must be tried; unless stopped, it is in the store when this returns."""
        wait_s = FIRST_WAIT_S
        while not self._stopping.is_set():
            began = self._monotonic()
            try:
                await self._queue.accept(batch, reach.seq)
            except StoreUnavailableError as error:
                await self._pause(f"the store refuses new jobs, which wait in the journal: {error}", wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            else:
                self._fed_in_s = self._monotonic() - began
                await self._note_fed(reach, size)
                return

    async def _note_fed(self, reach: Reach, size: int) -> None:
        self.trouble = None
        self.fed_seq = reach.seq
        self._next_order = max(self._next_order, reach.order)
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
        if self._claimed is not None and self._claimed[0].order == record.first_order:
            (job, _), self._claimed = self._claimed, None
            return [job]
        accepted = self._accepted_anew(record)
        if record.claimed:  # by an earlier boot
            for job in accepted:
                job.claimed_at = job.order / 1e6
        return accepted

    def _accepted_anew(self, record: Record) -> list[Accepted]:
        jobs = record.jobs if record.jobs is not None else _decoded(record)
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


def _decoded(record: Record) -> list[Job]:
    return replay_calls(record.payload) if record.kind is Kind.CALLS else replay_jobs(record.payload)
