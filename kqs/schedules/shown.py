"""How a schedule is shown to its owner."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from kqs.schedules.roster import Entry
from kqs.store.ticks import tick_of


def shown(entry: Entry, next_count: int, last_state: str | None) -> dict[str, Any]:
    """Return a schedule as `schedules` answers it.

    Args: next_count: how many of its next instants. last_state: of the job of its last tick; None: there is no record of it.
    """
    schedule, plan = entry.schedule, entry.schedule.plan
    return {
        "name": schedule.name,
        "cron": plan.cron,
        "every": plan.every,
        "from": plan.from_at,
        "tz": plan.tz,
        "catch_up": plan.catch_up,
        "overlap": plan.overlap,
        "job": Raw(plan.job.encode()),
        "origin": schedule.origin,
        "created_at": schedule.created_at,
        "suspended_at": schedule.suspended_at,
        "next": _next(entry, next_count),
        "last": _last(entry, last_state),
        "missed": schedule.missed,
        "skipped": schedule.skipped,
    }


def _next(entry: Entry, count: int) -> list[float]:
    found: list[float] = []
    at = entry.next_at()
    while at is not None and len(found) < count:
        found.append(at)
        assert entry.calendar is not None, "it has a next instant"
        at = entry.calendar.after(at)
    return found


def _last(entry: Entry, state: str | None) -> dict[str, Any] | None:
    schedule = entry.schedule
    if not schedule.tick_at:
        return None
    return {"at": schedule.tick_at, "id": tick_of(schedule.name, schedule.tick_at), "state": state}
