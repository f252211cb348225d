"""A real server whose jobs run in child processes, and handlers that do to such a process whatever can be done."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kqs.minding.tree import descendants
from tests.support.asking import ask, eventually, peer_of, telling, until_at_least
from tests.support.commands import command_lines
from tests.support.serving import SERVE, Served, serving

CHORES = """
import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import kqs
from pydantic import BaseModel

PARENT = os.getppid()
KEPT = []


class Order(BaseModel):
    count: int


@kqs.handler("nested")
async def nested(levels):
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


@kqs.handler("pid")
async def pid(data):
    return os.getpid()


@kqs.handler("double")
async def double(data):
    return 2 * data


@kqs.handler("order")
def order(data: Order, job):
    return [data.count, job.attempt, job.options.ttr, os.getpid()]


@kqs.handler("sleep")
async def sleep(data, job):
    os.write(1, f"begun {job.id} {os.getpid()}\\n".encode())  # in one piece, beside those of other processes
    try:
        await asyncio.sleep(data)
    except asyncio.CancelledError:
        print("cancelled", job.id)
        raise
    print("ended", job.id)
    return os.getpid()


@kqs.handler("until")
async def until(data, job):
    os.write(1, f"begun {job.id} {os.getpid()}\\n".encode())  # in one piece, beside those of other processes
    while not Path(data).exists():
        await asyncio.sleep(0.01)
    return os.getpid()


@kqs.handler("touching")
def touching(data, job):
    for _ in range(15):
        time.sleep(0.2)
        job.touch()
    return job.attempt


@kqs.handler("patient", retry_delay=lambda failures: 1000 * failures)
async def patient(data):
    raise ValueError("not yet")


def block():
    ctypes.PyDLL(None).select(0, None, None, None, None)


@kqs.handler("end")
async def end(data, job):
    if job.attempt > 1 and data.get("once", True):
        return os.getpid()
    how = data["how"]
    print("ending", how, os.getpid())
    if how == "exit":
        os._exit(data.get("code", 0))
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "crash":
        ctypes.string_at(0)
    elif how == "block":
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.pthread_sigmask(signal.SIG_BLOCK, [number])
        while True:
            block()
    elif how == "memory":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (64 * 1024 * 1024, 64 * 1024 * 1024))
        while True:
            KEPT.append(bytearray(1024 * 1024))


@kqs.handler("hold")
async def hold(data):
    time.sleep(1.5)


@kqs.handler("block_thread")
def block_thread(data):
    while True:
        block()


@kqs.handler("eat")
async def eat(data):
    KEPT.append(b"x" * data)
    return os.getpid()


@kqs.handler("descriptors")
async def descriptors(data):
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        try:
            found[path.name] = str(path.readlink())
        except OSError:
            pass
    return found


@kqs.handler("close")
async def close(data):
    asyncio.get_running_loop().call_later(0.5, os.close, data)  # when this was reported


@kqs.handler("environ")
async def environ(data):
    return dict(os.environ)
"""


@contextmanager
def having_children(folder: Path, count: int = 2, command: Sequence[str] = SERVE, **settings: str) -> Iterator[Served]:
    """Run a server with so many child processes, which all ask for jobs. It is stopped in good order, unless it was before."""
    (folder / "chores.py").write_text(CHORES)
    given = {"WORKER__PROCESSES": str(count), "WORKER__MODULES": '["chores"]', "WORKER__GRACE_S": "2"} | settings
    with serving(folder, command, **given) as server, telling(server):
        if count:
            until_at_least(server, children_running=count)
        yield server
        if server.process.poll() is None:
            assert server.stop() == 0


def pids(server: Served) -> list[int]:
    """Return the children that ask for jobs."""
    stats = ask(server, "stats")
    return [stats[name] for name in sorted(stats) if name.startswith("child_") and stats[name]]


def insert(server: Served, type_: str, data: object = None, **options: object) -> str:
    with peer_of(server) as peer:
        return peer.insert(type_, data, **options)


def record_of(server: Served, job_id: str, *states: str) -> dict[str, Any]:
    """Return a job's record when it is in one of these states."""
    wanted = states or ("success",)
    record: dict[str, Any] = eventually(lambda: ask(server, "job", job_id), lambda job: job["state"] in wanted)
    return record


def runs_of(record: dict[str, Any]) -> list[str]:
    return [run["state"] for run in record["runs"]]


def family(server: Served) -> list[int]:
    """Return all processes that have come of a server."""
    return list(descendants(server.process.pid))


def until_gone(pids: list[int]) -> None:
    """Return when none of these processes is there any more, but as a zombie."""
    eventually(lambda: sorted(set(pids) & set(command_lines())), lambda left: not left)


def environ_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(os.fsdecode(line).split("=", 1) for line in lines if b"=" in line)
