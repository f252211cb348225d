"""Turns of the loop: no connection keeps it from the others for long, however much it asks at once.

A connection runs what it received as soon as that is there, for a slice of time. If there is more, it is not read and waits
in line for its next slice; in each tick of the loop those in line have a share, so whoever asks for little never stands there.
Once a tick has had its share, a long piece is put off to the next tick as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from kqs.supervisor import Supervisor

clock = time.perf_counter

#: What one connection may take at a time, and all of them in one tick before long pieces wait for the next, in s.
SLICE_S = 0.002
SHARE_S = 0.005
#: Less is not worth noting, nor asking for it to be noted.
NOTED_S = 0.0002


class Waiting(Protocol):
    """A connection, as seen from here."""

    def wake(self) -> None:
        """Run on for a slice."""
        ...


class Turns:
    """See the module docstring. Owned by the loop thread.

    wake: wakes a connection; never raises. is_busy: this tick has had its share.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.wake: Callable[[Waiting], None] = lambda waiting: waiting.wake()
        self.is_busy = False
        self._spent_s = 0.0
        self._line: dict[Waiting, None] = {}
        self._is_scheduled = False

    def spend(self, spent_s: float) -> None:
        """Take note of what a connection took in this tick."""
        if spent_s > NOTED_S:
            self._schedule()
            self._spent_s += spent_s
            self.is_busy = self._spent_s > SHARE_S

    def stand_in_line(self, waiting: Waiting) -> None:
        """Wake `waiting` when its turn comes."""
        self._line[waiting] = None
        self._schedule()

    def leave(self, waiting: Waiting) -> None:
        """Forget a connection."""
        self._line.pop(waiting, None)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._supervisor.call_soon("turns", self._next_tick)

    def _next_tick(self) -> None:
        self._is_scheduled = False
        self.is_busy = False
        self._spent_s = 0.0
        until = clock() + SHARE_S
        for _ in range(len(self._line)):  # each at most once: a waiter may stand in line again
            if not self._line or self.is_busy or clock() > until:
                break
            waiting = next(iter(self._line))
            del self._line[waiting]
            self.wake(waiting)
        if self._line:
            self._schedule()
