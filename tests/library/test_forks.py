"""Programs that fork: what a child does, and how long it lives, is nothing to the queue of its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import kqs.blocking
from tests.support.serving import serving

#: a queue on a loop that does not run while the program forks, and what comes of that in the parent
PROGRAM = """
import asyncio, os, sys, kqs, kqs.testing, uvloop
loop = getattr(sys.modules[sys.argv[1]], "new_event_loop")()
queue = eval(sys.argv[2])
run = loop.run_until_complete
run(queue.open())
run(queue.add_jobs([{"type": "mail"} for _ in range(20)]))
run(queue.types())
child = os.fork()
if not child:
    exec(sys.argv[3])
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
run(queue.add_job("mail"))
print([one["counts"] for one in run(queue.types())], run(queue.health())["problems"], flush=True)
run(queue.close())
"""
#: starts a process that says who it is, and goes on
PARENT = """
import asyncio, os, sys, time, kqs, multiprocessing
def lasts():
    print(os.getpid(), flush=True)
    time.sleep(600)
async def main():
    async with kqs.open(sys.argv[1]) as queue:
        await queue.add_job("mail")
        multiprocessing.get_context("fork").Process(target=lasts).start()
        time.sleep(600)
asyncio.run(main())
"""

#: makes a queue, and has two processes open it
MADE_BEFORE = """
import asyncio, os, sys, kqs
queue = kqs.connect(sys.argv[1])
async def main():
    async with queue:
        queue.add_handler("mail", lambda data: None)
        job = await queue.add_job("mail")
        await queue.run_jobs()
        (run,) = (await queue.job(job)).runs
        print(job.id.rpartition(".")[2], run.worker == f"{os.uname().nodename}:{os.getpid()}", flush=True)
child = os.fork()
if child:
    os.waitpid(child, 0)
asyncio.run(main())
"""


def told(loop: str, queue: str, child: str) -> list[str]:
    """Return what a program has said whose child does this."""
    command = [sys.executable, "-c", PROGRAM, loop, queue, child]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout.splitlines()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_child_is_told_whose_queue_it_is(tmp_path: Path, loop: str) -> None:
    child = """
try:
    run(queue.add_job("mail"))
except RuntimeError as error:
    run(queue.close())
    print(str(error).replace(str(os.getppid()), "N"), flush=True)
"""
    said, code, *after = told(loop, f"kqs.open({str(tmp_path / 'queue')!r})", child)
    assert said == "the queue belongs to process N: open another after the fork"
    assert (code, after) == ("3", ["[{'new': 21}] []"])


def test_so_is_a_child_of_who_is_connected(tmp_path: Path) -> None:
    child = """
try:
    run(queue.add_job("mail"))
except RuntimeError as error:
    run(queue.close())
    sys.exit(5)
"""
    with serving(tmp_path, WORKER__MODULES="[]", WORKER__CONCURRENCY="0") as server:
        assert told("asyncio", f"kqs.connect('127.0.0.1:{server.port}')", child)[0] == "5"


@pytest.mark.parametrize("queue", ["kqs.open({!r})", "kqs.testing.open()"])
def test_a_child_that_ends_takes_none_of_the_queue_s_files_with_it(tmp_path: Path, queue: str) -> None:
    child = "pass"  # but its end
    assert told("asyncio", queue.format(str(tmp_path / "queue")), child) == ["3", "[{'new': 21}] []"]


def test_a_child_that_outlives_its_parent_does_not_hold_the_folder(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path / "queue"], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        child = int(program.stdout.readline())
        try:
            program.kill()
            program.wait()
            with kqs.blocking.open(tmp_path / "queue") as queue:
                assert [one.type for one in queue.records()] == ["mail"]
        finally:
            os.kill(child, signal.SIGKILL)


def test_who_opens_a_queue_that_was_made_before_a_fork_is_nobody_else(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__MODULES="[]", WORKER__CONCURRENCY="0") as server:
        command = [sys.executable, "-c", MADE_BEFORE, f"127.0.0.1:{server.port}"]
        lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout.splitlines()
    (first, is_the_childs), (second, is_the_parents) = map(str.split, lines)
    assert first != second
    assert (is_the_childs, is_the_parents) == ("True", "True")
