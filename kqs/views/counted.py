"""How many jobs there are of which types, in which states, summed up once for all who ask at a time.

However many types there are, the loop is not held.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterator
from heapq import merge
from itertools import islice

from kqs.states import State, waiting_count

#: types that are summed up in one turn of the loop, about 2 ms
TYPES_AT_ONCE = 2000

Counts = dict[str, dict[State, int]]


class Counted:
    """What the store holds. Whoever has one has a row for each type: keep it over no `await`."""

    def __init__(self, counts: Counts) -> None:
        """Args: counts: {type: {state: how many}}. Only `summed` makes one with its sums."""
        self.counts = counts
        self.totals = dict.fromkeys(State, 0)
        self.unhandled: dict[str, int] = {}  # of types that nobody takes here, how many wait
        self._names: list[list[str]] = []  # runs of names, each by itself in order

    @classmethod
    async def summed(cls, counts: Counts, is_handled: Callable[[str], bool]) -> Counted:
        """Return what these counts say."""
        counted, rows = cls(counts), iter(counts.items())
        while some := list(islice(rows, TYPES_AT_ONCE)):
            for type_, states in some:
                for state, n in states.items():
                    counted.totals[state] += n
                if (n := waiting_count(states)) and not is_handled(type_):
                    counted.unhandled[type_] = n
            counted._names.append(sorted(type_ for type_, _ in some))
            await asyncio.sleep(0)
        return counted

    def after(self, name: str) -> Iterator[str]:
        """Yield the types that come after this one, by name."""
        return merge(*(islice(names, bisect_right(names, name), None) for names in self._names))
