"""The figures of remote workers, of processes and of commands: docs/benchmarks.md, each by a function as in `figures`."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.figures import HANDLERS, Bench, fifo, latency_in_server, load_8x125
from bench.tools import HERE, LOAD_CORE, LOOK_S, Figure, Subject, run
from tests.support.mortal import mortal
from tests.support.serving import SERVE_ENVIRON, free_port, serving
from tests.support.working import WORK

ALL_CORES = ",".join(map(str, sorted(os.sched_getaffinity(0))))
ROOM = 1000
RESERVE_COUNT = 100
LANES = 100
WAITING = 10_000
#: descriptors of a program that has that many connections, and of their server
DESCRIPTORS = WAITING + 500
#: how often two that are compared are measured, one after the other
TURNS = 3
REST_US = 500
NOOP_COMMAND = json.dumps({"command": ["/bin/true"]})


def work(bench: Bench) -> Figure:
    """No-op jobs from insert to stored finish, by one worker in Python that is tuned, over one `work` call."""
    return _by_worker(bench, "work", ROOM)


def reserve(bench: Bench) -> Figure:
    """The same by `reserve`, so many at a time."""
    return _by_worker(bench, "reserve", RESERVE_COUNT)


def kqs_work(bench: Bench) -> Figure:
    """The same by `kqs work`."""
    _need(bench, "outpost")
    with bench.server() as server, bench.folder() as folder:
        own = {"SERVER__PORT": str(free_port()), "LOG__LEVEL": "warning"}
        command = ("taskset", "--cpu-list", ALL_CORES, *WORK, "--connect", f"127.0.0.1:{server.port}")
        environ = SERVE_ENVIRON | {"PYTHONPATH": str(bench.tree)}
        lanes = ("--concurrency", str(LANES), "bench.handlers")
        with serving(folder, (*command, *lanes), environ, **own) as worker:
            return _end_to_end(bench, server, {"worker_cpu_us_per_job": Subject(worker)})


def _need(bench: Bench, package: str) -> None:
    """Raise FileNotFoundError where the version that is measured has no such part."""
    if not (bench.tree / "kqs" / package).is_dir():
        raise FileNotFoundError(f"this version has no kqs.{package}")


def _by_worker(bench: Bench, way: str, size: int) -> Figure:
    _need(bench, "remote")
    with bench.server() as server, program(bench, "worker", way, server.port, size):
        return _end_to_end(bench, server, {})


@contextmanager
def program(bench: Bench, name: str, *arguments: object, cores: str = str(LOAD_CORE)) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program of bench/ that says `ready`, as long as the block lasts."""
    argv = ["taskset", "--cpu-list", cores, sys.executable, "-m", f"bench.{name}", *map(str, arguments)]
    with subprocess.Popen(mortal(argv), stdout=subprocess.PIPE, cwd=HERE.parent) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n", f"bench.{name} has ended"
            yield process
        finally:
            process.kill()


def _end_to_end(bench: Bench, server: Subject, others: dict[str, Subject]) -> Figure:
    """Insert no-op jobs and wait until all have ended. others: whose CPU time is told as well, by the name of the figure."""
    total = bench.count(100_000)
    subjects = {"cpu_us_per_job": server, **others}
    rest_s = {name: subject.cpu_s() for name, subject in subjects.items()}
    done = load_8x125("insert", server.port, total, "noop")
    finished = server.wait(lambda stats: stats["jobs_success"] >= total, limit_s=100)
    figure = {"jobs_per_s": total / (finished - done["started_ns"] / 1e9)}
    return figure | {name: (one.cpu_s() - rest_s[name]) / total * 1e6 for name, one in subjects.items()}


def idle_latency(bench: Bench) -> Figure:
    """An idle server, one job at a time: from the insert's send until a worker that has asked by `work` has the run.

    And until a lane of the server has it; both in turns, since the machine is never equally fast for long.
    """
    _need(bench, "remote")
    count = max(100, int(1000 * min(1.0, bench.scale)))
    there: list[float] = []
    here: list[float] = []
    for _ in range(TURNS):
        with bench.server() as server:
            there.append(run("latency", server.port, "work", count, REST_US, LOAD_CORE)["p50_us"] / 1e3)
        with bench.folder() as folder, fifo(folder) as stamps:
            here.append(latency_in_server(bench, folder, stamps, count, REST_US)["p50_us"] / 1e3)
    above = [ours - theirs for ours, theirs in zip(there, here, strict=True)]
    return {
        "p50_ms": statistics.median(there),
        "p50_ms in the server": statistics.median(here),
        "ms above": statistics.median(above),
    }


def waiting(bench: Bench) -> Figure:
    """10,000 connections that each wait in `reserve`: what they take of memory, and from an insert to its run."""
    _need(bench, "remote")
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < DESCRIPTORS:
        raise FileNotFoundError(f"ulimit -Hn is below {DESCRIPTORS}")
    count = max(100, int(2000 * min(1.0, bench.scale)))
    with bench.server(KQS_SERVER__MAX_CONNECTIONS=str(DESCRIPTORS)) as server:
        rest_mb = server.rss_mb()
        with program(bench, "waiting", server.port, WAITING, count) as waiters:
            figure = {"mb_above_rest": server.rss_mb() - rest_mb}
            assert waiters.stdout is not None
            figure |= json.loads(waiters.stdout.readline())
        return figure


def processes(bench: Bench) -> Figure:
    """Handlers that take 1 ms of CPU, run by one child process and by two."""
    _need(bench, "children")
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(TURNS):
        for number in rates:
            rates[number].append(_rate(bench, "burn", bench.count(3000), KQS_WORKER__PROCESSES=str(number)))
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    medians = {f"jobs_per_s by {number}": statistics.median(found) for number, found in rates.items()}
    return medians | {"two against one": statistics.median(ratios)}


def commands(bench: Bench) -> Figure:
    """Runs of /bin/true a second, in one lane and in four."""
    _need(bench, "commands")
    count = max(100, int(600 * bench.scale))
    rates = {
        lanes: _rate(bench, "true", count, KQS_WORKER__CONCURRENCY=str(lanes), KQS_TYPES__true=NOOP_COMMAND) for lanes in (1, 4)
    }
    return {f"commands_per_s, {lanes} lanes": rate for lanes, rate in rates.items()}


def _rate(bench: Bench, type_: str, total: int, **environ: str) -> float:
    """Return jobs a second to a stored finish, of a server that may have all cores."""
    with bench.on(ALL_CORES).server(HANDLERS, **environ) as server:
        _warm(server, type_)
        done = load_8x125("insert", server.port, total, type_)
        # each look takes 1.8 ms of the cores that are measured: seldom as long as many jobs are left
        server.wait(lambda stats: stats["jobs_success"] > 0.9 * total, limit_s=100, every_s=10 * LOOK_S)
        finished = server.wait(lambda stats: stats["jobs_success"] > total, limit_s=100)
    return total / (finished - done["started_ns"] / 1e9)


def _warm(server: Subject, type_: str) -> None:
    """Run one job, so that whoever runs it has been started."""
    server.served.ask(json.dumps({"n": "insert", "m": {"type": type_}}))
    server.wait(lambda stats: stats["jobs_success"] >= 1, limit_s=30)
