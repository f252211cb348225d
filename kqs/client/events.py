"""What happens to jobs, as a client hears it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from kqs.client.standing import Standing
from kqs.client.values import decoded

if TYPE_CHECKING:
    from kqs.client.inflight import InFlight

#: events that are kept for whoever is slower than they come
MOST_KEPT = 10_000


class _Skipped(msgspec.Struct):
    skipped: int = 0


_decode_skipped = msgspec.json.Decoder(_Skipped).decode
_encode = msgspec.json.Encoder().encode


class Events(Standing):
    """A call of `events`: `async with client.events(...) as events`, and then `async for event in events`.

    Iteration ends when the server stops. It raises ConnectionLostError when the connection was lost: what happened since is not
    told any more, and whoever wants to hear more asks again. Whoever is slow is told how many events were skipped.
    """

    _call = "events"
    _where = "events are taken within `async with client.events(...) as events`"

    def __init__(self, calls: InFlight, arg: bytes) -> None:
        """See Standing."""
        super().__init__(calls, arg)
        self._events: deque[msgspec.Raw] = deque()
        self._skipped = 0  # since the last of these

    async def __anext__(self) -> dict[str, Any]:
        event: dict[str, Any] = decoded(await self.take())
        return event

    async def take(self) -> msgspec.Raw:
        """Return the next event as JSON. Raises: StopAsyncIteration, ConnectionLostError, CallError: as iteration."""
        await self._wait(lambda: self._events or self._skipped)
        if self._events:
            return self._events.popleft()
        skipped, self._skipped = self._skipped, 0
        return msgspec.Raw(_encode(_Skipped(skipped)))

    def _let_go(self) -> None:
        self._events.clear()
        self._skipped = 0

    def _take(self, stay: int, event: msgspec.Raw) -> None:
        if stay != self._stay:
            return  # it was left, and this was on its way
        if self._skipped or len(self._events) >= MOST_KEPT:  # in order, until all before was taken
            self._skipped += _decode_skipped(event).skipped or 1
        else:
            self._events.append(event.copy())
        self._changed.set()
