"""What happens to jobs, as a client hears it."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from kqs.errors import KqsError

if TYPE_CHECKING:
    from kqs.client.client import Client

#: events that are kept for whoever is slower than they come
MOST_KEPT = 10_000


class _Skipped(msgspec.Struct):
    skipped: int = 0


_decode = msgspec.json.Decoder().decode
_decode_skipped = msgspec.json.Decoder(_Skipped).decode
_encode = msgspec.json.Encoder().encode


class Events:
    """A call of `events`: `async with client.events(...) as events`, and then `async for event in events`.

    Iteration ends when the server stops. It raises ConnectionLostError when the connection was lost: what happened since is not
    told any more, and whoever wants to hear more asks again. Whoever is slow is told how many events were skipped.
    """

    def __init__(self, client: Client, arg: bytes) -> None:
        """Args: arg: of the call, as JSON."""
        self._client = client
        self._arg = arg
        self._events: deque[msgspec.Raw] = deque()
        self._skipped = 0  # since the last of these
        self._end: msgspec.Raw | KqsError | None = None
        self._changed = asyncio.Event()
        self._number: int | None = None

    async def __aenter__(self) -> Self:
        self._end = None
        self._number = self._client.stand("events", self._arg, self._ended, self._take)
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        if self._number is not None:
            self._client.withdraw(self._number)
            self._number = None
        self._events.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        event: dict[str, Any] = _decode(await self.take())
        return event

    async def take(self) -> msgspec.Raw:
        """Return the next event as JSON. Raises: StopAsyncIteration, ConnectionLostError, CallError: as iteration."""
        if self._number is None:
            raise RuntimeError("events are taken within `async with client.events(...) as events`")
        while not self._events:
            if self._skipped:
                skipped, self._skipped = self._skipped, 0
                return msgspec.Raw(_encode(_Skipped(skipped)))
            if isinstance(self._end, KqsError):
                raise self._end
            if self._end is not None:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._events.popleft()

    def _take(self, event: msgspec.Raw) -> None:
        if self._number is None:
            return  # it was left, and this was on its way
        if self._skipped or len(self._events) >= MOST_KEPT:  # in order, until all before was taken
            self._skipped += _decode_skipped(event).skipped or 1
        else:
            self._events.append(event.copy())
        self._changed.set()

    def _ended(self, end: msgspec.Raw | KqsError) -> None:
        self._end = end
        self._changed.set()
