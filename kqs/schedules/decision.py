"""Which ticks of a schedule are due, which of them are inserted, and which are not any more: pure rules.

A tick is late when LATE_S have passed since its instant, or the next one has come. One that is late is inserted only to catch
up. Whatever is due and is not inserted is counted: as *missed* where it came too late, as *skipped* where the job of the last
tick has not ended yet.
"""

from __future__ import annotations

from typing import NamedTuple

from kqs.options import CatchUp, Overlap
from kqs.schedules.calendar import Calendar

#: a tick is late after so long, in s, or when the next one comes
LATE_S = 60.0
#: late ticks that are inserted at once where all are to be: the last ones
MOST_CAUGHT_UP = 1000


class Decision(NamedTuple):
    """insert: instants, the oldest first. passed_at: every instant up to here is decided, but for those.

    missed, skipped: how many of them are not inserted, and for which reason.
    """

    insert: list[float]
    passed_at: float
    missed: int = 0
    skipped: int = 0


def decide(
    calendar: Calendar, catch_up: CatchUp, overlap: Overlap, passed_at: float, now: float, *, is_busy: bool = False
) -> Decision:
    """Decide about all instants after `passed_at` that have come.

    Args: is_busy: the job of the last tick has not ended.
    """
    due = calendar.count(passed_at, now)
    if not due:
        return Decision([], passed_at)
    most = MOST_CAUGHT_UP if catch_up == "all" else 1
    found = calendar.latest(passed_at, now, most)
    last = found[-1]
    is_late = now - last > LATE_S
    if overlap == "skip":
        if is_busy:
            late = due - 1 + is_late
            return Decision([], last, late, due - late)
        found = found[-1:]  # the job of one tick would not have ended when the next is inserted
    if is_late and catch_up == "skip":
        return Decision([], last, due)
    missed = due - len(found)
    return Decision(found, _before(calendar, passed_at, found[0]) if missed else passed_at, missed)


def _before(calendar: Calendar, after: float, instant: float) -> float:
    """Return the last instant before this one, of which there is one after `after`."""
    return calendar.latest(after, instant, 2)[0]
