"""Many real servers on one MongoDB and one pool of beanstalkds, and what they say of the jobs they share."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.support.asking import WITHIN_S, RefusedError, ask, eventually, telling, until
from tests.support.beanstalkd import Beanstalkd
from tests.support.fault_proxy import FaultProxy
from tests.support.serving import SERVE_ENVIRON, Served, serving

#: how soon a driver gives up on a MongoDB that does not answer, in ms; its defaults are too long for a test
_URI_OPTIONS = "serverSelectionTimeoutMS=1500&connectTimeoutMS=1500&socketTimeoutMS=3000"

HANDLERS = """
import asyncio
import os
import kqs

def ran(data):
    with open(os.environ["RAN"], "a") as file:
        file.write(f"{os.environ['NAME']} {data}\\n")

@kqs.handler("work", ttr=10, ghosts=20, ghost_delay=0.1)
async def work(data):
    await asyncio.sleep(0.02)
    ran(data)

@kqs.handler("slow", ttr=300, ghosts=20, ghost_delay=0.1)
async def slow(data, job):
    await asyncio.sleep(data if job.attempt == 1 else 0)
    ran(data)

@kqs.handler("flaky", retries=5, retry_delay=0.2)
async def flaky(data, job):
    ran(data)
    if job.attempt <= 3:
        raise ValueError(f"attempt {job.attempt}")

@kqs.handler("vanishing", ttr=0.5, ghosts=20, ghost_delay=0.1)
async def vanishing(data, job):
    ran(data)
    await asyncio.sleep(60 if job.attempt <= 2 else 0)
"""

T = TypeVar("T")
Record = dict[str, Any]


class Line:
    """A line to a server that can be cut: everything sent on it vanishes, or its connections are reset and refused."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"line to {port}")
        self._thread.start()
        self._proxy = FaultProxy(port)
        self._do(self._proxy.listen())

    @property
    def port(self) -> int:
        return self._proxy.port

    def swallow(self) -> None:
        """Let nothing through, and tell nobody."""
        self._proxy.is_half_open = True

    def refuse(self) -> None:
        """Drop every connection, and take no more."""
        self._do(self._proxy.refuse())

    def mend(self) -> None:
        """Be a line again; connections that missed something are dropped."""
        self._do(self._proxy.refuse())
        self._proxy.is_half_open = False
        self._do(self._proxy.listen())

    def close(self) -> None:
        self._do(self._proxy.refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@contextmanager
def line_to(port: int) -> Iterator[Line]:
    """Yield a line to a port of this machine."""
    line = Line(port)
    try:
        yield line
    finally:
        line.close()


@dataclass(frozen=True)
class Ways:
    """How a server reaches what the fleet shares, by lines in place of the straight ones, and how far its clock is ahead."""

    mongo: Line | None = None
    beanstalkds: Sequence[Line] = ()
    skew_s: float = 0.0


STRAIGHT = Ways()


class Fleet:
    """What the servers share: `uri` names the database, `ran` has a line NAME DATA for every run that got so far."""

    def __init__(self, folder: Path, uri: str, beanstalkds: Sequence[Beanstalkd]) -> None:
        self._folder = folder
        self._uri = uri
        self.beanstalkds = beanstalkds
        self._ran = folder / "ran"
        self._ran.touch()
        (folder / "fleetjobs.py").write_text(HANDLERS)

    @property
    def uri(self) -> str:
        """Return where the database is."""
        return self._uri

    @property
    def mongo_port(self) -> int:
        port = urlsplit(self._uri).port
        assert port is not None, self._uri
        return port

    @property
    def beanstalkd_ports(self) -> list[int]:
        return [one.port for one in self.beanstalkds]

    @contextmanager
    def serving(self, name: str, ways: Ways = STRAIGHT, /, **settings: str) -> Iterator[Served]:
        """Run a server with a journal of its own, which it has again when its name comes again."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        addresses = [f"127.0.0.1:{line.port}" for line in ways.beanstalkds] or [one.address for one in self.beanstalkds]
        own = {
            "STORE__KIND": "mongodb",
            "STORE__URI": self._uri_by(ways.mongo),
            "WORKER__MODULES": '["fleetjobs"]',
            "WORKER__CONCURRENCY": "4",
            "WORKER__GRACE_S": "2",
        }
        if addresses:
            own |= {"BROKER__KIND": "beanstalkd", "BROKER__SERVERS": json.dumps(addresses)}
        command = (sys.executable, "-m", "tests.support.fleet_server", str(ways.skew_s))
        path = f"{SERVE_ENVIRON['PYTHONPATH']}:{self._folder}"
        environ = {**SERVE_ENVIRON, "PYTHONPATH": path, "RAN": str(self._ran), "NAME": name}
        with serving(folder, command, environ, **(own | settings)) as server:
            yield server

    def _uri_by(self, line: Line | None) -> str:
        uri = urlsplit(self._uri)
        if line is not None:
            uri = uri._replace(netloc=f"127.0.0.1:{line.port}")
        return uri._replace(query=_URI_OPTIONS).geturl()

    def runs(self) -> list[tuple[str, str]]:
        """Return (server, data) for every run that got so far, in their order."""
        return [(name, data) for line in self._ran.read_text().splitlines() for name, data in [line.split(" ", 1)]]

    def runners(self) -> Counter[str]:
        """Return how many runs each server has had."""
        return Counter(name for name, _ in self.runs())


def some(type_: str, data: Iterable[object], **fields: object) -> list[dict[str, object]]:
    """Return jobs to insert, one for each item of `data`."""
    return [{"type": type_, "data": one, **fields} for one in data]


def await_calm(servers: Sequence[Served], within_s: float = 60) -> None:
    """Ask until no job waits or runs anywhere. A failure tells of the jobs that still do, and how each server feels."""
    zeros = dict.fromkeys(["jobs_new", "jobs_delayed", "jobs_processing", "jobs_retry", "jobs_ghost", "running"], 0)
    try:
        for server in servers:
            until(server, within_s, journal_unfed_records=0)
        for server in servers:
            until(server, within_s, **zeros)
    except AssertionError as error:
        for server in servers:
            restless = [job for job in every_record(server).values() if job.get("ended_at") is None]
            error.add_note(f"{time.time()} {server.log.name}: {ask(server, 'health')} {ask(server, 'stats')} {restless}")
        raise


def every_record(server: Served) -> dict[str, Record]:
    """Return all records by id, with all their runs."""
    ids: list[str] = []
    while page := ask(server, "jobs", {"limit": 100} | ({"after": ids[-1]} if ids else {})):
        ids += [job["id"] for job in page]
    answers = server.ask(*(json.dumps({"id": job_id, "n": "job", "m": job_id}) for job_id in ids))
    return {answer["id"]: answer["m"] for answer in map(json.loads, answers)}


def record(server: Served, job_id: str) -> Record:
    found: Record = ask(server, "job", job_id)
    return found


def record_if_known(server: Served, job_id: str) -> Record | None:
    """Return the record of a job, or None if the server does not know of it, or not yet whether there is one."""
    try:
        return record(server, job_id)
    except RefusedError as refusal:
        if refusal.code not in ("not_found", "busy"):
            raise
        return None


def await_state(server: Served, job_id: str, state: str, within_s: float = WITHIN_S) -> Record:
    """Ask until the job is in this state, for a server may not know of it yet; return its record."""
    with telling(server):
        found = eventually(
            lambda: record_if_known(server, job_id), lambda seen: seen is not None and seen["state"] == state, within_s, state
        )
    assert found is not None
    return found


def run_states(job: Record) -> list[str]:
    return [run["state"] for run in job["runs"]]
