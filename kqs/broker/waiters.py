"""Whoever waits until entries of some types may be ready. Call from the loop thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection


class Waiters:
    """Each is woken once, with every other that waits for the same type: who comes too late waits again."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], frozenset[str]] = {}
        self._closed: dict[asyncio.Future[None], frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def types(self) -> set[str]:
        """Return the types that somebody waits for."""
        return set().union(*self._waiting.values())

    async def wait(self, types: frozenset[str], *others: asyncio.Future[None], closed: frozenset[str] = frozenset()) -> None:
        """Return when woken for one of these types, or when one of the others is done.

        closed: types of which it is told as well when they open.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = types
        if closed:
            self._closed[waiter] = closed
        try:
            if others:
                await asyncio.wait([*others, waiter], return_when=asyncio.FIRST_COMPLETED)
            else:
                await waiter
        finally:
            del self._waiting[waiter]
            self._closed.pop(waiter, None)

    def wake(self, types: Collection[str]) -> None:
        """Wake those who wait for one of these types."""
        self.wake_where(lambda wanted: not wanted.isdisjoint(types))

    def wake_where(self, is_due: Callable[[frozenset[str]], bool]) -> None:
        """Wake those for whose types something is due."""
        for waiter, types in self._waiting.items():
            if not waiter.done() and is_due(types):
                waiter.set_result(None)

    def open(self, types: Collection[str] | None) -> None:
        """Wake those who wait for one of these types, or that it opens; None: everybody."""
        if types is None:
            self.wake_all()
            return
        self.wake(types)
        for waiter, closed in self._closed.items():
            if not waiter.done() and not closed.isdisjoint(types):
                waiter.set_result(None)

    def wake_all(self) -> None:
        """Wake everybody."""
        self.wake_where(lambda types: True)
