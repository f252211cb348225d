"""A lane: one run at a time, in a task of its own.

A task is dear beside a short run, so a lane keeps its own from run to run; but only as long as no run left anything in it.
A handler may leave context variables set, a cancellation pending or counted, the task's name changed, or somebody who still
holds the task and may cancel it later. `CleanTask` tells; the lane then goes on in a new task. Call from the loop thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable

from kqs.queue.leases import Lease


class Lane:
    """What its worker knows of it.

    is_cancelled: its run was cancelled by us: it is lost, or the worker stops. deaf_since: when its run was given up for not
    heeding that, in Unix seconds. is_written_off: another lane has taken its place.
    """

    __slots__ = ("_on_lost", "deaf_since", "is_cancelled", "is_written_off", "lease", "lose", "name", "task", "waiter")

    def __init__(self, name: str, on_lost: Callable[[Lane, Lease], None]) -> None:
        self.name = name
        self._on_lost = on_lost
        self.task: asyncio.Task[None] | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.lease: Lease | None = None
        self.is_cancelled = False
        self.deaf_since = 0.0
        self.is_written_off = False
        self.lose = self._lose  # bound once, not for each run

    @property
    def is_working(self) -> bool:
        """Tell whether it has a run that may still end well."""
        return self.lease is not None and not self.is_cancelled

    def end_if_closed(self, fault: BaseException) -> None:
        """Raise `fault` again if it is there since the coroutine of the lane's task is being closed.

        In the task's turn a GeneratorExit comes from what the handler awaits: before Python raises it in a coroutine it closes
        whatever that awaits, so nothing below has seen it as it was.
        """
        is_turn = self.task is not None and asyncio.current_task(self.task.get_loop()) is self.task
        if isinstance(fault, GeneratorExit) and not is_turn:
            raise fault

    def cancel(self) -> None:
        """Cancel its task, and so its run."""
        self.is_cancelled = True
        if self.task is not None:
            self.task.cancel()

    def _lose(self, lease: Lease) -> None:
        if self.lease is lease:
            self.cancel()
            self._on_lost(self, lease)


class CleanTask:
    """A lane's task, and how it was before its first run. To be used from within it."""

    __slots__ = ("_context", "_holders", "_name", "_task")

    def __init__(self, task: asyncio.Task[None], context: contextvars.Context) -> None:
        """Args: context: the variables that the task began with."""
        self._task = task
        self._context = context
        self._name = task.get_name()
        self._holders = 0

    def remember(self) -> None:
        """Take who holds the task now for what is right. Call it as `is_clean` is called: the caller's frame counts too."""
        self._holders = sys.getrefcount(self._task)

    def is_clean(self) -> bool:
        """Tell whether nothing has changed."""
        try:
            return (
                sys.getrefcount(self._task) == self._holders
                and contextvars.copy_context() == self._context
                and not self._task.cancelling()
                # before Python 3.13 `uncancel` leaves the cancellation pending
                and not self._task._must_cancel  # type: ignore[attr-defined]  # noqa: SLF001 - nothing public tells
                and self._task.get_name() is self._name
            )
        except BaseException:  # a variable's value is compared with the one that it had, by the author's `__eq__`
            return False
