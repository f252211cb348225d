"""Servers as a supply sees them, in memory."""

from __future__ import annotations

from collections.abc import Sequence

from kqs.job import Entry


class JobsPool:
    """Satisfies kqs.broker.beanstalkd.supply.Place. history: orders in the sequence they were placed."""

    def __init__(self) -> None:
        self.held: dict[str, dict[int, Entry]] = {}
        self.history: list[int] = []
        self.is_closed = False
        self.forgot = False
        self.strangers = 0

    @property
    def takes_puts(self) -> bool:
        return not self.is_closed

    def place(self, type_: str, entries: Sequence[Entry]) -> bool:
        if self.is_closed:
            return False
        self.held.setdefault(type_, {}).update((entry.order, entry) for entry in entries)
        self.history += [entry.order for entry in entries]
        return True

    def count(self, type_: str) -> int:
        return len(self.held.get(type_, {}))

    def crowd(self, type_: str) -> int:
        return self.count(type_) + self.strangers

    def knows(self, type_: str, order: int) -> bool:
        return order in self.held.get(type_, {})

    def forget_idle_shelves(self) -> None:
        self.forgot = True

    def orders(self, type_: str) -> list[int]:
        return list(self.held.get(type_, {}))

    def lose(self, type_: str, *orders: int) -> None:
        for order in orders:
            del self.held[type_][order]

    def take(self, type_: str, count: int) -> list[Entry]:
        """Take out the foremost."""
        foremost = sorted(self.held.get(type_, {}).values(), key=lambda entry: entry.rank)[:count]
        self.lose(type_, *(entry.order for entry in foremost))
        return foremost
