"""One connection to a server: the thin asyncio shell around `AnswerReader`. Call from the loop thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Protocol, cast

import msgspec

from kqs.client.address import Address
from kqs.keepalive import notice_vanished
from kqs.process import forks
from kqs.reasons import reason_of
from kqs.wire.calling import Answer, AnswerReader

#: how long the other side may take to read what is left, in s
_CLOSE_S = 1.0


class AnyLink(Protocol):
    """A connection as the client uses it. lost: done when it is gone, of which `on_lost` is told."""

    lost: asyncio.Future[None]

    def send(self, line: bytes) -> None:
        """Send a line, with the others of this tick."""
        ...

    async def close(self) -> None:
        """Send what is left and close."""
        ...

    def abort(self, reason: str) -> None:
        """Drop the connection; `on_lost` is told `reason`."""
        ...


#: makes a connection: told where to, who hears the answers, and who is told once, with the reason, that it is gone
OpenLink = Callable[[Address, Callable[[Answer], None], Callable[[str], None]], Awaitable[AnyLink]]


class Link(asyncio.Protocol):
    """Writes what gathered in one tick at once, and holds it back while the server does not read."""

    def __init__(self, on_answer: Callable[[Answer], None], on_lost: Callable[[str], None]) -> None:
        """Args: on_lost: told once, with the reason, when the connection is gone."""
        self._loop = asyncio.get_running_loop()
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._reader = AnswerReader()
        self._out: list[bytes] = []
        self._paused = False
        self._reason = "the server closed the connection"
        self._transport: asyncio.Transport
        self._identity: forks.Identity
        self.lost: asyncio.Future[None] = self._loop.create_future()

    @classmethod
    async def open(cls, address: Address, on_answer: Callable[[Answer], None], on_lost: Callable[[str], None]) -> Link:
        """Connect. Raises: OSError."""
        loop = asyncio.get_running_loop()

        def link() -> Link:
            return cls(on_answer, on_lost)

        if address.socket:
            return (await loop.create_unix_connection(link, os.fspath(address.socket)))[1]
        return (await loop.create_connection(link, address.host, address.port))[1]

    def send(self, line: bytes) -> None:
        """Write `line` with the others of this tick."""
        if not self._out and not self._paused:
            self._loop.call_soon(self._flush)
        self._out.append(line)

    async def close(self) -> None:
        """Write what is left and close; a server that does not read it within a second is left alone."""
        self._flush()
        self._transport.close()
        try:
            async with asyncio.timeout(_CLOSE_S):
                await asyncio.shield(self.lost)
        except TimeoutError:
            self._transport.abort()

    def abort(self, reason: str) -> None:
        """Drop the connection; `on_lost` is told `reason`."""
        self._reason = reason
        self._transport.abort()

    def _flush(self) -> None:
        if self._out and not self._paused and not self._transport.is_closing():  # an aborted one refuses to be written to
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport, and its socket from processes that are forked off; notice a server that vanishes."""
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        notice_vanished(sock, must_take=True)
        self._identity = forks.own(sock.fileno())

    def data_received(self, data: bytes) -> None:
        """Hand on the answers that are complete."""
        try:
            for answer in self._reader.receive_data(data):
                self._on_answer(answer)
        except msgspec.MsgspecError as exc:
            self.abort(f"the server sent what is no answer: {exc}")

    def pause_writing(self) -> None:
        """Hold lines back."""
        self._paused = True

    def resume_writing(self) -> None:
        """Write what was held back."""
        self._paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell why."""
        forks.disown(self._identity)
        self.lost.set_result(None)
        self._on_lost(str(exc) if exc else self._reason)


def why_unreachable(error: OSError | UnicodeError) -> str:
    """Return in words why a server could not be connected to."""
    if isinstance(error, UnicodeError):  # resolving encodes it, and lets that through
        return "this is no name of a host"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return reason_of(error)
