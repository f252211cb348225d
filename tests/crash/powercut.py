"""A real server whose every write is recorded, and what must be so after a power cut between any two of them.

Clients insert over TCP jobs that run, some of which they wait for, and some of which they call off or try again; a worker over
the wire runs others; owners say how types are to be treated. strace records what the server does to its files and what it says,
from its first start on, over a kill and the start after it. Of many moments a disk is made that may be found after the power
was cut then: what was flushed, and of the rest nothing, all or any sectors, in any order. A server that starts on it keeps what
the other had said until then:

    what was acknowledged is there and ends well; what was told as ended, or reported and answered, has not run again; what was
    called off is so, and has not run; what is to be tried again is; what owners have said of types holds.

Run as a program: `python -m tests.crash.powercut CUTS`. It needs strace.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from kqs.minding.tree import children
from tests.support.asking import Peer, RefusedError, eventually, peer_of
from tests.support.files import Disk, Op
from tests.support.serving import SERVE, SERVE_ENVIRON, Served, serving
from tests.support.traced import STRACE, Traced

HANDLERS = """
import os
import kqs

runs = os.open(os.environ["RUNS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

@kqs.handler("here")
async def here(data, job):
    os.write(runs, job.id.encode() + b"\\n")
    return data

@kqs.handler("at first", retries=0)
async def at_first(data, job):
    if job.attempt == 1:
        raise ValueError("not at first")
"""
CLIENTS = 3
#: lives of the server, of which all but the last end with a kill, and how long there is load in each
LIVES = 2
LOAD_S = 2.0
#: no end of it is seen before the last disk was looked at
LONG_S = 3600
#: disks of one moment
STATES = 2
SETTINGS = {
    "WORKER__MODULES": '["powercut_handlers"]',
    "LOG__LEVEL": "warning",
    "JOURNAL__SEGMENT_BYTES": "32768",
    "JOURNAL__MIN_FREE_BYTES": "0",
}
#: how jobs stand that do not run
CALLED_OFF = ("cancelled", "not_found")
#: how else jobs may stand: whose run had begun; and whose first run was lost, since the second one does well
LIKEWISE = {"new": {"processing", "ghost"}, "fail": {"success"}}


class Call(NamedTuple):
    """What was asked.

    about: the id of the job that the call is about; "": it makes some, or is about none. ends: how jobs stand in the end, once
    it is answered. holds: a question, and what its answer holds then.
    """

    about: str = ""
    ends: str = ""
    holds: tuple[str, object, str] | None = None


@dataclass
class Facts:
    """What was said until a moment.

    states: by the id of each job, how it stands in the end. not_again: ids of jobs that do not run any more. settings:
    questions, with what their answers hold.
    """

    states: dict[str, str] = field(default_factory=dict)
    not_again: set[str] = field(default_factory=set)
    settings: list[tuple[str, object, str]] = field(default_factory=list)


class Asked:
    """The calls, by their ids, which are one sequence over all clients."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._calls: dict[int, Call] = {}
        self._open: defaultdict[str, dict[int, str]] = defaultdict(dict)  # by job, of calls that are not answered

    def line(self, name: str, argument: object, call: Call) -> bytes:
        """Return a call's line."""
        number = next(self._numbers)
        self._calls[number] = call
        if call.about:
            self._open[call.about][number] = call.ends
        return json.dumps({"id": number, "n": name, "m": argument}).encode() + b"\n"

    def may_be(self, job_id: str, said: str) -> set[str]:
        """Return how a job may stand in the end of which this was said last: calls may be done that are not answered."""
        return {said, *self._open[job_id].values()}

    def note(self, facts: Facts, answer: dict[str, Any]) -> None:
        """Take in a last answer, or what was told before it."""
        call = self._calls[answer["id"]]
        if answer["s"] == "err":
            assert answer["e"]["code"] == "job_failed", answer
            return
        found = answer["m"]
        if call.holds is not None:
            facts.settings.append(call.holds)
        elif call.about:
            self._open[call.about].pop(answer["id"])
            facts.states[call.about] = call.ends
            if call.ends in CALLED_OFF:
                facts.not_again.add(call.about)
        elif isinstance(found, dict):  # a job that was waited for
            facts.not_again.add(found["id"])
        elif call.ends:
            facts.states.update(dict.fromkeys([found] if isinstance(found, str) else found, call.ends))


class Client:
    """One client, one call at a time, until it is over."""

    def __init__(self, asked: Asked, port: int, rng: random.Random) -> None:
        self._asked = asked
        self._rng = rng
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._lines = self._connection.makefile("rb")

    def play(self, until: float) -> None:
        """Make calls until then, by the monotonic clock."""
        often = (self._one, self._many, self._hot, self._call_off, self._run_far)
        with self._connection, suppress(EOFError, ConnectionError):
            while time.monotonic() < until:
                self._rng.choice((*often, *often, self._retry, self._unique, self._set))()

    def _ask(self, name: str, argument: object, about: str = "", ends: str = "", holds: Any = None) -> Any:
        """Make a call; return its result, or the id of a job that has failed. Raises: EOFError, OSError: the server is gone."""
        self._connection.sendall(self._asked.line(name, argument, Call(about, ends, holds)))
        told = None
        while True:
            line = self._lines.readline()
            if not line.endswith(b"\n"):
                raise EOFError("the server closed the connection")
            answer = json.loads(line)
            if answer["s"] != "ok":
                return answer["m"] if answer["s"] == "end" else told
            told = answer["m"]

    def _data(self) -> str:
        return "x" * self._rng.choice((0, 10, 300, 6000))

    def _one(self) -> None:
        self._ask("insert", {"type": "here", "data": self._data()}, ends="success")

    def _many(self) -> None:
        self._ask("insert", [{"type": "here", "data": self._data()} for _ in range(self._rng.randrange(2, 20))], ends="success")

    def _hot(self) -> None:
        self._ask("insert", {"type": "here", "data": self._data(), "wait": 60}, ends="success")

    def _unique(self) -> None:
        job = {"type": "here", "unique": self._rng.choice("abc"), "delay": self._rng.choice((0, 0.1))}
        self._ask("insert", job, ends="success")

    def _call_off(self) -> None:
        job_id = self._ask("insert", {"type": "here", "delay": LONG_S}, ends="delayed")
        if self._rng.random() < 0.5:
            self._ask("cancel", {"id": job_id}, job_id, "cancelled")
        else:
            self._ask("delete", {"id": job_id}, job_id, "not_found")

    def _retry(self) -> None:
        job_id = self._ask("insert", {"type": "at first", "wait": 60}, ends="fail")
        self._ask("retry", {"id": job_id}, job_id, "success")

    def _run_far(self) -> None:
        self._ask("insert", {"type": "far", "data": self._data()}, ends="new")
        for run in self._ask("reserve", {"types": ["far"], "wait": 10}):
            self._ask("finish", {"run": run["run"], "report": "ok", "result": self._data()}, run["id"], "success")

    def _set(self) -> None:
        name = f"name-{self._rng.randrange(10**9)}"
        match self._rng.randrange(3):
            case 0:
                self._ask("suspend", {"type": name}, holds=("types", {"type": name}, '"suspended_at": 1'))
            case 1:
                self._ask("limit", {"type": name, "max_running": 7}, holds=("types", {"type": name}, '"max_running": 7'))
            case _:
                plan = {"name": name, "every": LONG_S, "job": {"type": "here"}}
                self._ask("schedule", plan, holds=("schedules", {"name": name}, f'"name": "{name}"'))


def record(folder: Path, rng: random.Random) -> tuple[list[Op], Asked]:
    """Have a server under load write in `folder`/journal; return what it did, and what it was asked."""
    asked, traced, ops = Asked(), Traced(folder / "journal"), list[Op]()
    trace = folder / "trace"
    for life in range(LIVES):
        with serving(folder, (*STRACE, "-o", str(trace), *SERVE), environ(folder, "first"), **SETTINGS) as served:
            load(served, asked, rng, kill=life < LIVES - 1)
        with trace.open() as lines:
            ops += traced.ops(lines)
    return ops, asked


def load(served: Served, asked: Asked, rng: random.Random, *, kill: bool) -> None:
    """Have clients make calls; then kill the server under them, or have it stop when they are through."""
    until = time.monotonic() + LOAD_S + (LONG_S if kill else 0)
    clients = [Client(asked, served.port, random.Random(rng.random())) for _ in range(CLIENTS)]
    threads = [threading.Thread(target=client.play, args=(until,)) for client in clients]
    for thread in threads:
        thread.start()
    if kill:
        time.sleep(LOAD_S)
        for server in children(served.process.pid):  # strace, which is its parent, has more to write
            os.kill(server, signal.SIGKILL)
    for thread in threads:
        thread.join()
    if not kill:
        with peer_of(served) as peer:
            peer.call("quit")
    served.process.wait(60)


def environ(folder: Path, name: str) -> dict[str, str]:
    """Return the environment of a server that notes its runs in a file of this name."""
    return SERVE_ENVIRON | {"RUNS": str(folder / name), "PYTHONPATH": f"{folder}:{SERVE_ENVIRON['PYTHONPATH']}"}


def answers(said: bytes) -> Iterator[dict[str, Any]]:
    """Yield the whole answers to calls that have an id in what was written to a socket."""
    for line in said.splitlines(keepends=True):
        if line.endswith(b"}\n"):
            with suppress(ValueError):
                answer = json.loads(line)
                if isinstance(answer, dict) and "id" in answer and "s" in answer:
                    yield answer


def check(folder: Path, number: int, disk: dict[Path, bytes], facts: Facts, asked: Asked) -> None:
    """Start a server on `disk`; assert that it keeps what was said."""
    place = folder / f"cut-{number}"
    place.mkdir()
    for path, data in disk.items():
        kept_at = place / path.relative_to(folder)
        kept_at.parent.mkdir(parents=True, exist_ok=True)
        kept_at.write_bytes(data)
    runs = f"runs-{number}"
    with serving(place, SERVE, environ(folder, runs), **SETTINGS) as served:
        eventually(lambda: strays(served, facts, asked), lambda found: not found, 60, "as was said")
        ran = set((folder / runs).read_text().split())
        assert not ran & facts.not_again, f"has run again: {ran & facts.not_again}"
        with peer_of(served) as peer:
            for name, argument, held in facts.settings:
                assert held in json.dumps(peer.call(name, argument)), f"{name} {argument} has no {held}"
    shutil.rmtree(place)


def strays(served: Served, facts: Facts, asked: Asked) -> list[str]:
    """Return which jobs do not stand as was said, with how they do."""
    with peer_of(served) as peer:
        found = {job_id: state_of(peer, job_id) for job_id in facts.states}
    return [
        f"{job_id}: {found[job_id]} is not {said}"
        for job_id, said in facts.states.items()
        if found[job_id] not in asked.may_be(job_id, said) | LIKEWISE.get(said, set())
    ]


def state_of(peer: Peer, job_id: str) -> str:
    """Return a job's state, or `not_found`."""
    try:
        return str(peer.call("job", {"id": job_id})["state"])
    except RefusedError as error:
        return error.code


def cut(folder: Path, ops: Sequence[Op], asked: Asked, cuts: int, rng: random.Random) -> int:
    """Cut the power at so many moments, just after something was said in half of them; return how many disks were looked at."""
    said = [index + 1 for index, op in enumerate(ops) if op.what == "mark"]
    moments = sorted(rng.choice(said) if rng.random() < 0.5 else rng.randrange(len(ops)) for _ in range(cuts))
    disk, facts, done, looked_at = Disk(), Facts(), 0, 0
    for moment in moments:
        for op in ops[done:moment]:
            if op.what == "mark":
                for answer in answers(op.mark):
                    asked.note(facts, answer)
            else:
                disk.take(op)
        done = max(done, moment)
        states = list(disk.states(rng, STATES))
        for state in rng.sample(states, min(STATES, len(states))):
            check(folder, looked_at, state, facts, asked)
            looked_at += 1
    return looked_at


def powercut(folder: Path, cuts: int, rng: random.Random) -> tuple[int, list[Op]]:
    """Record a server in an empty folder, and cut its power; return how many disks were looked at, and the record."""
    folder = folder.resolve()  # as the system names it
    (folder / "powercut_handlers.py").write_text(HANDLERS)
    ops, asked = record(folder, rng)
    return cut(folder, ops, asked, cuts, rng), ops


def main(arguments: Sequence[str]) -> None:
    """Record a server, cut its power, and tell of it."""
    cuts = int(arguments[0]) if arguments else 100
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="kqs-powercut-") as name:
        disks, ops = powercut(Path(name), cuts, random.Random(seed))
    print(f"{disks} disks after {cuts} cuts in {len(ops)} changes of files and answers: nothing that was said is lost")


if __name__ == "__main__":
    main(sys.argv[1:])
