"""The runs that handlers of this program have in hand: they are executed, touched for, and reported.

Each is its handler's from `begin` until its report, or until it is lost: taken away by the queue, past its ttr or its limit.
Then a coroutine is cancelled, and what a thread returns later is dropped. Reports of one turn of the loop go out together. Who
touches for runs, and sends how far they are, is one task, which sleeps until something is due. Call from the loop thread.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import msgspec
from msgspec.structs import replace

from kqs.client import Client, Report, Run
from kqs.errors import CallError, KqsError
from kqs.executor import Executor
from kqs.executor.outcomes import delayed, judge
from kqs.given import AGAIN_S, PASSING, TOUCH_SHARE, reason_of, run_of
from kqs.handlers import Handler, JobContext
from kqs.library.apart import Apart, BulkStoreError, reference_in
from kqs.log import get_logger
from kqs.outcome import Again, Failed, Ok, Outcome
from kqs.supervisor import Supervisor, when_done
from kqs.tasks import side_by_side

log = get_logger("kqs.library")

#: cancelled handlers get this long to clean up, in s
CANCEL_WAIT_S = 1.0
#: whoever stops waits so long, in s, until what it gives back is taken: as long as a server's stop does for reports
GIVE_BACK_S = 5.0


class _InHand:
    """One run. told_at: when the queue heard of it last, monotonic. is_lost: no report of it counts any more.

    is_owed: the queue has asked for its end, and waits to hear of it.
    """

    __slots__ = ("context", "is_lost", "is_owed", "limit_at", "run", "task", "told_at")

    def __init__(self, run: Run, context: JobContext, now: float) -> None:
        limit_s = run.time_limit
        self.run = run
        self.context = context
        self.told_at = now
        self.limit_at = math.inf if limit_s is None else now + limit_s
        self.is_lost = False
        self.is_owed = False
        self.task: asyncio.Task[None] | None = None

    def lose(self) -> None:
        """End it without a report."""
        if not self.is_lost:
            self.is_lost = True
            self.context.end()
            if self.task is not None:
                self.task.cancel()

    def next_at(self) -> float:
        """Return when something is to be done about it: the queue is to hear of it, or it is over."""
        ttr = self.run.ttr
        wants_touch = self.run.auto_touch or self.context.touched_at > self.told_at
        return min(self.told_at + (ttr / TOUCH_SHARE if wants_touch else ttr), self.limit_at)


class Hands:
    """See the module docstring. on_over: called when a run is over and its report is answered."""

    def __init__(
        self, client: Client, supervisor: Supervisor, concurrency: int, apart: Apart, on_over: Callable[[], None]
    ) -> None:
        self._client = client
        self._apart = apart
        self._supervisor = supervisor
        self._executor = Executor(concurrency, supervisor)
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        #: a run has ended whose job may wait again, and be due
        self.has_returned = False
        self._in_hand: dict[str, _InHand] = {}
        self._reports: list[tuple[Report, asyncio.Future[None]]] = []
        self._changed = asyncio.Event()
        self._minding: asyncio.Task[None] | None = None
        client.on_over = self._taken_away

    @property
    def count(self) -> int:
        """Return how many runs are in hand."""
        return len(self._in_hand)

    def begin(self, run: Run, handler: Handler) -> None:
        """Let a run begin."""
        now = self._now()
        context = JobContext(run_of(run, now), run.options, self._now, on_save=self._saved)
        one = self._in_hand[run.token] = _InHand(run, context, now)
        self._changed.set()
        if self._minding is None:
            self._minding = self._supervisor.spawn(self._mind(), "library-hands")
        one.task = self._supervisor.spawn(
            self._execute(one, handler), "library-run", _ends_as_it_likes, context=self._executor.context.copy()
        )

    async def stop(self) -> None:
        """Cancel what is in hand, and give it back when no handler runs any more, or heeds that: others may begin with it."""
        tasks = [one.task for one in self._in_hand.values() if one.task is not None]
        given_back = [one for one in self._in_hand.values() if not one.is_lost]
        for one in given_back:
            self._lose(one)
        if tasks:
            _, stuck = await asyncio.wait(tasks, timeout=CANCEL_WAIT_S)
            if stuck:
                log.warning("handlers ignore their cancellation", count=len(stuck))
        if given_back:
            await self._give_back([one.run for one in given_back])

    async def _give_back(self, runs: Sequence[Run]) -> None:
        """Release runs in one line, whose answer is not waited for without end: a store that is away may take it later."""
        try:
            async with asyncio.timeout(GIVE_BACK_S):
                await self._client.call("release", [{"run": run.token} for run in runs])
        except (KqsError, TimeoutError) as error:
            log.warning("runs were not given back in time", count=len(runs), error=str(error) or "no answer")

    async def close(self) -> None:
        """End the threads. Nothing may be in hand."""
        await self._supervisor.end(self._minding)
        self._minding = None
        self._executor.close()
        await self._executor.wait_closed()

    async def _execute(self, one: _InHand, handler: Handler) -> None:
        try:
            outcome = await self._outcome(one, handler)
            if outcome is not None and not one.is_lost:
                one.context.end()
                if await self._report(one, outcome) and isinstance(outcome, Ok):
                    self._apart.succeeded(one.run)
                self.has_returned = self.has_returned or _may_return(outcome)
            elif one.is_owed:
                await self._say(one, partial(self._client.release, one.run))
        finally:
            self._in_hand.pop(one.run.token, None)
            self._on_over()

    async def _outcome(self, one: _InHand, handler: Handler) -> Outcome | None:
        """Return how the handler ended; None: it was cancelled by us."""
        run = one.context.run
        try:
            if (reference := reference_in(run.data)) is not None:
                run = one.context.run = replace(run, data=await self._apart.get(reference))
            await self._executor.admit(handler)
            outcome = await self._executor.execute(run, handler, one.context)
        except BulkStoreError as error:
            log.warning("a run has failed without its data", type=run.type, job=one.run.id, reason=str(error))
            outcome = Failed(str(error))
        except asyncio.CancelledError as fault:
            if one.is_lost:
                return None
            outcome = judge(fault, run)
        return delayed(outcome, handler, run) if isinstance(outcome, Failed) else outcome

    async def _report(self, one: _InHand, outcome: Outcome) -> bool:
        """Report how a run has ended; tell whether that was taken."""
        if one.context.is_unsent and not isinstance(outcome, Ok):
            await self._save(one)
        report = _report(one.run, outcome)
        return await self._say(one, lambda: self._gather(report))

    def _gather(self, report: Report) -> asyncio.Future[None]:
        """Have a report sent with the others of this turn of the loop; return the future of its answer."""
        answered: asyncio.Future[None] = self._loop.create_future()
        if not self._reports:
            self._supervisor.call_soon("library", self._send_reports)
        self._reports.append((report, answered))
        return answered

    def _send_reports(self) -> None:
        reports, self._reports = self._reports, []
        self._supervisor.spawn(self._finish(reports), "library-reports", when_done)

    async def _finish(self, reports: list[tuple[Report, asyncio.Future[None]]]) -> None:
        """Send reports that gathered, and tell each its answer; if the line is refused as a whole, each goes by itself."""
        try:
            told: Sequence[KqsError | None] = await self._client.finish_many([report for report, _ in reports])
        except KqsError as error:
            if isinstance(error, CallError) and len(reports) > 1:
                for one in reports:
                    await self._finish([one])
                return
            told = [error] * len(reports)
        for (_, answered), refusal in zip(reports, told, strict=True):
            if answered.done():
                continue
            if refusal is None:
                answered.set_result(None)
            else:
                answered.set_exception(refusal)

    async def _say(self, one: _InHand, say: Callable[[], Awaitable[object]]) -> bool:
        """Say something of a run, again and again where the queue cannot take it now, until the run is lost.

        What else is refused changes nothing: it is the queue's to judge then, after its ttr. Returns: False: it was refused, or
        nobody knows.
        """
        while True:
            try:
                await say()
            except KqsError as error:
                if (code := _code_of(error)) in PASSING and not one.is_lost:
                    one.told_at = self._now()  # who cannot take a report gives its run the ttr anew
                    await asyncio.sleep(AGAIN_S)
                    continue
                if code != "stale":
                    log.warning("a report was not taken", job=one.run.id, error=str(error))
                return False
            return True

    def _saved(self, _context: JobContext) -> None:
        """Take in, in any thread, that a handler has saved something."""
        self._loop.call_soon_threadsafe(self._supervisor.guard, "library", self._changed.set)

    async def _mind(self) -> None:
        while True:
            self._changed.clear()
            now = self._now()
            await self._tell([one for one in self._in_hand.values() if not one.is_lost], now)
            due_at = min((one.next_at() for one in self._in_hand.values() if not one.is_lost), default=math.inf)
            try:
                async with asyncio.timeout_at(None if due_at is math.inf else due_at):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _tell(self, alive: Iterable[_InHand], now: float) -> None:
        touching: list[_InHand] = []
        saving: list[_InHand] = []
        for one in alive:
            if one.context.is_unsent:
                saving.append(one)
            elif one.next_at() <= now:
                touched_at = one.context.touched_at
                if one.limit_at <= now or not (one.run.auto_touch or touched_at > one.told_at):
                    self._lose(one)  # as the queue judges it in this moment
                else:
                    touching.append(one)
        are_heard = await side_by_side(map(self._save, saving), "library-save")  # in one line's time
        touching += [one for one, is_heard in zip(saving, are_heard, strict=True) if not (is_heard or one.is_lost)]
        if touching:
            for one in touching:
                one.told_at = now
            try:
                await self._client.touch_many([one.run for one in touching])
            except KqsError as error:
                log.warning("runs were not touched", count=len(touching), error=str(error))

    async def _save(self, one: _InHand) -> bool:
        """Send what a handler has saved last, which touches its run; tell whether it did."""
        context = one.context
        context.is_unsent = False
        saved, one.told_at = context.saved, self._now()
        try:
            await self._client.touch(one.run, msgspec.Raw(saved or b"null"))
        except KqsError as error:
            if (code := _code_of(error)) in PASSING:
                context.is_unsent = True  # what was saved meanwhile goes in its place: the last counts
                self._supervisor.call_later(AGAIN_S, "library", self._changed.set)
            elif code != "stale":
                log.warning("progress was not kept", job=one.run.id, error=str(error))
            return False
        return True

    def _lose(self, one: _InHand) -> None:
        """End a run without a report; a handler that does not heed that is not waited for, and its place is another's."""
        one.lose()
        self._supervisor.call_later(CANCEL_WAIT_S, "library", self._give_up, one)

    def _give_up(self, one: _InHand) -> None:
        if self._in_hand.get(one.run.token) is one:
            log.warning("a handler ignores its cancellation", type=one.run.type, job=one.run.id)
            del self._in_hand[one.run.token]
            self._on_over()

    def _taken_away(self, run: Run) -> None:
        if (one := self._in_hand.get(run.token)) is not None and not one.is_lost:
            one.is_owed = True
            self._lose(one)


def _code_of(error: KqsError) -> str:
    """Return why the queue has refused something; "": it did not answer."""
    return error.call_code if isinstance(error, CallError) else ""


def _may_return(outcome: Outcome) -> bool:
    if isinstance(outcome, Again):
        return not outcome.delay_s
    return isinstance(outcome, Failed) and not outcome.final and not outcome.delay_s


def _report(run: Run, outcome: Outcome) -> Report:
    """Return what an outcome is to the queue."""
    if isinstance(outcome, Ok):
        return Report(run.token, "ok", None if outcome.result is None else msgspec.Raw(outcome.result))
    if isinstance(outcome, Again):
        return Report(run.token, "again", delay=outcome.delay_s)
    return Report(run.token, "fail", reason=reason_of(outcome), final=outcome.final, delay=outcome.delay_s)


def _ends_as_it_likes(task: asyncio.Task[None]) -> bool:
    """Let a run's task end however it does but with a fault of ours: its handler may have cancelled it."""
    return task.cancelled() or when_done(task)
