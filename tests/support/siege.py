"""Clients that mean harm, in a process of their own: `python -m tests.support.siege PORT SECONDS KIND…`.

Each holds a connection or comes again, at a pace at which all of them together leave the machine's other core to the server.
What each of them got is not looked at: it is the others that must not notice.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

LINE_BYTES = 16 * 1024 * 1024
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close is a reset


def _filled(start: bytes, filling: bytes, end: bytes) -> bytes:
    """Return one line of the most bytes that a line may have."""
    return start + filling * ((LINE_BYTES - len(start) - len(end)) // len(filling)) + end + b"\n"


#: the worst lines of each kind, made when they are needed
WORST_LINES: dict[str, Callable[[], bytes]] = {
    "ones": lambda: _filled(b"[1", b",1", b"]"),
    "ones in an echo": lambda: _filled(b'{"n":"echo","m":[1', b",1", b"]}"),
    "ones in a job": lambda: _filled(b'{"n":"insert","m":{"type":"siege","keep":0,"expire":0.1,"data":[1', b",1", b"]}}"),
    "escapes": lambda: _filled(b'{"n":"echo","m":"', b"\\u0061", b'"}'),
    "escapes in JSON-RPC": lambda: _filled(b'{"jsonrpc":"2.0","id":1,"method":"echo","params":["', b"\\u0061", b'"]}'),
    "brackets": lambda: _filled(b"", b"[", b""),
    "brackets in an echo": lambda: _filled(b'{"n":"echo","m":', b"[", b"}"),
    "braces": lambda: _filled(b"", b'{"a":', b""),
    "a job with auth": lambda: _filled(b'{"n":"insert","m":{"auth":{"user":"x"},"type":"siege","nope":"', b"x", b'"}}'),
    "jobs with auth": lambda: _filled(
        b'{"n":"insert","m":[{"type":"siege","nope":1}', b',{"auth":{"user":"x"},"type":"siege"}', b"]}"
    ),
    "a million jobs": lambda: _filled(b'{"n":"insert","m":[{"type":"siege","nope":1}', b',{"type":"siege"}', b"]}"),
    "a number": lambda: _filled(b'{"n":"echo","m":', b"9", b"}"),
    "keys": lambda: _filled(b'{"n":"echo","m":1', b',"a":1', b"}"),
    "keys of a job": lambda: _filled(b'{"n":"insert","m":{"type":"siege"', b',"a":1', b"}}"),
    "many keys": lambda: b'{"n":"echo","m":{%b}}\n' % b",".join(b'"%d":%d' % (n, n) for n in range(900_000)),
    "blanks": lambda: _filled(b'{"n":"ping"', b" ", b"}"),
    "an id": lambda: _filled(b'{"n":"job","m":"', b"x", b'"}'),
    "a name": lambda: _filled(b'{"n":"', b"x", b'"}'),
    "a blob": lambda: _filled(b'{"n":"echo","b":"', b"QUFB", b'"}'),
    "no UTF-8": lambda: _filled(b'{"n":"echo","m":"', b"\xff", b'"}'),
    "too long": lambda: b"x" * (LINE_BYTES + 1000) + b"\n",
    "empty lines": lambda: b"\n" * 1_000_000,
    "bad lines": lambda: b"?\n" * 50_000,
    "a batch of calls": lambda: b"[%b]\n" % b",".join([b'{"jsonrpc":"2.0","id":1,"method":"help"}'] * 10_000),
    "a batch of no calls": lambda: b"[%b]\n" % b",".join([b"{}"] * 10_000),
}

DEAF_ASK = (
    b'{"n":"help"}\n' * 20_000,
    b'{"n":"echo","m":"%b"}\n' % (b"x" * 4000) * 200,
    b'{"n":"stats"}\n' * 20_000,
    b'{"n":"jobs","m":{"limit":1000}}\n' * 2000,
    b'{"n":"ping"}\n' * 50_000,
    b"?\n" * 50_000,
)
GREETINGS = (
    b'POST / HTTP/1.1\r\nHost: localhost\r\n\r\n{"n":"quit"}\n',
    b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{"n":"quit"}\n',
    b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n{"n":"quit"}\n',
)
HALVES = (b'{"n":"insert","m":{"type":"sie', b'{"n":"stats"}\n' * 100, b'{"n":"echo","m":"' + b"x" * 50_000)


class Siege:
    """All attackers of one process."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._random = random.Random(14151)
        self._long = asyncio.Semaphore(3)  # more at a time would turn each other away, and none be run

    async def run(self, seconds: float, kinds: list[str]) -> None:
        """Attack until the time is over. kinds: of the worst lines."""
        attacks = [
            *(self._again(3, self._never_read, one) for one in itertools.islice(itertools.cycle(DEAF_ASK), 500)),
            *(self._again(5, self._dribble) for _ in range(2000)),
            *(self._again(30, self._send_worst, one) for one in self._lines(kinds)),
            *(self._again(2, self._vanish) for _ in range(200)),
            *(self._again(1, self._greet, one) for one in GREETINGS * 5),
        ]
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*attacks)

    def _lines(self, kinds: list[str]) -> Iterator[bytes]:
        """Yield what 100 clients send: the lines are shared, since each is long."""
        lines = [WORST_LINES[kind]() for kind in kinds]
        return itertools.islice(itertools.cycle(lines), 100 if lines else 0)

    async def _again(self, pause_s: float, attack: Callable[..., Awaitable[None]], *args: bytes) -> None:
        """Attack on one connection after the other, after pauses of about `pause_s`."""
        while True:
            await asyncio.sleep(pause_s * self._random.uniform(0.1, 2))
            with socket.socket() as peer:
                peer.setblocking(False)
                with suppress(OSError):  # TimeoutError is one
                    await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", self._port))
                    await attack(peer, *args)

    async def _never_read(self, peer: socket.socket, ask: bytes) -> None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while True:
            await asyncio.get_running_loop().sock_sendall(peer, ask)

    async def _dribble(self, peer: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, b'{"n":"echo","m":"' + b"x" * self._random.choice((1, 1000, 60_000, 250_000)))
        while True:
            await asyncio.sleep(self._random.uniform(2, 20))
            await loop.sock_sendall(peer, b"x" * 10)

    async def _send_worst(self, peer: socket.socket, line: bytes) -> None:
        loop = asyncio.get_running_loop()
        async with self._long:
            await loop.sock_sendall(peer, line)
            await loop.sock_recv(peer, 1024 * 1024)
        async with asyncio.timeout(20):
            while await loop.sock_recv(peer, 1024 * 1024):
                pass

    async def _vanish(self, peer: socket.socket) -> None:
        await asyncio.get_running_loop().sock_sendall(peer, self._random.choice(HALVES))
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async def _greet(self, peer: socket.socket, greeting: bytes) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, greeting)
        await loop.sock_recv(peer, 1)


def main() -> None:
    """Attack as the command line says."""
    port, seconds, *kinds = sys.argv[1:]
    asyncio.run(Siege(int(port)).run(float(seconds), kinds))


if __name__ == "__main__":
    main()
