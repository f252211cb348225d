"""A real `kqs serve` in a process of its own, known to be ready by its sd_notify message."""

from __future__ import annotations

import os
import secrets
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.mortal import mortal

READY_WITHIN_S = 120
STOPPED_WITHIN_S = 30

ROOT = Path(__file__).parents[2]
#: the server as the tests' own interpreter runs it, from any folder, and the environment that it needs to: a shell's, whose
#: programs do not write what they print unbuffered
SERVE = (sys.executable, "-m", "kqs", "serve")
SERVE_ENVIRON = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | {"PYTHONPATH": str(ROOT)}
#: for tests of what a server bears: what measures coverage slows it by half, and changes `os._exit`
PLAIN_ENVIRON = {name: value for name, value in SERVE_ENVIRON.items() if not name.startswith("COVERAGE_")}


#: how many ports are nobody else's at once: many more than one test has servers, and a small part of the files that may be open
_MAX_CLAIMS = 100
_claims: deque[socket.socket] = deque()


def free_port() -> int:
    """Return a port for a server that may be started on it again: below those that the system gives to connections.

    Until this process has asked for many more, no other test is given it, in no process, whether or not the server is up.
    """
    while True:
        port = 10_000 + secrets.randbelow(22_000)
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0kqs-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        if len(_claims) > _MAX_CLAIMS:
            _claims.popleft().close()
        return port


#: runs a command of the terminal; returns its exit code, and what it wrote to stdout and stderr
Kqs = Callable[..., tuple[int, str, str]]


class Served:
    """A running server.

    log: where its stdout and stderr go.
    """

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOPPED_WITHIN_S)

    def ask(self, *lines: str) -> list[str]:
        """Send `lines` on a connection of their own; return what is answered before the server closes it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as peer:
            peer.sendall("".join(line + "\n" for line in lines).encode())
            peer.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: peer.recv(65536), b"")).decode().splitlines()


@contextmanager
def serving(
    folder: Path, command: Sequence[str] = SERVE, environ: Mapping[str, str] = SERVE_ENVIRON, /, **settings: str
) -> Iterator[Served]:
    """Run `command` in `folder`, on a free port if the settings name none, until the block ends, whatever happens.

    settings: SECTION__KEY of the configuration, as in KQS_SECTION__KEY.
    """
    port = int(settings.get("SERVER__PORT", 0)) or free_port()
    log = folder / f"server-{port}.log"
    notify = f"kqs-test-{secrets.token_hex(8)}"
    overrides = {"SERVER__HOST": "127.0.0.1", "SERVER__PORT": str(port)} | settings
    variables = {f"KQS_{key}": value for key, value in overrides.items()} | {"NOTIFY_SOCKET": f"@{notify}"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, log.open("wb") as output:
        manager.bind("\0" + notify)
        process = subprocess.Popen(
            mortal(command),
            cwd=folder,
            env={**environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _await_ready(manager, process, log)
            yield Served(process, port, log)
        finally:
            _end(process)


def _await_ready(manager: socket.socket, process: subprocess.Popen[bytes], log: Path) -> None:
    ended = os.pidfd_open(process.pid)
    try:
        while True:
            events, _, _ = select.select([manager.fileno(), ended], [], [], READY_WITHIN_S)
            if manager.fileno() not in events:
                raise AssertionError(f"the server {'ended' if events else 'is not ready'}; it said:\n{log.read_text()}")
            if b"READY=1" in manager.recv(4096).splitlines():
                return
    finally:
        os.close(ended)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the whole session of the server, so that nothing it started lives on."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
