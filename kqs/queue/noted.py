"""Which handlers have saved something: noted in any thread, taken on the loop, with one hop for all that gather between."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable, Iterator

from kqs.handlers import JobContext
from kqs.supervisor import Supervisor


class Noted:
    """See the module docstring."""

    def __init__(self, supervisor: Supervisor, on_noted: Callable[[], None]) -> None:
        """Args: on_noted: called on the loop when something is noted, and not again until it was taken."""
        self._supervisor = supervisor
        self._on_noted = on_noted
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # a callback must not hold what a handler's has
        self._noted: deque[JobContext] = deque()
        self._is_called = False

    def note(self, context: JobContext) -> None:
        """Take in that a handler has saved something."""
        self._noted.append(context)
        # set after the append and cleared before the look: whatever is noted is looked at, or a call for it is on its way
        if not self._is_called:
            self._is_called = True
            try:
                self._loop.call_soon_threadsafe(self._supervisor.guard, "progress", self._on_noted, context=self._context)
            except RuntimeError:  # the loop has closed: nobody is left to keep it
                return

    def take(self) -> Iterator[tuple[JobContext, bytes]]:
        """Yield each that is noted now and whose run is not over, with what it has saved since it was taken last."""
        self._is_called = False
        for _ in range(len(self._noted)):
            context = self._noted.popleft()
            if not context.is_over and (saved := saved_by(context)) is not None:
                yield context, saved


def saved_by(context: JobContext) -> bytes | None:
    """Take what a handler has saved since it was asked last, or None."""
    if not context.is_unsent:
        return None
    context.is_unsent = False
    saved = context.saved
    return saved if type(saved) is bytes else None  # else a handler has put it there
