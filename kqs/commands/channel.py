"""The way to one minder: an order out, its report back. Call from the loop thread."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from kqs.minding.frames import Ended, FrameReader, Kind, Order, Unstarted, decode_report, encode_order, encoded
from kqs.process import forks
from kqs.supervisor import Supervisor

#: a command that is to end, and what it has left, has so long before its minder is given up, in s: less than a handler that was
#: cancelled may take before it counts as deaf
END_WITHIN_S = 0.9
_READ_BYTES = 256 * 1024


class MinderLostError(OSError):
    """The minder has ended, or could not be made."""


def _to_nobody(_progress: bytes) -> None:
    return None


class Channel:
    """See the module docstring. is_free: the minder is there, and at nothing. pid: the minder's, once it is there."""

    def __init__(self, ours: socket.socket, supervisor: Supervisor) -> None:
        """Args: ours: our end, which is closed with this."""
        self._loop = asyncio.get_running_loop()
        self._supervisor = supervisor
        self._socket = ours
        self._number = ours.fileno()
        self._identity = forks.own(self._number)
        self._reader = FrameReader()
        self._unsent = memoryview(b"")
        self._waiter: asyncio.Future[tuple[int, bytes]] = self._loop.create_future()  # for the first word of the minder
        self._is_awaited = True  # a word is still to come
        self._is_lost = False
        self._on_progress: Callable[[bytes], None] = _to_nobody
        self.is_free = False
        self.pid = 0
        ours.setblocking(False)
        self._loop.add_reader(self._number, supervisor.guard, "commands", self._receive)

    async def meet(self) -> None:
        """Wait until the minder is there. Raises: OSError: it never will be, and this is closed."""
        try:
            kind, told = await self._waiter
            if kind != Kind.READY:
                failure = decode_report(kind, told)
                assert isinstance(failure, Unstarted)
                raise OSError(failure.errno, os.strerror(failure.errno))
        except BaseException:
            self.close()
            raise
        self.pid = int(told)
        self.is_free = not self._is_lost

    async def run(self, order: Order, on_progress: Callable[[bytes], None] = _to_nobody) -> Ended | Unstarted:
        """Have the minder do an order. Cancelled, it ends the command and returns when that is done, or after a while.

        on_progress: called with what the command says of it, before this returns.

        `is_stuck` tells then whether it was not done.
        Raises: MinderLostError: it has ended before it could report.
        """
        self.is_free = False
        if self._is_lost:
            raise MinderLostError("it has ended")
        self._waiter, self._is_awaited = self._loop.create_future(), True
        self._on_progress = on_progress
        self._send(encode_order(order))
        try:
            report = decode_report(*await self._waiter)
        except asyncio.CancelledError:
            await self._end()
            raise
        self.is_free = not self._is_lost
        return report

    def end(self) -> None:
        """Have the minder's child process drain; the second time, have it killed. `run` returns when it has ended."""
        if self.is_stuck:
            self._send(encoded(Kind.END))

    @property
    def is_stuck(self) -> bool:
        """Tell whether the minder still owes a report."""
        return self._is_awaited and not self._is_lost

    async def _end(self) -> None:
        if self.is_stuck:
            self._waiter = self._loop.create_future()
            self._send(encoded(Kind.END))
            await asyncio.wait([self._waiter], timeout=END_WITHIN_S)
        self.is_free = not (self._is_awaited or self._is_lost)

    def _send(self, frame: bytes) -> None:
        if self._unsent:  # of an order that is to end already
            self._unsent = memoryview(bytes(self._unsent) + frame)
            return
        self._unsent = memoryview(frame)
        self._flush()
        if self._unsent and not self._is_lost:
            self._loop.add_writer(self._number, self._supervisor.guard, "commands", self._write)

    def _write(self) -> None:
        self._flush()
        if not self._unsent and not self._is_lost:
            self._loop.remove_writer(self._number)

    def _flush(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        for frame in self._reader.receive_data(data):
            if frame[0] == Kind.PROGRESS:
                self._on_progress(frame[1])
                continue
            self._is_awaited = False
            if not self._waiter.done():
                self._waiter.set_result(frame)

    def close(self) -> None:
        """Cut the channel: the minder kills what it runs, and ends; who waits for it is told. Idempotent."""
        if self._is_lost:
            return
        self._is_lost = True
        self.is_free = False
        self._unsent = memoryview(b"")
        self._loop.remove_reader(self._number)
        self._loop.remove_writer(self._number)
        forks.disown(self._identity)
        self._socket.close()
        if not self._waiter.done():
            self._waiter.set_exception(MinderLostError("it was killed"))
            self._waiter.exception()  # who waited may have been cancelled
