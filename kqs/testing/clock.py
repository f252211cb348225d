"""A clock that goes on as the machine's does, and can be set forward."""

from __future__ import annotations

import time


class SettableClock:
    """A Clock (see kqs.clock)."""

    def __init__(self, at: float | None) -> None:
        """Args: at: what it shows first, in Unix seconds; None: what the machine's shows."""
        self._ahead_s = 0.0
        self._zone_s = 0.0 if at is None else at - time.time()

    def now(self) -> float:
        """Return the time in Unix seconds."""
        return time.time() + self._zone_s + self._ahead_s

    def monotonic(self) -> float:
        """Return a clock in seconds that never goes back."""
        return time.monotonic() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Set it forward. Nobody hears of that."""
        self._ahead_s += max(0.0, seconds)
