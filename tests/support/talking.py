"""A server in this process over an in-memory backend, on either event loop, and a peer that talks to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
import uvloop

from kqs.config import ServerSection
from kqs.server.server import Server
from tests.support.backend import MemoryBackend
from tests.support.supervising import StrictSupervisor

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
WITHIN_S = 20

T = TypeVar("T")


class Talk:
    """`run` lets the loop, and so the server, turn until a coroutine is done."""

    def __init__(self, runner: asyncio.Runner, server: Server, backend: MemoryBackend) -> None:
        self._runner = runner
        self.server = server
        self.backend = backend

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(asyncio.wait_for(work, WITHIN_S))

    def ask(self, *pieces: bytes) -> bytes:
        """Send `pieces`, end the input, and return all that comes back before the server closes."""
        return self.run(self._ask(pieces))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.server.addresses[0])

    async def _ask(self, pieces: tuple[bytes, ...]) -> bytes:
        reader, writer = await self.connect()
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            writer.write_eof()
            return await reader.read()
        finally:
            writer.close()


@contextmanager
def talking(loop: str = "uvloop", stop_s: float = 5.0, **settings: int | str) -> Iterator[Talk]:
    """Serve until the block ends. settings: of the [server] section."""
    section = msgspec.structs.replace(ServerSection(host="127.0.0.1", port=0), **settings)
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:

        async def start() -> Talk:
            backend = MemoryBackend(time.time)
            server = Server(section, backend, StrictSupervisor(), backend.request_stop, stop_s=stop_s)
            await server.start()
            return Talk(runner, server, backend)

        talk = runner.run(start())
        try:
            yield talk
        finally:
            runner.run(talk.server.stop())
