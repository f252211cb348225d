"""A real beanstalkd in a process of its own."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.support.mortal import mortal
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
        self._errors: IO[bytes] | None = None
        self.port = free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it listens."""
        command = [self._command, "-l", self._listen, "-p", str(self.port), *self._options]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - until it is killed
        # signals are left as Python has them: SIGXFSZ ignored, so that a write over `limit_files` fails instead
        self._process = subprocess.Popen(
            mortal(command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors, restore_signals=False
        )
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

    def limit_files(self, most_bytes: int) -> None:
        """Let no file be longer, `complaints` neither, for the rest of this life: a write beyond fails as on a full disk."""
        assert self._process is not None
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    @property
    def complaints(self) -> bytes:
        """What this life of it has said on stderr."""
        assert self._errors is not None
        return os.pread(self._errors.fileno(), 65536, 0)

    def ready_count(self) -> int:
        """Return how many jobs are ready in all tubes."""
        found = re.search(rb"current-jobs-ready: (\d+)", self.talk(b"stats\r\n"))
        assert found
        return int(found[1])

    @property
    def has_ended(self) -> bool:
        """Tell whether it has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None

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
