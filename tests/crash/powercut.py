"""A real server whose every write is recorded, and what must be so after a power cut between any two of them.

Clients insert over TCP jobs that run, some of which they wait for, and delayed ones that they call off; a worker over the wire
runs others. strace records what the server does to its files and what it says, from its first start on. Of many moments a
disk is made that may be found after the power was cut then: what was flushed, and of the rest nothing, all or any sectors, in
any order. A server that starts on it keeps what the other had said until then:

    what was acknowledged is there and ends well; what was told as ended, or reported and answered, has not run again; what was
    called off is so, and has not run.

Run as a program: `python -m tests.crash.powercut CUTS`. It needs strace.
"""

from __future__ import annotations

import json
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

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
"""
CLIENTS = 3
LOAD_S = 4.0
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


@dataclass
class Facts:
    """Ids of jobs, by what was said of them."""

    kept: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)


class Asked:
    """What the calls asked for, by their ids, which are one sequence over all clients."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._calls: dict[int, tuple[str, Any]] = {}
        self.called_off: set[str] = set()

    def line(self, name: str, argument: object, about: Any = None) -> bytes:
        """Return a call's line. about: the id of the job that it is about, if it is about one."""
        number = next(self._numbers)
        self._calls[number] = (name, about)
        if name in ("cancel", "delete"):
            self.called_off.add(about)
        return json.dumps({"id": number, "n": name, "m": argument}).encode() + b"\n"

    def note(self, facts: Facts, answer: dict[str, Any]) -> None:
        """Take in an answer. Raises: AssertionError: it is an error."""
        name, about = self._calls[answer["id"]]
        assert answer["s"] != "err", answer
        found = answer["m"]
        match name:
            case "insert" if isinstance(found, dict):
                facts.ended.add(found["id"])
            case "insert":
                facts.kept.update([found] if isinstance(found, str) else found)
            case "finish":
                facts.ended.add(about)
            case "cancel":
                facts.cancelled.add(about)
            case "delete":
                facts.deleted.add(about)


class Client:
    """One client, one call at a time, until it is over."""

    def __init__(self, asked: Asked, port: int, rng: random.Random) -> None:
        self._asked = asked
        self._rng = rng
        self._connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._lines = self._connection.makefile("rb")

    def play(self, until: float) -> None:
        with self._connection:
            while time.monotonic() < until:
                self._rng.choice((self._one, self._many, self._hot, self._call_off, self._run_far))()

    def _ask(self, name: str, argument: object, about: Any = None) -> Any:
        self._connection.sendall(self._asked.line(name, argument, about))
        while (answer := json.loads(self._lines.readline()))["s"] == "ok":
            pass
        return answer["m"]

    def _data(self) -> str:
        return "x" * self._rng.choice((0, 10, 300, 6000))

    def _one(self) -> None:
        self._ask("insert", {"type": "here", "data": self._data()})

    def _many(self) -> None:
        self._ask("insert", [{"type": "here", "data": self._data()} for _ in range(self._rng.randrange(2, 20))])

    def _hot(self) -> None:
        self._ask("insert", {"type": "here", "data": self._data(), "wait": 60})

    def _call_off(self) -> None:
        job_id = self._ask("insert", {"type": "here", "delay": LONG_S})
        self._ask(self._rng.choice(("cancel", "delete")), {"id": job_id}, job_id)

    def _run_far(self) -> None:
        self._ask("insert", {"type": "far", "data": self._data()})
        for run in self._ask("reserve", {"types": ["far"], "wait": 10}):
            self._ask("finish", {"run": run["run"], "report": "ok", "result": self._data()}, run["id"])


def record(folder: Path, rng: random.Random) -> tuple[list[Op], Asked]:
    """Have a server under load write in `folder`/journal; return what it did, and what it was asked."""
    asked = Asked()
    trace = folder / "trace"
    with serving(folder, (*STRACE, "-o", str(trace), *SERVE), environ(folder, "first"), **SETTINGS) as served:
        until = time.monotonic() + LOAD_S
        clients = [Client(asked, served.port, random.Random(rng.random())) for _ in range(CLIENTS)]
        threads = [threading.Thread(target=client.play, args=(until,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with peer_of(served) as peer:
            peer.call("quit")
        served.process.wait(60)
    with trace.open() as lines:
        return list(Traced(folder / "journal").ops(lines)), asked


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


def check(folder: Path, number: int, disk: dict[Path, bytes], facts: Facts, called_off: set[str]) -> None:
    """Start a server on `disk`; assert that it keeps what was said. called_off: ids of jobs that may be so, said or not."""
    place = folder / f"cut-{number}"
    for path, data in disk.items():
        kept_at = place / path.relative_to(folder)
        kept_at.parent.mkdir(parents=True, exist_ok=True)
        kept_at.write_bytes(data)
    place.mkdir(exist_ok=True)
    runs = f"runs-{number}"
    with serving(place, SERVE, environ(folder, runs), **SETTINGS) as served:
        left_to_run = facts.kept - called_off
        eventually(lambda: unfinished(served, left_to_run), lambda left: not left, 60, "all ended that was acknowledged")
        ran = set((folder / runs).read_text().split())
        assert not ran & facts.ended, f"ran again: {ran & facts.ended}"
        assert not ran & (facts.cancelled | facts.deleted), "what was called off has run"
        with peer_of(served) as peer:
            for job_id in facts.ended:
                assert (found := _state(peer, job_id)) == "success", f"{job_id} has ended well: {found}"
            for job_id in facts.cancelled:
                assert (found := _state(peer, job_id)) == "cancelled", f"{job_id} was cancelled: {found}"
            for job_id in facts.deleted:
                assert (found := _state(peer, job_id)) == "not_found", f"{job_id} was deleted: {found}"
    shutil.rmtree(place)


def _state(peer: Peer, job_id: str) -> str:
    try:
        return str(peer.call("job", {"id": job_id})["state"])
    except RefusedError as error:
        return error.code


def unfinished(served: Served, job_ids: set[str]) -> list[str]:
    """Return which of these jobs have yet to run here."""
    with peer_of(served) as peer:
        known = [peer.call("job", {"id": job_id}) for job_id in job_ids]
    return [job["id"] for job in known if job["type"] == "here" and job["state"] != "success"]


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
            check(folder, looked_at, state, facts, asked.called_off)
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
