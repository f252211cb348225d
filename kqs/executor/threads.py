"""Threads of the server's own for plain `def` handlers.

They take calls from one queue, and hand outcomes back to the loop, as many at a time as there are. Threads are daemons: none
of them holds up the end of the process. Whatever a handler does to its thread, its place is kept: a thread that died is
replaced, one that cannot be started is tried again. Call from the loop thread only.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from queue import SimpleQueue
from typing import Any

from kqs.executor.outcomes import judge, judge_data, judge_result
from kqs.handlers import Handler, JobContext
from kqs.job import Run
from kqs.log import get_logger
from kqs.outcome import Failed, Outcome
from kqs.process import forks
from kqs.supervisor import Supervisor

_log = get_logger("kqs.executor")

#: how long to wait before a thread that could not be started is tried again, in s
START_AGAIN_S = 1.0
#: a handler whose run was cancelled may end soon, and is waited for so long, in s: less than it has before it counts as deaf
END_WITHIN_S = 0.9


class _Call:
    """One run on its way through a thread."""

    __slots__ = ("back", "context", "future", "handler", "is_back", "is_begun", "outcome", "run")

    def __init__(self, run: Run, handler: Handler, context: JobContext, future: asyncio.Future[Outcome]) -> None:
        self.run = run
        self.handler = handler
        self.context = context
        self.future = future
        self.back: asyncio.Future[None] | None = None  # of who waits for its end though it was cancelled
        self.outcome: Outcome | None = None
        self.is_begun = False
        self.is_back = False


class Threads:
    """See the module docstring. A call is admitted first, and must then be executed, or leave.

    Threads start when a call finds none idle. `_unfinished` counts admitted calls whose thread has not reported, cancelled ones
    included: those are what makes room for more than `thread_count` threads, up to twice as many. A place in `_room` is given
    back when its thread has reported.
    """

    def __init__(self, thread_count: int, context: contextvars.Context, supervisor: Supervisor) -> None:
        """Args: context: what each run gets a copy of."""
        self._max_count = 2 * thread_count
        self._context = context
        self._supervisor = supervisor
        self._room = asyncio.Semaphore(self._max_count)
        self._count = 0
        self._unfinished = 0
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._finished: deque[_Call] = deque()
        self._wake_is_due = False
        self._trouble: str | None = None

    async def admit(self) -> None:
        """Return when a thread can take a call at once; cancelled, it leaves nothing behind."""
        await self._room.acquire()
        self._unfinished += 1
        try:
            while self._unfinished > self._count and not self._start_thread():  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(START_AGAIN_S)
        except asyncio.CancelledError:
            self.leave()
            raise

    async def execute(self, run: Run, handler: Handler, context: JobContext) -> Outcome:
        """Run an admitted call. Cancelled, it goes on unheard, or never begins if it has not yet.

        This returns when it has ended then, or after a while.
        """
        loop = asyncio.get_running_loop()
        call = _Call(run, handler, context, loop.create_future())
        self._calls.put(call)
        try:
            return await call.future
        except asyncio.CancelledError:
            if not call.is_back:
                call.back = loop.create_future()
                await asyncio.wait([call.back], timeout=END_WITHIN_S)
            raise

    def leave(self) -> None:
        """Give the place of an admitted call to another: it is over, or is not going to be executed."""
        self._unfinished -= 1
        self._room.release()

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        problems = [f"no thread can be started for plain handlers, trying again: {self._trouble}"] if self._trouble else []
        if self._room.locked():
            problems.append("all threads are held by plain handlers, most of them past their ttr: jobs of plain handlers wait")
        return problems

    def close(self) -> None:
        """Let idle threads end; those at work are left to themselves. Idempotent."""
        for _ in range(self._count):
            self._calls.put(None)
        self._count = 0

    def _start_thread(self) -> bool:
        loop = asyncio.get_running_loop()
        name = f"kqs-handler-{self._count + 1}"
        try:  # to make one fails too, after what handlers may have done to threading or sys.excepthook
            threading.Thread(target=self._work, args=(loop,), name=name, daemon=True).start()
        except Exception as fault:
            if self._trouble is None:
                _log.warning("cannot start a thread for plain handlers, trying again", error=str(fault))
            self._trouble = str(fault) or type(fault).__name__
            return False
        self._trouble = None
        self._count += 1
        return True

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        at_work: list[_Call | None] = []
        try:
            self._take_calls(loop, at_work)
        except BaseException as fault:  # raised in this thread by another: handlers are the only ones who would
            forks.end_child()
            calls = [call for call in at_work if call is not None]
            for call in calls:
                if call.is_begun and call.outcome is None:
                    call.outcome = Failed(f"its thread was ended: {type(fault).__name__}")
            self._tell(loop, self._replace, calls)

    def _take_calls(self, loop: asyncio.AbstractEventLoop, at_work: list[_Call | None]) -> None:
        while True:
            # taken and noted in one step: between two, an exception that another thread raises here would lose the call
            at_work.extend(map(SimpleQueue.get, (self._calls,)))
            (call,) = at_work
            if call is None:
                return
            call.is_begun = True
            if not call.future.cancelled():
                call.outcome = self._context.copy().run(_execute, call)
            self._finished.append(call)
            at_work.clear()
            # Set after the append and cleared before the drain: a call is drained, or a wake for it is on its way.
            if not self._wake_is_due:
                self._wake_is_due = True
                if not self._tell(loop, self._drain):
                    return

    def _tell(self, loop: asyncio.AbstractEventLoop, *callback: Any) -> bool:
        try:
            loop.call_soon_threadsafe(self._supervisor.guard, "handler threads", *callback)
        except RuntimeError:  # the loop has closed: nobody is left to tell
            return False
        return True

    def _drain(self) -> None:
        self._wake_is_due = False
        while self._finished:
            self._take_back(self._finished.popleft())

    def _take_back(self, call: _Call) -> None:
        if call.is_back:
            return
        call.is_back = True
        self.leave()
        if call.outcome is not None and not call.future.done():
            call.future.set_result(call.outcome)
        if call.back is not None and not call.back.done():
            call.back.set_result(None)

    def _replace(self, calls: list[_Call]) -> None:
        """Take back what a thread that died was at, and start another if one is missing."""
        _log.warning("a thread of plain handlers was ended by one of them")
        self._count -= 1
        self._drain()
        for call in calls:
            if call.is_begun:
                self._take_back(call)
            else:
                self._calls.put(call)
        self._fill_up()

    def _fill_up(self) -> None:
        if self._unfinished > self._count and not self._start_thread():
            self._supervisor.call_later(START_AGAIN_S, "handler threads", self._fill_up)


def _execute(call: _Call) -> Outcome:
    handler, run = call.handler, call.run
    try:
        argument = handler.decode(run.data)
    except BaseException as fault:
        return judge_data(fault, run)
    try:
        result = handler.function(argument, call.context) if handler.wants_job else handler.function(argument)
    except BaseException as fault:  # whatever it is, it must not take the thread with it
        return judge(fault, run)
    return judge_result(result, run)
