"""Two minutes under siege: thousands of clients that mean harm, and two that do not and must not notice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.support.memory import MIB, resident_bytes
from tests.support.mortal import mortal
from tests.support.serving import PLAIN_ENVIRON, ROOT, SERVE, Served, free_port, serving
from tests.support.siege import WORST_LINES

#: $SIEGE_S makes it shorter for whoever works on it
SIEGE_S = float(os.environ.get("SIEGE_S", "120"))
PING_P99_S = 0.1
MOST_BYTES = 400_000_000


class Good(threading.Thread):
    """A client that asks one thing after the other and takes its answers. times_s: what each took."""

    def __init__(self, port: int, every_s: float) -> None:
        super().__init__(daemon=True)
        self.times_s: list[float] = []
        self._every_s = every_s
        self._is_over = threading.Event()
        self._peer = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._lines = self._peer.makefile("rb")
        self.start()

    def line(self, number: int) -> bytes:
        return b'{"n":"ping"}\n'

    def heard(self, answer: bytes) -> None:
        assert b'"pong"' in answer

    def run(self) -> None:
        number = 0
        while not self._is_over.wait(self._every_s):
            number += 1
            began = time.monotonic()
            self._peer.sendall(self.line(number))
            answer = self._lines.readline()
            self.times_s.append(time.monotonic() - began)
            self.heard(answer)

    def end(self) -> None:
        self._is_over.set()
        self.join(40)
        assert not self.is_alive()
        self._lines.close()
        self._peer.close()

    @property
    def p99_s(self) -> float:
        return sorted(self.times_s)[len(self.times_s) * 99 // 100]


class Inserting(Good):
    """Inserts jobs that never run. kept: the ids that were answered."""

    def __init__(self, port: int, every_s: float) -> None:
        self.kept: list[str] = []
        super().__init__(port, every_s)

    def line(self, number: int) -> bytes:
        return b'{"n":"insert","m":{"type":"good","id":"good-%d","delay":3600,"data":"%b"}}\n' % (number, b"x" * 200)

    def heard(self, answer: bytes) -> None:
        self.kept.append(msgspec.json.decode(answer)["m"])


@contextmanager
def besieged(port: int) -> Iterator[None]:
    kinds = list(WORST_LINES)
    command = (sys.executable, "-m", "tests.support.siege", str(port), str(SIEGE_S), *kinds)
    attackers = subprocess.Popen(mortal(command), cwd=ROOT, env=PLAIN_ENVIRON)
    try:
        yield
        assert attackers.wait(SIEGE_S + 60) == 0
    finally:
        attackers.kill()
        attackers.wait()


def known(served: Served, ids: list[str]) -> int:
    """Return how many of `ids` the server knows."""
    found = 0
    for at in range(0, len(ids), 500):
        answers = served.ask(*(f'{{"n":"job","m":"{job_id}"}}' for job_id in ids[at : at + 500]))
        found += sum('"type":"good"' in answer for answer in answers)
    return found


@pytest.mark.slow
@pytest.mark.alone
def test_a_siege_harms_nobody_else(tmp_path: Path) -> None:
    port = str(free_port())
    with serving(tmp_path, SERVE, PLAIN_ENVIRON, SERVER__PORT=port) as served:
        pinging, inserting = Good(served.port, 0.01), Inserting(served.port, 0.02)
        with besieged(served.port):
            pass
        pinging.end()
        inserting.end()
        took = resident_bytes(served.process.pid, most=True)
        told = msgspec.json.decode(served.ask('{"n":"stats"}')[0])["m"]
        assert served.stop(signal.SIGKILL) == -signal.SIGKILL
    assert told["connections_foreign"] > SIEGE_S
    assert told["connections_total"] > 3000
    assert len(pinging.times_s) > SIEGE_S * 10
    with serving(tmp_path, SERVE, PLAIN_ENVIRON, SERVER__PORT=port) as served:
        assert known(served, inserting.kept) == len(inserting.kept) > SIEGE_S * 5
    print(f"p99 {pinging.p99_s:.3f} s, max {max(pinging.times_s):.3f} s, insert p99 {inserting.p99_s:.3f} s, {took // MIB} MiB")
    assert took < MOST_BYTES, took // MIB
    assert pinging.p99_s <= PING_P99_S
