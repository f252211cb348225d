"""The figures of what an owner does with jobs: docs/benchmarks.md, each by a function as in `figures`."""

from __future__ import annotations

import json
import os
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.ended import put_failed
from bench.figures import HANDLERS, JOB_BYTES, MILLION, UNTAKEN, Bench, fifo, latency_in_server, load_8x125
from bench.remote import program
from bench.tools import LOAD_CORE, Figure, Subject, bare_server, run

READERS = 10
RESOURCES = 10_000
TURNS = 3
REST_US = 500
PING_EVERY_S = 0.002
PARKED = 500
#: in a rest so long, in s, the store copies its WAL into the file and begins it anew
TIDY_S = 1.0


class Pinging:
    """Asks `ping` again and again, and knows the longest that an answer took."""

    def __init__(self, port: int) -> None:
        self.worst_ms = 0.0
        self._port = port
        self._may_end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Pinging:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._may_end.set()
        self._thread.join()

    def _run(self) -> None:
        with Asking(self._port) as asking:
            while not self._may_end.is_set():
                before = time.monotonic()
                asking.ask("ping")
                self.worst_ms = max(self.worst_ms, (time.monotonic() - before) * 1e3)
                time.sleep(PING_EVERY_S)


class Asking:
    """One connection that asks one thing at a time."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=300)
        self._lines = self._socket.makefile("rb")

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, name: str, argument: object = None) -> Any:
        """Return the result of a call. Raises: AssertionError: it is an error."""
        self._socket.sendall(json.dumps({"id": 1, "n": name, "m": argument}).encode() + b"\n")
        answer = json.loads(self._lines.readline())
        assert answer["s"] == "end", answer
        return answer["m"]


def purge(bench: Bench) -> Figure:
    """A million waiting jobs are purged: how many a second, and the longest that a `ping` took meanwhile."""
    total = bench.count(MILLION)
    with bench.server() as server:
        load_8x125("insert", server.port, total, UNTAKEN)
        server.wait_stored()
        return _bulk(server, "purge", {"type": UNTAKEN}, total)


def retry(bench: Bench) -> Figure:
    """As many failed ones wait again."""
    total = bench.count(MILLION)
    with bench.folder() as folder:
        with bench.subject(folder) as server:
            server.served.stop()
        put_failed(folder, total, JOB_BYTES)
        with bench.subject(folder) as server:
            return _bulk(server, "retry", {"type": "ended"}, total)


def _bulk(server: Subject, name: str, argument: object, total: int) -> Figure:
    with Asking(server.port) as asking, Pinging(server.port) as pinging:
        before = time.monotonic()
        answer = asking.ask(name, argument)
        took_s = time.monotonic() - before
    count = answer if isinstance(answer, int) else answer["count"]
    assert count == total, f"{name} changed {count} of {total}"
    return {"jobs_per_s": total / took_s, "worst_ping_ms": pinging.worst_ms}


#: questions that are asked of a million records, by name: call and argument
_QUESTIONS: dict[str, tuple[str, object]] = {
    "stats": ("stats", None),
    "types": ("types", None),
    "jobs": ("jobs", {}),
    "jobs, newest": ("jobs", {"newest": True}),
    "jobs of a state": ("jobs", {"state": "fail"}),
    "jobs of a type": ("jobs", {"type": UNTAKEN, "limit": 100}),
    "jobs that match": ("jobs", {"match": "no such text", "limit": 100}),
}


def views(bench: Bench) -> Figure:
    """Half a million waiting jobs and half a million failed ones: how long each question takes at most, in ms, of ten."""
    half = bench.count(MILLION // 2)
    with bench.folder() as folder:
        with bench.subject(folder) as server:
            server.served.stop()
        put_failed(folder, half, JOB_BYTES)
        with bench.subject(folder) as server, Asking(server.port) as asking:
            load_8x125("insert", server.port, half, UNTAKEN)
            server.wait_stored()
            figure: Figure = {}
            with Pinging(server.port) as pinging:
                for name, (call, argument) in _QUESTIONS.items():
                    figure[f"{name}, ms"] = max(_ask_ms(asking, call, argument) for _ in range(10))
            return figure | {"worst_ping_ms": pinging.worst_ms}


def _ask_ms(asking: Asking, call: str, argument: object) -> float:
    before = time.monotonic()
    asking.ask(call, argument)
    return (time.monotonic() - before) * 1e3


def hotjob(bench: Bench) -> Figure:
    """An idle server, one job at a time: from an insert that waits until its job has ended; and to a handler's first line.

    Of a new server the store's WAL grows, and a flush of that takes longer; later it writes where it has written before. And
    the least that both can take: of a server in C that only appends and flushes, and writes two pages and flushes these.
    """
    count = max(100, int(1000 * min(1.0, bench.scale)))
    new: list[float] = []
    there: list[float] = []
    here: list[float] = []
    bare: list[float] = []
    for _ in range(TURNS):
        with bench.server(HANDLERS) as server:
            new.append(run("latency", server.port, "wait", count, REST_US, LOAD_CORE)["p50_us"] / 1e3)
            time.sleep(TIDY_S)
            there.append(run("latency", server.port, "wait", count, REST_US, LOAD_CORE)["p50_us"] / 1e3)
        with bench.folder() as folder, fifo(folder) as stamps:
            here.append(latency_in_server(bench, folder, stamps, count, REST_US)["p50_us"] / 1e3)
            bare.append(_bare_ms_above(bench, folder, stamps, count))
    return {
        "p50_ms": statistics.median(there),
        "p50_ms to the handler": statistics.median(here),
        "ms above": statistics.median(ours - theirs for ours, theirs in zip(there, here, strict=True)),
        "ms above, new server": statistics.median(ours - theirs for ours, theirs in zip(new, here, strict=True)),
        "ms above, bare": statistics.median(bare),
    }


def _bare_ms_above(bench: Bench, folder: Path, stamps: Path, count: int) -> float:
    p50_ms: dict[str, float] = {}
    for ends_with in (str(stamps), "wait"):
        with bare_server(folder, stamps, bench.cores) as port:
            p50_ms[ends_with] = run("latency", port, ends_with, count, REST_US, LOAD_CORE)["p50_us"] / 1e3
    return p50_ms["wait"] - p50_ms[str(stamps)]


def events(bench: Bench) -> Figure:
    """No-op jobs from insert to stored finish, with nobody who reads events and with ten, in turns."""
    rates: dict[int, list[float]] = {0: [], READERS: []}
    for _ in range(TURNS):
        for readers in rates:
            with bench.server(HANDLERS) as server, _reading(bench, server.port, readers):
                rates[readers].append(_no_ops_per_s(server, bench.count(100_000)))
    shares = [with_them / without for without, with_them in zip(rates[0], rates[READERS], strict=True)]
    medians = {f"jobs_per_s, {readers} readers": statistics.median(found) for readers, found in rates.items()}
    return medians | {"share": statistics.median(shares)}


@contextmanager
def _reading(bench: Bench, port: int, count: int) -> Iterator[None]:
    if not count:
        yield
        return
    with program(bench, "readers", port, count):
        yield


def _no_ops_per_s(server: Subject, total: int) -> float:
    done = load_8x125("insert", server.port, total, "noop")
    finished = server.wait(lambda stats: stats["jobs_success"] >= total)
    return total / (finished - done["started_ns"] / 1e9)


def resources(bench: Bench) -> Figure:
    """No-op jobs from insert to stored finish, with and without one of 10,000 resources each, in turns."""
    total = bench.count(100_000)
    rates: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(TURNS):
        for has_resource in rates:
            with bench.server(HANDLERS) as server:
                rates[has_resource].append(_sent_per_s(server, total, has_resource=has_resource))
    shares = [with_one / without for without, with_one in zip(rates[False], rates[True], strict=True)]
    return {
        "jobs_per_s": statistics.median(rates[True]),
        "jobs_per_s without": statistics.median(rates[False]),
        "share": statistics.median(shares),
    }


def _sent_per_s(server: Subject, total: int, *, has_resource: bool) -> float:
    """Send jobs of equal length either way: without a resource they have another field of the same cost, `retries`."""
    field = '"resource":"r%05d"' if has_resource else '"retries":%05d'
    lines = [f'{{"id":1,"n":"insert","m":{{"type":"noop",{field % (10_000 + n % RESOURCES)}}}}}\n' for n in range(total)]
    data = "".join(lines).encode()
    one = socket.create_connection(("127.0.0.1", server.port))
    before = time.monotonic()
    reader = threading.Thread(target=_read_lines, args=(one, total))
    reader.start()
    one.sendall(data)
    reader.join()
    one.close()
    return total / (server.wait(lambda stats: stats["jobs_success"] >= total) - before)


def _read_lines(one: socket.socket, count: int) -> None:
    while count > 0:
        count -= one.recv(1 << 20).count(b"\n")


def parked(bench: Bench) -> Figure:
    """Jobs of one resource that take 1 ms each: from the end of one to the first line of the next."""
    with (
        bench.folder() as folder,
        fifo(folder) as stamps,
        Path(stamps).open("rb", buffering=0) as reading,
        bench.subject(folder, HANDLERS, KQS_BENCH_STAMPS=str(stamps)) as server,
        Asking(server.port) as asking,
    ):
        asking.ask("insert", [{"type": "span", "resource": "one"} for _ in range(PARKED)])
        server.wait(lambda stats: stats["jobs_success"] >= PARKED)
        found = [int(number) for number in os.read(reading.fileno(), 1 << 20).split()]
        gaps_ms = sorted((begun - ended) / 1e6 for ended, begun in zip(found[1::2], found[2::2], strict=False))
        return {"gap_p50_ms": gaps_ms[len(gaps_ms) // 2], "gap_p99_ms": gaps_ms[len(gaps_ms) * 99 // 100]}
