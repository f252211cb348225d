"""Jobs that are reserved and that nobody has been given yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from kqs.job import Entry

#: how long a job may lie here, in s, before it is given back for others to take
HOLD_S = 1.0


class Hand:
    """By type, in the order they came, or by rank. Times are the loop's."""

    def __init__(self, *, sorts: bool) -> None:
        """Args: sorts: by rank, since they come from several servers."""
        self._sorts = sorts
        self._held: dict[str, deque[tuple[Entry, float]]] = {}

    def __contains__(self, type_: object) -> bool:
        return type_ in self._held

    def add(self, entry: Entry, now: float) -> None:
        """Lay a job by."""
        self._held.setdefault(entry.type, deque()).append((entry, now))

    def count(self, types: Collection[str], most_of: Callable[[str], int] | None = None) -> int:
        """Return how many jobs of these types lie here. most_of: how many of a type count, at most."""
        if most_of is not None:
            return sum(min(len(held), most_of(type_)) for type_, held in self._held.items() if type_ in types)
        return sum(len(held) for type_, held in self._held.items() if type_ in types)

    def take(self, types: Collection[str], count: int, most_of: Callable[[str], int] | None = None) -> list[Entry]:
        """Take out up to `count` jobs of these types, and of each as many as `most_of` says."""
        taken: list[Entry] = []
        for type_ in [type_ for type_ in self._held if type_ in types]:
            held = self._held[type_]
            if self._sorts and len(held) > 1:
                held = self._held[type_] = deque(sorted(held, key=lambda item: item[0].rank))
            most = len(held) if most_of is None else min(len(held), most_of(type_))
            taken += [held.popleft()[0] for _ in range(min(most, count - len(taken)))]
            if not held:
                del self._held[type_]
        return taken

    def take_stale(self, now: float) -> list[Entry]:
        """Take out the jobs that have lain here for too long."""
        stale: list[Entry] = []
        for type_, held in list(self._held.items()):
            stale += [entry for entry, at in held if at + HOLD_S <= now]
            self._held[type_] = deque(item for item in held if item[1] + HOLD_S > now)
            if not self._held[type_]:
                del self._held[type_]
        return stale
