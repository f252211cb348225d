"""Runs that are ended from outside: the next of their resource begins when their handlers have ended; by a log of their own."""

from __future__ import annotations

import json
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import ask, eventually, peer_of
from tests.support.mongodb import a_database, mongodb
from tests.support.serving import PLAIN_ENVIRON, SERVE, Served, serving
from tests.support.working import WORK

#: each takes a while to end once it was told; what it is told is in its job's id, RESOURCE.NUMBER
HANDLERS = """
import asyncio
import os
import time

import kqs

log = os.open(os.environ["RUNS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def tell(word, job):
    os.write(log, f"{word} {job.id} {job.attempt}\\n".encode())


@kqs.handler("coroutine")
async def cleans_up(data, job):
    tell("begin", job)
    try:
        await asyncio.sleep(0 if data else 60)
    finally:
        await asyncio.sleep(0.2)
        tell("end", job)


@kqs.handler("thread")
def goes_on(data, job):
    tell("begin", job)
    while not (data or job.is_over):
        time.sleep(0.01)
    time.sleep(0.2)
    tell("end", job)
"""
COMMAND = """
trap 'sleep 0.2; echo "end $KQS_JOB_ID $KQS_JOB_ATTEMPT" >> {log}; exit' TERM
read data
echo "begin $KQS_JOB_ID $KQS_JOB_ATTEMPT" >> {log}
test "$data" = false && {{ sleep 60 & wait; }}
kill $$
"""
#: within it the first run of each has begun, on a busy machine too
FIRST_S = 2.0
HOWS: dict[str, dict[str, Any]] = {
    "cancel": {},
    "delete": {},
    "time_limit": {"time_limit": FIRST_S},
    "ttr": {"ttr": FIRST_S},
}


def serve(folder: Path, log: Path, **settings: str) -> Any:
    folder.mkdir(exist_ok=True)
    (folder / "leaving.py").write_text(HANDLERS)
    of_command = {"TYPES__command": json.dumps({"command": ["sh", "-c", COMMAND.format(log=log)]})}
    given = {"DEFAULTS__RETRIES": "0", "DEFAULTS__GHOSTS": "0", "WORKER__CONCURRENCY": "40", "WORKER__GRACE_S": "0"} | settings
    return serving(folder, SERVE, PLAIN_ENVIRON | {"RUNS_LOG": str(log)}, **of_command, **given)


def work(folder: Path, log: Path, server: Served) -> Any:
    connect = ("--connect", f"127.0.0.1:{server.port}", "--concurrency", "40")
    return serving(folder, (*WORK, *connect, "leaving"), PLAIN_ENVIRON | {"RUNS_LOG": str(log)})


def lines(log: Path) -> list[tuple[str, str, str]]:
    """Return (word, resource, run) as they were written."""
    found = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(word, job.partition(".")[0], f"{job} {attempt}") for word, job, attempt in found]


def begun(log: Path) -> set[str]:
    return {run.split()[0] for word, _, run in lines(log) if word == "begin"}


def check(log: Path) -> None:
    """See that no two of a resource were on at a time."""
    on: dict[str, str] = {}
    for word, resource, run in lines(log):
        if word == "begin":
            assert resource not in on, f"{run} began while {on[resource]} was on"
            on[resource] = run
        else:
            assert on.pop(resource) == run
    assert on == {}


def end_all(server: Served, asked: Served, log: Path, types: list[str]) -> None:
    """Have the first of two jobs of a resource ended in each way, for each type; see that the second waits for that.

    asked: who is asked to cancel and delete.
    """
    resources = {f"{type_}-{how}": (type_, HOWS[how]) for type_, how in product(types, HOWS)}
    with peer_of(server) as peer:
        for name, (type_, options) in resources.items():
            job = {"type": type_, "resource": name}
            peer.call("insert", [job | {"id": f"{name}.1", "data": False} | options, job | {"id": f"{name}.2", "data": True}])
        eventually(lambda: begun(log), lambda seen: seen >= {f"{name}.1" for name in resources})
    with peer_of(asked) as peer:
        for how in ("cancel", "delete"):
            ids = [f"{type_}-{how}.1" for type_ in types]
            assert peer.call(how, {"ids": ids} | ({"force": True} if how == "delete" else {}))["count"] == len(ids)
    with peer_of(server) as peer:
        for name in resources:
            eventually(lambda name=name: peer.call("job", f"{name}.2")["state"], lambda state: state == "success")  # type: ignore[misc]
    check(log)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "runs.log"


def test_the_next_begins_when_the_handler_in_the_server_has_ended(tmp_path: Path, log: Path, store: dict[str, str]) -> None:
    with serve(tmp_path / "one", log, WORKER__MODULES='["leaving"]', **store) as server:
        end_all(server, server, log, ["coroutine", "thread", "command"])


def test_the_next_begins_when_the_handler_in_a_child_process_has_ended(tmp_path: Path, log: Path) -> None:
    with serve(tmp_path / "one", log, WORKER__MODULES='["leaving"]', WORKER__PROCESSES="2") as server:
        end_all(server, server, log, ["coroutine", "thread", "command"])


def test_the_next_begins_when_the_handler_in_a_worker_elsewhere_has_ended(tmp_path: Path, log: Path) -> None:
    with serve(tmp_path / "one", log, WORKER__MODULES="[]") as server, work(tmp_path / "one", log, server):
        end_all(server, server, log, ["coroutine", "thread"])


def test_the_next_begins_when_the_handler_at_another_server_has_ended(tmp_path: Path, log: Path) -> None:
    with mongodb(tmp_path) as uri, ExitStack() as stack:
        settings = {"STORE__KIND": "mongodb", "STORE__URI": a_database(uri)}
        one = stack.enter_context(serve(tmp_path / "one", log, WORKER__MODULES='["leaving"]', **settings))
        two = stack.enter_context(serve(tmp_path / "two", log, WORKER__MODULES='["leaving"]', **settings))
        end_all(one, two, log, ["coroutine", "thread", "command"])


def test_a_job_goes_on_elsewhere_when_its_handler_at_a_server_that_stops_has_ended(tmp_path: Path, log: Path) -> None:
    types = ["coroutine", "thread", "command"]
    with mongodb(tmp_path) as uri, ExitStack() as stack:
        settings = {"STORE__KIND": "mongodb", "STORE__URI": a_database(uri)}
        one = stack.enter_context(serve(tmp_path / "one", log, WORKER__MODULES='["leaving"]', **settings))
        for type_ in types:
            jobs = [{"type": type_, "resource": type_, "id": f"{type_}.{n}", "data": n > 1} for n in (1, 2)]
            ask(one, "insert", jobs)
        eventually(lambda: begun(log), lambda seen: seen == {f"{type_}.1" for type_ in types})
        two = stack.enter_context(serve(tmp_path / "two", log, WORKER__MODULES='["leaving"]', **settings))
        assert one.stop() == 0
        ids = [f"{type_}.1" for type_ in types]
        eventually(
            lambda: lines(log), lambda seen: {("begin", run.split(".")[0], run) for run in (f"{i} 2" for i in ids)} <= set(seen)
        )
        assert ask(two, "cancel", {"ids": ids})["count"] == len(types)
        for type_ in types:
            eventually(lambda type_=type_: ask(two, "job", f"{type_}.2")["state"], lambda state: state == "success")  # type: ignore[misc]
    check(log)
