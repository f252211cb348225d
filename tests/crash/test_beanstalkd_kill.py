"""beanstalkd killed again and again under load: no accepted job is lost, none is accepted to have ended twice."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from kqs.broker.beanstalkd.server import GIVE_UP_S
from tests.support.asking import WITHIN_S, ask, eventually, until
from tests.support.beanstalkd import Beanstalkd, running_beanstalkd, with_binlog
from tests.support.beanstalkd_jobs import assert_all_ran, configured, insert
from tests.support.serving import Served, serving

pytestmark = pytest.mark.slow

KILLS = 5  # in each of the six ways
JOBS = 200
#: so small that each batch of jobs begins a new file
BINLOG_BYTES = 32_768
PAGE_BYTES = 4096


class Fault:
    """What is done to beanstalkd under load. `strike` is followed by its end with SIGKILL, `prepare` by its return."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def options(self) -> tuple[str, ...]:
        return ()

    def strike(self, beanstalkd: Beanstalkd, server: Served) -> None:
        """Nothing but the kill."""

    def prepare(self) -> None:
        """Nothing."""


class NoBinlog(Fault):
    pass


class BinlogKept(Fault):
    @property
    def options(self) -> tuple[str, ...]:
        return (*with_binlog(self._folder), "-s", str(BINLOG_BYTES))


class BinlogFlushedLate(Fault):
    @property
    def options(self) -> tuple[str, ...]:
        return ("-b", str(self._folder))


class BinlogWiped(BinlogKept):
    def prepare(self) -> None:
        shutil.rmtree(self._folder)
        self._folder.mkdir()


class BinlogFull(BinlogKept):
    """No further file can be made, but those that are there can be written."""

    def strike(self, beanstalkd: Beanstalkd, server: Served) -> None:
        beanstalkd.limit_files(BINLOG_BYTES - 1)
        eventually(lambda: str(ask(server, "health")), lambda health: "OUT_OF_MEMORY" in health)


class BinlogFailing(Fault):
    """What is left of the file cannot be written. It may go on, without a binlog, or end by itself."""

    @property
    def options(self) -> tuple[str, ...]:
        return with_binlog(self._folder)

    def strike(self, beanstalkd: Beanstalkd, server: Served) -> None:
        beanstalkd.limit_files(PAGE_BYTES)
        eventually(lambda: beanstalkd.complaints, lambda said: beanstalkd.has_ended or b"in filewrite: write" in said)


@pytest.mark.parametrize("kind", [NoBinlog, BinlogKept, BinlogFlushedLate, BinlogWiped, BinlogFull, BinlogFailing])
def test_a_beanstalkd_may_be_killed_at_any_time(tmp_path: Path, kind: type[Fault]) -> None:
    folder = tmp_path / "binlog"
    folder.mkdir()
    fault, chance = kind(folder), random.Random(kind.__name__)
    numbers = iter(range(0, 3 * KILLS * JOBS, JOBS))

    def load(server: Served) -> None:
        first = next(numbers)
        insert(server, range(first, first + JOBS))

    with running_beanstalkd(*fault.options) as beanstalkd, serving(tmp_path, **configured(tmp_path, beanstalkd)) as server:
        for _ in range(KILLS):
            load(server)
            load(server)
            fault.strike(beanstalkd, server)
            time.sleep(chance.uniform(0.0, 0.1))
            beanstalkd.kill()
            load(server)
            fault.prepare()
            time.sleep(chance.uniform(0.0, 0.1))
            beanstalkd.start()
        until(server, within_s=60, jobs_success=3 * KILLS * JOBS)
        assert_all_ran(server, tmp_path, range(3 * KILLS * JOBS))
        assert ask(server, "stats")["runs_stale"] == 0


WAITING = 500


def accepting_only(folder: Path, *servers: Beanstalkd, **more: str) -> dict[str, str]:
    """Settings of a server that runs nothing, so that all jobs wait in beanstalkd."""
    return configured(folder, *servers, **more) | {"WORKER__CONCURRENCY": "0"}


@pytest.mark.parametrize("kind", [NoBinlog, BinlogKept, BinlogWiped])
def test_what_it_held_is_put_again_soon_after_its_return(tmp_path: Path, kind: type[Fault]) -> None:
    folder = tmp_path / "binlog"
    folder.mkdir()
    fault = kind(folder)
    with (
        running_beanstalkd(*fault.options) as beanstalkd,
        serving(tmp_path, **accepting_only(tmp_path, beanstalkd)) as server,
    ):
        insert(server, range(WAITING))
        eventually(beanstalkd.ready_count, lambda count: count == WAITING)
        beanstalkd.kill()
        eventually(lambda: str(ask(server, "health")), lambda health: "away" in health)
        time.sleep(3)  # until the attempts to reach it are as rare as they get
        fault.prepare()
        beanstalkd.start()
        eventually(beanstalkd.ready_count, lambda count: count >= WAITING)
        eventually(lambda: ask(server, "health"), lambda health: health["verdict"] == "ok")


def test_what_it_held_is_put_into_another_soon_after_it_is_given_up(tmp_path: Path) -> None:
    with (
        running_beanstalkd() as first,
        running_beanstalkd() as second,
        serving(tmp_path, **accepting_only(tmp_path, first, second)) as server,
    ):
        insert(server, range(WAITING))
        eventually(lambda: first.ready_count() + second.ready_count(), lambda count: count == WAITING)
        assert first.ready_count()
        first.kill()
        eventually(second.ready_count, lambda count: count == WAITING, GIVE_UP_S + WITHIN_S)


def test_a_kqs_that_is_killed_beside_it_doubles_no_more_than_allowed(tmp_path: Path) -> None:
    with running_beanstalkd() as beanstalkd:
        settings = accepting_only(tmp_path, beanstalkd, BROKER__MAX_ENTRIES="100")
        for number in range(5):
            with serving(tmp_path, **settings) as server:
                insert(server, range(number * 100, (number + 1) * 100))
                assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        with serving(tmp_path, **settings) as server:
            until(server, jobs_new=500)
            eventually(beanstalkd.ready_count, lambda count: count >= 100)
            server.stop()
        assert beanstalkd.ready_count() <= 200
        with serving(tmp_path, **configured(tmp_path, beanstalkd)) as server:
            until(server, within_s=60, jobs_success=500)
            assert_all_ran(server, tmp_path, range(500))
