"""What schedules cost, and how late their ticks are: python -m bench.schedules [--schedules N] [--rest S] [--per-s N].

The idle server is measured beside one without schedules, each by its CPU time. Lateness is from an instant to the acceptance of
its job, of ticks that come one by one, so many a second.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from datetime import datetime

from bench.figures import Bench
from bench.run import STATE
from bench.tools import Subject, compile_programs

SENT_AT_ONCE = 200
_JOB = {"type": "untaken", "data": {"n": 1}}
_READ_AT_ONCE = 1000


def main() -> None:
    """Measure, and print a line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    parser.add_argument("--rest", type=float, default=20.0)
    parser.add_argument("--per-s", type=int, default=100)
    parser.add_argument("--server-cores", default="0-1")
    arguments = parser.parse_args()
    STATE.mkdir(exist_ok=True)
    compile_programs()
    bench = Bench(STATE, arguments.server_cores, 1.0)
    count, rest_s = arguments.schedules, arguments.rest
    with bench.server() as server:
        print(f"no schedules: {_idle(server, rest_s):.3%} of a core")
        began_at = time.monotonic()
        _schedule(
            server, [{"name": f"rest{n}", "cron": f"{n % 60} {n % 24} 1 1 *", "tz": "Europe/Berlin"} for n in range(count)]
        )
        print(f"{count:,} made: {count / (time.monotonic() - began_at):,.0f} a second")
        print(f"{count:,} schedules, none ticks: {_idle(server, rest_s):.3%} of a core, {server.rss_mb():.0f} MB")
        every_s, from_at = count / arguments.per_s, time.time() + 5
        _schedule(
            server,
            [{"name": f"rest{n}", "every": every_s, "from": from_at + n / arguments.per_s} for n in range(count)],
        )
        used = _idle(server, rest_s)
        late_ms = sorted(_lateness_ms(server))
        p50, p99 = statistics.median(late_ms), late_ms[int(len(late_ms) * 0.99)]
        print(f"{arguments.per_s} ticks a second: {used:.2%} of a core; {len(late_ms):,} ticks")
        print(f"late by p50 {p50:.1f} ms, p99 {p99:.1f} ms, at most {late_ms[-1]:.1f} ms")


def _idle(server: Subject, rest_s: float) -> float:
    """Return how much of a core the server uses while nobody asks it anything."""
    time.sleep(1.0)  # what was asked before is written by then
    before_s, began_at = server.cpu_s(), time.monotonic()
    time.sleep(rest_s)
    return (server.cpu_s() - before_s) / (time.monotonic() - began_at)


def _schedule(server: Subject, schedules: list[dict[str, object]]) -> None:
    for first in range(0, len(schedules), SENT_AT_ONCE):
        some = schedules[first : first + SENT_AT_ONCE]
        lines = [json.dumps({"id": n, "n": "schedule", "m": one | {"job": _JOB}}) for n, one in enumerate(some)]
        answers = server.served.ask(*lines)
        assert all('"s":"end"' in answer for answer in answers), answers


def _lateness_ms(server: Subject) -> list[float]:
    found: list[float] = []
    cursor: str | None = ""
    while cursor is not None:
        asked = {"type": "untaken", "cursor": cursor, "limit": _READ_AT_ONCE}
        (answer,) = server.served.ask(json.dumps({"n": "jobs", "m": asked}))
        page = json.loads(answer)["m"]
        for job in page["jobs"]:
            instant = datetime.fromisoformat(job["id"].split(":", 1)[1]).timestamp()
            found.append((job["accepted_at"] - instant) * 1000)
        cursor = page["cursor"]
    return found


if __name__ == "__main__":
    main()
