"""Jobs that an earlier boot claimed while they waited to be stored, as its journal tells: they may have begun."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class LostClaims:
    """Orders, as `ranges` that do not overlap, sorted: a job is claimed once in its journal."""

    def __init__(self, ranges: Iterable[range] = ()) -> None:
        self.ranges = sorted(ranges, key=lambda orders: orders.start)
        self._starts = [orders.start for orders in self.ranges]

    def __contains__(self, order: int) -> bool:
        index = bisect_right(self._starts, order) - 1
        return index >= 0 and order in self.ranges[index]
