"""Runs handlers: `async def` in the caller's task, plain `def` in threads of its own.

The caller owns time: it cancels `execute` when a run's ttr is over. A thread cannot be cancelled; it goes on by itself, its
outcome is dropped, and its place is taken by a new thread, up to twice `thread_count` in all. When all are held, `admit` waits:
no run's time begins before its handler can. Threads are daemons: none of them holds up the end of the process. Call from the
loop thread only.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from queue import SimpleQueue
from typing import Any

import msgspec
from pydantic import BaseModel, ValidationError

from kqs import verdicts
from kqs.handlers import Again, Failed, Handler, JobContext, Ok, Outcome
from kqs.job import Run
from kqs.log import get_logger
from kqs.process import forks

_log = get_logger("kqs.executor")
_OK = Ok()


class Executor:
    """See the module docstring."""

    def __init__(self, thread_count: int) -> None:
        """Args: thread_count: how many plain `def` handlers run at a time, as many as there are lanes."""
        self._threads = _Threads(thread_count)

    async def admit(self, handler: Handler) -> None:
        """Return when a run of `handler` can begin at once; `execute` or `dismiss` must follow."""
        if not handler.is_async:
            await self._threads.room.acquire()

    def dismiss(self, handler: Handler) -> None:
        """Give the place of an admitted run of `handler` to another: it is not going to be executed."""
        if not handler.is_async:
            self._threads.room.release()

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        if self._threads.room.locked():
            return ["all threads are held by plain handlers, most of them past their ttr: jobs of plain handlers wait"]
        return []

    async def execute(self, run: Run, handler: Handler, context: JobContext) -> Outcome:
        """Run an admitted job to its outcome. Every exception of the handler becomes a Failed, with its trace in the log.

        Cancelling ends a coroutine handler; one in a thread goes on unheard, or never starts if it was still waiting.
        Raises: asyncio.CancelledError: the caller was cancelled. A handler that raises it of itself has failed.
        """
        if not handler.is_async:
            return await self._threads.execute(run, handler, context)
        try:
            argument = handler.decode(run.data)
        except Exception as fault:
            return _misfit(fault)
        try:
            function = handler.function
            result = await (function(argument, context) if handler.wants_job else function(argument))
            forks.end_child()
            return _OK if result is None else _encoded(result)
        except asyncio.CancelledError as fault:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return _judge(fault, run)
        except (Exception, SystemExit) as fault:
            return _judge(fault, run)

    def close(self) -> None:
        """Let idle threads end; those at work are left to themselves. Idempotent."""
        self._threads.close()


class _Call:
    """One run on its way through a thread."""

    __slots__ = ("context", "future", "handler", "outcome", "run")

    def __init__(self, run: Run, handler: Handler, context: JobContext, future: asyncio.Future[Outcome]) -> None:
        self.run = run
        self.handler = handler
        self.context = context
        self.future = future
        self.outcome: Outcome | None = None


class _Threads:
    """Threads that take calls from one queue, and hand outcomes back to the loop, as many at a time as there are.

    Threads start when a call finds none idle. `_unfinished` counts calls whose thread has not reported, cancelled ones
    included: those are what makes room for more than `thread_count` threads. `room` is what a call must acquire before; it is
    released when its thread has reported.
    """

    def __init__(self, thread_count: int) -> None:
        self._max_count = 2 * thread_count
        self.room = asyncio.Semaphore(self._max_count)
        self._count = 0
        self._unfinished = 0
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._finished: deque[_Call] = deque()
        self._wake_is_due = False

    async def execute(self, run: Run, handler: Handler, context: JobContext) -> Outcome:
        loop = asyncio.get_running_loop()
        call = _Call(run, handler, context, loop.create_future())
        self._unfinished += 1
        if self._unfinished > self._count < self._max_count:
            self._count += 1
            threading.Thread(target=self._work, args=(loop,), name=f"kqs-handler-{self._count}", daemon=True).start()
        self._calls.put(call)
        return await call.future

    def close(self) -> None:
        for _ in range(self._count):
            self._calls.put(None)
        self._count = 0

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (call := self._calls.get()) is not None:
            if not call.future.cancelled():
                call.outcome = _execute_here(call.run, call.handler, call.context)
                forks.end_child()
            self._finished.append(call)
            # Set after the append and cleared before the drain: a call is drained, or a wake for it is on its way.
            if not self._wake_is_due:
                self._wake_is_due = True
                try:
                    loop.call_soon_threadsafe(self._drain)
                except RuntimeError:  # the loop has closed: nobody is left to tell
                    return

    def _drain(self) -> None:
        self._wake_is_due = False
        while self._finished:
            call = self._finished.popleft()
            self._unfinished -= 1
            self.room.release()
            if call.outcome is not None and not call.future.done():
                call.future.set_result(call.outcome)


def _execute_here(run: Run, handler: Handler, context: JobContext) -> Outcome:
    try:
        argument = handler.decode(run.data)
    except Exception as fault:
        return _misfit(fault)
    try:
        result = handler.function(argument, context) if handler.wants_job else handler.function(argument)
        return _OK if result is None else _encoded(result)
    except BaseException as fault:  # whatever it is, it must not take the thread with it
        return _judge(fault, run)


def _misfit(fault: Exception) -> Failed:
    forks.end_child()
    text = _text(fault)
    if isinstance(fault, ValidationError):
        return Failed(f"data does not fit: {text}", final=True)
    return Failed(f"data: {text[:1].lower()}{text[1:]}", final=True)


def _judge(fault: BaseException, run: Run) -> Outcome:
    forks.end_child()
    if isinstance(fault, verdicts.Again):
        return Again(fault.delay)
    if isinstance(fault, verdicts.Fail):
        return Failed(_text(fault.reason), bool(fault.final))
    _log.warning("handler failed", type=run.type, job=run.claim.id, attempt=run.attempt, exc_info=fault)
    text = _text(fault)
    return Failed(f"{type(fault).__name__}: {text}" if text else type(fault).__name__)


def _text(value: object) -> str:
    """Return `str(value)` as text that every store takes: an author's `__str__` may raise, file names bring lone surrogates."""
    try:
        return str(value).encode(errors="backslashreplace").decode()
    except Exception:
        return "(cannot be shown)"


def _encode_other(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if inspect.iscoroutine(value):
        value.close()
        raise TypeError("it is a coroutine; make the handler an `async def`")
    raise TypeError(f"{type(value).__name__} is no JSON type")


_encode_json = msgspec.json.Encoder(enc_hook=_encode_other).encode


def _encoded(result: object) -> Outcome:
    try:
        return Ok(_encode_json(result))
    except Exception as fault:  # whatever a handler returned
        return Failed(f"the handler's result cannot be written as JSON: {_text(fault)}", final=True)
