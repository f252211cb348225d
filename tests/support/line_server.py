"""A server that says what a test wants: each line it gets is kept, and answered by a function or by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

from kqs.client import Address

Line = dict[str, Any]


class Peer(asyncio.Protocol):
    """One connection."""

    def __init__(self, server: LineServer) -> None:
        self._server = server
        self._rest = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._server.peers.append(self)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._server.reads.append(len(lines))
        for line in lines:
            self._server.take(self, json.loads(line))

    def send(self, line: Line) -> None:
        self.transport.write(json.dumps(line).encode() + b"\n")


class LineServer:
    """`async with LineServer(answer)`. answer: the result of a call, or None to say nothing; without it nothing is said.

    calls: (peer, line) as they came. reads: lines in each piece of data.
    """

    def __init__(self, answer: Callable[[Line], Any] | None = None, socket: str = "") -> None:
        self._answer = answer
        self._socket = socket
        self._arrived = asyncio.Condition()
        self.calls: list[tuple[Peer, Line]] = []
        self.reads: list[int] = []
        self.peers: list[Peer] = []
        self.address = Address()

    async def __aenter__(self) -> LineServer:
        await self.listen()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.stop()

    async def listen(self) -> None:
        """Listen, again on the same port after `stop`."""
        loop = asyncio.get_running_loop()
        if self._socket:
            self._server = await loop.create_unix_server(lambda: Peer(self), self._socket)
            self.address = Address(socket=self._socket)
            return
        port = 0 if self.address == Address() else self.address.port
        self._server = await loop.create_server(lambda: Peer(self), "127.0.0.1", port)
        self.address = Address("127.0.0.1", self._server.sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Stop listening and drop every connection."""
        self._server.close()
        self.drop()

    def drop(self) -> None:
        """Drop every connection."""
        for peer in self.peers:
            peer.transport.abort()
        self.peers.clear()

    def take(self, peer: Peer, line: Line) -> None:
        self.calls.append((peer, line))
        if self._answer is not None:
            result = self._answer(line)
            if isinstance(result, dict) and "e" in result:
                peer.send({"v": 1, "id": line["id"], **result, "s": "err"})
            elif result is not None:
                peer.send({"v": 1, "id": line["id"], "e": None, "s": "end", "m": result})
        asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self._arrived:
            self._arrived.notify_all()

    async def got(self, count: int) -> list[Line]:
        """Wait until `count` lines have come in all; return them."""
        async with asyncio.timeout(10), self._arrived:
            await self._arrived.wait_for(lambda: len(self.calls) >= count)
        return [line for _, line in self.calls]

    def answer(self, index: int, result: Any) -> None:
        """Answer the call that came as number `index`, from 0."""
        peer, line = self.calls[index]
        peer.send({"v": 1, "id": line["id"], "e": None, "s": "end", "m": result})
