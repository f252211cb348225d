"""A TCP proxy that spoils what a server answers, in the ways that networks and strangers do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from tests.support.serving import free_port

#: given the bytes of a server's answer, what to pass on
Spoil = Callable[[bytes], bytes]


def untouched(data: bytes) -> bytes:
    return data


class FaultProxy:
    """`async with FaultProxy(port)`. Set `spoil` for what is answered from then on, `pace_s` to pass on bytes one by one, or
    `delay_s` to have every answer come so much later, as over a long way.

    cut_after: how many bytes of answers are passed on, over all connections, before the one that has more is closed.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.spoil: Spoil = untouched
        self.pace_s = 0.0
        self.delay_s = 0.0
        self.cut_after: int | None = None
        self.is_half_open = False  # whatever comes from either side is swallowed
        self.connection_count = 0
        self.port = free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> FaultProxy:
        await self.listen()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.refuse()

    async def listen(self) -> None:
        """Take connections, again on the same port after `refuse`."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def refuse(self) -> None:
        """Drop every connection, and take no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.drop()
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def drop(self) -> None:
        """Drop every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connection_count += 1
        self._writers.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.transport.abort()
        else:
            self._writers.add(far_writer)
            up = asyncio.create_task(self._pass_on(reader, far_writer, untouched_by=True))
            down = asyncio.create_task(self._pass_on(far_reader, writer, untouched_by=False))
            try:
                await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                pass  # asyncio's streams report a cancelled callback as an error
            finally:
                for side in (up, down):
                    side.cancel()
                await asyncio.gather(up, down, return_exceptions=True)
                far_writer.transport.abort()
                self._writers.discard(far_writer)
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, untouched_by: bool) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.is_half_open:
                    continue
                if untouched_by:
                    await self._write(writer, data, 0.0)
                    continue
                passed = self.spoil(data)
                if self.delay_s:
                    asyncio.get_running_loop().call_later(self.delay_s, self._write_late, writer, passed)
                    continue
                await self._write(writer, passed[: self.cut_after], self.pace_s)
                if self.cut_after is not None:
                    if self.cut_after < len(passed):
                        return
                    self.cut_after -= len(passed)

    @staticmethod
    def _write_late(writer: asyncio.StreamWriter, data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data)

    @staticmethod
    async def _write(writer: asyncio.StreamWriter, data: bytes, pace_s: float) -> None:
        if not pace_s:
            writer.write(data)
            return await writer.drain()
        for place in range(len(data)):
            writer.write(data[place : place + 1])
            await asyncio.sleep(pace_s)
        return None


def garbage(_data: bytes) -> bytes:
    return b"\x00\xff HTTP/1.1 418\r\n\r\n" * 8


def doubled(data: bytes) -> bytes:
    """Every answer twice."""
    return data + data


def first_line_last(data: bytes) -> bytes:
    """Answers in the wrong order, where several come at once."""
    head, newline, rest = data.partition(b"\r\n")
    return rest + head + newline
