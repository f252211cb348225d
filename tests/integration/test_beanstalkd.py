"""A real `kqs serve` over real beanstalkds: from an insert over TCP to the stored end of every job."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.support.beanstalkd import Beanstalkd, running_beanstalkd
from tests.support.serving import Served, serving

pytestmark = pytest.mark.slow

HANDLERS = """
import asyncio
import kqs

@kqs.handler("work", ttr=5)
async def work(data):
    await asyncio.sleep(0.01)
    with open("ran", "a") as file:
        file.write(f"{data}\\n")
    return data
"""


def ask(server: Served, call: str, argument: object = None) -> object:
    answer = json.loads(server.ask(json.dumps({"n": call, "m": argument}))[0])
    assert answer["s"] == "end", answer
    return answer["m"]


def stats(server: Served) -> dict[str, float]:
    found = ask(server, "stats")
    assert isinstance(found, dict)
    return found


def until(server: Served, wanted: str, least: int, within_s: float = 60) -> dict[str, float]:
    """Ask for stats until `wanted` is at least so much; the wire has no event to wait for."""
    deadline = time.monotonic() + within_s
    while (seen := stats(server))[wanted] < least:
        assert time.monotonic() < deadline, f"wanted {wanted} >= {least}, got {seen}:\n{server.log.read_text()[-3000:]}"
        time.sleep(0.05)
    return seen


def insert(server: Served, numbers: range) -> None:
    ask(server, "insert", [{"type": "work", "data": number} for number in numbers])


def configured(folder: Path, *servers: Beanstalkd, **more: str) -> dict[str, str]:
    (folder / "jobs.py").write_text(HANDLERS)
    return {
        "BROKER__KIND": "beanstalkd",
        "BROKER__SERVERS": json.dumps([server.address for server in servers]),
        "WORKER__MODULES": '["jobs"]',
        "WORKER__CONCURRENCY": "10",
        **more,
    }


def assert_all_ran(server: Served, folder: Path, numbers: range) -> None:
    """Every job ended well, by one accepted end each."""
    seen = stats(server)
    assert (seen["jobs_success"], seen["runs_done"], seen["jobs_fail"]) == (len(numbers), len(numbers), 0)
    assert sorted(map(int, (folder / "ran").read_text().split())) == list(numbers)


def test_every_job_runs_although_beanstalkd_is_killed_and_comes_back_empty(tmp_path: Path) -> None:
    with running_beanstalkd() as beanstalkd, serving(tmp_path, **configured(tmp_path, beanstalkd)) as server:
        insert(server, range(1000))
        until(server, "jobs_success", 200)
        beanstalkd.kill()
        until(server, "jobs_success", 210)
        beanstalkd.start()
        until(server, "jobs_success", 1000)
        assert_all_ran(server, tmp_path, range(1000))


def test_one_of_two_beanstalkds_is_enough(tmp_path: Path) -> None:
    with (
        running_beanstalkd() as first,
        running_beanstalkd() as second,
        serving(tmp_path, **configured(tmp_path, first, second)) as server,
    ):
        insert(server, range(600))
        until(server, "jobs_success", 100)
        first.kill()
        until(server, "jobs_success", 600, within_s=20)
        assert_all_ran(server, tmp_path, range(600))
        assert "is away" in str(ask(server, "health"))


def test_inserts_go_on_without_beanstalkd(tmp_path: Path) -> None:
    beanstalkd = Beanstalkd()
    with serving(tmp_path, **configured(tmp_path, beanstalkd, WORKER__CONCURRENCY="1")) as server:
        insert(server, range(100))
        health = ask(server, "health")
        assert isinstance(health, dict)
        assert health["verdict"] == "degraded"
        assert beanstalkd.address in health["problems"][0]
        beanstalkd.start()
        try:
            until(server, "jobs_success", 100)
            assert_all_ran(server, tmp_path, range(100))
        finally:
            beanstalkd.kill()


def test_an_operator_finds_the_jobs_of_a_type_in_its_tube(tmp_path: Path) -> None:
    with (
        running_beanstalkd() as beanstalkd,
        serving(tmp_path, **configured(tmp_path, beanstalkd, SERVER__NAMESPACE="eu", TYPES__RESIZE__TTR="77")) as server,
    ):
        ask(server, "insert", {"type": "resize", "data": 1, "prio": "high"})
        until(server, "jobs_new", 1)
        found = beanstalkd.talk(b"use eu;kq-resize\r\npeek-ready\r\nstats-job 1\r\n").decode()
        assert '"type":"resize"' in found
        assert "pri: 9000\n" in found
        assert "ttr: 77\n" in found
