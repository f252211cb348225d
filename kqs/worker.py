"""The worker in the server: a number of lanes that run jobs.

A lane is one long-lived task that awaits handlers one after the other. The worker is a taker of the queue: it has room
for as many runs as it has free lanes, and for as many more as its lanes get through in `AHEAD_S`, so that short runs need
not wait for a commit each time. A run that is lost (ttr, time_limit) is cancelled in its lane; its late report is refused by
the queue.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable

from kqs.config import WorkerSection
from kqs.executor import Executor
from kqs.handlers import Failed, Handler, Outcome, Registry
from kqs.job import Run
from kqs.log import get_logger
from kqs.queue.dispatch import Taker
from kqs.queue.leases import Lease
from kqs.queue.queue import Queue

log = get_logger("kqs.worker")

#: after grace is over, cancelled handlers get this long to clean up, in s
CANCEL_WAIT_S = 1.0
#: short runs are claimed this far ahead: about two commits of the store
AHEAD_S = 0.02
MAX_AHEAD_PER_LANE = 16
#: runs claimed ahead that no lane has begun after so long are given back: the runs before them turned out to be long
STUCK_S = 0.1
#: how often the length of a run is looked at again, in runs; and the weight of what was seen since
TUNE_EVERY = 64
TUNE_WEIGHT = 0.25


class Lane:
    """One run at a time. Owned by its worker."""

    __slots__ = ("lease", "lost", "task", "waiter")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.lease: Lease | None = None
        self.lost = False

    def lose(self, lease: Lease) -> None:
        """Cancel the run of `lease`, which is judged already, unless it is over."""
        if self.lease is lease and self.task is not None:
            self.lost = True
            self.task.cancel()


class Worker:
    """See the module docstring. Call from the loop thread."""

    def __init__(
        self, queue: Queue, registry: Registry, executor: Executor, settings: WorkerSection, name: str, weights: dict[str, int]
    ) -> None:
        """Args: name: who runs the jobs, as their records say. weights: shares of turns by type; 1 where none is given."""
        self._queue = queue
        self._registry = registry
        self._executor = executor
        self._settings = settings
        self._monotonic = queue.clock.monotonic
        self._runs: deque[Run] = deque()
        self._idle: list[Lane] = []
        self._lanes: list[Lane] = []
        self._ahead = 0
        self._begun_count = 0
        self._tuned_at = 0
        self._busy_s = 0.0
        self._mean_run_s = math.inf
        self._stuck_timer: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        self._stopping = False
        self._taker = Taker(
            name, {type_: weights.get(type_, 1) for type_ in registry.types}, settings.concurrency, self._deliver
        )
        self.on_task_death: Callable[[BaseException], None] = lambda error: None
        self.done_count = 0
        self.failed_count = 0

    @property
    def busy_count(self) -> int:
        """Return how many lanes run a job now."""
        return sum(lane.lease is not None for lane in self._lanes)

    async def start(self) -> None:
        """Open the lanes."""
        if not self._settings.concurrency:
            return
        loop = asyncio.get_running_loop()
        for number in range(self._settings.concurrency):
            lane = Lane()
            lane.task = loop.create_task(self._serve(lane), name=f"lane-{number}")
            lane.task.add_done_callback(self._lane_done)
            self._lanes.append(lane)
        self._queue.add_taker(self._taker)

    async def stop(self) -> None:
        """Take no more; let runs finish for `grace_s`; give the rest back; return when no handler runs, or heeds it."""
        if self._stopping:
            return
        self._stopping = True
        if self._lanes:
            await self._queue.remove_taker(self._taker)
        if self._stuck_timer is not None:
            self._stuck_timer.cancel()
        self._give_back_unstarted()
        if self.busy_count:
            await self._grace()
        for lane in self._lanes:
            if lane.lease is not None:
                self._queue.interrupt(lane.lease)
            if lane.task is not None:
                lane.task.cancel()
        tasks = [lane.task for lane in self._lanes if lane.task is not None]
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=CANCEL_WAIT_S)
            if stuck:
                log.warning("handlers ignore their cancellation", count=len(stuck))
        self._executor.close()

    async def _grace(self) -> None:
        grace_s = None if self._settings.grace_s < 0 else self._settings.grace_s
        log.info("waiting for runs to finish", count=self.busy_count, grace_s=grace_s)
        try:
            async with asyncio.timeout(grace_s):
                await self._drained.wait()
        except TimeoutError:
            log.warning("grace is over, giving runs back", count=self.busy_count)

    def _give_back_unstarted(self) -> None:
        while self._runs:
            run = self._runs.popleft()
            self._taker.begin(run)
            self._queue.give_back(run)

    def _deliver(self, runs: list[Run]) -> None:
        self._runs.extend(runs)
        self._taker.weigh(runs)
        if self._stopping:
            self._give_back_unstarted()
        for _ in range(min(len(self._runs), len(self._idle))):
            waiter = self._idle.pop().waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        if self._ahead and self._stuck_timer is None:
            self._watch_unstarted()

    def _watch_unstarted(self) -> None:
        loop = asyncio.get_running_loop()
        self._stuck_timer = loop.call_later(STUCK_S, self._check_unstarted, self._begun_count + len(self._runs))

    def _check_unstarted(self, due_count: int) -> None:
        """Give back what was claimed ahead if not all of it has begun since."""
        self._stuck_timer = None
        if self._begun_count < due_count and self._runs:
            count = len(self._runs)
            self._give_back_unstarted()
            self._taker.free(count)
            self._mean_run_s = 1.0
            self._reach(0)
        elif self._runs:
            self._watch_unstarted()

    def _tune(self) -> None:
        """Set how far ahead runs are claimed by how long they have taken lately."""
        seen_s = self._busy_s / (self._begun_count - self._tuned_at)
        if self._mean_run_s == math.inf:
            self._mean_run_s = seen_s
        self._mean_run_s += TUNE_WEIGHT * (seen_s - self._mean_run_s)
        self._busy_s, self._tuned_at = 0.0, self._begun_count
        lanes = self._settings.concurrency
        self._reach(min(int(lanes * AHEAD_S / max(self._mean_run_s, 1e-6)), lanes * MAX_AHEAD_PER_LANE))

    def _reach(self, ahead: int) -> None:
        change, self._ahead = ahead - self._ahead, ahead
        self._taker.worth = 1 + ahead // 4
        if change > 0:
            self._taker.free(change)
        elif change < 0:
            self._taker.take(-change)

    async def _serve(self, lane: Lane) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._runs:
                lane.waiter = loop.create_future()
                self._idle.append(lane)
                await lane.waiter
            run = self._runs.popleft()
            self._taker.begin(run)
            self._begun_count += 1
            await self._run(lane, run)
            self._taker.free()
            if self._begun_count - self._tuned_at >= TUNE_EVERY:
                self._tune()
            if self._stopping and not self.busy_count:
                self._drained.set()

    async def _run(self, lane: Lane, run: Run) -> None:
        handler = self._registry.get(run.type)
        if handler is not None and not handler.is_async:
            await self._admit(run, handler)
        lane.lost = False
        lane.lease = lease = self._queue.begin(run, lane.lose)
        if lease is None:
            if handler is not None:
                self._executor.dismiss(handler)
            return
        try:
            if handler is None:
                outcome: Outcome = Failed(f"no handler for type {run.type!r}", final=False)
            else:
                outcome = await self._executor.execute(run, handler, lease.context)
            if self._queue.report(lease, outcome):
                self.done_count += 1
                self.failed_count += type(outcome) is Failed
        except asyncio.CancelledError:
            if not lane.lost:
                raise
        finally:
            self._busy_s += self._monotonic() - lease.began_at
            lane.lease = None
            if lane.lost and lane.task is not None:
                lane.task.uncancel()

    async def _admit(self, run: Run, handler: Handler) -> None:
        try:
            await self._executor.admit(handler)
        except asyncio.CancelledError:
            self._queue.give_back(run)
            raise

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        return self._executor.problems()

    def _lane_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.on_task_death(error)
