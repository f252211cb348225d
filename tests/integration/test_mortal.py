"""What a test run or a measurement starts ends with it, also if that is killed and can end nothing itself."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.asking import eventually
from tests.support.mortal import mortal
from tests.support.require import missing, require
from tests.support.serving import READY_WITHIN_S, ROOT, SERVE_ENVIRON, STOPPED_WITHIN_S

STARTS = """
import sys
from pathlib import Path
from bench.tools import subject
from tests.support.beanstalkd import running_beanstalkd
from tests.support.serving import serving

folder = Path(sys.argv[1])
(folder / "second").mkdir()
with running_beanstalkd() as tubes, serving(folder) as served, subject(folder / "second", "0") as measured:
    print(tubes._process.pid, served.process.pid, measured.served.process.pid, flush=True)
    sys.stdin.read()
"""


@contextmanager
def ending(pids: Sequence[int]) -> Iterator[None]:
    """See that these processes end because of what is done in the block."""
    started = [os.pidfd_open(pid) for pid in pids]
    try:
        yield
        for one in started:
            assert select.select([one], [], [], STOPPED_WITHIN_S)[0]
    finally:
        for one in started:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(one, signal.SIGKILL)
            os.close(one)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_servers_end_with_the_run_that_started_them(tmp_path: Path, number: int) -> None:
    if mortal(["true"]) == ["true"]:
        missing("setpriv")
    require("beanstalkd")
    command = [sys.executable, "-c", STARTS, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=SERVE_ENVIRON, stdin=pipe, stdout=pipe) as run:
        assert run.stdout is not None
        assert select.select([run.stdout], [], [], READY_WITHIN_S)[0]
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert len(pids) == 3
        with ending(pids):
            run.send_signal(number)


HANGS = """
import os, sys, time
from pathlib import Path
from tests.support.serving import serving

def test_hangs(tmp_path):
    with serving(tmp_path) as served:
        Path("pids").write_text(f"{os.getpid()} {served.process.pid}\\n")
        time.sleep(600)
"""


def test_so_do_those_of_a_worker_of_a_test_run(tmp_path: Path) -> None:
    (tmp_path / "test_hangs.py").write_text(HANGS)
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_configure\n")
    (tmp_path / "pytest.ini").touch()
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", "test_hangs.py"]
    with subprocess.Popen(command, cwd=tmp_path, env=SERVE_ENVIRON, stdout=subprocess.DEVNULL) as run:
        eventually(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text(), lambda said: said, READY_WITHIN_S)
        with ending([int(pid) for pid in (tmp_path / "pids").read_text().split()]):
            run.terminate()
