"""When the store is asked for jobs early, since somebody waits for their ends: a few hurry it at once, others gather."""

from __future__ import annotations

import asyncio

from kqs.queue.wishes import Wishes
from kqs.supervisor import Supervisor

#: so many hurry the store at once
FEW = 4
#: more gather so long, in s, since each commit costs as much as a hundred jobs
GATHER_S = 0.003


class Hurry:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, wishes: Wishes, supervisor: Supervisor) -> None:
        self._wishes = wishes
        self._supervisor = supervisor
        self._timer: asyncio.TimerHandle | None = None

    def want(self, count: int) -> None:
        """Have what is not stored yet stored: one more waits for that, and they are `count` now."""
        if count <= FEW:
            self._wishes.sooner()
        elif self._timer is None:
            self._timer = self._supervisor.call_later(GATHER_S, "queue", self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._wishes.sooner()

    def close(self) -> None:
        """Ask for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
