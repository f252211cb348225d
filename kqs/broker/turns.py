"""Fair turns between types, in proportion to weights. Pure; nobody's turn is kept for him while he has nothing to do.

Stride scheduling: each type stands at a point of virtual time and moves on by 1/weight with each grant; the one that is
furthest behind goes next. A type that had nothing waiting rejoins at the present, so idleness saves up no credit, and
one that keeps emptying keeps its debt. Between two grants of a type that always has work, any other gets at most its
own weight over that type's, and one more.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

#: what a grant costs a type of weight 1: a whole number, so that no fraction is lost, which large weights still divide finely
_STRIDE = 2**32
_MAX_REMEMBERED = 10_000  # types in debt; clients may invent them without end


class Turns:
    """Remembers who had how much. Call from one thread."""

    def __init__(self) -> None:
        self._now = 0
        self._debts: dict[str, int] = {}

    def share(self, waiting: Mapping[str, int], weights: Mapping[str, int], count: int) -> dict[str, int]:
        """Return how many of `count` grants each type gets, in the order of their first: min(count, all waiting) in all.

        Args: waiting: how many entries each type could take, >= 1. weights: >= 1 for each of those types, at least.
        """
        now, debts = self._now, self._debts
        line = [(max(debts.get(type_, 0), now), type_) for type_ in waiting]
        heapq.heapify(line)
        shares: dict[str, int] = {}
        while line and count:
            now, type_ = line[0]
            count -= 1
            shares[type_] = taken = shares.get(type_, 0) + 1
            debts[type_] = later = now + _STRIDE // weights[type_]
            if taken < waiting[type_]:
                heapq.heapreplace(line, (later, type_))
            else:
                heapq.heappop(line)
        self._now = now
        if len(debts) > _MAX_REMEMBERED:
            self._forget()
        return shares

    def _forget(self) -> None:
        """Drop the debts that are paid, which changes nothing; if too many are left, drop them all."""
        self._debts = {type_: debt for type_, debt in self._debts.items() if debt > self._now}
        if len(self._debts) > _MAX_REMEMBERED // 2:
            self._debts.clear()
