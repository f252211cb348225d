"""What limits of a type cost, and how well a rate is held."""

from __future__ import annotations

import statistics
import threading
import time

from bench.figures import HANDLERS, Bench, load_8x125
from bench.tools import Figure, Subject

#: how each is compared with no limit: far above what the lanes take, as many as these, and few
LIMITS = {"never_reached": 1_000_000, "of_1000": 1_000, "of_100": 100, "of_50": 50, "of_4": 4}
TURNS = 5
RATE = 10_000
HELD_S = 10.0
#: until the burst is over, in s: the server has been idle before
SETTLED_S = 3.0


def limits(bench: Bench) -> Figure:
    """No-op jobs end to end with `max_running`, as a share of those without, in turns; and the rate that 10 k/s becomes."""
    total = bench.count(50_000)
    shares: dict[str, list[float]] = {name: [] for name in LIMITS}
    for _ in range(TURNS):
        plain = _jobs_per_s(bench, total)
        for name, limit in LIMITS.items():
            shares[name].append(_jobs_per_s(bench, total, KQS_TYPES__NOOP__MAX_RUNNING=str(limit)) / plain)
    figure: Figure = {f"share_{name}": statistics.median(values) for name, values in shares.items()}
    return figure | {"rate_share": _held_rate(bench) / RATE}


def _jobs_per_s(bench: Bench, total: int, **environ: str) -> float:
    with bench.server(HANDLERS, **environ) as server:
        done = load_8x125("insert", server.port, total, "noop")
        finished = server.wait(lambda stats: stats["jobs_success"] >= total)
    return total / (finished - done["started_ns"] / 1e9)


def _held_rate(bench: Bench) -> float:
    """Return how many runs a second end over `HELD_S`, while more jobs wait than may begin."""
    with bench.server(HANDLERS, KQS_TYPES__NOOP__RATE=str(RATE)) as server:
        total = round(RATE * (HELD_S + SETTLED_S + 2) * 1.5)
        load = threading.Thread(target=load_8x125, args=("insert", server.port, total, "noop"))
        load.start()
        time.sleep(SETTLED_S)
        first, first_at = _done(server)
        time.sleep(HELD_S)
        last, last_at = _done(server)
        load.join()
    return (last - first) / (last_at - first_at)


def _done(server: Subject) -> tuple[float, float]:
    return server.stats()["runs_done"], time.monotonic()
