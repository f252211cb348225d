"""When the next token opens a type: one timer for all rates, of a server that shares them with nobody."""

from __future__ import annotations

import asyncio
import math

from kqs.clock import Clock
from kqs.queue.gate import Gate
from kqs.queue.limits import Limits
from kqs.supervisor import Supervisor

#: the least that it waits, in s: an event loop counts ms
LEAST_WAIT_S = 0.001


class RateTimer:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, limits: Limits, clock: Clock, supervisor: Supervisor) -> None:
        self._limits = limits
        self._clock = clock
        self._supervisor = supervisor
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0

    @property
    def next_at(self) -> float:
        """Return when the next token opens a type, monotonic; math.inf: none is waited for."""
        return math.inf if self._timer is None else self._rings_at

    def closed(self, _type: str, gate: Gate) -> None:
        """Take in that a type has no place or token left; for a token it rings."""
        if gate.is_dry and gate.bucket is not None:
            self._ring_at(gate.bucket.opens_at)

    def look_again(self) -> None:
        """Look at the clock, which was set."""
        if self._timer is not None:
            self._timer.cancel()
            self._ring()

    def stop(self) -> None:
        """Open nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _ring_at(self, at: float) -> None:
        if self._timer is not None:
            if self._rings_at <= at:
                return
            self._timer.cancel()
        self._rings_at = at
        wait_s = max(LEAST_WAIT_S, at - self._clock.monotonic())
        self._timer = self._supervisor.call_later(wait_s, "queue", self._ring)

    def _ring(self) -> None:
        self._timer = None
        next_at = self._limits.open_due()
        if next_at is not None:
            self._ring_at(next_at)
