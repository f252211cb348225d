"""How schedules are shown to their owner. However many of their instants are, the loop is not held."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import islice
from time import perf_counter
from typing import Any

from msgspec import Raw

from kqs.schedules.roster import Entry
from kqs.store.ticks import tick_of

#: what is done of it in one turn of the loop, in s, and one instant more: 0.1 ms for one of 29 February, 0.6 ms if that is
#: to be a given day of the week
SLICE_S = 0.005


async def shown(
    entries: Iterable[Entry], next_count: int, last_state: Callable[[Entry], Awaitable[str | None]]
) -> list[dict[str, Any]]:
    """Return schedules as `schedules` answers them.

    Args: next_count: how many of their next instants. last_state: returns the state of the job of a last tick; None: there is
    no record of it.
    """
    rows: list[dict[str, Any]] = []
    slice_ = _Slice()
    for entry in entries:
        instants: list[float] = []
        rows.append(_row(entry, instants, await last_state(entry)))
        await slice_.end()
        for at in islice(_instants(entry), next_count):
            instants.append(at)
            await slice_.end()
    return rows


class _Slice:
    """What is done in this turn of the loop."""

    def __init__(self) -> None:
        self._until = perf_counter() + SLICE_S

    async def end(self) -> None:
        """Leave the loop to others, if this has been long."""
        if perf_counter() >= self._until:
            await asyncio.sleep(0)
            self._until = perf_counter() + SLICE_S


def _row(entry: Entry, instants: list[float], last_state: str | None) -> dict[str, Any]:
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
        "next": instants,
        "last": _last(entry, last_state),
        "missed": schedule.missed,
        "skipped": schedule.skipped,
    }


def _instants(entry: Entry) -> Iterator[float]:
    at = entry.next_at()
    while at is not None:
        yield at
        assert entry.calendar is not None, "it has a next instant"
        at = entry.calendar.after(at)


def _last(entry: Entry, state: str | None) -> dict[str, Any] | None:
    schedule = entry.schedule
    if not schedule.tick_at:
        return None
    return {"at": schedule.tick_at, "id": tick_of(schedule.name, schedule.tick_at), "state": state}
