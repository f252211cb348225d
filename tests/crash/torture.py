"""A real server under load, killed again and again, and the account that must balance afterwards.

Sixteen clients send jobs: single ones under ids of their own or without, arrays, and arrays with a bad job in them. The
handler writes each run to a file. When the last server has run everything:

    acknowledged ⊆ run ⊆ attempted;  nothing refused has run;  an array has run whole or not at all;  every payload is intact.

Run as a program for longer: `python -m tests.crash.torture ROUNDS`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.serving import Served, serving

CLIENTS = 16
IN_FLIGHT = 20
DRAIN_WITHIN_S = 120

HANDLER = """
import hashlib, os
import kqs

runs = os.open("runs.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

@kqs.handler("torture")
async def torture(data, job):
    intact = hashlib.sha256(data["pad"].encode()).hexdigest() == data["sha"]
    os.write(runs, f"{data['key']} {'intact' if intact else 'ALTERED'}\\n".encode())
"""


@dataclass
class Account:
    """What was sent, and what was said of it. Keys name jobs over all rounds, whatever their ids."""

    attempted: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    arrays: list[list[str]] = field(default_factory=list)
    kills: int = 0

    def check(self, runs: Path) -> None:
        """Assert that the account balances."""
        lines = [line.split() for line in runs.read_text().splitlines()]
        run = {key for key, _ in lines}
        assert not [key for key, verdict in lines if verdict != "intact"], "altered payloads"
        assert not self.acknowledged - run, f"lost {len(self.acknowledged - run)} acknowledged jobs"
        assert not run & self.refused, "refused jobs ran"
        assert run <= self.attempted, "jobs ran that nobody sent"
        for keys in self.arrays:
            assert len(run & set(keys)) in (0, len(keys)), "an array ran in part"


class Sender:
    """One client of one round: sends until the server dies."""

    def __init__(self, account: Account, name: str, rng: random.Random) -> None:
        self._account = account
        self._name = name
        self._rng = rng
        self._count = 0
        self._waiting: dict[int, list[str]] = {}

    async def run(self, port: int) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        try:
            while True:
                while len(self._waiting) < IN_FLIGHT and not writer.is_closing():
                    writer.write(self._next_call())
                line = await reader.readline()
                if not line.endswith(b"\n"):
                    return
                self._note(json.loads(line))
        except OSError:
            return
        finally:
            writer.transport.abort()

    def _next_call(self) -> bytes:
        self._count += 1
        kind = self._rng.random()
        size = 1 if kind < 0.8 else self._rng.randint(2, 8)
        jobs = [self._job(f"{self._name}-{self._count}-{number}") for number in range(size)]
        keys = [job["data"]["key"] for job in jobs]
        if kind > 0.95:
            jobs.append({"type": "torture", "ttr": -1})
            self._account.refused.update(keys)
        elif size > 1:
            self._account.arrays.append(keys)
        self._account.attempted.update(keys)
        self._waiting[self._count] = keys
        argument = jobs if len(jobs) > 1 else jobs[0]
        return json.dumps({"v": 1, "id": self._count, "n": "insert", "m": argument}).encode() + b"\n"

    def _job(self, key: str) -> dict[str, object]:
        pad = self._rng.randbytes(self._rng.randint(0, 300)).hex()
        data = {"key": key, "pad": pad, "sha": hashlib.sha256(pad.encode()).hexdigest()}
        job: dict[str, object] = {"type": "torture", "data": data}
        if self._rng.random() < 0.5:
            job["id"] = key
        if self._rng.random() < 0.1:
            job["delay"] = 0.05
        return job

    def _note(self, answer: dict[str, object]) -> None:
        keys = self._waiting.pop(answer["id"])  # type: ignore[arg-type, call-overload]
        if answer["s"] == "end":
            assert not self._account.refused.issuperset(keys), answer
            self._account.acknowledged.update(keys)
        elif self._account.refused.isdisjoint(keys):
            raise AssertionError(f"refused for no reason: {answer}")


@contextmanager
def torture_server(folder: Path) -> Iterator[Served]:
    with serving(folder, WORKER__MODULES='["torture_handler"]', LOG__LEVEL="warning", JOURNAL__MIN_FREE_BYTES="0") as server:
        yield server


async def _load(account: Account, port: int, name: str, rng: random.Random, seconds: float, server: Served) -> None:
    senders = [asyncio.create_task(Sender(account, f"{name}-{n}", rng).run(port)) for n in range(CLIENTS)]
    await asyncio.sleep(seconds)
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    account.kills += 1
    await asyncio.gather(*senders)


def _drain(server: Served) -> None:
    """Wait until nothing waits any more; the only wait without an event, since the wire has none to offer."""
    deadline = time.monotonic() + DRAIN_WITHIN_S
    while time.monotonic() < deadline:
        stats = json.loads(server.ask('{"n":"stats"}')[0])["m"]
        waiting = sum(stats[f"jobs_{state}"] for state in ("new", "delayed", "processing", "retry", "ghost"))
        if not waiting and not stats["journal_unfed_records"]:
            return
        time.sleep(0.05)
    raise AssertionError(f"still waiting: {stats}")


def torture(folder: Path, rounds: int, seed: int) -> Account:
    """Kill a server `rounds` times under load, let the last one finish, check the account and return it."""
    (folder / "torture_handler.py").write_text(HANDLER)
    rng, account = random.Random(seed), Account()
    for number in range(rounds):
        with torture_server(folder) as server:
            asyncio.run(_load(account, server.port, f"r{number}", rng, rng.uniform(0.02, 0.3), server))
    with torture_server(folder) as server:
        _drain(server)
        assert server.stop() == 0
    account.check(folder / "runs.log")
    return account


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        seed = random.SystemRandom().randrange(2**32)
        result = torture(Path(name), int(sys.argv[1]), seed)
        print(
            f"seed {seed}: {result.kills} kills in {time.monotonic() - began:.0f} s, {len(result.attempted)} jobs sent, "
            f"{len(result.acknowledged)} acknowledged, none lost, none altered, no array in part"
        )
