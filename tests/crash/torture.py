"""Real servers under load, one of which is killed again and again, and the account that must balance afterwards.

Clients send jobs: single ones under ids of their own or without, arrays, and arrays with a bad job in them. The handler
writes each run to a file; so does a worker over the wire, which runs some of them and hangs up now and then. When everything
has run:

    acknowledged ⊆ run ⊆ attempted;  nothing refused has run;  an array has run whole or not at all;  every payload is intact;
    no run comes twice over one connection, nor at all once its report was answered.

Run as a program for longer: `python -m tests.crash.torture ROUNDS`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.victim import Victim, drain, play, unfinished_by_stats
from tests.support.serving import Served
from tests.support.wire_worker import WireWorker

CLIENTS = 16
IN_FLIGHT = 20

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
    reported: set[str] = field(default_factory=set)  # over the wire, and answered
    far_runs: int = 0
    faults: list[str] = field(default_factory=list)

    def check(self, runs: Iterable[Path]) -> None:
        """Assert that the account balances. runs: the files of all servers."""
        assert not self.faults, self.faults
        lines = [line.split() for path in runs for line in path.read_text().splitlines()]
        run = {key for key, _ in lines}
        assert not [key for key, verdict in lines if verdict != "intact"], "altered payloads"
        assert not self.acknowledged - run, f"lost {len(self.acknowledged - run)} acknowledged jobs"
        assert not run & self.refused, "refused jobs ran"
        assert run <= self.attempted, "jobs ran that nobody sent"
        for keys in self.arrays:
            assert len(run & set(keys)) in (0, len(keys)), "an array ran in part"


class Sender:
    """One client of one round: sends until the server dies, or the round is over and all is answered."""

    def __init__(self, account: Account, name: str, rng: random.Random, most_calls: int) -> None:
        self._account = account
        self._most_calls = most_calls
        self._name = name
        self.rng = rng
        self._count = 0
        self._waiting: dict[int, list[str]] = {}

    async def run(self, port: int, is_over: asyncio.Event) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        try:
            while True:
                while not is_over.is_set() and self._has_more() and not writer.is_closing():
                    writer.write(self._next_call())
                if not self._waiting:
                    return
                line = await reader.readline()
                if not line.endswith(b"\n"):
                    return
                self._note(json.loads(line))
        except OSError:
            return
        finally:
            writer.transport.abort()

    def _has_more(self) -> bool:
        return len(self._waiting) < IN_FLIGHT and self._count < self._most_calls

    def _next_call(self) -> bytes:
        self._count += 1
        kind = self.rng.random()
        size = 1 if kind < 0.8 else self.rng.randint(2, 8)
        keys = [f"{self._name}-{self._count}-{number}" for number in range(size)]
        jobs = [self.job(key) for key in keys]
        if kind > 0.95:
            jobs.append({"type": "torture", "ttr": -1})
            self._account.refused.update(keys)
        elif size > 1:
            self._account.arrays.append(keys)
        self._account.attempted.update(keys)
        self._waiting[self._count] = keys
        argument = jobs if len(jobs) > 1 else jobs[0]
        return json.dumps({"v": 1, "id": self._count, "n": "insert", "m": argument}).encode() + b"\n"

    def job(self, key: str) -> dict[str, object]:
        """Make a job."""
        pad = self.rng.randbytes(self.rng.randint(0, 300)).hex()
        data = {"key": key, "pad": pad, "sha": hashlib.sha256(pad.encode()).hexdigest()}
        job: dict[str, object] = {"type": "torture", "data": data}
        if self.rng.random() < 0.2:
            job |= {"type": "far", "ghosts": -1, "ghost_delay": 0}
        if self.rng.random() < 0.5:
            job["id"] = key
        if self.rng.random() < 0.1:
            job["delay"] = 0.05
        return job

    def _note(self, answer: dict[str, Any]) -> None:
        keys = self._waiting.pop(answer["id"])
        if answer["s"] == "end":
            assert not self._account.refused.issuperset(keys), answer
            self._account.acknowledged.update(keys)
        elif self._account.refused.isdisjoint(keys):
            raise AssertionError(f"refused for no reason: {answer}")


class FarWorker(threading.Thread):
    """A worker over the wire, which comes back whenever its connection is lost."""

    def __init__(self, account: Account, victim: Victim, seed: int) -> None:
        super().__init__(daemon=True)
        self._account = account
        self._victim = victim
        self._rng = random.Random(seed)
        self._is_over = False
        self._worker: WireWorker | None = None

    def run(self) -> None:
        while not self._is_over:
            with suppress(OSError, EOFError):
                self._worker = WireWorker(self._victim.served.port)
                try:
                    self._work(self._worker)
                finally:
                    self._worker.close()
            time.sleep(0.01)

    def stop(self) -> None:
        """End it; what it has in hand goes back."""
        self._is_over = True
        if self._worker is not None:
            with suppress(OSError):
                self._worker.socket.shutdown(socket.SHUT_RDWR)
        self.join()

    def _work(self, worker: WireWorker) -> None:
        standing, given = worker.send("work", {"types": ["far"], "room": 50}), set[str]()
        with _far_runs(self._victim).open("ab", buffering=0) as log:
            while (runs := worker.next(standing)) is not None and not self._is_over:
                keys = [str(run["data"]["key"]) for run in runs]
                for key, run in zip(keys, runs, strict=True):
                    if key in given or key in self._account.reported:
                        self._account.faults.append(f"{key} came again")
                    intact = hashlib.sha256(run["data"]["pad"].encode()).hexdigest() == run["data"]["sha"]
                    log.write(f"{key} {'intact' if intact else 'ALTERED'}\n".encode())
                given.update(keys)
                self._account.far_runs += len(runs)
                if self._rng.random() < 0.02:
                    return
                answers = worker.finish(*(run["run"] for run in runs))
                self._account.reported.update(key for key, answer in zip(keys, answers, strict=True) if answer is True)
                self._account.faults += [
                    f"{key} was refused: {code}" for key, code in zip(keys, answers, strict=True) if code is not True
                ]


def _far_runs(victim: Victim) -> Path:
    """Return where runs over the wire are written to."""
    return victim.folder / "far.log"


@dataclass(frozen=True)
class Plan:
    """calls: most that a client sends in a round. unfinished: asked at the end how many of the stored jobs have not ended."""

    rounds: int
    seed: int
    servers: int = 1
    clients: int = CLIENTS
    calls: int = sys.maxsize
    settings: dict[str, str] = field(default_factory=dict)
    unfinished: Callable[[Sequence[Served]], int] = unfinished_by_stats


def torture(folder: Path, plan: Plan) -> Account:
    """Kill servers under load, let what is left finish, check the account and return it."""
    rng, account = random.Random(plan.seed), Account()
    victims = [Victim(folder / f"server{number}", HANDLER, plan.settings) for number in range(plan.servers)]
    with ExitStack() as stack:
        for victim in victims:
            stack.callback(victim.close)
            _far_runs(victim).touch()
            victim.start()
        far = [FarWorker(account, victim, plan.seed + number) for number, victim in enumerate(victims)]
        for worker in far:
            stack.callback(worker.stop)
            worker.start()
        for number in range(plan.rounds):
            victim = rng.choice(victims)
            asyncio.run(_load(account, plan, victims, victim, f"r{number}", rng))
            victim.start()
        drain([victim.served for victim in victims], plan.unfinished)
        for worker in far:
            worker.stop()
        for victim in victims:
            assert victim.served.stop() == 0
    account.check(path for victim in victims for path in (victim.folder / "runs.log", _far_runs(victim)))
    return account


async def _load(account: Account, plan: Plan, victims: Sequence[Victim], victim: Victim, name: str, rng: random.Random) -> None:
    is_over = asyncio.Event()
    senders = []
    for number in range(plan.clients):
        sender = Sender(account, f"{name}-{number}", rng, plan.calls)
        port = victims[number % len(victims)].served.port
        senders.append(asyncio.create_task(sender.run(port, is_over)))
    await asyncio.sleep(rng.uniform(0.02, 0.3))
    victim.kill()
    account.kills += 1
    is_over.set()
    await asyncio.gather(*senders)


def _tell(folder: Path, rounds: int, seed: int) -> str:
    account = torture(folder, Plan(rounds, seed))
    return (
        f"{account.kills} kills, {len(account.attempted)} jobs sent, {len(account.acknowledged)} acknowledged, "
        f"{account.far_runs} runs over the wire, none lost, none altered, no array in part"
    )


if __name__ == "__main__":
    play(_tell)
