"""The waiting entries of one type: in rank order, bounded, and honest about what they leave out. No asyncio.

Invariant: every entry that was offered and not taken, of rank <= `horizon`, is in here; those beyond it are only in the
store. A `horizon` of `WHOLE` means that nothing was left out.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Set
from itertools import count
from operator import attrgetter

from kqs.job import Entry

Rank = tuple[int, int]

NOTHING: Rank = (-1, -1)  # before every rank
WHOLE: Rank = (2**63, 0)  # after every rank

_ties = count()


class Waiting:
    """Entries of one type. Those that arrive in rank order, as nearly all do, stand in a deque; the others in a heap."""

    __slots__ = ("_fifo", "_heap", "_last", "_max_entries", "horizon")

    def __init__(self, max_entries: int, horizon: Rank) -> None:
        """Args: max_entries: kept; up to twice as many are let in before the worst are dropped. horizon: see the module."""
        self._max_entries = max_entries
        self._fifo: deque[Entry] = deque()
        self._last = NOTHING  # rank of the fifo's end
        self._heap: list[tuple[int, int, int, Entry]] = []
        self.horizon = horizon

    def __len__(self) -> int:
        return len(self._fifo) + len(self._heap)

    @property
    def is_partial(self) -> bool:
        """Tell whether the store may hold ready entries that are not in here."""
        return self.horizon is not WHOLE

    def add(self, entries: Iterable[Entry]) -> None:
        """Take in what lies within the horizon; the rest is dropped.

        When it gets too much, the worst are dropped too, and the horizon sinks.
        """
        fifo, last, horizon = self._fifo, self._last, self.horizon
        for entry in entries:
            rank = (entry.prio, entry.order)
            if rank > horizon:
                continue
            if rank >= last:
                fifo.append(entry)
                last = rank
            else:
                heapq.heappush(self._heap, (*rank, next(_ties), entry))
        self._last = last
        if len(fifo) + len(self._heap) > 2 * self._max_entries:
            self._evict()

    def take(self, count: int) -> list[Entry]:
        """Take out the first `count` entries, or as many as there are, in rank order."""
        fifo, heap = self._fifo, self._heap
        if heap:
            taken = [self._take_one() for _ in range(min(count, len(self)))]
        elif count < len(fifo):
            return [fifo.popleft() for _ in range(count)]
        else:
            taken = list(fifo)
            fifo.clear()
        if not fifo:
            self._last = NOTHING
        return taken

    def drop(self, ids: Set[str]) -> None:
        """Forget the entries of these jobs."""
        if not self:
            return
        self._fifo = deque([entry for entry in self._fifo if entry.id not in ids])
        self._last = self._fifo[-1].rank if self._fifo else NOTHING
        if self._heap:
            self._heap = [item for item in self._heap if item[3].id not in ids]
            heapq.heapify(self._heap)

    def _take_one(self) -> Entry:
        fifo, heap = self._fifo, self._heap
        if not heap or (fifo and (fifo[0].prio, fifo[0].order) <= heap[0][:2]):
            return fifo.popleft()
        return heapq.heappop(heap)[3]

    def _evict(self) -> None:
        entries = sorted([*self._fifo, *(item[3] for item in self._heap)], key=attrgetter("rank"))
        kept = entries[: self._max_entries]
        self._heap.clear()
        self._fifo = deque(kept)
        self._last = self.horizon = kept[-1].rank
