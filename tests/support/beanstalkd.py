"""A real beanstalkd in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.require import require
from tests.support.serving import free_port

READY_WITHIN_S = 10


class Beanstalkd:
    """`start` and `stop` as often as a test likes; the port stays."""

    def __init__(self, *options: str, listen: str = "127.0.0.1") -> None:
        """Args: options: of the command line, besides the address, e.g. -b FOLDER. listen: an IP address or unix:PATH."""
        self._command = require("beanstalkd")
        self._listen = listen
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it listens."""
        command = [self._command, "-l", self._listen, "-p", str(self.port), *self._options]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                return self._connect().close()
            except OSError:
                assert self._process.poll() is None, "beanstalkd ended"
                assert time.monotonic() < deadline, "beanstalkd does not listen"
                time.sleep(0.01)

    def _connect(self) -> socket.socket:
        if not self._listen.startswith("unix:"):
            return socket.create_connection(("127.0.0.1", self.port), timeout=10)
        peer = socket.socket(socket.AF_UNIX)
        try:
            peer.settimeout(10)
            peer.connect(self._listen.removeprefix("unix:"))
        except OSError:
            peer.close()
            raise
        return peer

    def signal(self, number: int) -> None:
        """Send a signal: SIGUSR1 drains it, SIGSTOP holds it."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it anew: empty, unless it has a binlog."""
        self.kill()
        self.start()

    def talk(self, sent: bytes) -> bytes:
        """Send bytes on a connection of their own; return all that is answered."""
        with self._connect() as peer:
            peer.sendall(sent + b"quit\r\n")
            return b"".join(iter(lambda: peer.recv(65536), b""))


@contextmanager
def running_beanstalkd(*options: str, listen: str = "127.0.0.1") -> Iterator[Beanstalkd]:
    """Run a server until the block ends."""
    server = Beanstalkd(*options, listen=listen)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def with_binlog(folder: Path) -> tuple[str, str, str]:
    """Return options for a server that keeps its jobs in `folder`, flushed with every write."""
    return ("-b", str(folder), "-f0")


__all__ = ["Beanstalkd", "running_beanstalkd", "signal", "with_binlog"]
