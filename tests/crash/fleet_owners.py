"""Servers that share a MongoDB, whose jobs are called off at any of them amid all that can befall a fleet; and what must be so.

Servers are killed, stopped, and held up until the others take them for dead; MongoDB goes away for all of them, and beanstalkd
with all that it had. Meanwhile owners insert at whichever server is up, wait there for the ends of jobs that only another one
runs, and cancel, delete and retry what any has accepted. The handlers write when each run began and ended to one file. When
everything has ended, which it does:

    what was accepted and not touched has succeeded, in a run that began after it was asked for, also where that joined it to a
    job that waited; what was deleted is not there, and was counted once; nothing was counted as cancelled more often than it
    was to be run; no attempt began twice; no job began before the one that it is to come after had succeeded; whoever waited
    for an end heard of it; of no resource did two runs go on at once, and of the limited type never more than may, but for
    those of a server that was held up and taken for dead; no resource is had or waited for.

Run as a program for longer: `python -m tests.crash.fleet_owners ROUNDS`.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from kqs.store.mongo.documents import Place
from tests.crash.victim import DRAIN_WITHIN_S, drain, play
from tests.support.asking import RefusedError, ask, eventually, peer_of
from tests.support.beanstalkd import running_beanstalkd
from tests.support.fleet import Fleet, Record, Ways, every_record, line_to
from tests.support.fleet_server import LEASE_S
from tests.support.mongodb import a_database, client_of, mongodb
from tests.support.serving import Served

OWNERS = 4
RESOURCES = ("r0", "r1")
UNIQUE = ("u0", "u1")
MOST_LIMITED = 2
AT_ONCE = 12
#: jobs that one call names at most: all that it changes are in its answer
NAMED = 6
#: how long an owner rests between two calls, in s, and waits for an answer: the Java server takes some 200 jobs a second
REST_S = 0.1
GIVE_UP_S = 20
#: and for the end of a job, also if its server is away for a while
END_WITHIN_S = DRAIN_WITHIN_S
#: how long a server is held up, in s, longer than a lease of theirs; and MongoDB away, for all of them at once
HELD_UP_S = 2 * LEASE_S
AWAY_S = LEASE_S + 1
#: refusals that say that nothing is known, or that somebody else was first
MAY_BE_SAID = {"busy", "draining", "running", "not_found", "timeout"}
#: how the wait for an end may be over: another one called the job off, or the server stops
MAY_END = {"cancelled", "deleted", "busy", "draining"}

HANDLERS = """
import asyncio, os, random, time
import kqs

log = os.open(os.environ["RAN"], os.O_WRONLY | os.O_APPEND)

def note(word, data, job):
    resource = data.get("resource", "-")
    os.write(log, f"{os.getpid()} {word} {job.type} {data['key']} {job.attempt} {resource} {time.monotonic()!r}\\n".encode())

@kqs.handler("plain")
@kqs.handler("alone")
@kqs.handler("other")
@kqs.handler("limited")
@kqs.handler("after")
@kqs.handler("at-" + os.environ["NAME"])
async def run(data, job):
    note("began", data, job)
    try:
        await asyncio.sleep(random.choice([0, 0.005, 0.05, 0.15]))
        if job.attempt <= data["fails"]:
            raise ValueError(job.attempt)
    finally:
        note("ended", data, job)
"""


class Ran(NamedTuple):
    """A run, as its handler wrote it down; times are monotonic, in s. ended_at: None: it was cut off."""

    pid: int
    type: str
    key: str
    attempt: int
    resource: str
    began_at: float
    ended_at: float | None


class HeldUp(NamedTuple):
    """A server that stood still for a while; times are monotonic, in s."""

    pid: int
    since: float
    until: float


@dataclass
class Account:
    """What was sent, and what was answered.

    asked: when the last insert began that was answered with an id. touched: ids that a call was to change, answered or not.
    kills: pid, and when. following: by the key of a job, the id and key of the one that it is to come after.
    """

    accepted: list[str] = field(default_factory=list)
    asked: dict[str, float] = field(default_factory=dict)
    following: dict[str, tuple[str, str]] = field(default_factory=dict)
    held_up: list[HeldUp] = field(default_factory=list)
    awaited_count: int = 0
    touched: set[str] = field(default_factory=set)
    changed: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    lost_retries: set[str] = field(default_factory=set)
    kills: dict[int, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def check(self, runs: Sequence[Ran], records: dict[str, Record]) -> None:
        """Assert that all is as it was answered."""
        assert not self.faults, self.faults[:5]
        untouched = [records.get(id_, {"id": id_, "state": "lost"}) for id_ in self.accepted if id_ not in self.touched]
        failed = [job for job in untouched if job["state"] != "success"]
        assert not failed, failed[:5]
        assert not self.changed["delete"].keys() & records.keys(), "there after its deletion"
        assert max(self.changed["delete"].values(), default=1) == 1, "one deletion was counted twice"
        for id_, count in self.changed["cancel"].items():
            assert count <= 1 + self.changed["retry"][id_] or id_ in self.lost_retries, f"{id_} was cancelled {count} times"
        self._check_order(runs, records)
        self._check_at_once([run for run in runs if not self._was_taken_over(run, records)])

    def _check_order(self, runs: Sequence[Ran], records: dict[str, Record]) -> None:
        of_key: defaultdict[str, list[Ran]] = defaultdict(list)
        for run in runs:
            of_key[run.key].append(run)
        for id_ in self.asked.keys() & records.keys() - self.touched:
            last_at = max(run.began_at for run in of_key[records[id_]["data"]["key"]])
            assert last_at >= self.asked[id_], f"{id_} began for the last time before it was asked for: {records[id_]}"
        for key, (parent_id, parent_key) in self.following.items():
            if of_key[key] and parent_id in records and parent_id not in self.touched:
                began_at, fails = of_key[key][0].began_at, records[parent_id]["data"]["fails"]
                over = [run for run in of_key[parent_key] if run.attempt > fails and run.ended_at is not None]
                assert any((run.ended_at or 0) <= began_at for run in over), f"{key} began before {parent_key} was over"

    def _was_taken_over(self, run: Ran, records: dict[str, Record]) -> bool:
        """Tell whether others had given a run back before it began, at a server that was held up, as far as is known."""
        if not self._was_held_up(run):
            return False
        attempts = [one for job in records.values() if job["data"]["key"] == run.key for one in job["runs"]]
        return all(one["state"] == "ghost" for one in attempts if one["attempt"] == run.attempt)

    def _was_held_up(self, run: Ran) -> bool:
        """Tell whether a run began at a server that stood still, or has not seen yet what others have taken over."""
        return any(one.pid == run.pid and one.since <= run.began_at <= one.until + LEASE_S for one in self.held_up)

    def _check_at_once(self, runs: Sequence[Ran]) -> None:
        resources: defaultdict[str, list[Ran]] = defaultdict(list)
        for run in sorted(runs, key=lambda run: run.began_at):
            resources[run.resource].append(run)
        resources.pop("-", None)
        for found in resources.values():
            for run, following in pairwise(found):
                assert self._over_at(run) <= following.began_at, f"two runs at once of one resource: {run}, {following}"
        # who was taken for dead goes on with the slots that it had, until it looks (docs/limits.md)
        limited = [run for run in runs if run.type == "limited" and not self._was_held_up(run)]
        for run in limited:
            at_once = [one for one in limited if one.began_at <= run.began_at < self._over_at(one)]
            assert len(at_once) <= MOST_LIMITED, f"{len(at_once)} at once of what is limited to {MOST_LIMITED}: {at_once}"

    def _over_at(self, run: Ran) -> float:
        """Return when a run was over, or its server was held up, whose runs others take over meanwhile."""
        over_at = self.kills.get(run.pid, float("inf")) if run.ended_at is None else run.ended_at
        stood = [one.since for one in self.held_up if one.pid == run.pid and run.began_at <= one.since]
        return min(over_at, *stood) if stood else over_at


def ran(log: Path) -> list[Ran]:
    """Read what the handlers wrote."""
    runs: dict[tuple[str, int], Ran] = {}
    for line in log.read_text().splitlines():
        pid, word, type_, key, attempt, resource, at = line.split()
        name = (key, int(attempt))
        if word == "began":
            assert name not in runs, f"attempt {attempt} of {key} began twice: {runs[name]}, {line}"
            runs[name] = Ran(int(pid), type_, key, int(attempt), resource, float(at), None)
        else:
            runs[name] = runs[name]._replace(ended_at=float(at))
    return list(runs.values())


class Crew:
    """The servers of a fleet, each of which is up or is not. They reach MongoDB by one line."""

    def __init__(self, fleet: Fleet, count: int, stack: ExitStack, rng: random.Random, account: Account) -> None:
        self._fleet = fleet
        self._rng = rng
        self._account = account
        self._line = stack.enter_context(line_to(fleet.mongo_port))
        self._lock = threading.Lock()
        self._up: dict[str, Served] = {}
        self._stacks = {f"server{number}": stack.enter_context(ExitStack()) for number in range(count)}
        for name in self._stacks:
            self.start(name)

    @property
    def up(self) -> list[Served]:
        with self._lock:
            return list(self._up.values())

    @property
    def names(self) -> list[str]:
        return list(self._stacks)

    def start(self, name: str) -> None:
        limit = json.dumps({"max_running": MOST_LIMITED})
        settings = {"WORKER__MODULES": '["fleet_owners_jobs"]', "WORKER__CONCURRENCY": "3", "TYPES__limited": limit}
        ways = Ways(mongo=self._line)
        served = self._stacks[name].enter_context(self._fleet.serving(name, ways, **settings))
        with self._lock:
            self._up[name] = served

    def _take_one(self) -> tuple[str, Served]:
        name = self._rng.choice(self.names)
        with self._lock:
            return name, self._up.pop(name)

    def stop_one(self) -> None:
        """Kill one of them, or stop it in good order; start it again, soon or when the others know."""
        name, served = self._take_one()
        served.stop(signal.SIGKILL if self._rng.random() < 0.75 else signal.SIGTERM)
        self._account.kills[served.process.pid] = time.monotonic()
        self._stacks[name].close()
        time.sleep(self._rng.choice([0, 0.5, LEASE_S + 2]))
        self.start(name)

    def hold_one_up(self) -> None:
        """Have one stand still until the others have taken its runs over, and go on."""
        name, served = self._take_one()
        since = time.monotonic()
        served.process.send_signal(signal.SIGSTOP)
        time.sleep(HELD_UP_S)
        served.process.send_signal(signal.SIGCONT)
        self._account.held_up.append(HeldUp(served.process.pid, since, time.monotonic()))
        with self._lock:
            self._up[name] = served

    def part_from_mongodb(self) -> None:
        """Have MongoDB be away for all of them, refusing or silent, so that none can take another for dead."""
        self._rng.choice([self._line.refuse, self._line.swallow])()
        time.sleep(AWAY_S)
        self._line.mend()

    def empty_beanstalkd(self) -> None:
        """Kill one, and start it again without what it had."""
        self._rng.choice(self._fleet.beanstalkds).restart()


class Owner(threading.Thread):
    """Inserts jobs, and calls some of all off, until told to stop."""

    def __init__(self, crew: Crew, account: Account, name: str, seed: int) -> None:
        super().__init__(name=name)
        self._crew = crew
        self._account = account
        self._rng = random.Random(f"{seed}-{name}")
        self._count = 0
        self.is_over = threading.Event()

    def run(self) -> None:
        while not self.is_over.wait(self._rng.uniform(0, REST_S)):
            server = self._rng.choice(self._crew.up)
            try:
                with suppress(OSError, EOFError):
                    self._rng.choice([self._insert, self._insert, self._insert, self._await_end, self._change])(server)
            except RefusedError as error:
                if error.code not in MAY_BE_SAID:
                    self._account.faults.append(str(error))

    def _insert(self, server: Served) -> None:
        jobs = [self._job() for _ in range(self._rng.choice([1, 2, AT_ONCE]))]
        if len(jobs) > 1 and "unique" not in jobs[0]:
            jobs[-1] = self._job("after") | {"after": [0], "after_any_end": True}
        asked_at = time.monotonic()
        ids = ask(server, "insert", jobs, GIVE_UP_S)
        if "after" in jobs[-1]:
            self._account.following[jobs[-1]["data"]["key"]] = (ids[0], jobs[0]["data"]["key"])
        self._accepted(ids, asked_at)

    def _await_end(self, server: Served) -> None:
        job = self._job("at-" + self._rng.choice(self._crew.names)) | {"wait": END_WITHIN_S}
        asked_at = time.monotonic()
        with peer_of(server, 2 * END_WITHIN_S) as peer:
            self._accepted([peer.call("insert", job)], asked_at)
            try:
                end = peer.receive()
            except RefusedError as error:
                if error.code not in MAY_END:
                    self._account.faults.append(f"who waits for {job} hears {error}")
            else:
                assert end["state"] == "success", end
                self._account.awaited_count += 1

    def _accepted(self, ids: Sequence[str], asked_at: float) -> None:
        self._account.asked.update(dict.fromkeys(ids, asked_at))
        self._account.accepted += ids

    def _job(self, type_: str | None = None) -> dict[str, Any]:
        self._count += 1
        rng, key = self._rng, f"{self.name}-{self._count}"
        data: dict[str, Any] = {"key": key, "fails": rng.choice([0] * 8 + [1, 2])}
        types = ["plain", "alone", "alone", "other", "limited"]
        job = {"type": type_ or rng.choice(types), "data": data, "prio": rng.randrange(4)}
        job |= {"keep": -1, "ghosts": -1, "ghost_delay": 0, "retry_delay": 0.1}
        if job["type"] in ("alone", "other"):
            job["resource"] = data["resource"] = rng.choice(RESOURCES)
        if rng.random() < 0.2:
            job["delay"] = rng.choice([0.1, 0.5, 1.5])
        if rng.random() < 0.2:
            job["id"] = f"own-{key}"
        elif job["type"] == "plain" and rng.random() < 0.5:
            job["unique"] = rng.choice(UNIQUE)
        return job

    def _change(self, server: Served) -> None:
        verb = self._rng.choice(["cancel", "delete", "retry"])
        named = self._account.accepted[-4 * AT_ONCE :]
        if verb == "retry":  # of the others hardly any is one that it takes
            named = list(self._account.changed["cancel"])[-NAMED:] or named
        ids = self._rng.sample(named, min(len(named), NAMED))
        if not ids:
            return
        self._account.touched.update(ids)
        force = {"force": True} if verb == "delete" and self._rng.random() < 0.5 else {}
        try:
            answer = ask(server, verb, {"ids": ids, **force}, GIVE_UP_S)
        except (OSError, EOFError, RefusedError):
            self._account.lost_retries.update(ids if verb == "retry" else ())
            raise
        self._account.changed[verb].update(answer["ids"])
        if answer["count"] != len(answer["ids"]):
            self._account.faults.append(f"{verb} was answered {answer}")


def own(folder: Path, uri: str, rounds: int, seed: int, *, servers: int, beanstalkds: int = 0) -> Account:
    """Have so many things befall a fleet as its jobs' owners do with them what they like; check the account and return it."""
    rng, account = random.Random(seed), Account()
    (folder / "fleet_owners_jobs.py").write_text(HANDLERS)
    with ExitStack() as stack:
        fleet = Fleet(folder, uri, [stack.enter_context(running_beanstalkd()) for _ in range(beanstalkds)])
        crew = Crew(fleet, servers, stack, rng, account)
        troubles = [crew.stop_one, crew.hold_one_up, crew.part_from_mongodb, *([crew.empty_beanstalkd] if beanstalkds else [])]
        owners = [Owner(crew, account, f"o{number}", seed) for number in range(OWNERS)]
        for owner in owners:
            owner.start()
        try:
            for number in range(rounds):
                time.sleep(rng.uniform(0.5, 3))
                troubles[number % len(troubles)]()
        finally:
            for owner in owners:
                owner.is_over.set()
            for owner in owners:
                owner.join()
        records = _ended(crew.up, uri)
    account.check(ran(folder / "ran"), records)
    return account


def _ended(servers: Sequence[Served], uri: str) -> dict[str, Record]:
    """Return all records, once all jobs have ended and each server counts them so, and no resource is had or waited for."""
    with client_of(uri) as client:
        database = client.get_default_database()
        waiting = {"place": {"$in": [int(Place.READY), int(Place.LATER), int(Place.RUNNING)]}}
        drain(servers, lambda _servers: database.jobs.count_documents(waiting))
        eventually(lambda: list(database.locks.find()), lambda lines: not lines, DRAIN_WITHIN_S, "no resource is had")
    records = every_record(servers[0])
    states = Counter(record["state"] for record in records.values())
    for server in servers:
        eventually(
            lambda server=server: ask(server, "stats"),  # type: ignore[misc]
            lambda seen: all(seen[f"jobs_{state}"] == states[state] for state in ("success", "fail", "cancelled")),
            DRAIN_WITHIN_S,
            f"counts {states}",
        )
    return records


def _tell(folder: Path, rounds: int, seed: int) -> str:
    (folder / "mongodb").mkdir()
    with mongodb(folder / "mongodb") as uri:
        account = own(folder, a_database(uri), rounds, seed, servers=2 + seed % 2, beanstalkds=seed // 2 % 2)
    counts = {verb: counted.total() for verb, counted in account.changed.items()}
    befell = f"{len(account.kills)} stops, {len(account.held_up)} held up"
    return f"{befell}, {len(account.accepted)} jobs accepted, {counts}, all is as it was answered"


if __name__ == "__main__":
    play(_tell)
