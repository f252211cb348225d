"""A real `kqs serve` over real beanstalkds: from an insert over TCP to the stored end of every job."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.beanstalkd import Beanstalkd, running_beanstalkd
from tests.support.beanstalkd_jobs import ask, assert_all_ran, configured, insert, until
from tests.support.serving import serving

pytestmark = pytest.mark.slow


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


def test_a_server_that_is_killed_finds_its_jobs_again_in_beanstalkd_or_not(tmp_path: Path) -> None:
    with running_beanstalkd() as beanstalkd:
        settings = configured(tmp_path, beanstalkd)
        with serving(tmp_path, **settings) as server:
            insert(server, range(500))
            until(server, "jobs_success", 100)
            server.process.kill()
            server.process.wait()
        with serving(tmp_path, **settings) as server:
            seen = until(server, "jobs_success", 500)
            assert seen["jobs_fail"] == 0
            assert set(map(int, (tmp_path / "ran").read_text().split())) == set(range(500))
