"""Stands between a store and its MongoDB: counts what passes, loses answers, cuts the line."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

from tests.support.serving import free_port

#: what drivers say by themselves, to see who is there
_HELLOS = frozenset({"hello", "ismaster", "isMaster", "ping", "endSessions", "buildInfo"})
_HEADER_BYTES = 16


class MongoProxy:
    """Listens on a port of its own for one server.

    commands: how often each command passed, one round trip each; sent_bytes, answered_bytes: with their headers.
    """

    def __init__(self, uri: str) -> None:
        self._uri = urlsplit(uri)
        self._server: asyncio.Server | None = None
        self._port = free_port()
        self._writers: set[asyncio.StreamWriter] = set()
        self._lost: tuple[str, str] | None = None
        self._passed_bytes = 0
        self._left: int | None = None
        self._is_last_done = False
        self._meanwhile: dict[int, Callable[[], Awaitable[object]]] = {}  # by how many commands have passed
        self._met = 0
        self.commands: Counter[str] = Counter()
        self.sent_bytes = 0
        self.answered_bytes = 0

    @property
    def uri(self) -> str:
        return self.uri_of(3000)

    def uri_of(self, within_ms: int) -> str:
        """Return the address for a driver that gives up on a server after so long."""
        return self._uri._replace(netloc=f"127.0.0.1:{self._port}").geturl() + f"?serverSelectionTimeoutMS={within_ms}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self._port)

    async def cut(self) -> None:
        """Close every connection and refuse new ones, until started again."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    def lose_answer(self, command: str | None, after_bytes: int = 0) -> None:
        """Let the next such command on `jobs` reach the server, and close the connection amid its answer. None: none."""
        self._lost = None if command is None else (command, "jobs")
        self._passed_bytes = after_bytes

    def die_after(self, commands: int, *, is_last_done: bool) -> None:
        """Pass so many more commands; then one whose answer is lost, if `is_last_done`, and nothing from there on."""
        self._left, self._is_last_done = commands, is_last_done

    def meanwhile(self, *deeds: tuple[int, Callable[[], Awaitable[object]]]) -> None:
        """Do each, once, when so many more commands have been answered, while the next waits; in their order."""
        self._met, self._meanwhile = 0, {}
        for after, do in deeds:
            self._meanwhile[after] = do if after not in self._meanwhile else _both(self._meanwhile[after], do)

    @property
    def is_interrupted(self) -> bool:
        """Tell whether all that is to be done `meanwhile` has been."""
        return not self._meanwhile

    @property
    def is_dead(self) -> bool:
        """Tell whether `die_after` has come to its end."""
        return self._left is not None and self._left < 0

    @property
    def has_lost_answer(self) -> bool:
        return self._lost is None

    def forget(self) -> None:
        self.commands.clear()
        self.sent_bytes = self.answered_bytes = 0

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)  # from now on `cut` closes it
        there = await asyncio.open_connection(self._uri.hostname, self._uri.port)
        ends = {writer, there[1]}
        self._writers |= ends
        answers = asyncio.ensure_future(self._bring_answers(there[0], writer))
        with suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            await self._pass_calls(reader, writer, there, answers)
        answers.cancel()
        for end in ends:
            end.transport.abort()
        self._writers -= ends

    async def _pass_calls(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        answers: asyncio.Future[None],
    ) -> None:
        while True:
            size = await reader.readexactly(4)
            message = size + await reader.readexactly(int.from_bytes(size, "little") - 4)
            command, collection = _command(message)
            is_lost = (command, collection) == self._lost
            if is_lost:
                self._lost = None
                answers.cancel()
                await asyncio.gather(answers, return_exceptions=True)
            elif command not in _HELLOS:
                if (do := self._meanwhile.pop(self._met, None)) is not None:
                    await do()
                self._met += 1
                if self._left is not None:
                    self._left -= 1
                    if self._left == -1 and self._is_last_done:
                        answers.cancel()
                        server[1].write(message)
                        await server[1].drain()
                        await server[0].readexactly(1)
                    if self._left < 0:
                        return
                self.commands[command] += 1
                self.sent_bytes += len(message)
            server[1].write(message)
            await server[1].drain()
            if is_lost:
                await self._cut_answer(server[0], writer)
                return

    async def _cut_answer(self, server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on the beginning of an answer, but never the whole of it."""
        size = await server.readexactly(4)
        answer = size + await server.readexactly(int.from_bytes(size, "little") - 4)
        writer.write(answer[: min(self._passed_bytes, len(answer) - 1)])
        await writer.drain()

    async def _bring_answers(self, server: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            while data := await server.read(65536):
                self.answered_bytes += len(data)
                writer.write(data)
                await writer.drain()
            writer.transport.abort()


def _both(first: Callable[[], Awaitable[object]], second: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    async def do() -> None:
        await first()
        await second()

    return do


def _command(message: bytes) -> tuple[str, str]:
    """Return an OP_MSG's command and its collection: the first element of the document after header, flags and kind."""
    start = _HEADER_BYTES + 4 + 1 + 4 + 1
    end = message.index(0, start)
    value = message[end + 1 + 4 : message.find(0, end + 1 + 4)]
    return message[start:end].decode(errors="replace"), value.decode(errors="replace")
