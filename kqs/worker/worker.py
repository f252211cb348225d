"""A worker: a number of lanes that run jobs, of the queue or of a connection to one (source.py).

A lane awaits handlers one after the other (lane.py). The worker is a consumer: it has room for as many runs as it
has free lanes, and for as many more as its lanes get through in a while (ahead.py). A run that is lost (ttr, time_limit) is
cancelled in its lane; its late report is refused. A handler that does not heed that keeps its lane, and another
takes the lane's place. Between runs the loop has breaks (breaks.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import NamedTuple

from kqs.config import WorkerSection
from kqs.executor import Executor, Suspended
from kqs.executor.outcomes import delayed, judge
from kqs.handlers import Handler, Registry
from kqs.job import Run
from kqs.log import get_logger
from kqs.modules import taken_types
from kqs.outcome import Failed, Outcome
from kqs.queue.consumer import Consumer
from kqs.queue.gate import STUCK_S
from kqs.queue.leases import Lease
from kqs.supervisor import Supervisor
from kqs.worker.ahead import Ahead
from kqs.worker.breaks import Breaks
from kqs.worker.deaf import DEAF_AFTER_S, DeafLanes
from kqs.worker.lane import CleanTask, Lane
from kqs.worker.source import Source

log = get_logger("kqs.worker")

#: after grace is over, cancelled handlers get this long to clean up, in s
CANCEL_WAIT_S = 1.0


class _Begun(NamedTuple):
    """A run that is not over. rest: what is left of its handler; None: that has not begun. began_at: monotonic, in s."""

    run: Run
    handler: Handler | None
    rest: Suspended | None
    began_at: float


class Worker:
    """See the module docstring. Call from the loop thread."""

    def __init__(
        self,
        source: Source,
        registry: Registry,
        executor: Executor,
        settings: WorkerSection,
        name: str,
        supervisor: Supervisor,
    ) -> None:
        """Args: name: who runs the jobs, as their records say.

        Raises: StartupError: (78) `settings.types` names a type without a handler.
        """
        types = taken_types(registry, settings.types, "[worker] types")
        self._source = source
        self._registry = registry
        self._executor = executor
        self._settings = settings
        self._supervisor = supervisor
        self._context = executor.context
        self._monotonic = source.clock.monotonic
        self._is_certain = source.is_certain
        self._runs: deque[Run] = deque()
        self._idle: list[Lane] = []
        self._lanes: list[Lane] = []
        self._deaf = DeafLanes(settings.concurrency)
        self._opened_count = 0
        self._ahead = Ahead(settings.concurrency)
        self._is_watching = False  # over what was claimed ahead
        self._breaks = Breaks(supervisor, executor.context, self._wake)
        self._drained = asyncio.Event()
        self._stopping = False
        self._closing = False
        self._consumer = Consumer(name, types, settings.concurrency, self._deliver, can_wait=True)
        self.done_count = 0
        self.failed_count = 0

    @property
    def types(self) -> frozenset[str]:
        """Return the types of which it runs jobs."""
        return self._consumer.types

    @property
    def busy_count(self) -> int:
        """Return how many lanes run a job now."""
        return sum(lane.lease is not None for lane in self._lanes)

    @property
    def lanes_count(self) -> int:
        """Return how many jobs it runs at a time."""
        return self._settings.concurrency

    @property
    def name(self) -> str:
        """Return who runs the jobs, as their records say."""
        return self._consumer.worker

    @property
    def waiting_count(self) -> int:
        """Return how many runs it has that have not begun."""
        return len(self._runs)

    @property
    def _working_count(self) -> int:
        return sum(lane.is_working for lane in self._lanes)

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        return [*self._executor.problems(), *self._deaf.problems()]

    async def start(self) -> None:
        """Open the lanes."""
        if not self._settings.concurrency:
            return
        for _ in range(self._settings.concurrency):
            self._open_lane()
        self._executor.look_after(self._registry.commands)
        self._source.add_consumer(self._consumer)

    async def drain(self) -> None:
        """Take no more, and return when what runs has ended, however long it takes; `stop` bounds that."""
        await self._take_no_more()
        if self._working_count:
            await self._drained.wait()

    async def _take_no_more(self) -> None:
        self._stopping = True
        if self._lanes:
            await self._source.remove_consumer(self._consumer)
        self._give_back_unstarted()

    async def stop(self) -> None:
        """Take no more; let runs finish for `grace_s`; give the rest back; return when no handler runs, or heeds it.

        Idempotent; who calls it meanwhile waits as well.
        """
        await self._take_no_more()
        if self._working_count:
            await self._grace()
        self._closing = True
        lanes = [*self._lanes, *self._deaf.written_off]
        for lane in lanes:
            if lane.lease is not None:
                self._source.interrupt(lane.lease)
            lane.cancel()
        tasks = [lane.task for lane in lanes if lane.task is not None]
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=CANCEL_WAIT_S)
            if stuck:
                log.warning("handlers ignore their cancellation", count=len(stuck))
        self._executor.close()
        await self._executor.wait_closed()

    async def _grace(self) -> None:
        grace_s = None if self._settings.grace_s < 0 else self._settings.grace_s
        log.info("waiting for runs to finish", count=self._working_count, grace_s=grace_s)
        try:
            async with asyncio.timeout(grace_s):
                await self._drained.wait()
        except TimeoutError:
            log.warning("grace is over, giving runs back", count=self._working_count)

    def _note_drained(self) -> None:
        if self._stopping and not self._working_count:
            self._drained.set()

    def _give_back_unstarted(self) -> None:
        while self._runs:
            run = self._runs.popleft()
            self._consumer.begin(run)
            self._source.give_back(run)

    def _deliver(self, runs: list[Run]) -> None:
        self._runs.extend(runs)
        self._consumer.weigh(runs)
        if self._stopping:
            self._give_back_unstarted()
        if not self._breaks.is_due:
            self._wake(len(self._runs))
        if self._ahead.count and not self._is_watching:
            self._watch_unstarted()

    def _wake(self, count: int) -> bool:
        """Let up to so many lanes go on; tell whether more could."""
        for _ in range(min(count, len(self._runs), len(self._idle))):
            waiter = self._idle.pop().waiter
            if waiter is not None and not waiter.done():
                waiter.set_result(None)
        return bool(self._runs and self._idle)

    def _watch_unstarted(self) -> None:
        ahead_count = max(0, len(self._runs) - len(self._idle))  # the others have lanes, once the loop turns
        due_count = self._ahead.begun_count + ahead_count
        self._is_watching = True
        self._supervisor.call_later(STUCK_S, "worker", self._check_unstarted, due_count)

    def _check_unstarted(self, due_count: int) -> None:
        """Give back what was claimed ahead if not all of it has begun since."""
        self._is_watching = False
        if self._ahead.begun_count < due_count and self._runs:
            count = len(self._runs)
            self._give_back_unstarted()
            self._consumer.free(count)
            self._reach(self._ahead.get_stuck())
        elif self._runs:
            self._watch_unstarted()

    def _reach(self, change: int) -> None:
        """Let so many more runs be claimed ahead, or fewer if it is negative."""
        self._consumer.worth = self._ahead.worth
        self._consumer.grow(change)

    def _open_lane(self) -> None:
        lane = Lane(f"lane-{self._opened_count}", self._run_lost)
        self._opened_count += 1
        self._lanes.append(lane)
        self._man(lane)

    def _man(self, lane: Lane) -> None:
        """Give the lane a new task."""
        may_end = partial(self._may_end, lane)
        lane.task = self._supervisor.spawn(self._serve(lane), lane.name, may_end, context=self._context.copy())

    async def _serve(self, lane: Lane) -> None:
        """Run jobs, until a run leaves something behind in this task: then the lane goes on in another."""
        assert lane.task is not None
        task = CleanTask(lane.task, self._context)
        task.remember()
        while True:
            while not self._runs or self._breaks.is_on:
                if not await self._rest(lane):
                    return
            if (begun := self._begin(task)) is not None:
                try:
                    await self._run(lane, begun)
                except GeneratorExit as fault:
                    lane.end_if_closed(fault)
                begun = None  # or a lane that rests would keep the run's data
                if lane.deaf_since and self._hears_again(lane):
                    return
                self._end()
            if self._stopping:
                self._note_drained()
                if self._closing:
                    return
            if not task.is_clean():
                self._man(lane)
                return

    async def _rest(self, lane: Lane) -> bool:
        """Return when the lane is woken; False: this task was cancelled, by the stop or by whatever a handler left behind."""
        lane.waiter = asyncio.get_running_loop().create_future()
        self._idle.append(lane)
        try:
            await lane.waiter
        except asyncio.CancelledError:
            if lane in self._idle:
                self._idle.remove(lane)
            if not self._closing:
                self._man(lane)
            return False
        return True

    def _begin(self, task: CleanTask) -> _Begun | None:
        """Let runs begin, one after the other, until one is not over in its first step, as most are: that is returned.

        None: none is left, it is time for a break, or the lane has to look after itself. What all of them have taken, and the
        room that they leave, is told once: nobody else could have heard of it before.
        """
        runs, consumer, monotonic = self._runs, self._consumer, self._monotonic
        began_at = now = monotonic()
        until = now + self._breaks.left_s
        begun, over_count = None, 0
        while runs:
            run = runs.popleft()
            if consumer.unbegun_bytes:
                consumer.begin(run)
            handler = self._registry.get(run.type)
            if handler is None or handler.wants_job or not handler.is_async:
                begun = _Begun(run, handler, None, now)
                break
            if self._is_certain(run) or self._source.may_begin(run, self._consumer):
                outcome = self._executor.begin(run, handler)
                if isinstance(outcome, Suspended):
                    begun = _Begun(run, handler, outcome, now)
                    break
                if type(outcome) is Failed:
                    outcome = delayed(outcome, handler, run)
                    self.failed_count += 1
                self._source.end(run, outcome)
                self.done_count += 1
            over_count += 1
            now = monotonic()
            if now >= until or self._stopping or not task.is_clean():
                break
        self._ahead.begun_count += over_count + (begun is not None)
        self._breaks.charge(now - began_at)
        if over_count:
            self._end(over_count)
        return begun

    def _end(self, count: int = 1) -> None:
        """Take in that so many runs are over."""
        self._consumer.free(count)
        if self._ahead.begun_count >= self._ahead.tune_at:
            self._reach(self._ahead.tune(self._breaks.held_s))

    async def _run(self, lane: Lane, begun: _Begun) -> None:
        run, handler, rest, began_at = begun
        if rest is None:
            if handler is not None and not handler.is_async and not await self._admit(run, handler):
                return
            if not self._source.may_begin(run, self._consumer):
                if handler is not None:
                    self._executor.dismiss(handler)
                return
            began_at = self._monotonic()
        begun_count = self._ahead.begun_count
        lane.is_cancelled = False
        lane.lease = lease = self._source.begin(run, lane.lose, began_at)
        try:
            if handler is None:
                self._report(lease, Failed(f"no handler for type {run.type!r}", final=False))
            elif rest is None:
                self._report(lease, await self._executor.execute(run, handler, lease.context), handler)
            else:
                self._report(lease, await self._executor.finish(run, rest), handler)
        except (asyncio.CancelledError, GeneratorExit) as fault:
            lane.end_if_closed(fault)
            if not lane.is_cancelled:  # else by us: the run is judged already
                self._report(lease, judge(fault, run), handler)
        finally:
            self._leave(lane, lease)
            took_s = self._monotonic() - began_at
            self._ahead.busy_s += took_s
            if self._ahead.begun_count == begun_count:  # it had the loop for itself
                self._breaks.charge(took_s)

    def _leave(self, lane: Lane, lease: Lease) -> None:
        """Take in that a lane's handler has ended."""
        lane.lease = None
        if lane.is_cancelled:
            self._source.left(lease)

    def _report(self, lease: Lease, outcome: Outcome, handler: Handler | None = None) -> None:
        if type(outcome) is Failed and handler is not None:
            outcome = delayed(outcome, handler, lease.run)
        if self._source.report(lease, outcome):
            self.done_count += 1
            self.failed_count += type(outcome) is Failed

    async def _admit(self, run: Run, handler: Handler) -> bool:
        """Return when a run of a plain handler has a thread; False: it went back, since this worker takes no more by now."""
        try:
            await self._executor.admit(handler)
        except asyncio.CancelledError:
            self._source.give_back(run)
            return False
        if self._stopping:
            self._executor.dismiss(handler)
            self._source.give_back(run)
        return not self._stopping

    def _may_end(self, lane: Lane, task: asyncio.Task[None]) -> bool:
        """Tell whether a lane was stopped or written off, or goes on in another task."""
        is_sound = task.cancelled() or task.exception() is None
        return is_sound and (lane.task is not task or self._closing or lane.is_written_off)

    def _run_lost(self, lane: Lane, lease: Lease) -> None:
        self._supervisor.call_later(DEAF_AFTER_S, lane.name, self._check_deaf, lane, lease, context=self._context)
        if self._stopping:
            self._note_drained()

    def _check_deaf(self, lane: Lane, lease: Lease) -> None:
        """Give up a lane whose handler goes on after its cancellation."""
        if lane.lease is lease and not self._closing:
            log.warning("a handler ignores its cancellation", type=lease.run.type, job=lease.run.claim.id)
            self._deaf.add(lane, self._source.clock.now())
            self._replace_deaf()

    def _replace_deaf(self) -> None:
        while not self._stopping and (lane := self._deaf.write_off()) is not None:
            self._lanes.remove(lane)
            self._open_lane()
            self._consumer.free()

    def _hears_again(self, lane: Lane) -> bool:
        """Note that a lane that was given up has ended its run. Return whether its place is taken."""
        self._deaf.remove(lane)
        self._replace_deaf()
        return lane.is_written_off
