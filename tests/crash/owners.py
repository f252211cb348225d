"""A real server whose jobs are cancelled, deleted, purged and retried as it is killed, and what must be so afterwards.

Owners insert over TCP, among others jobs with resources and unique keys, and call some off. The handlers write when each run
began and ended to a file of their own; so does a worker over the wire, which takes turns at the resources with them, and
holds its runs over the kills. When everything has ended, which it does:

    what was answered as cancelled, deleted or purged has not begun since; what was deleted is not there; what was answered as
    retried has run since, and well; of no resource did two runs go on at once, and none waits for one for ever; no two new
    jobs of a key waited together; whatever was acknowledged and not called off has run well; of the limited type never more
    ran than may; each of the fanned jobs has its copies, which ran, and none twice; no tick of the schedule was there twice.

Run as a program for longer: `python -m tests.crash.owners ROUNDS`.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from tests.crash.victim import Victim, drain, play, unfinished_by_stats
from tests.support.asking import Peer, RefusedError, ask, peer_of
from tests.support.serving import Served
from tests.support.wire_worker import WireWorker

OWNERS = 4
RESOURCES = ("r0", "r1", "r2")
KEYS = ("k0", "k1", "k2")
#: who a run was written down by
SERVER, HOLDER = "server", "holder"
AT_ONCE = 12
#: how many of the type `limited` run at a time, who has copies of `fanned` jobs, and s between two ticks
MOST_LIMITED = 2
SUBSCRIBERS = ("bill", "ship")
EVERY_S = 0.1
#: much longer than a server takes to be started again, in s: a held run that is given and never arrives lasts so long
HELD_TTR_S = 8.0
#: refusals that say that nothing is known, or that somebody else was first
MAY_BE_SAID = {"busy", "timeout", "running", "draining"}

HANDLERS = """
import asyncio, os, random, time
import kqs

log = os.open("runs.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def note(word, data, job):
    key = job.id if job.type == "tick" else f"{job.type}:{data['key']}" if job.type in ("bill", "ship") else data["key"]
    data = data or {}
    os.write(log, f"server {word} {key} {job.attempt} {data.get('resource', '-')} {time.monotonic()!r}\\n".encode())

@kqs.handler("plain")
@kqs.handler("purged")
@kqs.handler("keyed")
@kqs.handler("alone")
@kqs.handler("breaks")
@kqs.handler("limited")
@kqs.handler("bill")
@kqs.handler("ship")
@kqs.handler("tick")
async def run(data, job):
    note("began", data, job)
    try:
        await asyncio.sleep(random.choice([0, 0, 0.002, 0.02]))
        if job.type == "breaks" and job.attempt == 1:
            raise kqs.Fail("at first")
    finally:
        try:
            await asyncio.sleep(random.choice([0, 0, 0.01]))  # as it is cancelled, too, it ends a little later
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
    """A run, as whoever ran it wrote it down. ended_at: None: it was cut off. given_since: it was not claimed before."""

    worker: str
    key: str
    attempt: int
    resource: str
    began_at: float
    ended_at: float | None
    given_since: float


@dataclass
class OwnersAccount:
    """What was sent, and what was answered.

    limited: keys of jobs of the limited type, answered or not; fanned: those of acknowledged jobs that have copies.
    touched: keys of jobs that a call was to end, answered or not; revived: of those that one was to retry; forced: of those
    that were to be deleted even as they ran, and since when, monotonic. held: runs of the worker over the wire; over_kills:
    those of them that were reported to a later boot.
    """

    acknowledged: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    limited: set[str] = field(default_factory=set)
    fanned: set[str] = field(default_factory=set)
    forced: dict[str, float] = field(default_factory=dict)
    revived: set[str] = field(default_factory=set)
    changes: list[Change] = field(default_factory=list)
    kills: list[tuple[float, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    joined: int = 0
    held: int = 0
    over_kills: int = 0

    def changed(self, *verbs: str) -> list[Change]:
        return [change for change in self.changes if change.verb in verbs]

    def check(self, runs: Sequence[Began], records: dict[str, dict[str, Any]]) -> None:
        """Assert that all is as it was answered."""
        assert not self.faults, self.faults[:5]
        begun: defaultdict[str, list[Began]] = defaultdict(list)
        for run in runs:
            begun[run.key].append(run)
        for change in self.changed("retry"):
            for key in change.keys:
                assert any(run.began_at > change.asked_at for run in begun[key]) or key in self.touched, (
                    f"{key} was retried, and did not run"
                )
        for change in self.changed("cancel", "delete", "purge"):
            for key in change.keys:
                late = [run for run in begun[key] if run.given_since > change.told_at]
                assert not late or (key in self.revived and change.verb == "cancel"), (
                    f"{key} ran after its {change.verb}: {late}, {change}"
                )
                if change.verb != "cancel":
                    assert key not in records, f"{key} is there after its {change.verb}: {records[key]}"
        lost = {key for key in self.acknowledged - self.touched if key not in records or records[key]["state"] != "success"}
        assert not lost, f"lost {len(lost)}: {sorted(lost)[:5]}"
        self._check_resources(runs)
        self._check_limit(runs)
        assert any(run.key.startswith("often:") for run in runs), "no tick has come"
        self._check_copies(runs, records)

    def _check_limit(self, runs: Sequence[Began]) -> None:
        limited = [run for run in runs if run.key in self.limited]
        for run in limited:
            at_once = [one for one in limited if one.began_at <= run.began_at < self._over_at(one)]
            assert len(at_once) <= MOST_LIMITED, f"{len(at_once)} at once of what is limited to {MOST_LIMITED}: {at_once}"

    def _check_copies(self, runs: Sequence[Began], records: dict[str, dict[str, Any]]) -> None:
        """Each has all of its copies, or none if it was not acknowledged, and none twice; all have run."""
        copies = Counter((one["type"], one["data"]["key"]) for one in records.values() if one["type"] in SUBSCRIBERS)
        keys = {key for _, key in copies}
        assert keys >= self.fanned, f"without copies: {sorted(self.fanned - keys)[:5]}"
        assert copies == Counter((type_, key) for type_ in SUBSCRIBERS for key in keys), "a copy is lost, or there twice"
        begun = {run.key for run in runs}
        assert not [copy for copy in copies if ":".join(copy) not in begun], "copies have not run"

    def _check_resources(self, runs: Sequence[Began]) -> None:
        by_resource: defaultdict[str, list[Began]] = defaultdict(list)
        for run in runs:
            by_resource[run.resource].append(run)
        by_resource.pop("-", None)
        for found in by_resource.values():
            found.sort(key=lambda run: run.began_at)
            for run, following in pairwise(found):
                over_at = self._over_at(run)
                assert over_at <= following.began_at, f"two runs at once of one resource: {run}, {following}"

    def _over_at(self, run: Began) -> float:
        """Return by when a run was over: it ended, was cut off, or was held for too long, or, deleted, over a kill."""
        if run.ended_at is not None and run.worker == SERVER:
            return run.ended_at
        if run.worker == SERVER:
            return self._killed_after(run.began_at)
        ended_at = run.ended_at if run.ended_at is not None else float("inf")
        return min(ended_at, run.began_at + HELD_TTR_S, self._killed_after(self.forced.get(run.key, float("inf"))))

    def _killed_after(self, at: float) -> float:
        """Return by when the server was killed next."""
        return min((over_at for _, over_at in self.kills if over_at >= at), default=float("inf"))


def noted(log: Path) -> list[Began]:
    """Read what the handlers wrote."""
    runs: list[Began] = []
    open_: dict[tuple[str, str], int] = {}
    for line in log.read_text().splitlines():
        worker, word, key, attempt, resource, at, *asked_at = line.split()
        if word == "began":
            assert (key, attempt) not in open_, f"run {attempt} of {key} began twice"
            open_[key, attempt] = len(runs)
            runs.append(Began(worker, key, int(attempt), resource, float(at), None, float(asked_at[0] if asked_at else at)))
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
            self._fan,
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

    def _fan(self, peer: Peer) -> None:
        ids = peer.call("insert", [self._job("fanned", group=self.name) for _ in range(self._rng.randint(1, 3))])
        self._account.acknowledged.update(ids)
        self._account.fanned.update(ids)

    def _one(self) -> dict[str, Any]:
        delay = {} if self._rng.random() < 0.5 else {"delay": self._rng.uniform(0.01, 0.1)}
        match self._rng.choice(["plain", "alone", "alone", "breaks", "limited"]):
            case "alone":
                prio = self._rng.choice(["high", "normal"])
                return self._job("alone", resource=self._rng.choice(RESOURCES), prio=prio, ttr=HELD_TTR_S, **delay)
            case "breaks":
                return self._job("breaks", retries=0)
            case "limited":
                job = self._job("limited", group=self._rng.choice(["g", "h"]), **delay)
                self._account.limited.add(job["id"])
                return job
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
        force = {"force": True} if verb == "delete" and self._rng.random() < 0.3 else {}
        for key in ids if force else ():
            self._account.forced.setdefault(key, time.monotonic())
        self._change(peer, verb, {"ids": ids, **force}, ids)

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


class Holder(threading.Thread):
    """A worker over the wire that holds its runs until they are reported, to whichever boot of the server."""

    def __init__(self, victim: Victim, account: OwnersAccount, log: Path, seed: int) -> None:
        super().__init__(name=HOLDER, daemon=True)
        self._victim = victim
        self._account = account
        self._rng = random.Random(seed)
        self._is_over = threading.Event()
        self._log = os.open(log, os.O_WRONLY | os.O_APPEND)
        self._unreported: list[tuple[str, int]] = []  # tokens, and on which port they were given

    def run(self) -> None:
        while not self._is_over.wait(0.01):
            with suppress(OSError, EOFError):
                worker = WireWorker(self._victim.served.port)
                try:
                    self._work(worker, self._victim.served.port)
                finally:
                    worker.close()

    def stop(self) -> None:
        self._is_over.set()
        self.join()
        os.close(self._log)

    def _work(self, worker: WireWorker, port: int) -> None:
        while not self._is_over.is_set():
            self._report(worker, port)
            asked_at = time.monotonic()
            try:
                runs = worker.reserve("alone", wait=0.2, worker=HOLDER, hold=True)
            except RefusedError as error:
                if error.code not in MAY_BE_SAID:
                    self._account.faults.append(f"a worker was told {error}")
                return
            for run in runs:
                self._unreported.append((run["run"], port))
                self._account.held += 1
                self._note("began", run, asked_at)
                time.sleep(self._rng.choice([0, 0.002, 0.05]))
                self._note("ended", run, asked_at)

    def _report(self, worker: WireWorker, port: int) -> None:
        if self._unreported:
            (answer,) = worker.finish(self._unreported[0][0])
            if answer not in (True, "stale"):  # its job may be deleted
                self._account.faults.append(f"a report was told {answer}")
            self._account.over_kills += answer is True and self._unreported[0][1] != port
            del self._unreported[0]

    def _note(self, word: str, run: dict[str, Any], asked_at: float) -> None:
        data = run["data"]
        line = f"{HOLDER} {word} {data['key']} {run['attempt']} {data['resource']} {time.monotonic()!r} {asked_at!r}\n"
        os.write(self._log, line.encode())


def own(folder: Path, rounds: int, seed: int, settings: dict[str, str] | None = None) -> OwnersAccount:
    """Kill a server so often as its jobs' owners do with them what they like; check the account and return it."""
    rng, account = random.Random(seed), OwnersAccount()
    log = folder / "runs.log"
    log.touch()
    victim = Victim(folder, HANDLERS, {"WORKER__CONCURRENCY": "20", **(settings or {})})
    with ExitStack() as stack:
        stack.callback(victim.close)
        victim.start()
        _set_up(victim.served)
        holder = Holder(victim, account, log, seed)
        stack.callback(holder.stop)
        holder.start()
        for number in range(rounds):
            owners = [Owner(victim.served, account, f"o{number}-{index}", seed) for index in range(OWNERS)]
            for owner in owners:
                owner.start()
            time.sleep(rng.uniform(0.1, 0.6))
            since = time.monotonic()
            victim.kill()
            account.kills.append((since, time.monotonic()))
            for owner in owners:
                owner.join()
            victim.start()
        server = victim.served
        ask(server, "unschedule", "often")
        ask(server, "purge", {"type": "purged"})
        drain([server], unfinished_by_stats)
        ask(server, "retry", {"state": "fail"})
        drain([server], unfinished_by_stats)
        records = _records(server)
        assert server.stop() == 0
    account.check(noted(log), records)
    return account


def _set_up(server: Served) -> None:
    """Say what is to hold over all kills."""
    ask(server, "limit", {"type": "limited", "max_running": MOST_LIMITED})
    for subscriber in SUBSCRIBERS:
        ask(server, "subscribe", {"type": "fanned", "subscriber": subscriber})
    job = {"type": "tick", "keep": 0, "ghosts": -1, "ghost_delay": 0}  # no record keeps it from being there twice
    ask(server, "schedule", {"name": "often", "every": EVERY_S, "job": job})


def _records(server: Served) -> dict[str, dict[str, Any]]:
    """Return all records by id."""
    records: dict[str, dict[str, Any]] = {}
    cursor: str | None = ""
    while cursor is not None:
        page = ask(server, "jobs", {"limit": 1000, "cursor": cursor})
        records |= {job["id"]: job for job in page["jobs"]}
        cursor = page["cursor"]
    return records


def _tell(folder: Path, rounds: int, seed: int) -> str:
    account = own(folder, rounds, seed)
    counts = Counter(change.verb for change in account.changes for _ in change.keys)
    return (
        f"{len(account.kills)} kills, {len(account.acknowledged)} jobs acknowledged, {dict(counts)}, {account.joined} joined, "
        f"{account.held} runs held, {account.over_kills} over kills, none ran that must not"
    )


if __name__ == "__main__":
    play(_tell)
