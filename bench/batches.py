"""What it costs that one job waits for many."""

from __future__ import annotations

import statistics
import time

from bench.figures import HANDLERS, Bench
from bench.owning import Asking
from bench.tools import Figure

TURNS = 3
#: an insert takes no more at once
TOTAL = 99_999


def batch(bench: Bench) -> Figure:
    """No-op jobs of one batch, until its `then` has ended, against the same array of them without, in turns."""
    total = bench.count(TOTAL)
    plain, batched = zip(*[(_plain_per_s(bench, total), _batched_per_s(bench, total)) for _ in range(TURNS)], strict=True)
    shares = [one / other for one, other in zip(batched, plain, strict=True)]
    return {
        "plain_jobs_per_s": statistics.median(plain),
        "batch_jobs_per_s": statistics.median(batched),
        "share": statistics.median(shares),
    }


def _plain_per_s(bench: Bench, total: int) -> float:
    with bench.server(HANDLERS) as server, Asking(server.port) as asking:
        began = time.monotonic()
        asking.ask("insert", [{"type": "noop"}] * total)
        return total / (server.wait(lambda stats: stats["jobs_success"] >= total) - began)


def _batched_per_s(bench: Bench, total: int) -> float:
    with bench.server(HANDLERS) as server, Asking(server.port) as asking:
        began = time.monotonic()
        batch_id = asking.ask("batch", {"jobs": [{"type": "noop"}] * total, "then": {"type": "noop"}})
        asking.ask("job", {"id": batch_id, "wait": 300})
        return total / (time.monotonic() - began)
