"""A real server whose jobs are cancelled, deleted, purged and retried as it is killed, and what must be so afterwards.

Owners insert over TCP, among others jobs with resources and unique keys, and call some off. The handlers write when each run
began and ended to a file of their own. When everything has ended:

    what was answered as cancelled, deleted or purged has not begun since; what was deleted is not there; what was answered as
    retried has run since, and well; of no resource did two runs go on at once; no two new jobs of a key waited together;
    whatever was acknowledged and not called off has run well.

Run as a program for longer: `python -m tests.crash.owners ROUNDS`.
"""

from __future__ import annotations

import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash.torture import drain, unfinished_by_stats
from tests.support.asking import Peer, RefusedError, ask, peer_of
from tests.support.serving import Served, serving

OWNERS = 4
RESOURCES = ("r0", "r1", "r2")
KEYS = ("k0", "k1", "k2")
AT_ONCE = 12
#: refusals that say that nothing is known, or that somebody else was first
MAY_BE_SAID = {"busy", "timeout", "running", "draining"}

HANDLERS = """
import asyncio, os, random, time
import kqs

log = os.open("runs.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def note(word, data, job):
    os.write(log, f"{word} {data['key']} {job.attempt} {data.get('resource', '-')} {time.monotonic()!r}\\n".encode())

@kqs.handler("plain")
@kqs.handler("purged")
@kqs.handler("keyed")
@kqs.handler("alone")
@kqs.handler("breaks")
async def run(data, job):
    note("began", data, job)
    try:
        await asyncio.sleep(random.choice([0, 0, 0.002, 0.02]))
        if job.type == "breaks" and job.attempt == 1:
            raise kqs.Fail("at first")
    finally:
        note("ended", data, job)
"""


class Change(NamedTuple):
    """What was answered: which jobs were changed. asked_at, told_at: on the machine's monotonic clock, in s."""

    verb: str
    keys: tuple[str, ...]
    asked_at: float
    told_at: float


class Began(NamedTuple):
    """A run, as its handler wrote it down. ended_at: None: it was cut off."""

    key: str
    attempt: int
    resource: str
    began_at: float
    ended_at: float | None


@dataclass
class OwnersAccount:
    """What was sent, and what was answered.

    touched: keys of jobs that a call was to end, answered or not; revived: of those that one was to retry.
    """

    acknowledged: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    revived: set[str] = field(default_factory=set)
    changes: list[Change] = field(default_factory=list)
    kills: list[tuple[float, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    joined: int = 0

    def changed(self, *verbs: str) -> list[Change]:
        return [change for change in self.changes if change.verb in verbs]

    def check(self, runs: Sequence[Began], records: dict[str, dict[str, Any]]) -> None:
        """Assert that all is as it was answered."""
        assert not self.faults, self.faults[:5]
        begun: defaultdict[str, list[float]] = defaultdict(list)
        for run in runs:
            begun[run.key].append(run.began_at)
        for change in self.changed("retry"):
            for key in change.keys:
                assert any(at > change.asked_at for at in begun[key]) or key in self.touched, (
                    f"{key} was retried, and did not run"
                )
        for change in self.changed("cancel", "delete", "purge"):
            for key in change.keys:
                late = [at for at in begun[key] if at > change.told_at]
                assert not late or (key in self.revived and change.verb == "cancel"), (
                    f"{key} ran after its {change.verb}: {late}, {change}"
                )
                if change.verb != "cancel":
                    assert key not in records, f"{key} is there after its {change.verb}: {records[key]}"
        lost = {key for key in self.acknowledged - self.touched if key not in records or records[key]["state"] != "success"}
        assert not lost, f"lost {len(lost)}: {sorted(lost)[:5]}"
        self._check_resources(runs)

    def _check_resources(self, runs: Sequence[Began]) -> None:
        by_resource: defaultdict[str, list[Began]] = defaultdict(list)
        for run in runs:
            by_resource[run.resource].append(run)
        by_resource.pop("-", None)
        for found in by_resource.values():
            found.sort(key=lambda run: run.began_at)
            for run, following in pairwise(found):
                over_at = run.ended_at
                if over_at is None:
                    over_at = min((since for since, _ in self.kills if since >= run.began_at), default=float("inf"))
                assert over_at <= following.began_at, f"two runs at once of one resource: {run}, {following}"


def noted(log: Path) -> list[Began]:
    """Read what the handlers wrote."""
    runs: list[Began] = []
    open_: dict[tuple[str, str], int] = {}
    for line in log.read_text().splitlines():
        word, key, attempt, resource, at = line.split()
        if word == "began":
            assert (key, attempt) not in open_, f"run {attempt} of {key} began twice"
            open_[key, attempt] = len(runs)
            runs.append(Began(key, int(attempt), resource, float(at), None))
        else:
            place = open_[key, attempt]
            runs[place] = runs[place]._replace(ended_at=float(at))
    return runs


class Owner(threading.Thread):
    """Inserts jobs, and calls some of them off, until its server is killed."""

    def __init__(self, server: Served, account: OwnersAccount, name: str, seed: int) -> None:
        super().__init__(name=name, daemon=True)
        self._server = server
        self._account = account
        self._rng = random.Random(f"{seed}-{name}")
        self._count = 0
        self._mine: list[str] = []

    def run(self) -> None:
        doings: Sequence[Callable[[Peer], None]] = (
            self._insert,
            self._insert,
            self._join,
            self._call_off,
            self._retry,
            self._purge,
            self._look,
        )
        with suppress(OSError, EOFError), peer_of(self._server) as peer:
            while True:
                try:
                    self._rng.choice(doings)(peer)
                except RefusedError as error:
                    if error.code not in MAY_BE_SAID:
                        self._account.faults.append(str(error))
                        return

    def _job(self, type_: str, **fields: object) -> dict[str, Any]:
        self._count += 1
        key = f"{self.name}-{self._count}"
        data = {"key": key} | ({"resource": fields["resource"]} if "resource" in fields else {})
        return {"type": type_, "id": key, "data": data, "ghosts": -1, "ghost_delay": 0} | fields

    def _insert(self, peer: Peer) -> None:
        jobs = [self._one() for _ in range(self._rng.randint(1, AT_ONCE))]
        ids = peer.call("insert", jobs)
        self._account.acknowledged.update(ids)
        self._mine += ids

    def _one(self) -> dict[str, Any]:
        delay = {} if self._rng.random() < 0.5 else {"delay": self._rng.uniform(0.01, 0.1)}
        match self._rng.choice(["plain", "alone", "alone", "breaks"]):
            case "alone":
                prio = self._rng.choice(["high", "normal"])
                return self._job("alone", resource=self._rng.choice(RESOURCES), prio=prio, **delay)
            case "breaks":
                return self._job("breaks", retries=0)
            case type_:
                return self._job(type_, **delay)

    def _join(self, peer: Peer) -> None:
        job = self._job("keyed", unique=self._rng.choice(KEYS), delay=self._rng.uniform(0, 0.05), answer="full")
        answer = peer.call("insert", job)
        if answer["created"]:
            assert answer["id"] == job["id"]
            self._account.acknowledged.add(answer["id"])
        else:
            self._account.joined += 1

    def _call_off(self, peer: Peer) -> None:
        verb = self._rng.choice(["cancel", "delete"])
        ids = self._rng.sample(self._mine, min(len(self._mine), AT_ONCE))
        self._change(
            peer, verb, {"ids": ids, **({"force": True} if verb == "delete" and self._rng.random() < 0.3 else {})}, ids
        )

    def _retry(self, peer: Peer) -> None:
        ids = [key for key in self._mine if self._rng.random() < 0.5][:AT_ONCE]
        self._account.revived.update(ids)
        self._change(peer, "retry", {"ids": ids}, [])

    def _change(self, peer: Peer, verb: str, argument: dict[str, Any], touched: Sequence[str]) -> None:
        self._account.touched.update(touched)
        if argument["ids"]:
            asked_at = time.monotonic()
            answer = peer.call(verb, argument)
            self._account.changes.append(Change(verb, tuple(answer["ids"]), asked_at, time.monotonic()))

    def _purge(self, peer: Peer) -> None:
        """Insert some of which none is due before it is purged."""
        jobs = [self._job("purged", delay=600) for _ in range(self._rng.randint(1, AT_ONCE))]
        keys = [job["id"] for job in jobs]
        self._account.touched.update(keys)
        peer.send("insert", jobs)
        asked_at = time.monotonic()
        peer.send("purge", {"type": "purged", "regex": f'"{self.name}-'})
        answers = [peer.receive(), peer.receive()]
        if not any(isinstance(one, int) and one >= len(keys) for one in answers):
            self._account.faults.append(f"{answers} were purged of {keys}")
        self._account.changes.append(Change("purge", tuple(keys), asked_at, time.monotonic()))

    def _look(self, peer: Peer) -> None:
        """No two new jobs of a key wait; one that was lost in its run may wait beside one."""
        jobs = peer.call("jobs", {"type": "keyed", "state": ["new", "delayed"], "limit": 1000})
        keys = Counter(job["unique"] for job in jobs)
        if keys and max(keys.values()) > 1:
            self._account.faults.append(f"two jobs of a key wait: {keys}")


def own(folder: Path, rounds: int, seed: int, settings: dict[str, str] | None = None) -> OwnersAccount:
    """Kill a server so often as its jobs' owners do with them what they like; check the account and return it."""
    rng, account = random.Random(seed), OwnersAccount()
    (folder / "owners_handler.py").write_text(HANDLERS)
    log = folder / "runs.log"
    log.touch()
    settings = {
        "WORKER__MODULES": '["owners_handler"]',
        "WORKER__CONCURRENCY": "20",
        "LOG__LEVEL": "warning",
        "JOURNAL__MIN_FREE_BYTES": "0",
        **(settings or {}),
    }
    for number in range(rounds):
        with ExitStack() as stack:
            server = stack.enter_context(serving(folder, **settings))
            owners = [Owner(server, account, f"o{number}-{index}", seed) for index in range(OWNERS)]
            for owner in owners:
                owner.start()
            time.sleep(rng.uniform(0.1, 0.6))
            since = time.monotonic()
            server.stop(signal.SIGKILL)
            account.kills.append((since, time.monotonic()))
            for owner in owners:
                owner.join()
    with serving(folder, **settings) as server:
        ask(server, "purge", {"type": "purged"})
        drain([server], unfinished_by_stats)
        ask(server, "retry", {"state": "fail"})
        drain([server], unfinished_by_stats)
        records = _records(server)
        assert server.stop() == 0
    account.check(noted(log), records)
    return account


def _records(server: Served) -> dict[str, dict[str, Any]]:
    """Return all records by id."""
    records: dict[str, dict[str, Any]] = {}
    cursor: str | None = ""
    while cursor is not None:
        page = ask(server, "jobs", {"limit": 1000, "cursor": cursor})
        records |= {job["id"]: job for job in page["jobs"]}
        cursor = page["cursor"]
    return records


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        seed = random.SystemRandom().randrange(2**32)
        result = own(Path(name), int(sys.argv[1]), seed)
        counts = Counter(change.verb for change in result.changes for _ in change.keys)
        print(
            f"seed {seed}: {len(result.kills)} kills in {time.monotonic() - began:.0f} s, {len(result.acknowledged)} jobs "
            f"acknowledged, {dict(counts)}, {result.joined} joined, none ran that must not"
        )
