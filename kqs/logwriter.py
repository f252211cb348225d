"""Writes log lines where somebody may not be reading: a thread of its own waits for the reader, and nobody else does.

What waits is bounded; lines beyond that are dropped, counted, and told of when the reader takes lines again. `write` may be
called from any thread, and from a signal handler. A forked child has no such thread, and the duplicate may be closed there: its
lines are written at once, to the original.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue

from kqs.newthread import new_thread

#: lines that wait for a reader, in bytes: the traces of some hundred faults, a hundredth of what a server is allowed
MAX_WAITING_BYTES = 1024 * 1024
#: longest line, in bytes; what a handler logs has no bound of its own
MAX_LINE_BYTES = 64 * 1024


class LineWriter:
    """See the module docstring. Owns a duplicate of the descriptor: closing or replacing the original changes nothing."""

    def __init__(self, descriptor: int, told: Callable[[int], str]) -> None:
        """Args: told: makes the line that says how many were dropped."""
        self._original = descriptor
        self.descriptor = os.dup(descriptor)
        self._told = told
        self._pid = os.getpid()
        self._lock = threading.RLock()  # a signal handler may log while its thread is in here
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._dropped_count = 0
        self._wakes: SimpleQueue[threading.Event | None] = SimpleQueue()
        new_thread(self._work, "kqs-log")

    def write(self, line: str) -> None:
        """Write one line, without its newline, as soon as somebody reads."""
        data = line.encode(errors="backslashreplace")
        if len(data) > MAX_LINE_BYTES:
            data = data[:MAX_LINE_BYTES] + b"... (%d bytes)" % len(data)
        data += b"\n"
        if os.getpid() != self._pid:
            _put(self._original, data)
            return
        with self._lock:
            if self._waiting_bytes + len(data) > MAX_WAITING_BYTES:
                self._dropped_count += 1
                return
            self._waiting.append(data)
            self._waiting_bytes += len(data)
        self._wakes.put(None)

    def flush(self, within_s: float) -> None:
        """Return when all lines are written, or after `within_s`: a reader that rests may rest for ever."""
        if os.getpid() != self._pid:
            return
        written = threading.Event()
        self._wakes.put(written)
        written.wait(within_s)

    def _work(self) -> None:
        while True:
            with suppress(BaseException):  # users' code may raise one in any thread of the process
                self._write_waiting(self._wakes.get())

    def _write_waiting(self, wake: threading.Event | None) -> None:
        with self._lock:
            lines, self._waiting = self._waiting, []
        if lines:
            data = b"".join(lines)
            try:
                _put(self.descriptor, data)
            finally:
                self._took(len(data))
        if wake is not None:
            wake.set()

    def _took(self, count_bytes: int) -> None:
        with self._lock:
            self._waiting_bytes -= count_bytes
            dropped_count, self._dropped_count = self._dropped_count, 0
        if dropped_count:
            _put(self.descriptor, self._told(dropped_count).encode() + b"\n")


def _put(descriptor: int, data: bytes) -> None:
    """Write all of it. A reader that is gone is no reason to stop a server."""
    try:
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:  # some other process that shares the pipe made it so
                poll = select.poll()
                poll.register(descriptor, select.POLLOUT)
                poll.poll()
    except OSError:
        return
