"""Runs handlers: `async def` in the caller's task, plain `def` in threads of its own, commands as processes.

The caller owns time: it cancels `execute` when a run's ttr is over. A thread cannot be cancelled; it goes on by itself, its
outcome is dropped, and its place is taken by a new thread, up to twice `thread_count` in all. When all are held, `admit` waits:
no run's time begins before its handler can. Call from the loop thread only.
"""

from __future__ import annotations

import asyncio
import contextvars
import decimal
from collections.abc import Awaitable, Coroutine, Generator, Mapping
from time import perf_counter
from types import CoroutineType
from typing import Any, Self

from kqs.commands import Commands
from kqs.executor.outcomes import judge, judge_data, judge_result
from kqs.executor.threads import Threads
from kqs.handlers import Handler, JobContext
from kqs.job import Run
from kqs.minding.command import Command
from kqs.outcome import Outcome
from kqs.process import forks
from kqs.supervisor import Supervisor

#: a result that took longer to be written has the loop to itself for the rest of the turn, in s
LONG_S = 0.005


class Suspended:
    """An async handler that was driven to where it waits for something. Await it, once, in the task in which it was begun.

    No method is called while an exception is being handled, or the handler would take that for one of its own.
    """

    __slots__ = ("_awaited", "_coroutine", "_is_taken")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], awaited: object) -> None:
        """Args: awaited: what it yielded, for the task to wait for; None: a turn of the loop."""
        self._coroutine = coroutine
        self._awaited = awaited
        self._is_taken = False

    def __await__(self) -> Generator[Any, Any, Any]:
        """Return what the handler returns. Raises: what it raises."""
        return self  # type: ignore[return-value]  # all that a task asks of a generator

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> object:
        """Go on to where the handler waits next; at first, to where it waits already."""
        if self._is_taken:
            return self._coroutine.send(None)
        self._is_taken = True
        awaited, self._awaited = self._awaited, None
        return awaited

    def throw(self, *fault: Any) -> object:
        """Have what the handler waits for raise this."""
        return self._coroutine.throw(*fault)

    def close(self) -> None:
        """Have the handler end where it waits."""
        self._coroutine.close()


async def _awaiting(handling: Any) -> Any:
    return await handling


class Executor:
    """See the module docstring."""

    def __init__(self, thread_count: int, supervisor: Supervisor) -> None:
        """Args: thread_count: how many plain `def` handlers run at a time, as many as there are lanes.

        Each run begins with the context variables that are set now.
        """
        self.context = _starting_context()
        self._threads = Threads(thread_count, self.context, supervisor)
        self._commands = Commands(supervisor)
        self._supervisor = supervisor
        self._must_wait = False  # with the next result, for the loop's turn

    def look_after(self, commands: Mapping[str, Command]) -> None:
        """Say in the log, and among the problems, which of these commands, by their types, could not be started now."""
        self._commands.look_after(commands)

    async def admit(self, handler: Handler) -> None:
        """Return when a run of `handler` can begin at once; `execute` or `dismiss` must follow.

        Cancelled, it leaves nothing behind.
        """
        if not handler.is_async:
            await self._threads.admit()

    def dismiss(self, handler: Handler) -> None:
        """Give the place of an admitted run of `handler` to another: it is not going to be executed."""
        if not handler.is_async:
            self._threads.leave()

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        return [*self._threads.problems(), *self._commands.problems()]

    async def execute(self, run: Run, handler: Handler, context: JobContext) -> Outcome:
        """Run an admitted job to its outcome. Whatever the handler raises becomes one, but for its cancellation.

        Cancelling ends a coroutine handler and a command; one in a thread goes on unheard, or never starts if it was still
        waiting.
        Raises: asyncio.CancelledError: the caller was cancelled, or the handler raised it of itself: the caller knows.
        """
        if not handler.is_async:
            return await self._threads.execute(run, handler, context)
        if handler.command is not None:
            return await self.finish(run, self._commands.run(handler.command, context))
        try:
            argument = handler.decode(run.data)
        except BaseException as fault:
            return judge_data(fault, run)
        try:
            function = handler.function
            handling = function(argument, context) if handler.wants_job else function(argument)
        except BaseException as fault:
            return judge(fault, run)
        return await self.finish(run, handling)

    def begin(self, run: Run, handler: Handler) -> Outcome | Suspended:
        """Drive an async handler that wants no context to its end, or to where it waits: then `finish` has to await the rest.

        Most short handlers never wait, and need nothing of what is made for those that do. Call it in the task that goes on.
        """
        try:
            argument = handler.decode(run.data)
        except BaseException as fault:
            return judge_data(fault, run)
        try:
            handling = handler.function(argument)
        except BaseException as fault:
            return judge(fault, run)
        if type(handling) is not CoroutineType:  # whatever a decorator has made of it
            handling = _awaiting(handling)
        try:
            return Suspended(handling, handling.send(None))
        except StopIteration as end:
            return judge_result(end.value, run)
        except BaseException as fault:
            return judge(fault, run)

    async def finish(self, run: Run, handling: Awaitable[object]) -> Outcome:
        """Await a handler to its outcome. Raises: as `execute`."""
        try:
            result = await handling
        except asyncio.CancelledError:
            forks.end_child()
            raise
        except BaseException as fault:
            if type(fault) is GeneratorExit and not _is_from_below(fault):
                raise  # this coroutine is being closed
            return judge(fault, run)
        return await self._judge_in_turn(result, run)

    async def _judge_in_turn(self, result: object, run: Run) -> Outcome:
        """Judge a result; of those that take long to be written, which may be there all at once, one a turn of the loop."""
        forks.end_child()
        if result is None:
            return judge_result(result, run)
        while self._must_wait:  # noqa: ASYNC110 - a turn at a time, and one is let go a turn
            await asyncio.sleep(0)
        began_at = perf_counter()
        outcome = judge_result(result, run)
        if perf_counter() - began_at > LONG_S:
            self._must_wait = True
            self._supervisor.call_soon("executor", self._go_on, context=self.context)
        return outcome

    def _go_on(self) -> None:
        self._must_wait = False

    def close(self) -> None:
        """Let idle threads end, and the helper processes of commands; threads at work are left to themselves. Idempotent."""
        self._threads.close()
        self._commands.close()

    async def wait_closed(self) -> None:
        """Return when the helper processes have ended, or after a while."""
        await self._commands.wait_closed()


def _is_from_below(fault: BaseException) -> bool:
    """Tell whether `fault` came up from a function that the one that caught it had called."""
    return fault.__traceback__ is not None and fault.__traceback__.tb_next is not None


def share_decimal_settings() -> None:
    """Let each run begin with the settings of decimal that stand now: of the whole process, whose default they become."""
    now = decimal.getcontext()
    for name in ("prec", "rounding", "Emin", "Emax", "capitals", "clamp"):
        setattr(decimal.DefaultContext, name, getattr(now, name))
    decimal.DefaultContext.traps = dict(now.traps)


def _starting_context() -> contextvars.Context:
    """Return a context with the variables that are set now, but for decimal's, whose value every run would change for all.

    Without it a run makes its own of `decimal.DefaultContext`.
    """
    context = contextvars.Context()
    for variable, value in contextvars.copy_context().items():
        if not isinstance(value, decimal.Context):
            context.run(variable.set, value)
    return context
