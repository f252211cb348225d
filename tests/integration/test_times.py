"""What clocks, kills and repetitions do to the times and ids of jobs, seen from outside of a real server."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from tests.support.asking import RefusedError, ask, eventually, until
from tests.support.serving import Served, serving

HANDLERS = """
import asyncio, time
import kqs


@kqs.handler("touching", ttr=2, time_limit=3, retries=0)
async def touching(data, job):
    while job.touch():
        await asyncio.sleep(0.02)


@kqs.handler("plain", ttr=2, time_limit=3, retries=0)
def plain(data, job):
    while job.touch():
        time.sleep(0.02)


@kqs.handler("auto", ttr=2, time_limit=3, retries=0, auto_touch=True)
async def auto(data):
    await asyncio.sleep(30)
"""


def state_of(server: Served, job_id: str) -> str:
    try:
        return str(ask(server, "job", job_id)["state"])
    except RefusedError as error:
        return error.code


def ended(server: Served, job_id: str) -> dict[str, object]:
    eventually(lambda: state_of(server, job_id), {"success", "fail"}.__contains__)
    record: dict[str, object] = ask(server, "job", job_id)
    return record


def test_a_delay_counts_from_the_clock_of_now_though_it_was_two_hours_ahead_once(tmp_path: Path) -> None:
    wrong_clock = (sys.executable, "-m", "tests.support.fleet_server", "7200")
    with serving(tmp_path, wrong_clock) as server:
        ahead = ask(server, "insert", {"type": "echo"})
        until(server, runs_done=1)
        assert server.stop() == 0
    for _ in range(2):  # the second start reads no order of the first one's clock
        with serving(tmp_path) as server:
            job_id = ask(server, "insert", {"type": "echo", "delay": 0.2, "expire": 60})
            assert job_id > ahead
            record = ask(server, "job", job_id)
            assert abs(record["accepted_at"] - time.time()) < 60
            assert record["state"] == "success" or abs(record["due_at"] - record["accepted_at"] - 0.2) < 0.001
            assert ended(server, job_id)["state"] == "success"
            assert server.stop() == 0


def test_what_expired_while_no_server_ran_never_begins(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        ids = [ask(server, "insert", {"type": "echo", "expire": 0.5})]
        ids += ask(server, "insert", [{"type": "echo", "expire": 0.5} for _ in range(500)])
        server.stop(signal.SIGKILL)
    time.sleep(0.6)  # not for an event: time itself is what must pass
    with serving(tmp_path) as server:
        until(server, jobs_fail=501, journal_unfed_records=0)
        record = ask(server, "job", ids[-1])
        assert (record["error"], record["attempt"], record["runs"]) == ("expired", 0, [])
        assert ask(server, "stats")["runs_done"] == 0


def test_a_run_over_its_time_limit_has_failed_however_it_is_touched(tmp_path: Path) -> None:
    (tmp_path / "limits.py").write_text(HANDLERS)
    with serving(tmp_path, WORKER__MODULES='["limits"]', WORKER__GRACE_S="0") as server:
        for job_id in ask(server, "insert", [{"type": type_} for type_ in ("touching", "plain", "auto")]):
            record = ended(server, job_id)
            assert (record["state"], record["failures"], record["ghosts"]) == ("fail", 1, 0)
            assert str(record["error"]).startswith("time_limit")


def test_an_id_that_is_not_kept_is_a_new_job_whenever_it_is_inserted_again(tmp_path: Path) -> None:
    job = {"type": "echo", "id": "mine", "keep": 0}
    with serving(tmp_path) as server:
        for number in range(1, 6):
            assert ask(server, "insert", job) == "mine"
            until(server, runs_done=number)
            eventually(lambda: state_of(server, "mine"), "not_found".__eq__)
        server.stop(signal.SIGKILL)
    with serving(tmp_path) as server:
        assert state_of(server, "mine") == "not_found"
        assert ask(server, "insert", job) == "mine"
        until(server, runs_done=1)


def test_an_id_that_is_kept_is_known_and_shown(tmp_path: Path) -> None:
    job = {"type": "echo", "id": "mine", "keep": 60}
    with serving(tmp_path) as server:
        for _ in range(3):
            assert ask(server, "insert", job) == "mine"
            assert ended(server, "mine")["state"] == "success"
        assert ask(server, "stats")["runs_done"] == 1
