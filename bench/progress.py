"""What it costs that thousands of runs save once a second: python -m bench.progress [--runs N] [--turns N] [--scale X].

Each figure is measured beside runs that touch, and beside as many that save; in turns, since the machine's speed drifts. Runs
are those of handlers in the server's lanes, or of a worker elsewhere, which says it of all of them in one line.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.figures import HANDLERS, MILLION, UNTAKEN, Bench, load_8x125
from bench.run import STATE
from bench.tools import Subject, compile_programs

LANES = 100
INSERTED_AT_ONCE = 1000
#: how long the CPU time is looked at while nothing else goes on, in s
REST_S = 5.0


def main() -> None:
    """Measure, and print a line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--server-cores", default="0-1")
    arguments = parser.parse_args()
    STATE.mkdir(exist_ok=True)
    compile_programs()
    bench = Bench(STATE, arguments.server_cores, arguments.scale)
    for name, beside in {"handlers": _handlers, "a worker elsewhere": _elsewhere}.items():
        found: dict[str, dict[bool, list[float]]] = {}
        for _ in range(arguments.turns):
            for saves in (False, True):
                lanes = str(arguments.runs + LANES)
                with (
                    bench.server((*HANDLERS, "bench.savers"), KQS_WORKER__CONCURRENCY=lanes) as server,
                    beside(server, arguments.runs, saves),
                ):
                    for figure, value in _figures(bench, server).items():
                        found.setdefault(figure, {False: [], True: []})[saves].append(value)
        for figure, values in found.items():
            touching, saving = statistics.median(values[False]), statistics.median(values[True])
            print(f"{name}, {arguments.runs:,} runs: {figure} {touching:,.2f} -> {saving:,.2f} ({saving / touching:.2f})")


def _figures(bench: Bench, server: Subject) -> dict[str, float]:
    before_s, began_at = server.cpu_s(), time.monotonic()
    time.sleep(REST_S)
    figures = {"cpu_s_per_s": (server.cpu_s() - before_s) / (time.monotonic() - began_at)}
    total = bench.count(100_000)
    done_before = server.stats()["runs_done"]
    done = load_8x125("insert", server.port, total, "noop")
    finished = server.wait(lambda stats: stats["runs_done"] >= done_before + total)
    figures["jobs_per_s"] = total / (finished - done["started_ns"] / 1e9)
    figures["inserts_per_s"] = load_8x125("insert", server.port, bench.count(MILLION // 2), UNTAKEN)["rate"]
    return figures


@contextmanager
def _handlers(server: Subject, count: int, saves: bool) -> Iterator[None]:
    """Have lanes run so many."""
    _insert(server, count, "saves" if saves else "touches")
    server.wait(lambda stats: stats["running"] >= count)
    yield


@contextmanager
def _elsewhere(server: Subject, count: int, saves: bool) -> Iterator[None]:
    """Be a worker that has so many, and speaks of them once a second."""
    stopping = threading.Event()
    with socket.create_connection(("127.0.0.1", server.port)) as peer:
        lines = peer.makefile("rb")
        tokens: list[bytes] = []
        peer.sendall(b'{"id":1,"n":"work","m":{"types":["elsewhere"],"room":%d}}\n' % min(count, 10_000))
        _insert(server, count, "elsewhere", ttr=3600)
        while len(tokens) < count:
            answer = json.loads(lines.readline())
            tokens += [run["run"].encode() for run in answer["m"]] if answer["s"] == "ok" else []
        speaker = threading.Thread(target=_speak, args=(peer, lines.readline, tokens, saves, stopping))
        speaker.start()
        try:
            yield
        finally:
            stopping.set()
            speaker.join()


def _speak(peer: socket.socket, read: Callable[[], bytes], tokens: list[bytes], saves: bool, stopping: threading.Event) -> None:
    at = 0
    while not stopping.wait(1):
        at += 1
        more = b',"progress":{"page":%d,"of":1000}' % at if saves else b""
        members = b",".join([b'{"run":"%s"%s}' % (token, more) for token in tokens])
        peer.sendall(b'{"id":2,"n":"touch","m":[%s]}\n' % members)
        read()


def _insert(server: Subject, count: int, type_: str, **options: float) -> None:
    for start in range(0, count, INSERTED_AT_ONCE):
        jobs = [{"type": type_} | options] * min(INSERTED_AT_ONCE, count - start)
        server.served.ask(json.dumps({"id": 3, "n": "insert", "m": jobs}))


if __name__ == "__main__":
    main()
