"""Whether the wall clock was set back. What it was ahead by stands in the due times that were computed meanwhile.

It may have been ahead for less than the time between two looks, or while jobs waited in the journal: so what waits were
computed from is noted as well.
"""

from __future__ import annotations

from kqs.clock import Clock

#: clocks that are merely steered differ by less between two looks, in s; nor does an order tell an instant more exactly
JUMP_S = 1.0


class JumpWatch:
    """Compares the wall clock with the one that cannot be set. Look every few seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead = self._now_ahead()

    def note(self, at: float) -> None:
        """Take in an instant that the wall clock has shown, in Unix seconds."""
        self._ahead = max(self._ahead, at - JUMP_S - self._clock.monotonic())

    def back_s(self) -> float:
        """Return by how many seconds the wall clock was set back since the last look; 0.0 if it was not."""
        before, self._ahead = self._ahead, self._now_ahead()
        back_s = before - self._ahead
        return back_s if back_s > JUMP_S else 0.0

    def _now_ahead(self) -> float:
        return self._clock.now() - self._clock.monotonic()
