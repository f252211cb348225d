"""A real `kqs work` beside a real server: it runs jobs, stops in good order, and gives back what it cannot run."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import ask, eventually, peer_of, until, until_said
from tests.support.misbehaving import MODULE, SOURCE
from tests.support.serving import SERVE, SERVE_ENVIRON, STOPPED_WITHIN_S, Served, free_port, serving
from tests.support.working import WORK, working

CHORES = """
import asyncio
import time
from pathlib import Path

import kqs
from pydantic import BaseModel


class Order(BaseModel):
    count: int


@kqs.handler("double")
async def double(data):
    return 2 * data


@kqs.handler("order")
def order(data: Order, job):
    return [data.count, job.attempt, job.options.ttr]


@kqs.handler("sleep")
async def sleep(data, job):
    print("begun", job.id)
    try:
        await asyncio.sleep(data)
    except asyncio.CancelledError:
        print("cancelled", job.id)
        raise
    print("ended", job.id)


@kqs.handler("touching")
def touching(data, job):
    for _ in range(15):
        time.sleep(0.2)
        job.touch()
    return job.attempt


@kqs.handler("silent")
def silent(data, job):
    if job.attempt == 1:
        while not Path("gate").exists():
            time.sleep(0.02)
        print("touched", job.touch())
    return job.attempt


@kqs.handler("holding")
async def holding(data):
    time.sleep(2.5)


@kqs.handler("holding for ever")
async def holding_for_ever(data):
    while True:
        time.sleep(60)


@kqs.handler("long")
async def long(data):
    return "x" * data


@kqs.handler("moody")
async def moody(data):
    raise {"again": kqs.Again(delay=60), "final": kqs.Fail("never"), "fail": ValueError("no")}[data]


@kqs.handler("deaf")
async def deaf(data):
    for _ in range(3):
        try:
            await asyncio.sleep(1.5)
        except asyncio.CancelledError:
            print("heard nothing")


@kqs.handler("gated")
async def gated(data, job):
    print("begun", job.id)
    while not Path("gate").exists():
        await asyncio.sleep(0.02)
    print("ended", job.id)
    return job.attempt


@kqs.handler("gated in a thread")
def gated_in_a_thread(data, job):
    print("begun", job.id)
    while not Path("gate").exists():
        time.sleep(0.02)
    return job.attempt


@kqs.handler("patient", retry_delay=lambda failures: 1000 * failures)
async def patient(data):
    raise ValueError("not yet")
"""
ENDED = ("success", "fail", "retry", "ghost")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "chores.py").write_text(CHORES)
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[Served]:
    with serving(folder, WORKER__CONCURRENCY="0") as server:
        yield server


def insert(server: Served, type_: str, data: object = None, **options: object) -> str:
    with peer_of(server) as peer:
        return peer.insert(type_, data, **options)


def ended(server: Served, job_id: str, *states: str) -> dict[str, Any]:
    record: dict[str, Any] = eventually(lambda: ask(server, "job", job_id), lambda job: job["state"] in (states or ENDED))
    return record


def ran(record: dict[str, Any]) -> tuple[str, int, int, int, list[str]]:
    counts = (record["attempt"], record["ghosts"], record["interrupted"])
    return (record["state"], *counts, [run["state"] for run in record["runs"]])


def test_it_runs_coroutines_and_threads_with_typed_arguments(folder: Path, server: Served) -> None:
    with working(folder, server, "--name", "elsewhere", "chores"):
        double = ended(server, insert(server, "double", 21))
        assert (double["result"], double["runs"][0]["worker"]) == (42, "elsewhere")
        assert ended(server, insert(server, "order", {"count": 3}, ttr=7))["result"] == [3, 1, 7.0]
        misfit = ended(server, insert(server, "order", {"count": "many"}))
        assert (misfit["state"], misfit["error"].splitlines()[0]) == (
            "fail",
            "data does not fit: 1 validation error for Order",
        )


def test_again_fail_and_exceptions_are_what_they_are_in_a_server(folder: Path, server: Served) -> None:
    with working(folder, server, "chores"):
        again = ended(server, insert(server, "moody", "again"))
        assert (again["state"], again["failures"], again["due_at"] > again["runs"][0]["ended_at"] + 50) == ("retry", 0, True)
        final = ended(server, insert(server, "moody", "final"))
        assert (final["state"], final["error"], final["failures"]) == ("fail", "never", 1)
        failed = ended(server, insert(server, "moody", "fail", retry_delay=60))
        assert (failed["state"], failed["error"].splitlines()[0], failed["failures"]) == ("retry", "ValueError: no", 1)


def test_a_handler_says_how_long_its_retry_waits(folder: Path, server: Served) -> None:
    with working(folder, server, "chores"):
        record = ended(server, insert(server, "patient"))
        assert record["due_at"] == pytest.approx(record["runs"][0]["ended_at"] + 1000, abs=5)


def test_more_jobs_than_lanes_are_all_run_once(folder: Path, server: Served) -> None:
    with peer_of(server) as peer, working(folder, server, "--concurrency", "3", "chores") as worker:
        for first in range(0, 3000, 1000):
            peer.call("insert", [{"type": "double", "data": n} for n in range(first, first + 1000)])
        until(server, jobs_success=3000)
        stats = ask(server, "stats")
        assert (stats["runs_ghost"], stats["runs_stale"]) == (0, 0)
        assert worker.stop() == 0
        assert "runs=3000" in worker.log.read_text()


def test_a_signal_lets_runs_finish_and_takes_no_more(folder: Path, server: Served) -> None:
    with working(folder, server, "--concurrency", "1", "chores") as worker:
        first = insert(server, "gated")
        until_said(worker, f"begun {first}")
        second = insert(server, "gated")
        worker.process.send_signal(signal.SIGTERM)
        until_said(worker, "waiting for runs to finish")
        (folder / "gate").touch()
        assert worker.process.wait(STOPPED_WITHIN_S) == 0
        assert ran(ended(server, first)) == ("success", 1, 0, 0, ["success"])
        assert ask(server, "job", second)["state"] == "new"


def test_a_run_beyond_the_grace_is_given_back_for_free(folder: Path, server: Served) -> None:
    with working(folder, server, "--grace", "0.1", "chores") as worker:
        job_id = insert(server, "sleep", 60)
        until_said(worker, "begun")
        assert worker.stop() == 0
        assert "cancelled" in worker.log.read_text()
    assert ran(ended(server, job_id)) == ("retry", 1, 0, 1, ["interrupted"])


def ids_begun(worker: Served, count: int) -> None:
    eventually(lambda: worker.log.read_text().count("begun"), lambda begun: begun >= count)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_held_runs_go_on_while_the_server_is_stopped_or_killed_and_started_again(
    folder: Path, signal_number: signal.Signals
) -> None:
    settings = {"WORKER__CONCURRENCY": "0", "SERVER__PORT": str(free_port())}
    with serving(folder, **settings) as server, working(folder, server, "--hold", "--name", "w", "chores") as worker:
        job_ids = [insert(server, type_, ttr=20, auto_touch=True) for type_ in ["gated", "gated in a thread"] * 10]
        ids_begun(worker, 20)
        server.stop(signal_number)
        until_said(worker, "its runs are held and go on")
        with serving(folder, **settings) as again:
            until(again, running_remote=20)
            assert ended(again, insert(again, "double", 4))["result"] == 8  # lanes that are free have work meanwhile
            (folder / "gate").touch()
            assert [ran(ended(again, job_id)) for job_id in job_ids] == [("success", 1, 0, 0, ["success"])] * 20
            assert {ask(again, "job", job_id)["runs"][0]["worker"] for job_id in job_ids} == {"w"}
            assert worker.stop() == 0
        assert worker.log.read_text().count("begun") == 20


def test_a_worker_whose_loop_is_held_takes_no_jobs_that_others_could_run(folder: Path, server: Served) -> None:
    with working(folder, server, "--name", "held", "chores") as held:
        stuck = insert(server, "holding for ever", ttr=0.5, ghosts=0)
        ended(server, stuck, "fail")
        with working(folder, server, "--name", "well", "--types", "sleep", "--concurrency", "1", "chores"):
            job_ids = [insert(server, "sleep", 0.1, ttr=2, ghosts=2, ghost_delay=0) for _ in range(30)]
            records = [ended(server, job_id, "success", "fail") for job_id in job_ids]
            assert {record["state"] for record in records} == {"success"}
            assert sum(record["ghosts"] for record in records) <= 10
        held.process.kill()


def test_what_ends_while_the_server_is_away_is_reported_when_it_is_back(folder: Path) -> None:
    settings = {"WORKER__CONCURRENCY": "0", "SERVER__PORT": str(free_port())}
    with serving(folder, **settings) as server, working(folder, server, "--hold", "chores") as worker:
        job_id = insert(server, "gated", ttr=20, auto_touch=True)
        until_said(worker, "begun")
        server.stop(signal.SIGKILL)
        until_said(worker, "its runs are held and go on")
        (folder / "gate").touch()
        until_said(worker, "no server answers")
        with serving(folder, **settings) as again:
            assert ran(ended(again, job_id)) == ("success", 1, 0, 0, ["success"])
            assert worker.stop() == 0


def test_a_server_of_another_store_at_the_old_address_costs_held_runs_nothing_if_it_goes_before_they_end(
    folder: Path, tmp_path: Path
) -> None:
    settings = {"WORKER__CONCURRENCY": "0", "SERVER__PORT": str(free_port())}
    (other := tmp_path / "other").mkdir()
    with serving(folder, **settings) as server, working(folder, server, "--hold", "chores") as worker:
        job_id = insert(server, "gated", ttr=20, auto_touch=True)
        until_said(worker, "begun")
        server.stop()
        with serving(other, **settings):
            until_said(worker, "the server does not know runs: it is of another store")
        with serving(folder, **settings) as again:
            until_said(worker, "the server knows the runs")
            (folder / "gate").touch()
            assert ran(ended(again, job_id)) == ("success", 1, 0, 0, ["success"])
            assert worker.stop() == 0


def test_a_held_worker_that_died_while_the_server_was_away_costs_a_ghost_after_its_ttr(folder: Path) -> None:
    settings = {"WORKER__CONCURRENCY": "0", "SERVER__PORT": str(free_port())}
    with serving(folder, **settings) as server:
        with working(folder, server, "--hold", "chores") as worker:
            job_id = insert(server, "gated", ttr=2, auto_touch=True)
            until_said(worker, "begun")
            server.stop(signal.SIGKILL)
            worker.stop(signal.SIGKILL)
        (folder / "gate").touch()
        with serving(folder, **settings) as again, working(folder, again, "--hold", "chores"):
            assert ran(ended(again, job_id, "success")) == ("success", 2, 1, 0, ["ghost", "success"])


def test_a_held_run_that_its_worker_never_heard_of_goes_back_after_its_ttr(folder: Path) -> None:
    settings = {"WORKER__CONCURRENCY": "0", "SERVER__PORT": str(free_port())}
    with serving(folder, **settings) as server, working(folder, server, "--hold", "chores") as worker:
        until(server, calls_work=2)  # one asks, one listens
        worker.process.send_signal(signal.SIGSTOP)  # it is given the run, and does not read it
        job_id = insert(server, "double", 4, ttr=2)
        eventually(lambda: ask(server, "job", job_id), lambda job: job["state"] == "processing")
        server.stop(signal.SIGKILL)
        with serving(folder, **settings) as again:
            until(again, runs_ghost=1)
            worker.process.send_signal(signal.SIGCONT)
            record = ended(again, job_id, "success")
            assert (record["result"], record["ghosts"]) == (8, 1)
            assert worker.stop() == 0


@pytest.mark.slow
def test_a_stop_does_not_wait_for_a_server_that_takes_no_report(folder: Path, server: Served) -> None:
    with working(folder, server, "chores") as worker:
        job_id = insert(server, "gated")
        until_said(worker, f"begun {job_id}")
        server.process.send_signal(signal.SIGSTOP)
        (folder / "gate").touch()
        try:
            assert worker.stop() == 69
            said = worker.log.read_text()
            assert f"ended {job_id}" in said
            assert "stopping without the last reports" in said
        finally:
            server.process.send_signal(signal.SIGCONT)


def test_a_second_signal_ends_it_now(folder: Path, server: Served) -> None:
    with working(folder, server, "--grace", "-1", "chores") as worker:
        job_id = insert(server, "sleep", 600)
        until_said(worker, "begun")
        worker.process.send_signal(signal.SIGTERM)
        until_said(worker, "waiting for runs to finish")
        assert worker.stop(signal.SIGINT) == 0
    assert ran(ended(server, job_id)) == ("ghost", 1, 1, 0, ["ghost"])


def test_a_killed_worker_gives_its_runs_back_at_once(folder: Path, server: Served) -> None:
    with working(folder, server, "chores") as worker:
        job_id = insert(server, "gated", ttr=600)
        until_said(worker, "begun")
        worker.stop(signal.SIGKILL)
    (folder / "gate").touch()
    with working(folder, server, "chores"):
        assert ran(ended(server, job_id, "success")) == ("success", 2, 1, 0, ["ghost", "success"])


def test_it_comes_back_to_a_server_that_was_started_again(folder: Path) -> None:
    settings = {"WORKER__CONCURRENCY": "0", "SERVER__PORT": str(free_port())}
    with serving(folder, **settings) as server, working(folder, server, "chores") as worker:
        job_id = insert(server, "sleep", 60)
        until_said(worker, "begun")
        server.stop(signal.SIGKILL)
        until_said(worker, "cancelled")
        with serving(folder, **settings) as again:
            assert ended(again, insert(again, "double", 4))["result"] == 8
            assert ask(again, "job", job_id)["ghosts"] == 1
            assert again.stop() == 0
        with serving(folder, **settings) as again:
            assert ended(again, insert(again, "double", 5))["result"] == 10
        assert worker.stop() == 0
        said = worker.log.read_text()
        assert said.count("no server answers") == 1
        assert "connected" in said


def test_without_a_server_it_says_so_once_and_keeps_trying(folder: Path) -> None:
    port = free_port()
    with working(folder, None, "--connect", f"127.0.0.1:{port}", "chores") as worker:
        until_said(worker, "no server answers, trying again")
        with serving(folder, SERVER__PORT=str(port), WORKER__CONCURRENCY="0") as server:
            assert ended(server, insert(server, "double", 1))["result"] == 2
        assert worker.stop() == 0
        assert worker.log.read_text().count("trying again") == 1


def test_a_stop_without_a_server_is_orderly(folder: Path) -> None:
    with working(folder, None, "--connect", f"127.0.0.1:{free_port()}", "chores") as worker:
        until_said(worker, "no server answers")
        assert worker.stop() == 0


def test_a_run_over_its_time_limit_is_cancelled(folder: Path, server: Served) -> None:
    with working(folder, server, "chores") as worker:
        job_id = insert(server, "sleep", 60, time_limit=2, retries=0)
        until_said(worker, "cancelled")
        assert ended(server, job_id)["error"] == "time_limit of 2 s reached"
        assert ended(server, insert(server, "double", 1))["result"] == 2  # its lane goes on


def test_each_cancelled_job_ends_at_once_though_others_were_cancelled_before(folder: Path, server: Served) -> None:
    with working(folder, server, "chores") as worker:
        job_ids = [insert(server, "gated in a thread" if number % 2 else "sleep", 60, ttr=600) for number in range(6)]
        for job_id in job_ids:
            until_said(worker, f"begun {job_id}")
        for job_id in job_ids:  # what the worker asks for changes with each: the call that brought them is withdrawn
            ask(server, "cancel", job_id)
            ended(server, job_id, "cancelled")
        (folder / "gate").touch()


@pytest.mark.parametrize("options", [(), ("--hold",)])
def test_a_cancelled_job_ends_at_once_in_a_worker_that_lets_its_runs_finish(
    folder: Path, server: Served, options: tuple[str, ...]
) -> None:
    with working(folder, server, *options, "--grace", "-1", "chores") as worker:
        job_ids = [insert(server, "sleep", 60, ttr=600) for _ in range(2)]
        for job_id in job_ids:
            until_said(worker, f"begun {job_id}")
        worker.process.send_signal(signal.SIGTERM)
        eventually(lambda: ask(server, "workers"), lambda workers: [one["room"] for one in workers] == [0])
        for job_id in job_ids:
            ask(server, "cancel", job_id)
            until_said(worker, f"cancelled {job_id}")
            ended(server, job_id, "cancelled")
        assert worker.process.wait(30) == 0


def test_a_cancelled_job_ends_at_once_in_a_worker_whose_server_lets_its_runs_finish(folder: Path) -> None:
    with serving(folder, WORKER__CONCURRENCY="0", WORKER__GRACE_S="-1") as server, working(folder, server, "chores") as worker:
        job_id = insert(server, "sleep", 60, ttr=600)
        until_said(worker, f"begun {job_id}")
        server.process.send_signal(signal.SIGTERM)
        until_said(server, "waiting for remote runs")
        ask(server, "cancel", job_id)
        until_said(worker, f"cancelled {job_id}")
        assert server.process.wait(30) == 0


def test_a_held_run_that_is_cancelled_after_a_restart_ends_at_once(folder: Path) -> None:
    settings = {"WORKER__CONCURRENCY": "0", "SERVER__PORT": str(free_port())}
    with serving(folder, **settings) as server, working(folder, server, "--hold", "chores") as worker:
        job_ids = [insert(server, "sleep", 60, ttr=600) for _ in range(2)]
        for job_id in job_ids:
            until_said(worker, f"begun {job_id}")
        server.stop(signal.SIGKILL)
        with serving(folder, **settings) as again:
            ask(again, "cancel", job_ids[0])  # before its worker is back, or just after
            ended(again, job_ids[0], "cancelled")
            ask(again, "cancel", job_ids[1])
            ended(again, job_ids[1], "cancelled")


def test_it_touches_for_handlers_that_ask_for_it(folder: Path, server: Served) -> None:
    with working(folder, server, "chores"):
        job_id = insert(server, "sleep", 4, ttr=2, auto_touch=True)
        assert ran(ended(server, job_id)) == ("success", 1, 0, 0, ["success"])


def test_touches_of_a_handler_reach_the_server(folder: Path, server: Served) -> None:
    with working(folder, server, "chores"):
        assert ended(server, insert(server, "touching", ttr=2))["result"] == 1
        assert 2 <= ask(server, "stats")["calls_touch"] <= 10


def test_a_silent_handler_loses_its_run(folder: Path, server: Served) -> None:
    with working(folder, server, "chores") as worker:
        job_id = insert(server, "silent", ttr=2)
        until(server, runs_ghost=1)
        (folder / "gate").touch()
        record = ended(server, job_id, "success")
        assert (record["result"], record["ghosts"]) == (2, 1)
        until_said(worker, "touched False")


def test_jobs_that_wait_for_a_lane_lose_no_time(folder: Path, server: Served) -> None:
    with working(folder, server, "--concurrency", "1", "chores"):
        for _ in range(100):  # so short that many are claimed ahead
            insert(server, "double", 1)
        jobs = [insert(server, "sleep", 0.5, ttr=2) for _ in range(8)]
        for job_id in jobs:
            assert ended(server, job_id, "success")["ghosts"] == 0


def test_it_asks_for_the_types_it_is_told_and_no_others(folder: Path, server: Served) -> None:
    with working(folder, server, "--types", "double,order", "--types", "long", "chores"):
        other = insert(server, "sleep", 0)
        assert ended(server, insert(server, "double", 1))["result"] == 2
        assert ended(server, insert(server, "order", {"count": 1}))["state"] == "success"
        assert ended(server, insert(server, "long", 1))["state"] == "success"
        assert ask(server, "job", other)["state"] == "new"


def test_it_reserves_nothing_that_it_has_no_handler_for(folder: Path, server: Served) -> None:
    with working(folder, server, "chores"):
        other = insert(server, "ping")
        assert ended(server, insert(server, "double", 1))["state"] == "success"
        record = ask(server, "job", other)
        assert (record["state"], record["attempt"]) == ("new", 0)


def test_it_works_over_a_unix_socket(folder: Path) -> None:
    with serving(folder, WORKER__CONCURRENCY="0", SERVER__SOCKET="kqs.sock") as server:
        for option in (("--socket", "kqs.sock"), ("--connect", "unix:kqs.sock")):
            with working(folder, None, *option, "chores"):
                assert ended(server, insert(server, "double", 1))["result"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "clue"),
    [
        (("nowhere",), 78, "MODULE: cannot load 'nowhere'"),
        (("empty",), 78, "MODULE: no type with a handler or a command, expected 1 to 1000"),
        (("--types", "dubble", "chores"), 78, "--types: no handler for type 'dubble'"),
        (("--concurrency", "0", "chores"), 2, "--concurrency"),
        (("--grace", "-2", "chores"), 2, "--grace"),
        (("--name", "", "chores"), 2, "--name"),
        (("--name", "a\u202eb", "chores"), 2, "expected 1 to 200 characters of printable text, got a\\u202eb"),
        (("--connect", "localhost:x", "chores"), 2, "--connect"),
        ((), 2, "MODULE"),
    ],
)
def test_what_it_cannot_start_with_is_one_clear_line(folder: Path, arguments: tuple[str, ...], code: int, clue: str) -> None:
    (folder / "empty.py").touch()
    done = subprocess.run([*WORK, *arguments], cwd=folder, env=SERVE_ENVIRON, capture_output=True, text=True, timeout=60)
    *warnings, last = done.stderr.splitlines()
    assert (done.returncode, len(warnings)) == (code, arguments == ("empty",))
    assert clue in last


def test_a_report_that_the_server_does_not_take_is_a_failure_of_its_job_alone(folder: Path) -> None:
    with (
        serving(folder, WORKER__CONCURRENCY="0", SERVER__MAX_LINE_BYTES="4000") as server,
        working(folder, server, "chores") as worker,
    ):
        jobs = [insert(server, "long", length) for length in (10, 5000, 20)]
        records = [ended(server, job_id) for job_id in jobs]
        assert [record["state"] for record in records] == ["success", "fail", "success"]
        assert records[1]["error"].startswith("the server refused the worker's report: ")
        assert worker.stop() == 0


def test_a_handler_that_holds_the_loop_is_told_of(folder: Path, server: Served) -> None:
    with working(folder, server, "chores") as worker:
        insert(server, "holding", retries=0)
        until_said(worker, "a handler has held the event loop")


def test_a_handler_that_ignores_its_cancellation_is_told_of_as_long_as_it_does(folder: Path, server: Served) -> None:
    with working(folder, server, "--concurrency", "1", "chores") as worker:
        insert(server, "deaf", time_limit=1, retries=0)
        until_said(worker, "1 handler of type 'deaf' ignores its cancellation")
        assert ended(server, insert(server, "double", 1))["result"] == 2  # another lane has taken its place
        until_said(worker, "no more problem=")
        assert worker.stop() == 0


def test_it_tells_systemd_that_it_lives(folder: Path, server: Served) -> None:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with manager:
        manager.bind(str(folder / "notify.sock"))
        manager.settimeout(60)
        environ = SERVE_ENVIRON | {"NOTIFY_SOCKET": str(folder / "notify.sock"), "WATCHDOG_USEC": "200000"}
        command = [*WORK, "--connect", f"127.0.0.1:{server.port}", "chores"]
        with subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.DEVNULL) as process:
            heard = [manager.recv(100) for _ in range(3)]
            process.terminate()
            heard += iter(lambda: manager.recv(100), b"STOPPING=1")
            assert process.wait(30) == 0
    assert heard[0] == b"READY=1"
    assert b"WATCHDOG=1" in heard


def test_a_child_of_a_handler_holds_no_connection(tmp_path: Path) -> None:
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    with (
        serving(tmp_path, WORKER__CONCURRENCY="0") as server,
        working(tmp_path, server, MODULE) as worker,
    ):
        insert(server, "orphan")
        until_said(worker, "and no more")  # before anybody else prints: a fork meanwhile has the lock of that taken for ever
        running = insert(server, "to_thread", ttr=600, ghosts=0)
        until_said(worker, "held")
        pid, held = re.findall(r"orphan (\d+) holds(.*) and no more", worker.log.read_text())[0]
        try:
            assert held == ""
            worker.stop(signal.SIGKILL)
            assert ended(server, running)["error"] == "the worker's connection was lost"
            assert Path(f"/proc/{pid}").exists()
        finally:
            os.kill(int(pid), signal.SIGKILL)


def test_a_server_and_a_worker_can_share_out_the_types_of_a_module(folder: Path) -> None:
    settings = {"WORKER__MODULES": '["chores"]', "WORKER__TYPES": '["double"]'}
    with serving(folder, **settings) as server:
        here, there = insert(server, "double", 1), insert(server, "long", 1)
        assert ended(server, here)["result"] == 2
        assert ask(server, "job", there)["state"] == "new"
        with working(folder, server, "--types", "long", "--name", "elsewhere", "chores"):
            assert ended(server, there)["runs"][0]["worker"] == "elsewhere"


def test_a_server_without_a_handler_for_one_of_its_types_does_not_start(folder: Path) -> None:
    environ = SERVE_ENVIRON | {"KQS_WORKER__MODULES": '["chores"]', "KQS_WORKER__TYPES": '["dubble"]', "KQS_SERVER__PORT": "0"}
    done = subprocess.run(SERVE, cwd=folder, env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (78, 1)
    assert done.stderr.startswith("kqs: [worker] types: no handler for type 'dubble'; those with one: ")
