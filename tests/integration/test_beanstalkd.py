"""A real `kqs serve` over real beanstalkds: from an insert over TCP to the stored end of every job."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.support.asking import ask, eventually, until, until_at_least, until_said
from tests.support.beanstalkd import Beanstalkd, running_beanstalkd
from tests.support.beanstalkd_jobs import assert_all_ran, configured, insert
from tests.support.serving import serving

pytestmark = pytest.mark.slow


def test_every_job_runs_although_beanstalkd_is_killed_and_comes_back_empty(tmp_path: Path) -> None:
    with running_beanstalkd() as beanstalkd, serving(tmp_path, **configured(tmp_path, beanstalkd)) as server:
        insert(server, range(1000))
        until_at_least(server, jobs_success=200)
        beanstalkd.kill()
        until_at_least(server, jobs_success=210)
        beanstalkd.start()
        until(server, within_s=60, jobs_success=1000)
        assert_all_ran(server, tmp_path, range(1000))


def test_one_of_two_beanstalkds_is_enough(tmp_path: Path) -> None:
    with (
        running_beanstalkd() as first,
        running_beanstalkd() as second,
        serving(tmp_path, **configured(tmp_path, first, second)) as server,
    ):
        insert(server, range(600))
        until_at_least(server, jobs_success=100)
        first.kill()
        until(server, jobs_success=600)
        assert_all_ran(server, tmp_path, range(600))
        assert f"{first.address} is away: " in (said := str(ask(server, "health")))
        assert "Errno" not in said


def test_inserts_go_on_without_beanstalkd(tmp_path: Path) -> None:
    beanstalkd = Beanstalkd()
    with serving(tmp_path, **configured(tmp_path, beanstalkd, WORKER__CONCURRENCY="1")) as server:
        insert(server, range(100))
        health = ask(server, "health")
        assert health["verdict"] == "degraded"
        assert beanstalkd.address in health["problems"][0]
        beanstalkd.start()
        try:
            until(server, jobs_success=100)
            assert_all_ran(server, tmp_path, range(100))
        finally:
            beanstalkd.kill()


def test_an_operator_finds_the_jobs_of_a_type_in_its_tube(tmp_path: Path) -> None:
    with (
        running_beanstalkd() as beanstalkd,
        serving(tmp_path, **configured(tmp_path, beanstalkd, SERVER__NAMESPACE="eu", TYPES__RESIZE__TTR="77")) as server,
    ):
        ask(server, "insert", {"type": "resize", "data": {"w": 7}, "prio": "high"})
        ask(server, "insert", {"type": "déjà;vu", "data": "y" * 2000, "prio": 3, "ttr": 99.5})
        until(server, jobs_new=2)
        found = beanstalkd.talk(b"use eu;kq-resize\r\npeek-ready\r\nstats-job 1\r\n").decode()
        assert '"type":"resize"' in found
        assert '"data":{"w": 7}' in found
        assert "pri: 9000\n" in found
        assert "ttr: 77\n" in found
        found = beanstalkd.talk(b"use eu;kq-d$C3$A9j$C3$A0$3Bvu\r\npeek-ready\r\nstats-job 2\r\n").decode()
        assert '"options":{"prio":3,"ttr":99.5}}' in found
        assert "pri: 3\n" in found
        assert "ttr: 100\n" in found


def test_a_job_too_big_for_beanstalkd_waits_there_as_a_reference(tmp_path: Path) -> None:
    with (
        running_beanstalkd("-z", "200") as beanstalkd,
        serving(tmp_path, **configured(tmp_path, beanstalkd, WORKER__CONCURRENCY="1")) as server,
    ):
        ask(server, "insert", [{"type": "work", "data": 10**300 + number, "prio": number} for number in range(20)])
        until(server, jobs_success=20)
        assert sorted(map(int, (tmp_path / "ran").read_text().split())) == [10**300 + number for number in range(20)]
        assert b"cmd-put: 0\n" not in beanstalkd.talk(b"stats\r\n")
        assert ask(server, "health")["verdict"] == "ok"


def test_with_every_beanstalkd_down_or_hung_inserts_go_on_at_full_speed(tmp_path: Path) -> None:
    down = Beanstalkd()
    with running_beanstalkd() as hung, serving(tmp_path, **configured(tmp_path, down, hung)) as server:
        hung.signal(signal.SIGSTOP)
        began = time.monotonic()
        for number in range(20):
            insert(server, range(number * 1000, (number + 1) * 1000))
        assert time.monotonic() - began < 15
        health = eventually(lambda: str(ask(server, "health")), lambda seen: hung.address in seen)
        assert down.address in health
        assert "degraded" in health


def test_two_servers_with_stores_of_their_own_on_one_beanstalkd_are_told_to_use_namespaces(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("mine", "yours")]
    for folder in folders:
        folder.mkdir()
    with (
        running_beanstalkd() as beanstalkd,
        serving(folders[0], **configured(folders[0], beanstalkd, WORKER__CONCURRENCY="1")) as mine,
        serving(folders[1], **configured(folders[1], beanstalkd, WORKER__CONCURRENCY="1")) as yours,
    ):
        for server, first in ((mine, 0), (yours, 100)):
            ask(server, "insert", [{"type": "work", "data": first + number, "prio": number} for number in range(100)])
        for server, folder, numbers in ((mine, folders[0], range(100)), (yours, folders[1], range(100, 200))):
            until(server, jobs_success=100)
            assert_all_ran(server, folder, numbers)
        for server in (mine, yours):
            assert "need a [server] namespace of their own" in str(ask(server, "health"))
            until_said(server, "jobs of another store in our tubes")


def test_a_server_that_is_killed_finds_its_jobs_again_in_beanstalkd_or_not(tmp_path: Path) -> None:
    with running_beanstalkd() as beanstalkd:
        settings = configured(tmp_path, beanstalkd)
        with serving(tmp_path, **settings) as server:
            insert(server, range(500))
            until_at_least(server, jobs_success=100)
            server.process.kill()
            server.process.wait()
        with serving(tmp_path, **settings) as server:
            seen = until(server, within_s=60, jobs_success=500)
            assert seen["jobs_fail"] == 0
            assert set(map(int, (tmp_path / "ran").read_text().split())) == set(range(500))
