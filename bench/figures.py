"""The figures of docs/benchmarks.md, each by a function that returns its numbers by name."""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.ended import put_ended
from bench.tools import LOAD_CORE, Figure, Subject, bare_fsync, bare_server, beanstalkd, broker_puts, load, run, subject
from tests.support.serving import ROOT

MILLION = 1_000_000
JOB_BYTES = 200
ECHO_BYTES = 40
HANDLERS = ("kqs.builtin", "bench.handlers")
UNTAKEN = "untaken"
STEADY_PER_S = 60_000
STEADY_S = 60
LOOK_EVERY_S = 0.5
#: between two jobs of an idle server, which takes about 500 to store the finish of the first, in us, and how many jobs: each
#: costs its rest, so that they are fewer where that is longer
RESTS = {500: 2000, 2000: 1000, 10_000: 400}
#: how often two that are compared are measured, one after the other
TURNS = 5


def load_8x125(mode: str, port: int, total: int, type_: str = "-") -> Figure:
    """Send `total` jobs of 200 B with 125 in flight on each of 8 connections."""
    return load(mode, port, connections=8, in_flight=125, total=total, size_bytes=JOB_BYTES, type_=type_)


@dataclass(frozen=True)
class Bench:
    """One run.

    parent: where its files go. cores: the server's, as taskset counts them. scale: 1.0 is the size that the figures name.
    tree: the checkout whose server is measured.
    """

    parent: Path
    cores: str
    scale: float
    tree: Path = ROOT

    def count(self, full: int) -> int:
        """Return `full` calls or jobs at this run's scale, at least 1,000."""
        return max(1000, int(full * self.scale))

    def on(self, cores: str) -> Bench:
        """Return the same with its server on these cores."""
        return replace(self, cores=cores)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give a new folder, removed afterwards."""
        with tempfile.TemporaryDirectory(dir=self.parent, prefix="bench-") as name:
            yield Path(name)

    @contextmanager
    def server(self, modules: tuple[str, ...] = HANDLERS[:1], **environ: str) -> Iterator[Subject]:
        """Give a server with an empty journal."""
        with self.folder() as folder, self.subject(folder, modules, **environ) as server:
            yield server

    @contextmanager
    def subject(self, folder: Path, modules: tuple[str, ...] = HANDLERS[:1], **environ: str) -> Iterator[Subject]:
        """Give a server whose journal is in `folder`."""
        with subject(folder, self.cores, modules, PYTHONPATH=str(self.tree), **environ) as server:
            yield server


def echo(bench: Bench) -> Figure:
    """Echo, 1,000 in flight on one connection."""
    with bench.server() as server:
        done = load("echo", server.port, connections=1, in_flight=1000, total=bench.count(MILLION), size_bytes=ECHO_BYTES)
    return {"echoes_per_s": done["rate"], "p99_us": done["p99_us"]}


def insert(bench: Bench) -> Figure:
    """Flushed inserts, 8 x 125 in flight, of a type that no handler takes; then the feeder; memory; a restart; a kill -9."""
    total = bench.count(MILLION)
    with bench.folder() as folder:
        with bench.subject(folder) as server:
            figure = {"rss_at_rest_mb": server.rss_mb()}
            done = load_8x125("insert", server.port, total, UNTAKEN)
            stored = server.wait_stored()
            figure |= {"inserts_per_s": done["rate"], "p99_us": done["p99_us"]}
            figure |= {"stored_after_s": stored - done["ended_ns"] / 1e9, "all_stored_s": stored - done["started_ns"] / 1e9}
            figure["rss_with_all_waiting_mb"] = server.rss_mb()
            assert server.stats()["jobs_new"] == total
            server.served.stop()
        figure["start_after_stop_s"] = _start_s(bench, folder)
    return figure


def steady(bench: Bench) -> Figure:
    """Inserts at a steady pace, of a type that no handler takes: how many of them at most the store does not have yet."""
    total = bench.count(STEADY_PER_S * STEADY_S)
    lags: list[float] = []
    with bench.server() as server, ThreadPoolExecutor(1) as pool:
        loading = pool.submit(
            load,
            "insert",
            server.port,
            connections=8,
            in_flight=2000,
            total=total,
            size_bytes=JOB_BYTES,
            type_=UNTAKEN,
            rate=STEADY_PER_S,
        )
        while not loading.done():
            stats = server.stats()
            lags.append(stats["jobs_inserted"] - stats.get("jobs_new", 0))
            time.sleep(LOOK_EVERY_S)
    done = loading.result()
    return {
        "inserts_per_s": done["rate"],
        "p99_us": done["p99_us"],
        "most_unfed": max(lags),
        "unfed_in_the_first_half": statistics.median(lags[: len(lags) // 2]),
        "unfed_in_the_second_half": statistics.median(lags[len(lags) // 2 :]),
    }


def start_after_kill(bench: Bench) -> Figure:
    """The time to ready after a kill -9 at the last answer, while the feeder still lags."""
    total = bench.count(MILLION)
    with bench.folder() as folder:
        with bench.subject(folder) as server:
            load_8x125("insert", server.port, total, UNTAKEN)
            unfed = server.stats()["journal_unfed_records"]
            server.served.stop(signal.SIGKILL)
        return {"start_after_kill_s": _start_s(bench, folder), "unfed_records_at_kill": unfed}


def _start_s(bench: Bench, folder: Path) -> float:
    before = time.monotonic()
    with bench.subject(folder):
        return time.monotonic() - before


def beanstalk(bench: Bench) -> Figure:
    """The same load as `insert`, as puts to a beanstalkd that flushes each."""
    total = bench.count(50_000)
    with bench.folder() as folder, beanstalkd(bench.cores, "-b", folder, "-f0") as port:
        return {"beanstalkd_puts_per_s": load_8x125("put", port, total)["rate"]}


def serial(bench: Bench) -> Figure:
    """One insert at a time, against the bare append+fdatasync rate before and after it."""
    total = bench.count(20_000)
    with bench.folder() as folder, bench.subject(folder) as server:
        before = _bare_rates(bench, folder, total)
        done = load("insert", server.port, connections=1, in_flight=1, total=total, size_bytes=JOB_BYTES, type_=UNTAKEN)
        after = _bare_rates(bench, folder, total)
    append, allocated = (statistics.mean(pair) for pair in zip(before, after, strict=True))
    return {
        "serial_inserts_per_s": done["rate"],
        "bare_appends_per_s": append,
        "share_of_bare": done["rate"] / append,
        "bare_writes_to_allocated_per_s": allocated,
        "share_of_allocated": done["rate"] / allocated,
    }


def _bare_rates(bench: Bench, folder: Path, total: int) -> tuple[float, float]:
    return (
        bare_fsync(folder, bench.cores, total, JOB_BYTES, "append")["rate"],
        bare_fsync(folder, bench.cores, total, JOB_BYTES, "allocated")["rate"],
    )


def end_to_end(bench: Bench) -> Figure:
    """No-op jobs, inserted over TCP and run by 100 lanes to a stored finish."""
    return _end_to_end(bench, bench.count(100_000))


def _end_to_end(bench: Bench, total: int, **environ: str) -> Figure:
    with bench.server(HANDLERS, **environ) as server:
        rest_cpu_s = server.cpu_s()
        done = load_8x125("insert", server.port, total, "noop")
        finished = server.wait(lambda stats: stats["jobs_success"] >= total)
        cpu_s = server.cpu_s() - rest_cpu_s
    return {"jobs_per_s": total / (finished - done["started_ns"] / 1e9), "cpu_us_per_job": cpu_s / total * 1e6}


def retention(bench: Bench) -> Figure:
    """A million ended records whose time is over: until all are dropped, alone and beside jobs; and these without it."""
    total, probe = bench.count(MILLION), bench.count(100_000)
    figure: Figure = {}
    with bench.folder() as folder:
        with bench.subject(folder) as server:
            server.served.stop()
        put_ended(folder, total, JOB_BYTES)
        with bench.subject(folder, HANDLERS) as server:
            began = _sweep_begun(server, total)
            figure["sweep_s"] = _swept(server) - began
            figure["jobs_per_s"] = _no_ops_per_s(server, probe)
            server.served.stop()
        put_ended(folder, total, JOB_BYTES)
        with bench.subject(folder, HANDLERS) as server:
            began = _sweep_begun(server, probe + total)
            figure["jobs_per_s_beside"] = _no_ops_per_s(server, probe)
            figure["sweep_beside_s"] = _swept(server, 2 * probe) - began
    return figure


def _sweep_begun(server: Subject, full: int) -> float:
    return server.wait(lambda stats: stats["jobs_success"] < full)


def _swept(server: Subject, kept: int = 0) -> float:
    return server.wait(lambda stats: stats["jobs_success"] <= kept)


def _no_ops_per_s(server: Subject, total: int) -> float:
    before = server.stats()["runs_done"]
    done = load_8x125("insert", server.port, total, "noop")
    finished = server.wait(lambda stats: stats["runs_done"] >= before + total)
    return total / (finished - done["started_ns"] / 1e9)


def beanstalkd_puts(bench: Bench) -> Figure:
    """Pipelined puts, in turns: by the broker's own connection, and by a bare client in C."""
    total = bench.count(200_000)
    bare: list[float] = []
    own: list[float] = []
    with beanstalkd(bench.cores) as port:
        for _ in range(TURNS):
            bare.append(load("put", port, connections=1, in_flight=1000, total=total, size_bytes=JOB_BYTES)["rate"])
            own.append(broker_puts(port, total, 1000, JOB_BYTES)["rate"])
    return _compared(own, bare, "puts_per_s", "bare_puts_per_s")


def beanstalkd_inserts(bench: Bench) -> Figure:
    """Inserts that no handler takes, in turns: by a server whose jobs wait in a beanstalkd, and by one with its own broker."""
    total = bench.count(300_000)
    own: list[float] = []
    memory: list[float] = []
    for _ in range(TURNS):
        with beanstalkd(bench.cores) as port, bench.server(HANDLERS[:1], **_by_beanstalkd(port)) as server:
            own.append(load_8x125("insert", server.port, total, UNTAKEN)["rate"])
        with bench.server() as server:
            memory.append(load_8x125("insert", server.port, total, UNTAKEN)["rate"])
    return _compared(own, memory, "inserts_per_s", "inserts_without_per_s")


def beanstalkd_end_to_end(bench: Bench) -> Figure:
    """As `end_to_end`, where most jobs meet a free lane; then with all jobs in line, page by page, before the first is run."""
    total = bench.count(100_000)
    with beanstalkd(bench.cores) as port:
        figure = _end_to_end(bench, total, **_by_beanstalkd(port))
    with beanstalkd(bench.cores) as port, bench.folder() as folder:
        with bench.subject(folder, HANDLERS[:1], **_by_beanstalkd(port)) as server:
            done = load_8x125("insert", server.port, total, "noop")
            waiting_s = server.wait_stored() - done["started_ns"] / 1e9
            server.served.stop()
        with bench.subject(folder, HANDLERS, **_by_beanstalkd(port)) as server:
            rate = _run_rate(server, total)
    return figure | {"runs_through_it_per_s": rate, "jobs_through_it_per_s": total / (waiting_s + total / rate)}


def _by_beanstalkd(port: int) -> dict[str, str]:
    return {"KQS_BROKER__KIND": "beanstalkd", "KQS_BROKER__SERVERS": f'["127.0.0.1:{port}"]'}


def _compared(own: list[float], other: list[float], name: str, other_name: str) -> Figure:
    """Return the medians, and the median of the shares, turn by turn."""
    shares = [ours / theirs for ours, theirs in zip(own, other, strict=True)]
    return {name: statistics.median(own), other_name: statistics.median(other), "share": statistics.median(shares)}


def latency(bench: Bench) -> Figure:
    """An idle server, one job at a time: from the insert call's send to the handler's first line; and the least it can take.

    That is what a server in C takes that only appends, flushes and answers. Both fall asleep between two jobs, and how long
    the machine takes to wake up depends on how long it has slept.
    """
    figure: Figure = {}
    with bench.folder() as folder, fifo(folder) as stamps:
        for rest_us, full in RESTS.items():
            count = max(100, int(full * bench.scale))
            found = latency_in_server(bench, folder, stamps, count, rest_us)
            with bare_server(folder, stamps, bench.cores) as port:
                bare = run("latency", port, stamps, count, rest_us, LOAD_CORE)
            figure |= {f"p50_ms after {rest_us} us": found["p50_us"] / 1e3, f"p99_ms after {rest_us} us": found["p99_us"] / 1e3}
            figure |= {f"bare p50_ms after {rest_us} us": bare["p50_us"] / 1e3}
    return figure


@contextmanager
def fifo(folder: Path) -> Iterator[Path]:
    """Give a FIFO that has a reader, without which no writer may open it."""
    fifo = folder / "stamps"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDWR)
    try:
        yield fifo
    finally:
        os.close(reader)


def latency_in_server(bench: Bench, folder: Path, stamps: Path, count: int, rest_us: int) -> Figure:
    """Return what bench/latency.c prints of a new server's own lanes. stamps: a FIFO that has a reader."""
    with bench.subject(folder, HANDLERS, KQS_BENCH_STAMPS=str(stamps)) as server:
        found = run("latency", server.port, stamps, count, rest_us, LOAD_CORE)
        server.wait_stored()  # or the last job runs once more after the kill, and its stamp is taken for another's
    return found


def backlog(bench: Bench, waiting: int) -> Figure:
    """What inserts and runs cost while `waiting` jobs of the same type wait, and the memory that these take."""
    probe = bench.count(50_000)
    with bench.folder() as folder:
        with bench.subject(folder) as server:
            load_8x125("insert", server.port, waiting, "noop")
            server.wait_stored()
            figure = {"waiting": float(waiting), "rss_mb": server.rss_mb()}
            inserted = load_8x125("insert", server.port, probe, "noop")
            figure["inserts_per_s"] = inserted["rate"]
            server.wait_stored()
            server.served.stop()
        before = time.monotonic()
        with bench.subject(folder, HANDLERS) as server:
            figure["start_s"] = time.monotonic() - before
            figure["jobs_per_s"] = _run_rate(server, min(waiting, probe))
    return figure


def _run_rate(server: Subject, count: int) -> float:
    """Return how many jobs a second are run, over the next `count`."""
    first, before = server.stats()["jobs_success"], time.monotonic()
    reached = {"jobs_success": first}

    def enough(stats: dict[str, float]) -> bool:
        reached.update(stats)
        return stats["jobs_success"] >= count

    after = server.wait(enough)
    return (reached["jobs_success"] - first) / (after - before)
