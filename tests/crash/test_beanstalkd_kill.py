"""beanstalkd killed again and again under load: no accepted job is lost, none is accepted to have ended twice."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import pytest

from tests.support.beanstalkd import running_beanstalkd, with_binlog
from tests.support.beanstalkd_jobs import assert_all_ran, configured, insert, stats, until
from tests.support.serving import serving

pytestmark = pytest.mark.slow

KILLS = 10
JOBS = 300


@pytest.mark.parametrize("binlog", ["none", "kept", "wiped"])
def test_a_beanstalkd_may_be_killed_at_any_time(tmp_path: Path, binlog: str) -> None:
    folder = tmp_path / "binlog"
    folder.mkdir()
    chance = random.Random(binlog)
    options = () if binlog == "none" else with_binlog(folder)
    with running_beanstalkd(*options) as beanstalkd, serving(tmp_path, **configured(tmp_path, beanstalkd)) as server:
        for number in range(KILLS):
            insert(server, range(number * JOBS, (number + 1) * JOBS))
            time.sleep(chance.uniform(0.0, 0.2))
            beanstalkd.kill()
            if binlog == "wiped":
                shutil.rmtree(folder)
                folder.mkdir()
            time.sleep(chance.uniform(0.0, 0.1))
            beanstalkd.start()
        until(server, "jobs_success", KILLS * JOBS)
        assert_all_ran(server, tmp_path, range(KILLS * JOBS))
        assert stats(server)["runs_stale"] == 0
