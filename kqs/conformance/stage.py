"""Where a program is tried: a port of loopback that it is told of, its process, and what comes of both, in order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Self, cast

from kqs.conformance.speech import Speech, in_pieces, turned_away
from kqs.wire.call import BadLine, Call

HOST = "127.0.0.1"
#: pieces of a line that is sent in pieces, and the time between two, in s: long enough for each to be read alone
_PIECES = 12
_PIECE_S = 0.01
#: how long the end of a killed program is waited for, in s
_KILL_WAIT_S = 5.0
#: how long its output is read after its end, in s
_LAST_WORDS_S = 1.0
#: what is kept of a program's last words
_LAST_WORDS_CHARS = 300


class Heard(NamedTuple):
    """A call or what is none. at: by `time.monotonic`."""

    peer: Peer
    call: Call | BadLine
    at: float


class Lost(NamedTuple):
    """A connection that is gone."""

    peer: Peer


class Printed(NamedTuple):
    """A line on the program's stdout."""

    line: str


class Ended(NamedTuple):
    """The end of the program. status: as subprocess has it, below 0 for a signal."""

    status: int


Happening = Heard | Lost | Printed | Ended


class Peer(asyncio.Protocol):
    """One connection of the program."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._speech = Speech()
        self._transport: asyncio.Transport
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it, or turn it away."""
        self._transport = cast("asyncio.Transport", transport)
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_open = True
        self._stage.take(self)

    def data_received(self, data: bytes) -> None:
        """Hand on what was said."""
        for call in self._speech.receive_data(data):
            self._stage.happened(Heard(self, call, time.monotonic()))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell of it."""
        self.is_open = False
        self._stage.peers.discard(self)
        self._stage.happened(Lost(self))

    def send(self, data: bytes) -> None:
        """Write, in one piece."""
        if data and self.is_open:
            self._transport.write(data)

    async def send_in_pieces(self, line: bytes) -> None:
        """Write a line so that it is read in pieces."""
        for piece in in_pieces(line, _PIECES):
            self.send(piece)
            await asyncio.sleep(_PIECE_S)

    def close(self) -> None:
        """Close, when all is written."""
        self._transport.close()


class Stage:
    """`async with Stage(command)`: listens; `start` runs the program. Call from one loop.

    within_s: how long anything is waited for. knocks: connections that were turned away.
    """

    def __init__(self, command: Sequence[str], within_s: float) -> None:
        self._command = command
        self.within_s = within_s
        self.peers: set[Peer] = set()
        self.knocks = 0
        self.is_shut = False
        self.status: int | None = None
        self.last_words = ""
        self._happenings: asyncio.Queue[Happening] = asyncio.Queue()
        self._process: asyncio.subprocess.Process | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(lambda: Peer(self), HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.kill()
        self._server.close()
        for peer in list(self.peers):
            peer.close()

    @property
    def is_running(self) -> bool:
        """Tell whether there is a program."""
        return self._process is not None and self.status is None

    @property
    def is_over(self) -> bool:
        """Tell whether the program has ended, and nothing of it is left to be heard."""
        return self.status is not None and self._happenings.empty()

    async def start(self) -> None:
        """Run the program. Raises: OSError: it cannot be."""
        self.status, self.last_words = None, ""
        places = {"{host}": HOST, "{port}": str(self.port)}
        command = [_filled(part, places) for part in self._command]
        self._process = await asyncio.create_subprocess_exec(
            *command,
            env=os.environ | {"KQS_SERVER": f"{HOST}:{self.port}"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._watching = [asyncio.create_task(self._watch(self._process), name="watch the program")]

    async def kill(self) -> None:
        """End the program and whatever it has started, and forget what came of it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await asyncio.wait(self._watching, timeout=_KILL_WAIT_S)
            for task in self._watching:
                task.cancel()
        for peer in list(self.peers):
            peer.close()
        await asyncio.sleep(0)
        self._process = None
        while not self._happenings.empty():
            self._happenings.get_nowait()

    def terminate(self) -> None:
        """Send the program SIGTERM."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def write(self, text: str) -> None:
        """Write to the program's stdin."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())

    def end_input(self) -> None:
        """Close the program's stdin."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()

    def take(self, peer: Peer) -> None:
        """Take a connection; while the door is shut it is turned away, with and without a word by turns."""
        if self.is_shut:
            self.knocks += 1
            peer.send(turned_away("busy") if self.knocks % 2 else b"")
            peer.close()
        else:
            self.peers.add(peer)

    def shut(self) -> None:
        """Drop every connection, and turn away what comes."""
        self.is_shut = True
        self.knocks = 0
        for peer in list(self.peers):
            peer.close()

    def happened(self, what: Happening) -> None:
        """Take in what happened."""
        self._happenings.put_nowait(what)

    async def next(self, deadline: float) -> Happening | None:
        """Return what happened next; None: nothing by the deadline, of `time.monotonic`."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await self._happenings.get()
        except TimeoutError:
            return None

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [
            asyncio.create_task(self._read(process.stdout), name="read its output"),
            asyncio.create_task(self._read_last_words(process.stderr), name="read its last words"),
        ]
        status = await process.wait()
        # whatever it has started may hold both open
        await asyncio.wait(readers, timeout=_LAST_WORDS_S)
        for reader in readers:
            reader.cancel()
        self.status = status
        self.happened(Ended(status))

    async def _read(self, stdout: asyncio.StreamReader) -> None:
        rest = b""
        while data := await stdout.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self.happened(Printed(line.decode(errors="replace")))

    async def _read_last_words(self, stderr: asyncio.StreamReader) -> None:
        while data := await stderr.read(65536):
            self.last_words = (self.last_words + data.decode(errors="replace"))[-_LAST_WORDS_CHARS:]


def _filled(part: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        part = part.replace(name, value)
    return part
