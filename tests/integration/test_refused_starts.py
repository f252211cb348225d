"""A process to which the system refuses descriptors or threads says so in one line, or needs no more of them once it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.asking import ask, eventually
from tests.support.serving import SERVE, SERVE_ENVIRON, serving
from tests.support.working import WORK, working

#: users' code that leaves no thread to be had for anybody: its stack would take more memory than there are addresses
GREEDY = """
import threading

import kqs

threading.stack_size(2**46)


@kqs.handler("double")
async def double(data):
    return 2 * data
"""
#: four pieces of work that wait for each other, after the first of all and a module that leaves no thread to be had
FOUR = """
import asyncio, threading
from kqs.process.threads import in_thread

async def main():
    await in_thread(int)
    threading.stack_size(2**46)
    barrier = threading.Barrier(4, timeout=10)
    await asyncio.gather(*[in_thread(barrier.wait) for _ in range(4)])

asyncio.run(main())
"""


def having_files(count: int, command: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command that allows itself so many open files and becomes `command`."""
    return ("sh", "-c", f'ulimit -n {count}; exec "$@"', "sh", *command)


def ended(folder: Path, command: tuple[str, ...], **environ: str) -> tuple[int, list[str]]:
    """Return the exit code, and what was written, by line."""
    environment = SERVE_ENVIRON | {"KQS_SERVER__PORT": "0"} | environ
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, (done.stdout + done.stderr).splitlines()


@pytest.mark.parametrize("count", range(7, 17, 3))
@pytest.mark.parametrize("command", [SERVE, (*WORK, "--connect", "127.0.0.1:1", "kqs.builtin")], ids=["serve", "work"])
def test_without_the_descriptors_of_a_start_there_is_none(tmp_path: Path, command: tuple[str, ...], count: int) -> None:
    assert ended(tmp_path, having_files(count, command)) == (74, ["kqs: too many open files"])


def test_a_server_without_a_thread_for_its_journal_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY)
    code, said = ended(tmp_path, SERVE, KQS_WORKER__MODULES='["greedy"]')
    assert (code, said) == (74, [f"kqs: the journal in {tmp_path}/journal cannot be used: no thread can be started"])


def test_a_worker_needs_no_thread_that_its_modules_could_take(tmp_path: Path) -> None:
    (tmp_path / "greedy.py").write_text(GREEDY)
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server, working(tmp_path, server, "greedy") as worker:
        job_id = ask(server, "insert", {"type": "double", "data": 4})
        assert eventually(lambda: ask(server, "job", job_id), lambda job: job["state"] == "success")["result"] == 8
        assert worker.stop() == 0


def test_work_for_a_disk_has_all_its_threads_from_its_first_piece_on() -> None:
    subprocess.run([sys.executable, "-c", FOUR], env=SERVE_ENVIRON, timeout=60, check=True)
