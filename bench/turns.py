"""Figures of what decides in whose turn jobs run: python -m bench.run --only groups."""

from __future__ import annotations

import statistics
import time

from bench.figures import HANDLERS, Bench
from bench.owning import Asking
from bench.tools import Figure

TURNS = 3
#: jobs of one insert
_CHUNK = 10_000
#: jobs of each group
_OF_GROUP = 100


def groups(bench: Bench) -> Figure:
    """A million no-op jobs that wait, of 10,000 groups and of one, in turns: from the resume of their type to the last end."""
    total = bench.count(1_000_000)
    took_s: dict[int, list[float]] = {total // _OF_GROUP: [], 1: []}
    for _ in range(TURNS):
        for count, times in took_s.items():
            times.append(_run_waiting(bench, total, count))
    ratios = [many / one for many, one in zip(*took_s.values(), strict=True)]
    return {
        "jobs_per_s": total / statistics.median(took_s[total // _OF_GROUP]),
        "jobs_per_s of one group": total / statistics.median(took_s[1]),
        "ratio of the times": statistics.median(ratios),
    }


def _run_waiting(bench: Bench, total: int, groups_count: int) -> float:
    with bench.server(HANDLERS) as server, Asking(server.port) as asking:
        asking.ask("suspend", {"type": "noop"})
        for start in range(0, total, _CHUNK):
            numbers = range(start, min(start + _CHUNK, total))
            asking.ask("insert", [{"type": "noop", "group": f"g{n % groups_count:05d}"} for n in numbers])
        server.wait(lambda stats: stats.get("jobs_new", 0) >= total)
        before = time.monotonic()
        asking.ask("resume", {"type": "noop"})
        return server.wait(lambda stats: stats.get("jobs_success", 0) >= total) - before
