"""The store as a broker sees it: ready jobs by type, in rank order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from kqs.broker.memory import MemoryBroker
from kqs.errors import StoreUnavailableError
from kqs.job import Entry


def an_entry(order: int, type_: str = "mail", prio: int = 10_000) -> Entry:
    return Entry(order, f"id-{order}", type_, prio)


def orders(entries: Iterable[Entry]) -> list[int]:
    return [entry.order for entry in entries]


def held_count(broker: MemoryBroker) -> int:
    """Return how many entries are held in memory."""
    return sum(len(line.waiting) for line in broker._lines.values())


class ReadyJobs:
    """Holds every ready job; `asked` are the refills it was asked for. Set `fault` to have it refuse."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: dict[int, Entry] = {entry.order: entry for entry in entries}
        self.asked: list[tuple[str, tuple[int, int] | None, int]] = []
        self.fault: Exception | None = None

    def add(self, *entries: Entry) -> list[Entry]:
        self.entries.update((entry.order, entry) for entry in entries)
        return list(entries)

    def claim(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            del self.entries[entry.order]

    @property
    def waiting(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for entry in self.entries.values():
            counts[entry.type] = counts.get(entry.type, 0) + 1
        return counts

    def find(self, type_: str, after: tuple[int, int] | None, limit: int) -> list[Entry]:
        ready = (e for e in self.entries.values() if e.type == type_ and (after is None or e.rank > after))
        return sorted(ready, key=lambda entry: entry.rank)[:limit]

    async def refill(self, type_: str, after: tuple[int, int] | None, limit: int) -> list[Entry]:
        self.asked.append((type_, after, limit))
        if self.fault is not None:
            raise self.fault
        return self.find(type_, after, limit)


class SlowStore(ReadyJobs):
    """A refill first sees the store (`look`), some time after it was asked, and is answered later still (`answer`)."""

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[tuple[str, tuple[int, int] | None, int, asyncio.Future[list[Entry]]]] = []
        self.answers: list[tuple[asyncio.Future[list[Entry]], list[Entry]]] = []

    async def refill(self, type_: str, after: tuple[int, int] | None, limit: int) -> list[Entry]:
        answer: asyncio.Future[list[Entry]] = asyncio.get_running_loop().create_future()
        self.questions.append((type_, after, limit, answer))
        return await answer

    def look(self) -> None:
        type_, after, limit, answer = self.questions.pop(0)
        self.answers.append((answer, self.find(type_, after, limit)))

    def answer(self) -> None:
        answer, found = self.answers.pop(0)
        answer.set_result(found)

    def refuse(self) -> None:
        self.questions.pop(0)[3].set_exception(StoreUnavailableError("locked"))
