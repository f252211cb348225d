"""Which ticks of a schedule there must be, as the oracle reckons it: each instant has one, or is missed.

A schedule of `every` has its instants on a grid that begins with its creation. Of those that have come since it was looked at
last the newest is inserted, all with `catch_up` all; with skip none of which the newest came too long ago.
"""

from __future__ import annotations

from dataclasses import dataclass

LATE_S = 60.0


@dataclass
class Ticking:
    """A schedule. passed_at: no instant up to here is inserted any more; instants are Unix seconds."""

    name: str
    every: float
    catch_up: str
    created_at: float
    passed_at: float
    is_suspended: bool = False
    missed: int = 0

    def ticks(self, now: float) -> list[float]:
        """Return the instants that are inserted now that it is `now`; those between are missed."""
        if self.is_suspended:
            return []
        first, last = self._steps(self.passed_at) + 1, self._steps(now)
        due = [round(self.created_at + step * self.every, 3) for step in range(max(first, 1), last + 1)]
        if not due:
            return []
        self.passed_at = due[-1]
        inserted = due if self.catch_up == "all" else due[-1:]
        if self.catch_up == "skip" and now - due[-1] > LATE_S:
            inserted = []
        self.missed += len(due) - len(inserted)
        return inserted

    def _steps(self, at: float) -> int:
        return int((at - self.created_at + 1e-4) // self.every)

    def resume(self, now: float) -> None:
        """Tick again: what has come meanwhile is neither inserted nor missed."""
        self.is_suspended, self.passed_at = False, max(self.passed_at, now)
