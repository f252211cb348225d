"""What `kqs top` makes of what a server answers."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from kqs.cli.topframe import Look, frame

NOW = 1_700_000_000.0


def a_type(name: str, *, waiting: int = 0, running: int = 0) -> dict[str, Any]:
    counts = {"delayed": waiting, "processing": running}
    told: dict[str, Any] = dict.fromkeys(("oldest_s", "wait_s", "run_s", "suspended_at"))
    rates = {"in_per_s": [0.0, 0.0, 0.0], "out_per_s": [0.0, 0.0, 0.0]}
    return told | rates | {"type": name, "counts": counts, "workers": [], "workers_count": 0, "limits": {}}


def a_worker(name: str) -> dict[str, Any]:
    numbers = dict.fromkeys(("room", "open", "done", "failed"), 1)
    return numbers | {"name": name, "kind": "server", "since": NOW, "address": None, "types": ["a"], "types_count": 1}


def a_look(at: float = 10.0, *, types: Any = (), workers: Any = (), problems: Any = (), **stats: float) -> Look:
    health = {"verdict": "degraded" if problems else "ok", "problems": list(problems)}
    known = {"uptime_s": at, "running": 0, "jobs_inserted": 0, "runs_done": 0, "runs_failed": 0, "journal_unfed_records": 0}
    return Look(at, known | stats, health, list(types), list(workers))


def lines(look: Look, before: Look | None = None, *, fault: str | None = None, width: int = 80, height: int = 24) -> list[str]:
    console = Console(width=width, height=height, color_system=None)
    return frame("here:1", NOW, look, look if before is None else before, fault, console)


def test_what_runs_most_stands_first_then_what_waits() -> None:
    types = [a_type("idle"), a_type("waits", waiting=3), a_type("runs", running=1), a_type("runs-more", running=2)]
    shown = [line.split()[0] for line in lines(a_look(types=types)) if line[:4] in ("idle", "wait", "runs")]
    assert shown == ["runs-more", "runs", "waits", "idle"]


def test_rates_are_those_since_the_look_before() -> None:
    look = a_look(12.0, jobs_inserted=30, runs_done=20, runs_failed=2)
    rates = "a second: 10 inserted, 5 reported, 1 failed; 0 records not in the store yet"
    assert rates in lines(look, a_look(10.0, jobs_inserted=10, runs_done=10))


def test_there_is_no_rate_at_the_first_look_and_over_a_restart() -> None:
    look = a_look(12.0, jobs_inserted=30)
    none = "a second: - inserted, - reported, - failed; 0 records not in the store yet"
    assert none in lines(look)
    assert none in lines(look, a_look(10.0, uptime_s=1e6, jobs_inserted=10))


def test_what_the_store_does_not_tell_is_left_open() -> None:
    assert "jobs: - new, - delayed, - retry, - ghost, 3 running, - failed" in lines(a_look(running=3))


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10), (200, 50), (20, 3)])
def test_it_fits_its_screen(width: int, height: int) -> None:
    types = [a_type(f"{'long' * 40}-{n}", waiting=10**12) for n in range(100)]
    workers = [a_worker("worker" * 20) for _ in range(100)]
    shown = lines(a_look(types=types, workers=workers, problems=["trouble " * 30]), width=width, height=height)
    assert len(shown) <= height
    assert max(map(len, shown)) <= width


def test_a_screen_of_80_columns_has_rates_ages_workers_and_limits() -> None:
    limited = a_type("mail", waiting=12) | {"oldest_s": 2.75, "limits": {"max_running": 3}, "workers": ["vm:27940"]}
    shown = lines(a_look(types=[limited, a_type("scan", running=2)]))
    (heading,) = [line for line in shown if line.startswith("type")]
    assert {"oldest", "out/s", "limits", "workers"} <= {*heading.split()}
    assert any("3 in all" in line for line in shown)


def test_what_has_no_place_is_counted() -> None:
    types = [a_type(f"type-{n:02}") for n in range(40)]
    shown = lines(a_look(types=types, workers=[a_worker(f"worker-{n}") for n in range(9)]))
    named = sum(line.startswith("type-") for line in shown)
    assert f"… and {40 - named} more" in shown
    assert sum(line.startswith("worker-") for line in shown) == 2
    assert "… and 7 more" in shown


def test_it_says_what_is_wrong_and_that_nobody_answers() -> None:
    assert lines(a_look(problems=["no room", "no time"]))[1] == "degraded: no room (and 1 more)"
    assert lines(a_look(), fault="gone\x1b[31m")[1] == r"no answer, trying again: gone\x1b[31m"
    assert lines(a_look())[1] == "ok"


@pytest.mark.parametrize(("seconds", "told"), [(61.5, "1 min 1 s"), (3600 * 5 + 120, "5 h 2 min"), (86_400 * 3, "3 d 0 h")])
def test_how_long_it_is_up_is_told_in_two_units(seconds: float, told: str) -> None:
    assert f"here:1  up {told}  " in lines(a_look(seconds))[0]
