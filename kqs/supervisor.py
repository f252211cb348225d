"""The node's background tasks, timers and callbacks: an end that nobody asked for is a fault, and stops the node.

By itself the loop keeps quiet about it: an exception in a task waits for whoever may look, one in a timer is a line in the log,
and a task that has returned or was cancelled is not missed by anybody. So all of them are made here, each under a name, and a
node that has lost one does not limp on. Call from the loop thread.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

from kqs.tasks import spawn

T = TypeVar("T")

#: a timer that is later than this tells that the loop was held up, or the process stopped, and for how long at least, in s
LATE_S = 0.02
#: what others have sent meanwhile is heard in as long again, or in this at most: 48,000 touches over 200 connections took 0.6 s
HEAR_S = 2.0

#: told the name of what has ended, and why
OnFault = Callable[[str, BaseException], None]
#: tells of a task that has ended whether it may have ended so, though nobody asked for it
MayEnd = Callable[[asyncio.Task[Any]], bool]


class UnaskedEndError(RuntimeError):
    """A task has returned that runs for ever, or was cancelled by somebody who does not own it."""


def never(_task: asyncio.Task[Any]) -> bool:
    """Let a task run for ever, which is what most are for."""
    return False


def when_done(task: asyncio.Task[Any]) -> bool:
    """Let a task return when it is done with its one thing."""
    return not task.cancelled() and task.exception() is None


def with_its_answer(task: asyncio.Task[Any]) -> bool:
    """Let a task return or raise, for somebody waits for the one as well as for the other."""
    return not task.cancelled()


class Judgement:
    """Something that is to be judged at a time, unless it is cancelled before."""

    __slots__ = ("handle",)

    def __init__(self) -> None:
        self.handle: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """Judge nothing. Idempotent."""
        if self.handle is not None:
            self.handle.cancel()


class _Watched(NamedTuple):
    name: str  # of our own: whoever holds the task may rename it
    may_end: MayEnd


class Supervisor:
    """See the module docstring. One a node."""

    def __init__(self, on_fault: OnFault) -> None:
        """Args: on_fault: told of the first fault only: what the end of one part leads to in others is no news."""
        self._on_fault = on_fault
        self._watched: dict[asyncio.Task[Any], _Watched] = {}
        self._asked: set[asyncio.Task[Any]] = set()
        self._context = contextvars.copy_context()  # of callbacks at a task's end: the task's own may be a handler's
        self._has_told = False

    def spawn(
        self,
        work: Coroutine[Any, Any, T],
        name: str,
        may_end: MayEnd = never,
        *,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """Run `work` in a task that handlers do not see (kqs.tasks), until its owner asks for its `end`.

        Args: name: says whose it is; several may share one. may_end: which other ends are none to tell of.
        """
        task = spawn(work, name, context=context)
        self._watched[task] = _Watched(name, may_end)
        task.add_done_callback(self._note_end, context=self._context)
        return task

    async def end(self, *tasks: asyncio.Task[Any] | None, patience_s: float = 0.0) -> None:
        """Cancel tasks and return when they have ended; None is no task, and one that has ended is left alone.

        What a task raises all the same is a fault as ever. Cancelling the caller leaves them cancelled.
        Args: patience_s: how long they have to end of themselves before.
        """
        alive = [task for task in tasks if task is not None and not task.done()]
        self._asked.update(alive)
        try:
            if alive and patience_s:
                await asyncio.wait(alive, timeout=patience_s)
        finally:
            for task in alive:
                task.cancel()
        if alive:
            await asyncio.wait(alive)

    async def end_part(self, name: str, stop: Callable[[], Awaitable[None]]) -> None:
        """Stop a part of the node. What that raises is a fault, and keeps no other part from its end."""
        try:
            await stop()
        except Exception as error:
            self.fault(name, error)

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        name, may_end = self._watched.pop(task)
        was_asked = task in self._asked
        self._asked.discard(task)
        if not ((was_asked and (task.cancelled() or task.exception() is None)) or self._judged(name, may_end, task)):
            self.fault(name, _reason(task))

    def _judged(self, name: str, may_end: MayEnd, task: asyncio.Task[Any]) -> bool:
        try:
            return may_end(task)
        except Exception as error:
            self.fault(name, error)
            return False

    def call_later(
        self, delay_s: float, name: str, callback: Callable[..., None], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call `callback` in so many seconds; what it raises is a fault."""
        return asyncio.get_running_loop().call_later(delay_s, self.guard, name, callback, *args, context=context)

    def judge_later(self, delay_s: float, name: str, judge: Callable[..., None], *args: Any) -> Judgement:
        """Call in so many seconds what judges whether others have done something by then.

        A loop that was held up runs its timers before it hears anybody. So one that is late is put off until what has come
        meanwhile is heard.
        """
        loop = asyncio.get_running_loop()
        judgement = Judgement()
        due = loop.time() + delay_s

        def ring() -> None:
            late_s = loop.time() - due
            if late_s > LATE_S:
                judgement.handle = self.call_later(min(late_s, HEAR_S), name, judge, *args)
            else:
                judge(*args)

        judgement.handle = self.call_later(delay_s, name, ring)
        return judgement

    def call_soon(
        self, name: str, callback: Callable[..., None], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Call `callback` in the loop's next turn; what it raises is a fault."""
        return asyncio.get_running_loop().call_soon(self.guard, name, callback, *args, context=context)

    def guard(self, name: str, callback: Callable[..., None], *args: Any) -> None:
        """Call `callback` now, for the loop, a thread or a library that would keep to itself what it raises."""
        try:
            callback(*args)
        except BaseException as error:
            self.fault(name, error)
            if isinstance(error, (SystemExit, KeyboardInterrupt)):  # asyncio lets them out of the loop as well
                raise

    def fault(self, name: str, error: BaseException) -> None:
        """Take in that `name` cannot go on, for whatever reason."""
        if not self._has_told:
            self._has_told = True
            self._on_fault(name, error)


def _reason(task: asyncio.Task[Any]) -> BaseException:
    """Return why a task ended, for the log."""
    try:
        task.result()
    except asyncio.CancelledError as cancelled:
        reason: BaseException = UnaskedEndError("it was cancelled by somebody who does not own it")
        reason.__cause__ = cancelled
    except BaseException as error:
        return error
    else:
        reason = UnaskedEndError("it has ended by itself")
    return reason
