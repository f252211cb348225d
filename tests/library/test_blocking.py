"""What is so of the blocking face alone: its thread, and whoever may not call it."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import kqs
import kqs.blocking
from kqs.blocking.thread import LoopThread
from kqs.client import ConnectionLostError
from kqs.errors import StartupError

INTERRUPTED = """
import asyncio, sys, threading, kqs.blocking
async def lasts(data):
    print("began", flush=True)
    await asyncio.Event().wait()
with kqs.blocking.open(sys.argv[1]) as queue:
    queue.add_handler("mail", lasts)
    job = queue.add_job("mail")
    try:
        queue.run_jobs(time_limit_s=-1)
    except KeyboardInterrupt:
        pass
with kqs.blocking.open(sys.argv[1]) as queue:
    known = queue.job(job.id)
    print(known.state, known.interrupted)
"""
#: the child opens a queue of its own, and lives on while its parent closes the one from before the fork
FORKED = """
import os, signal, sys, kqs.blocking
from kqs.errors import StartupError
before = kqs.blocking.open(sys.argv[1] + "/old")
before.open()
heard, told = os.pipe()
if child := os.fork():
    assert os.read(heard, 1)
    before.close()
    with kqs.blocking.open(sys.argv[1] + "/old"):
        print("again", flush=True)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
else:
    before.close()
    try:
        kqs.blocking.open(sys.argv[1] + "/old").open()
    except StartupError as error:
        print("in use" if "in use" in str(error) else error, flush=True)
    with kqs.blocking.open(sys.argv[1] + "/new") as queue:
        queue.add_handler("mail", lambda data: data)
        print(queue.add_job("mail").id and "new", flush=True)
    os.write(told, b"1")
    signal.pause()
"""


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[kqs.blocking.Queue]:
    with kqs.blocking.open(tmp_path / "queue") as opened:
        yield opened


@pytest.mark.parametrize(
    ("face", "awaited"),
    [(kqs.blocking.Queue, kqs.Queue), (kqs.blocking.Job, kqs.Job), (kqs.blocking.TakenRun, kqs.TakenRun)],
)
def test_it_has_every_method_with_the_same_parameters(face: type, awaited: type) -> None:
    for name, method in inspect.getmembers(awaited):
        if not name.startswith("_"):
            assert hasattr(face, name), name
            if inspect.isfunction(method):
                ours, theirs = (inspect.signature(one).parameters for one in (getattr(face, name), method))
                assert list(ours) == list(theirs), name


def test_events_are_heard_from_their_call_on_and_end_when_they_are_left(queue: kqs.blocking.Queue) -> None:
    with queue.events("mail", events=["created"]) as events:
        jobs = queue.add_jobs([{"type": "mail"}] * 2)
        assert [next(events)["id"], next(events)["id"]] == [job.id for job in jobs]
    with queue.events("mail"):
        pass
    assert [one.id for one in queue.records(type="mail")] == [job.id for job in jobs]


def test_an_iterator_that_is_closed_ends_for_whoever_waits_for_its_next(queue: kqs.blocking.Queue) -> None:
    events = queue.events("mail")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, events, None)
        queue.stats()
        events.close()
        assert waiting.result(10) is None
    assert list(events) == []


def test_many_threads_may_call_it_at_once(queue: kqs.blocking.Queue) -> None:
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda n: queue.add_job("mail", n), range(80)))
    assert sorted(one.data for one in queue.records([job.id for job in jobs])) == list(range(80))


def test_a_plain_handler_may_call_it_and_an_async_one_is_told_why_not(queue: kqs.blocking.Queue) -> None:
    def adds(data: int) -> str:
        return queue.add_job("next", data).id

    async def waits_for_itself(data: int) -> str:
        return queue.add_job("next", data).id

    queue.add_handler("plain", adds)
    queue.add_handler("async", waits_for_itself)
    good, bad = queue.add_jobs([{"type": "plain"}, {"type": "async", "retries": 0}])
    assert queue.run_jobs(2, 10) == 2
    next_ = queue.job(good.wait(10).result)
    assert next_ is not None
    assert next_.type == "next"
    assert "would wait for itself" in str(bad.wait(10).error)


def test_closing_ends_what_other_threads_wait_for(tmp_path: Path) -> None:
    queue = kqs.blocking.open(tmp_path / "queue")
    queue.open()
    job = queue.add_job("mail")
    with ThreadPoolExecutor(3) as pool:
        waiting: list[Future[Any]] = [
            pool.submit(job.wait, 60),
            pool.submit(queue.run_jobs, time_limit_s=-1),
            pool.submit(next, queue.events()),
        ]
        queue.stats()
        queue.close()
        queue.close()
        for one in waiting:
            with pytest.raises((ConnectionLostError, StopIteration)):
                one.result(10)
    with pytest.raises(ConnectionLostError, match="closed"):
        queue.stats()
    assert [one for one in threading.enumerate() if one.name == "kqs-blocking" and one is queue.thread._thread] == []


def begun_elsewhere(thread: LoopThread) -> None:
    """Begin in another thread what never ends, and wait for it a while."""
    with ThreadPoolExecutor(1) as another:
        begun = another.submit(thread.begin, asyncio.Event().wait).result()
        begun.result(1)


def test_what_comes_as_the_thread_ends_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = LoopThread()
    seen: list[BaseException | None] = []
    close = thread._loop.close

    async def ends_late() -> AsyncIterator[None]:
        try:
            yield
        finally:  # behind the cancellation of all tasks
            seen.append(caught(begun_elsewhere, thread))

    def closes() -> None:
        seen.append(caught(begun_elsewhere, thread))
        close()

    late = ends_late()
    monkeypatch.setattr(thread._loop, "close", closes)
    thread.run(lambda: anext(late))
    thread.stop()
    seen.append(caught(begun_elsewhere, thread))
    assert [type(one) for one in seen] == [ConnectionLostError] * 3


def caught(do: Callable[[LoopThread], None], thread: LoopThread) -> BaseException | None:
    try:
        do(thread)
    except Exception as error:
        return error
    return None


def test_an_async_handler_that_closes_it_is_told_why_not_and_nothing_hangs(queue: kqs.blocking.Queue) -> None:
    async def closes(data: object) -> None:
        queue.close()

    queue.add_handler("mail", closes)
    job = queue.add_job("mail", retries=0)
    assert queue.run_jobs(1, 10) == 1
    assert "would wait for itself" in str(job.wait(10).error)


def test_a_forked_process_opens_one_of_its_own_and_leaves_the_folder_to_its_parent(tmp_path: Path) -> None:
    argv = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, str(tmp_path)]  # of forks beside threads
    program = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (program.stdout.splitlines(), program.stderr) == (["in use", "new", "again"], "")


def test_what_cannot_be_opened_leaves_no_thread(queue: kqs.blocking.Queue, tmp_path: Path) -> None:
    other = kqs.blocking.open(tmp_path / "queue")
    with pytest.raises(StartupError, match="in use"):
        other.open()
    assert not other.thread.is_alive


def test_a_wait_that_is_interrupted_gives_back_what_runs(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "began\n"
        program.send_signal(signal.SIGINT)
        assert program.stdout.read() == "retry 1\n"
    assert program.returncode == 0


def test_a_forked_process_is_told_to_open_one_of_its_own(queue: kqs.blocking.Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = os.getpid()
    with monkeypatch.context() as patched:
        patched.setattr("os.getpid", lambda: parent + 1)
        with pytest.raises(RuntimeError, match=f"belongs to process {parent}: open another after the fork"):
            queue.stats()
    assert queue.stats()
