"""No tick is inserted twice, and none is lost untold: over kills of a server, and of one of two that share a store."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from operator import lt
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kqs.schedules.calendar import Every
from tests.support.asking import ask, eventually
from tests.support.serving import SERVE_ENVIRON, Served, serving
from tests.support.ticking import NOTING, first_runs, have_run

EVERY_S = 0.1
KILLS = 3
#: gone as soon as they have ended: no record keeps them from being inserted again
JOB = {"type": "tick", "keep": 0, "ghost_delay": 0}
WAITING = ("journal_unfed_records", "jobs_new", "jobs_ghost", "jobs_retry", "jobs_processing")


def server_in(folder: Path, ran: Path, *arguments: str, **settings: str) -> AbstractContextManager[Served]:
    folder.mkdir(exist_ok=True)
    (folder / "noting.py").write_text(NOTING)
    environ = SERVE_ENVIRON | {"PYTHONPATH": f"{SERVE_ENVIRON['PYTHONPATH']}:{folder}", "RAN": str(ran)}
    command = arguments or (sys.executable, "-m", "kqs", "serve")
    return serving(folder, command, environ, **({"WORKER__MODULES": '["noting"]', "WORKER__GRACE_S": "5"} | settings))


def kill(server: Served) -> None:
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()


def schedule(server: Served) -> dict[str, Any]:
    (found,) = ask(server, "schedules", {"name": "often"})
    return dict(found)


def check(ran: Path, stopped: dict[str, Any]) -> None:
    """See that each instant up to the last one has had its tick, once, or is counted as missed."""
    assert set(first_runs(ran).values()) == {1}
    calendar = Every(EVERY_S, stopped["created_at"] + EVERY_S)
    assert len(have_run(ran)) + stopped["missed"] == calendar.count(0.0, stopped["last"]["at"])


def settled(server: Served, ran: Path) -> dict[str, Any]:
    """Stop the ticks, and return how far they came once the last job has run."""
    ask(server, "suspend", {"schedule": "often"})
    stopped = schedule(server)
    eventually(lambda: have_run(ran), lambda seen: stopped["last"]["id"] in seen)
    eventually(lambda: ask(server, "stats"), lambda seen: not any(seen[name] for name in WAITING))
    return stopped


def test_kills_of_a_server_double_no_tick(tmp_path: Path) -> None:
    ran, random = tmp_path / "ran", Random(7)
    for number in range(KILLS):
        with server_in(tmp_path, ran) as server:
            if not number:
                ask(server, "schedule", {"name": "often", "every": EVERY_S, "catch_up": "all", "job": JOB})
            before = len(first_runs(ran))
            eventually(lambda: len(first_runs(ran)), partial(lt, before))
            time.sleep(random.uniform(0.0, 2 * EVERY_S))  # anywhere between two ticks
            kill(server)
    with server_in(tmp_path, ran) as server:
        stopped = settled(server, ran)
        check(ran, stopped)


@pytest.mark.slow
def test_another_server_ticks_when_the_first_is_killed(tmp_path: Path, uri: str) -> None:
    ran = tmp_path / "ran"
    command = (sys.executable, "-m", "tests.support.fleet_server", "0")
    settings = {"STORE__KIND": "mongodb", "STORE__URI": uri}
    with ExitStack() as stack:
        a = stack.enter_context(server_in(tmp_path / "a", ran, *command, **settings))
        b = stack.enter_context(server_in(tmp_path / "b", ran, *command, **settings))
        ask(a, "schedule", {"name": "often", "every": EVERY_S, "catch_up": "all", "job": JOB})
        eventually(lambda: len(first_runs(ran)), lambda seen: seen > 10)
        assert [one["name"] for one in eventually(lambda: ask(b, "schedules"), bool)] == ["often"]
        kill(a)
        before = len(first_runs(ran))
        eventually(lambda: len(first_runs(ran)), lambda seen: seen > before + 20)
        assert ask(b, "stats")["ticks_inserted"] > 0
        with server_in(tmp_path / "a", ran, *command, **settings) as again:  # what stood in its journal
            before = len(first_runs(ran))
            eventually(lambda: len(first_runs(ran)), lambda seen: seen > before + 10)
            stopped = settled(b, ran)
            eventually(lambda: ask(again, "stats"), lambda seen: not any(seen[name] for name in WAITING))
            check(ran, stopped)
