"""All schedules in memory, and which of them ticks next. Call from the loop thread."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from itertools import count

from kqs.schedules.calendar import Calendar
from kqs.schedules.plans import calendar_of
from kqs.store.ticks import Schedule
from kqs.trouble import TOLD_EVERY_S

#: entries that nothing stands behind any more, beyond as many as there are schedules, before the heap is made anew
_MOST_STALE = 1000


class Entry:
    """One schedule. It is replaced whenever what is said of it changes.

    journaled_at: the last instant that was inserted from here; the store may not have it yet. trouble: why it cannot tick.
    """

    __slots__ = ("_missed", "_skipped", "_told_at", "calendar", "journaled_at", "key", "schedule", "trouble")

    def __init__(self, schedule: Schedule, journaled_at: float) -> None:
        self.schedule = schedule
        self.journaled_at = journaled_at
        self.key = 0
        self._missed = self._skipped = 0  # which nobody was told of
        self._told_at = -math.inf
        self.trouble: str | None = None
        self.calendar: Calendar | None = None
        try:
            self.calendar = calendar_of(schedule)
        except ValueError as error:  # another server's, whose time zones or rules are not ours
            self.trouble = f"expected {error}"

    def take_untold(self, missed: int, skipped: int, now: float) -> tuple[int, int]:
        """Take in how many more instants went without a job; return how many to tell of, (0, 0): of none now.

        A line for each would fill a disk where every tick is skipped. Args: now: monotonic, in s.
        """
        self._missed += missed
        self._skipped += skipped
        if not (self._missed or self._skipped) or now - self._told_at < TOLD_EVERY_S:
            return 0, 0
        told = self._missed, self._skipped
        self._missed = self._skipped = 0
        self._told_at = now
        return told

    @property
    def passed_at(self) -> float:
        """Return up to where no instant is inserted any more, as far as is known here."""
        return max(self.schedule.since, self.ticked_at)

    @property
    def ticked_at(self) -> float:
        """Return the last instant about which anything was decided."""
        return max(self.schedule.passed_at, self.journaled_at)

    def next_at(self) -> float | None:
        """Return the instant of its next tick; None: there is none."""
        if self.calendar is None or self.schedule.suspended_at is not None:
            return None
        return self.calendar.after(self.passed_at)


class Roster:
    """See the module docstring."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._heap: list[tuple[float, int, Entry]] = []
        self._keys = count(1)
        self._names: list[str] | None = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def entries(self) -> list[Entry]:
        """Return all there are."""
        return list(self._entries.values())

    @property
    def names(self) -> list[str]:
        """Return the names of all, in order."""
        if self._names is None:
            self._names = sorted(self._entries)
        return self._names

    @property
    def next_at(self) -> float | None:
        """Return when the first of all is to be looked at; None: none is."""
        while self._heap and not self._is_current(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def get(self, name: str) -> Entry | None:
        """Return a schedule by its name."""
        return self._entries.get(name)

    def stands(self, entry: Entry) -> bool:
        """Tell whether nothing was changed about a schedule since, and it is not suspended."""
        return self._entries.get(entry.schedule.name) is entry and entry.schedule.suspended_at is None

    def put(self, schedule: Schedule, now: float) -> Entry:
        """Take in a schedule as it is kept. What was inserted from here is not forgotten, but for what a clock was ahead by."""
        old = self._entries.get(schedule.name)
        if old is None:
            self._names = None
        is_new = old is None or old.schedule.revision != schedule.revision
        journaled_at = 0.0 if old is None or (is_new and old.journaled_at > now) else old.journaled_at
        entry = self._entries[schedule.name] = Entry(schedule, journaled_at)
        self.plan(entry)
        return entry

    def refresh(self, schedule: Schedule, now: float) -> None:
        """Take in how far a schedule is, the same or another one by now."""
        entry = self._entries.get(schedule.name)
        if entry is None or _saying(entry.schedule) != _saying(schedule):
            self.put(schedule, now)
        else:
            entry.schedule = schedule

    def take_in(self, names: Iterable[str], found: Iterable[Schedule], now: float) -> None:
        """Take in what the store has found of these names: how far each schedule is, or that it is gone."""
        by_name = {schedule.name: schedule for schedule in found}
        for name in names:
            if name in by_name:
                self.refresh(by_name[name], now)
            else:
                self.remove(name)

    def remove(self, name: str) -> None:
        """Forget a schedule. Idempotent."""
        if self._entries.pop(name, None) is not None:
            self._names = None

    def plan(self, entry: Entry, at: float | None = None) -> None:
        """Have a schedule looked at when it ticks next, or at `at`. One that does not stand is passed over."""
        at = entry.next_at() if at is None else at
        if at is None or not self.stands(entry):
            return
        entry.key = next(self._keys)
        heapq.heappush(self._heap, (at, entry.key, entry))
        if len(self._heap) > 2 * len(self._entries) + _MOST_STALE:
            self._heap = [one for one in self._heap if self._is_current(one)]
            heapq.heapify(self._heap)

    def plan_all(self, at: float) -> None:
        """Have every schedule looked at by `at`, whatever was planned before; that costs less than to know when each ticks."""
        for entry in self._entries.values():
            self.plan(entry, at)

    def pop(self, now: float, most: int) -> list[Entry]:
        """Take up to `most` that are to be looked at by `now`; whoever has them plans them again."""
        found: list[Entry] = []
        while len(found) < most and (at := self.next_at) is not None and at <= now:
            found.append(heapq.heappop(self._heap)[2])
        return found

    def _is_current(self, planned: tuple[float, int, Entry]) -> bool:
        _, key, entry = planned
        return entry.key == key and self.stands(entry)


def _saying(schedule: Schedule) -> tuple[object, ...]:
    """Return what sets a schedule apart from one that ticks at other instants."""
    return (schedule.revision, schedule.since, schedule.suspended_at)
