"""Jobs of one resource over real servers: one at a time, in order, whatever becomes of their runs; by a log of their own."""

from __future__ import annotations

import random
import signal
from contextlib import ExitStack
from functools import partial
from operator import le
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import ask, eventually, peer_of, until
from tests.support.mongodb import a_database, mongodb
from tests.support.serving import PLAIN_ENVIRON, SERVE, Served, serving
from tests.support.wire_worker import working_at

#: each run writes a line as it begins and one as it ends; a line that was written outlives the process
HANDLERS = """
import asyncio
import os
import time

import kqs

log = os.open(os.environ["RUNS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def tell(word, data, job):
    os.write(log, f"{word} {os.getpid()} {data['resource']} {job.id} {job.attempt}\\n".encode())


async def run(data, job):
    tell("begin", data, job)
    try:
        while not os.path.exists(data.get("gate", "/")):
            await asyncio.sleep(0.02)
        await asyncio.sleep(data.get("s", 0.0))
        if job.attempt == 1 and data.get("first") == "fail":
            raise ValueError("no")
        if job.attempt == 1 and data.get("first") == "again":
            raise kqs.Again()
        if data.get("first") == "fail for good":
            raise kqs.Fail("no")
    finally:
        tell("end", data, job)


kqs.handler("a")(run)
kqs.handler("b", retry_delay=0)(run)


@kqs.handler("c", retry_delay=0)
def threaded(data, job):
    tell("begin", data, job)
    time.sleep(data.get("s", 0.0))
    tell("end", data, job)
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "runs.log"


class Node:
    """What a server with our handlers is started with."""

    def __init__(self, folder: Path, log: Path, **settings: str) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "locked.py").write_text(HANDLERS)
        self.folder = folder
        self.environ = PLAIN_ENVIRON | {"RUNS_LOG": str(log)}
        self.settings = {"WORKER__MODULES": '["locked"]', "DEFAULTS__GHOST_DELAY": "0"} | settings

    def serve(self) -> Any:
        return serving(self.folder, SERVE, self.environ, **self.settings)


def check(log: Path) -> list[tuple[str, str]]:
    """Return (resource, job) of all runs as they began. No two of a resource were under way at a time."""
    under_way: dict[str, tuple[str, str]] = {}
    began: list[tuple[str, str]] = []
    for line in log.read_text().splitlines():
        word, pid, resource, job, _attempt = line.split()
        if word == "begin":
            other = under_way.get(resource)
            assert other is None or (other[0] != pid and not Path(f"/proc/{other[0]}").exists()), (line, other)
            under_way[resource] = (pid, job)
            began.append((resource, job))
        else:
            assert under_way.pop(resource) == (pid, job), line
    return began


def a_job(number: int, resource: str, type_: str = "a", s: float = 0.0, **more: object) -> dict[str, Any]:
    data = {"resource": resource, "s": s} | {name: more.pop(name) for name in ("first", "gate") if name in more}
    return {"type": type_, "id": f"job-{number}", "data": data, "resource": resource} | more


def some_jobs(count: int, resources: int, seed: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [
        a_job(
            n,
            f"r{chance.randrange(resources)}",
            chance.choice("abc"),
            chance.choice([0, 0.001, 0.01]),
            prio=chance.choice(["high", "normal"]),
            first=chance.choice(["ok", "ok", "fail", "again", "fail for good"]),
            retry_delay=chance.choice([0, 0.01]),
            retries=3,
        )
        for n in range(count)
    ]


def test_jobs_of_all_types_run_one_at_a_time(tmp_path: Path, log: Path, store: dict[str, str]) -> None:
    jobs = some_jobs(300, 6, seed=1)
    with Node(tmp_path / "one", log, **store).serve() as server:
        with peer_of(server) as peer:
            peer.call("insert", jobs[:100])
            for job in jobs[100:200]:
                peer.call("insert", job)
            peer.call("insert", [{name: value for name, value in job.items() if name != "id"} for job in jobs[200:]])
        until(server, jobs_new=0, jobs_processing=0, jobs_retry=0)
        ended = sum(ask(server, "stats")[word] for word in ("jobs_success", "jobs_fail"))
    assert ended == 300
    assert {resource for resource, _ in check(log)} == {f"r{n}" for n in range(6)}


def test_they_run_in_priority_then_insertion_order(tmp_path: Path, log: Path, store: dict[str, str]) -> None:
    prios = [500, 7, 500, 9, 7]
    with Node(tmp_path / "one", log, **store).serve() as server, peer_of(server) as peer:
        peer.call("insert", a_job(0, "r", gate="gate"))
        eventually(lambda: log.exists() and log.read_text(), bool)
        for number, prio in enumerate(prios, 1):
            peer.call("insert", a_job(number, "r", "abc"[number % 3], prio=prio))
        until(server, journal_unfed_records=0)  # of those that are stored one is the next
        (tmp_path / "one" / "gate").touch()
        until(server, jobs_success=6)
    assert [job for _, job in check(log)] == [f"job-{n}" for n in (0, 2, 5, 4, 1, 3)]


def test_parked_jobs_take_no_lane_from_others(tmp_path: Path, log: Path, store: dict[str, str]) -> None:
    settings = store | {"WORKER__CONCURRENCY": "4"}
    with Node(tmp_path / "one", log, **settings).serve() as server, peer_of(server) as peer:
        peer.call("insert", [a_job(n, "r", s=30.0) for n in range(200)])
        peer.call("insert", [{"type": "a", "data": {"resource": f"free{n}"}} for n in range(300)])
        stats = until(server, jobs_success=300)
        assert stats["jobs_processing"] == 1
        server.stop(signal.SIGKILL)
    assert [resource for resource, _ in check(log)].count("r") == 1


def test_a_parked_job_may_expire(tmp_path: Path, log: Path, store: dict[str, str]) -> None:
    with Node(tmp_path / "one", log, **store).serve() as server, peer_of(server) as peer:
        peer.call("insert", a_job(0, "r", gate="gate"))
        eventually(lambda: log.exists() and log.read_text(), bool)
        peer.call("insert", [a_job(1, "r", expire=0.2), a_job(2, "r")])
        record = eventually(lambda: peer.call("job", "job-1"), lambda record: record["state"] == "fail")
        assert (record["error"], record["attempt"]) == ("expired", 0)
        assert peer.call("job", "job-2")["state"] == "new"
        (tmp_path / "one" / "gate").touch()
        until(server, jobs_success=2)
    assert [job for _, job in check(log)] == ["job-0", "job-2"]


def test_a_type_without_worker_holds_up_no_others_of_its_resource(tmp_path: Path, log: Path, store: dict[str, str]) -> None:
    with Node(tmp_path / "one", log, **store).serve() as server, peer_of(server) as peer:
        peer.call("insert", a_job(0, "r", s=0.3))
        eventually(lambda: log.exists() and log.read_text(), bool)
        peer.call("insert", [a_job(1, "r", "untaken"), *(a_job(n, "r") for n in range(2, 20))])
        until(server, jobs_success=19)
        with working_at(server) as worker:
            (run,) = worker.reserve("untaken")
            assert (run["id"], run["resource"]) == ("job-1", "r")
            peer.call("insert", a_job(20, "r"))
            assert peer.call("job", "job-20")["state"] == "new"
            assert worker.finish(run["run"]) == [True]
        until(server, jobs_success=21)
    assert len(check(log)) == 20


def test_remote_and_held_runs_have_it_until_they_are_over(tmp_path: Path, store: dict[str, str]) -> None:
    with serving(tmp_path, **store) as server, working_at(server) as worker:
        worker.call("insert", [{"type": "mail", "id": f"job-{n}", "resource": "r"} for n in range(4)])
        (run,) = worker.reserve("mail", count=4)
        assert worker.reserve("mail", wait=0) == []
        with working_at(server) as other:
            assert worker.finish(run["run"]) == [True]
            (run,) = other.reserve("mail")
            other.vanish()
        (run,) = worker.reserve("mail", hold=True, worker="holder")  # who vanished left a ghost, which is due at once
        assert (run["id"], run["ghosts"]) == ("job-1", 1)
        assert worker.reserve("mail", wait=0) == []
        server.stop(signal.SIGKILL)
    with serving(tmp_path, **store) as server, working_at(server) as worker:
        assert worker.reserve("mail", wait=1.5) == []
        assert worker.finish(run["run"]) == [True]
        for number in (2, 3):
            (run,) = worker.reserve("mail")
            assert run["id"] == f"job-{number}"
            assert worker.call("release", {"run": run["run"], "delay": 60}) is True


def test_a_resource_may_be_set_by_type_and_stays_with_its_jobs(tmp_path: Path) -> None:
    (tmp_path / "kqs.toml").write_text('[types.mail]\nresource = "post"\n')
    with serving(tmp_path, (*SERVE, "--config", "kqs.toml")) as server, working_at(server) as worker:
        ids = worker.call("insert", [{"type": "mail"}, {"type": "mail", "resource": "desk"}, {"type": "mail"}])
        assert [ask(server, "job", job_id)["options"]["resource"] for job_id in ids] == ["post", "desk", "post"]
        server.stop()
    with serving(tmp_path) as server, working_at(server) as worker:
        runs: list[dict[str, Any]] = []
        while len(runs) < 2:
            runs += worker.reserve("mail", count=3)
        assert sorted((run["id"], run["resource"]) for run in runs) == [(ids[0], "post"), (ids[1], "desk")]
        worker.call("insert", {"type": "mail"})
        assert "resource" not in worker.reserve("mail")[0]


@pytest.mark.parametrize("seed", [20261129])
def test_never_two_at_once_over_kills(tmp_path: Path, log: Path, store: dict[str, str], seed: int) -> None:
    jobs = some_jobs(400, 5, seed)
    log.touch()
    node, chance = Node(tmp_path / "one", log, **store), random.Random(seed)
    for _ in range(4):
        with node.serve() as server, peer_of(server) as peer:
            part, jobs = jobs[:100], jobs[100:]
            least = len(log.read_text().splitlines()) + chance.randrange(150)  # a hundred jobs write two each, at least
            peer.call("insert", part[:50])
            for job in part[50:]:
                peer.call("insert", job)
            eventually(lambda: len(log.read_text().splitlines()), partial(le, least))
            server.stop(signal.SIGKILL)
    with node.serve() as server:
        until(server, jobs_new=0, jobs_processing=0, jobs_retry=0, jobs_ghost=0, within_s=60)
        stats = ask(server, "stats")
        assert stats["jobs_success"] + stats["jobs_fail"] == 400
    check(log)


def test_two_servers_on_one_store_run_one_at_a_time(tmp_path: Path, log: Path) -> None:
    with mongodb(tmp_path) as uri, ExitStack() as stack:
        settings = {"STORE__KIND": "mongodb", "STORE__URI": a_database(uri)}
        servers = [stack.enter_context(Node(tmp_path / name, log, **settings).serve()) for name in ("one", "two")]
        jobs = some_jobs(240, 4, seed=3)
        for start in range(0, 240, 10):
            ask(servers[start // 10 % 2], "insert", jobs[start : start + 10])
        _all_over(servers)
    assert len(check(log)) >= 240


def test_a_type_that_another_server_alone_takes_has_its_turn(tmp_path: Path, log: Path) -> None:
    with mongodb(tmp_path) as uri, ExitStack() as stack:
        settings = {"STORE__KIND": "mongodb", "STORE__URI": a_database(uri)}
        one = stack.enter_context(Node(tmp_path / "one", log, **settings).serve())
        (tmp_path / "two").mkdir()
        two = stack.enter_context(serving(tmp_path / "two", **settings))
        with working_at(two) as worker:
            waiting = worker.send("work", {"types": ["abroad"], "room": 10})
            ask(one, "insert", [a_job(n, "r", "abroad" if n % 2 else "a") for n in range(8)])
            for number in (1, 3, 5, 7):
                (run,) = worker.next(waiting)
                assert run["id"] == f"job-{number}"
                assert worker.finish(run["run"]) == [True]
            until(one, jobs_success=8)
    assert [job for _, job in check(log)] == [f"job-{n}" for n in (0, 2, 4, 6)]


def _all_over(servers: list[Served]) -> None:
    eventually(
        lambda: [sum(ask(server, "stats")[word] for word in ("jobs_success", "jobs_fail")) for server in servers],
        lambda seen: seen == [240] * len(seen),
        60,
    )
