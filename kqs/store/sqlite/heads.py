"""What is known of the heads of lines: who comes first of a group, so that a look need not search for it. Pure.

A claimed job leaves its line late, several at once (kqs.store.sqlite.groups); known heads spare a look the steps over those
that have gone. It is a bounded memory, of which anything may be forgotten at any time. Invariant: whoever is ready, and stands
in the line up to where the head ends, is in the head; whatever brings somebody there says so, by `came` or `returned`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from kqs.job import Accepted

#: jobs read ahead of a group. As many leave its line at once, so each has a sixteenth of the page that is written for them
AHEAD = 16
#: groups of which it is known, all types together: some 18 MB. Those beyond that are looked up in the line, each time
MOST_GROUPS = 16_384
#: after so many heads that there was no room for, for each that there is, room is made: those that are known may have no turns
_MOST_REFUSED = 16
#: returned jobs that are remembered, until the next look asks for their groups
_MOST_RETURNED = 10_000


class Claimed(Protocol):
    """What must be known of a job that is claimed."""

    @property
    def order(self) -> int:
        """Return its order."""
        ...

    @property
    def type(self) -> str:
        """Return its type."""
        ...

    @property
    def group(self) -> str | None:
        """Return its group, if it has one."""
        ...


class Head:
    """The first jobs of a line. orders, ranks: of each its order and priority, the first one last.

    rank, last: priority and order of where it ends. is_all: nobody stands behind that.
    """

    __slots__ = ("is_all", "last", "orders", "rank", "ranks")

    def __init__(self) -> None:
        self.orders: list[int] = []
        self.ranks: list[int] = []
        self.rank = self.last = -1
        self.is_all = False

    @property
    def is_over(self) -> bool:
        """Tell whether nobody is left in the line."""
        return self.is_all and not self.orders

    @property
    def gone(self) -> tuple[int, int]:
        """Return up to which priority and order all have gone."""
        return (self.ranks[-1], self.orders[-1] - 1) if self.orders else (self.rank, self.last)

    def first(self, count: int, passed: Collection[int]) -> list[int]:
        """Return so many of the first that are not passed, and those passed that stand before them."""
        if not passed:
            return self.orders[: -count - 1 : -1]
        found: list[int] = []
        for order in reversed(self.orders):
            found.append(order)
            count -= order not in passed
            if not count:
                break
        return found

    def lacks(self, count: int, passed: Collection[int]) -> bool:
        """Tell whether more must be read for so many that are not passed."""
        if self.is_all:
            return False
        here = self.orders if not passed else [order for order in self.orders if order not in passed]
        return len(here) < count

    def go_on(self, found: Sequence[tuple[int, int]], is_all: bool) -> None:
        """Take in who stands behind, by priority and order, and whether these are all."""
        if found:
            same = {rank: rank for rank, _ in found}  # one object for each, not one for each job
            self.rank, self.last = found[-1]
            self.orders[:0] = [order for _, order in reversed(found)]
            self.ranks[:0] = [same[rank] for rank, _ in reversed(found)]
        self.is_all = is_all

    def take(self, order: int) -> None:
        """Take in that a job is claimed. One that is not the first is found gone later."""
        if self.orders and self.orders[-1] == order:
            self.orders.pop()
            self.ranks.pop()

    def drop(self, gone: Collection[int]) -> None:
        """Take in that some are not ready any more."""
        left = [(order, rank) for order, rank in zip(self.orders, self.ranks, strict=True) if order not in gone]
        self.orders = [order for order, _ in left]
        self.ranks = [rank for _, rank in left]


class Heads:
    """The heads that are known, by type and group."""

    def __init__(self, most: int = MOST_GROUPS, ahead: int = AHEAD) -> None:
        """Args: most: so many are known at a time. ahead: so many jobs of each are, at least, where there are."""
        self.ahead = ahead
        self._most = most
        self._of: dict[str, dict[str, Head]] = {}
        self._count = self._refused = 0
        self._returned: set[int] = set()
        self._over: dict[str, set[str]] = {}

    def clear(self) -> None:
        """Forget all."""
        self._of.clear()
        self._count = self._refused = 0
        self._returned.clear()
        self._over.clear()

    def of(self, type_: str, names: Iterable[str]) -> tuple[dict[str, Head], set[str]]:
        """Return the heads of these groups, and the names of those that will not be known later."""
        known = self._of.setdefault(type_, {})
        heads: dict[str, Head] = {}
        strange: set[str] = set()
        for name in names:
            head = known.get(name)
            if head is None:
                head = Head()
                if self._count < self._most:
                    known[name] = head
                    self._count += 1
                else:
                    strange.add(name)
            heads[name] = head
        self._refused += len(strange)
        if self._refused > _MOST_REFUSED * self._most:
            self.clear()
            return heads, {*heads}
        return heads, strange

    def forget(self, type_: str, name: str) -> None:
        """Forget a group. Idempotent."""
        if self._of.get(type_, {}).pop(name, None) is not None:
            self._count -= 1

    def taken(self, rows: Iterable[Claimed]) -> None:
        """Take in that jobs are claimed."""
        for row in rows:
            if row.group is None or (head := self._of.get(row.type, {}).get(row.group)) is None:
                continue
            head.take(row.order)
            if head.is_over:
                self._over.setdefault(row.type, set()).add(row.group)

    def came(self, jobs: Iterable[Accepted]) -> None:
        """Take in that new jobs stand in lines, or will."""
        if not self._count:
            return
        for job in jobs:
            if job.group is None or (head := self._of.get(job.type, {}).get(job.group)) is None:
                continue
            if (job.prio, job.order) > (head.rank, head.last):
                head.is_all = False
            else:
                self.forget(job.type, job.group)

    def returned(self, orders: Iterable[int]) -> None:
        """Take in that jobs are ready that were stored before, under these orders."""
        if self._count:
            self._returned.update(orders)
            if len(self._returned) > _MOST_RETURNED:
                self.clear()

    def take_returned(self) -> list[int]:
        """Return the orders of those that have returned, whose groups are to be forgotten; each once."""
        returned = [*self._returned]
        self._returned.clear()
        return returned

    def take_over(self, type_: str) -> list[tuple[str, int, int]]:
        """Return the groups of a type that nobody is left of, each once, with where their lines end: priority and order."""
        known, over = self._of.get(type_, {}), list[tuple[str, int, int]]()
        for name in sorted(self._over.pop(type_, ())):
            if (head := known.get(name)) is not None and head.is_over:
                over.append((name, *head.gone))
                self.forget(type_, name)
        return over
