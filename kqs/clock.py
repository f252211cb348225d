"""Time as the rest of the code sees it: one protocol, so that tests own the clock.

Wall time is for what people and disks see (`_at`, Unix seconds, UTC); monotonic time is for durations and deadlines.
"""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Where time comes from. `SystemClock` lives in kqs.service; tests bring a FakeClock."""

    def now(self) -> float:
        """Return wall-clock time in Unix seconds (UTC)."""
        ...

    def monotonic(self) -> float:
        """Return a clock in seconds that never goes back; its zero means nothing."""
        ...
