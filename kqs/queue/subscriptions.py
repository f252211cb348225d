"""Which types have subscribers: those of the configuration, and such as are kept in the store, which is heard of from there.

Here an insert has a new subscriber's copy from the call's answer on; other servers of the store hear of it by looking
(neighbours.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from kqs.config import MAX_SUBSCRIBERS
from kqs.errors import CallError
from kqs.store.sayings import SayingsPort

#: types with stored subscribers: all are read at each look
MAX_TYPES = 1000


class Subscriptions:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, store: SayingsPort, configured: Mapping[str, Sequence[str]]) -> None:
        self._store = store
        self._configured = configured
        self._stored: Mapping[str, Sequence[str]] = {}
        self._turn = asyncio.Lock()
        #: the subscribers of each type that has some; whoever inserts looks here
        self.of: dict[str, list[str]] = {}
        self._tell()

    async def subscribe(self, type_: str, subscriber: str) -> bool:
        """Let `subscriber` have a copy of each job of a type that is inserted from now on. False: it has them already.

        Raises: CallError: it may not. StoreError: it may be so or not.
        """
        return await self._change(type_, subscriber, self._subscribe)

    async def unsubscribe(self, type_: str, subscriber: str) -> bool:
        """Let it have no more of them. False: it had none. Raises: as `subscribe`."""
        return await self._change(type_, subscriber, self._unsubscribe)

    async def look(self) -> None:
        """Take in what the store says. Raises: StoreError."""
        async with self._turn:
            await self._look()

    async def _change(self, type_: str, subscriber: str, change: Callable[[str, str], Coroutine[Any, Any, bool]]) -> bool:
        async with self._turn:
            await self._look()
            try:
                return await change(type_, subscriber)
            finally:
                await self._look()

    async def _subscribe(self, type_: str, subscriber: str) -> bool:
        subscribers = self.of.get(type_, [])
        if subscriber in subscribers:
            return False
        chained = subscriber if self.of.get(subscriber) or subscriber == type_ else None
        if chained is not None or any(type_ in others for others in self.of.values()):
            raise CallError(f"a subscriber has no subscribers itself: {chained or type_!r} would have some")
        if len(subscribers) >= MAX_SUBSCRIBERS or (type_ not in self._stored and len(self._stored) >= MAX_TYPES):
            raise CallError(f"at most {MAX_SUBSCRIBERS} subscribers of a type, and {MAX_TYPES} types, can be kept", "busy")
        return await self._store.subscribe(type_, subscriber)

    async def _unsubscribe(self, type_: str, subscriber: str) -> bool:
        if subscriber in self._configured.get(type_, ()):
            raise CallError(f"{subscriber!r} stands in the configuration, as fan_out of {type_!r}")
        return await self._store.unsubscribe(type_, subscriber)

    async def _look(self) -> None:
        self._stored = await self._store.subscriptions()
        self._tell()

    def _tell(self) -> None:
        types = {*self._configured, *self._stored}
        of = {type_: [*self._configured.get(type_, ()), *self._stored.get(type_, ())] for type_ in types}
        self.of.clear()
        self.of.update((type_, list(dict.fromkeys(subscribers))) for type_, subscribers in of.items() if subscribers)
