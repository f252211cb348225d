"""How far runs are, over real servers: shown, kept over a kill, and given to the next run, whoever ran the one before."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kqs.job import MAX_PROGRESS_BYTES
from tests.support.asking import RefusedError, ask, eventually, peer_of, until_said
from tests.support.commands import settings_of
from tests.support.mongodb import a_database, mongodb
from tests.support.serving import PLAIN_ENVIRON, SERVE, Served, serving
from tests.support.wire_worker import WireWorker, working_at
from tests.support.working import working

JOB = {"type": "mail", "ghost_delay": 0, "retry_delay": 0}
LONGEST = "x" * (MAX_PROGRESS_BYTES - 2)

STEPS = """
import asyncio
import os
import posix
import time
from pathlib import Path

import kqs


def saved(job, step):
    assert job.save({"step": step, "attempt": job.attempt}) is True
    assert job.progress == {"step": step, "attempt": job.attempt}


@kqs.handler("slow-async")
async def slow_async(data, job):
    if job.progress is not None:
        return job.progress
    saved(job, 1)
    saved(job, 2)
    Path(data).touch()
    await asyncio.sleep(3600)


@kqs.handler("slow-thread")
def slow_thread(data, job):
    if job.progress is not None:
        return job.progress
    saved(job, 1)
    saved(job, 2)
    Path(data).touch()
    time.sleep(3600)


@kqs.handler("fails-async")
async def fails_async(data, job):
    if job.progress is not None:
        return job.progress
    saved(job, 5)
    raise kqs.Again()


@kqs.handler("fails-thread")
def fails_thread(data, job):
    if job.progress is not None:
        return job.progress
    saved(job, 5)
    raise ValueError("after it was saved")


@kqs.handler("exits")
def exits(data, job):
    if job.progress is not None:
        return job.progress
    for step in range(1000):
        saved(job, step)
    while not Path(data).exists():
        time.sleep(0.02)
    os._exit(7)


@kqs.handler("bad")
async def bad(data, job):
    refused = []
    for value in (object(), float("nan"), "x" * 20_000, lambda: None):
        try:
            job.save(value)
        except ValueError as error:
            refused.append(str(error))
    assert job.progress is None
    assert job.save(None) is True
    return refused


@kqs.handler("keeps-alive")
async def keeps_alive(data, job):
    for step in range(15):
        await asyncio.sleep(0.2)
        job.save(step)
    return job.attempt


@kqs.handler("forks")
def forks(data, job):
    assert job.save("of the run")
    child = os.fork()
    if not child:
        job.save("of a fork")
        posix._exit(0)  # coverage changes that of `os`, which would take locks here
    assert os.waitpid(child, 0)[1] == 0
    time.sleep(0.1)
    assert job.progress == "of the run"
    raise kqs.Fail("done")


@kqs.handler("lost")
async def lost(data, job):
    if job.attempt > 1:
        return job.progress
    job.save("in time")
    try:
        await asyncio.sleep(3600)
    finally:
        print(f"late: {job.save('too late')}", flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "steps.py").write_text(STEPS)
    return tmp_path


def progress(server: Served, job_id: str) -> Any:
    return ask(server, "job", job_id)["progress"]


def ended(server: Served, job_id: str, *states: str) -> dict[str, Any]:
    found: dict[str, Any] = eventually(
        lambda: ask(server, "job", job_id), lambda job: job["state"] in (states or ("success", "fail")), what="ended"
    )
    return found


def test_what_a_touch_says_is_shown_outlives_a_kill_and_goes_to_the_next_run(tmp_path: Path, store: dict[str, str]) -> None:
    said = {"at": [1, 2.5, "é"], "more": None}
    with serving(tmp_path, **store) as server, working_at(server) as worker:
        (job_id,) = worker.call("insert", [JOB])
        (run,) = worker.reserve("mail")
        assert "progress" not in run
        assert progress(server, job_id) is None
        assert worker.call("touch", {"run": run["run"], "progress": 1})["left"] > 29
        assert worker.call("touch", {"run": run["run"], "progress": said}) == {
            "left": pytest.approx(30, abs=1),
            "cancel": False,
        }
        server.stop(signal.SIGKILL)
    with serving(tmp_path, **store) as server, working_at(server) as worker:
        assert progress(server, job_id) == said
        (again,) = worker.reserve("mail", wait=60)
        assert (again["attempt"], again["progress"]) == (2, said)
        with pytest.raises(RefusedError, match="stale"):
            worker.call("touch", {"run": run["run"], "progress": "of a run that is over"})
        assert progress(server, job_id) == said
        assert worker.call("touch", {"run": again["run"]})["cancel"] is False
        assert progress(server, job_id) == said
        assert worker.finish(again["run"], report="fail") == [True]
        (third,) = worker.reserve("mail")
        assert third["progress"] == said
        assert worker.finish(third["run"]) == [True]
        assert progress(server, job_id) is None


def test_each_of_many_answered_touches_outlives_a_kill(tmp_path: Path) -> None:
    with serving(tmp_path, SERVE, PLAIN_ENVIRON) as server, working_at(server) as worker:
        worker.call("insert", [JOB | {"id": f"job-{n}"} for n in range(200)])
        standing = worker.send("work", {"types": ["mail"], "room": 200})
        runs: list[dict[str, Any]] = []
        while len(runs) < 200:
            runs += worker.next(standing)
        for step in range(3):
            members = [{"run": run["run"], "progress": [run["id"], step]} for run in runs]
            assert len(worker.call("touch", members)) == 200
        server.stop(signal.SIGKILL)
    with serving(tmp_path) as server, peer_of(server) as peer:
        found = {f"job-{n}": peer.call("job", f"job-{n}")["progress"] for n in range(200)}
        assert found == {job_id: [job_id, 2] for job_id in found}


def test_a_held_run_goes_on_with_its_progress_over_a_kill(tmp_path: Path) -> None:
    with serving(tmp_path) as server, working_at(server) as worker:
        (job_id,) = worker.call("insert", [JOB])
        (run,) = worker.reserve("mail", worker="holder", hold=True)
        worker.call("touch", {"run": run["run"], "progress": "before"})
        server.stop(signal.SIGKILL)
    with serving(tmp_path) as server, working_at(server) as worker:
        assert progress(server, job_id) == "before"
        worker.call("touch", {"run": run["run"], "progress": "after"})
        assert progress(server, job_id) == "after"
        assert worker.finish(run["run"], report="fail") == [True]
        (again,) = worker.reserve("mail")
        assert again["progress"] == "after"


def test_progress_said_just_before_the_end_of_a_run_goes_with_it(tmp_path: Path) -> None:
    with serving(tmp_path) as server, working_at(server) as worker:
        for number, report in enumerate(("fail", "again", "ok", "release")):
            worker.call("insert", JOB | {"id": f"job-{number}"})
            (run,) = worker.reserve("mail")
            touch = worker.send("touch", {"run": run["run"], "progress": number})
            more = {} if report == "release" else {"report": report}
            end = worker.send("release" if report == "release" else "finish", {"run": run["run"]} | more)
            assert (worker.next(touch)["cancel"], worker.next(end)) == (False, True)
            assert progress(server, f"job-{number}") == (None if report == "ok" else number)
            if report != "ok":
                (again,) = worker.reserve("mail")
                assert again["progress"] == number
                worker.finish(again["run"])


def test_null_takes_it_back(tmp_path: Path) -> None:
    with serving(tmp_path) as server, working_at(server) as worker:
        (job_id,) = worker.call("insert", [JOB])
        (run,) = worker.reserve("mail")
        worker.call("touch", {"run": run["run"], "progress": [1]})
        worker.call("touch", {"run": run["run"], "progress": None})
        assert progress(server, job_id) is None
        worker.finish(run["run"], report="fail")
        (again,) = worker.reserve("mail")
        assert "progress" not in again


def test_a_job_that_failed_for_good_keeps_it(tmp_path: Path) -> None:
    with serving(tmp_path) as server, working_at(server) as worker:
        (job_id,) = worker.call("insert", [JOB | {"retries": 0}])
        (run,) = worker.reserve("mail")
        worker.call("touch", {"run": run["run"], "progress": {"line": 7}})
        assert worker.finish(run["run"], report="fail") == [True]
        record = ask(server, "job", job_id)
        assert (record["state"], record["progress"]) == ("fail", {"line": 7})
        assert ask(server, "jobs", {"type": "mail"})[0]["progress"] == {"line": 7}


def test_what_is_too_long_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    with serving(tmp_path) as server, working_at(server) as worker:
        ids = worker.call("insert", [JOB | {"ttr": 1000}] * 2)
        runs: list[dict[str, Any]] = []
        while len(runs) < 2:
            runs += worker.reserve("mail", count=2)
        tokens = {run["id"]: run["run"] for run in runs}
        worker.call("touch", {"run": tokens[ids[0]], "progress": 1})
        members = [
            {"run": tokens[ids[0]], "progress": LONGEST + "x"},
            {"run": tokens[ids[1]], "progress": LONGEST},
            {"run": tokens[ids[1]], "progres": 1},
            {"run": tokens[ids[0]], "progress": json.loads("[" * 61 + "]" * 61)},
            {"run": "x", "progress": 1},
        ]
        answers = worker.call("touch", members[:3])
        assert [answer.get("code") for answer in answers] == ["too_large", None, "bad_call"]
        assert answers[0]["message"] == "progress: expected at most 16384 bytes, got 16385"
        assert "progress" in answers[2]["message"]
        assert progress(server, ids[0]) == 1
        assert progress(server, ids[1]) == LONGEST
        with pytest.raises(RefusedError, match="too_large"):
            worker.call("touch", members[0])
        with pytest.raises(RefusedError, match="bad_call: progress: expected at most 60 levels"):
            worker.call("touch", members[3])
        with pytest.raises(RefusedError, match="bad_call: run"):
            worker.call("touch", members[4])
        assert progress(server, ids[0]) == 1


def test_it_is_kept_over_the_server_that_took_it_by_another_on_the_same_store(tmp_path: Path) -> None:
    with mongodb(tmp_path) as uri, ExitStack() as stack:
        folders = [tmp_path / "one", tmp_path / "two"]
        for folder in folders:
            folder.mkdir()
        settings = {"STORE__KIND": "mongodb", "STORE__URI": a_database(uri)}
        first, second = (stack.enter_context(serving(folder, **settings)) for folder in folders)
        worker = stack.enter_context(working_at(first))
        (job_id,) = worker.call("insert", [JOB])
        (run,) = worker.reserve("mail")
        worker.call("touch", {"run": run["run"], "progress": "of one"})
        assert progress(second, job_id) == "of one"
        other = stack.enter_context(working_at(second))
        worker.call("release", {"run": run["run"]})
        (again,) = other.reserve("mail", wait=60)
        assert again["progress"] == "of one"


def test_a_thousand_touches_at_a_time_are_answered_and_the_last_counts(tmp_path: Path) -> None:
    with serving(tmp_path, SERVE, PLAIN_ENVIRON) as server, working_at(server) as worker:
        (job_id,) = worker.call("insert", [JOB])
        (run,) = worker.reserve("mail")
        calls = [worker.send("touch", {"run": run["run"], "progress": n}) for n in range(1000)]
        assert all(worker.next(call)["left"] > 0 for call in calls)
        assert progress(server, job_id) == 999


@contextmanager
def lanes_here(folder: Path) -> Iterator[Served]:
    """A server whose own lanes run the handlers."""
    with serving(folder, WORKER__MODULES='["steps"]') as server:
        yield server


@contextmanager
def lanes_elsewhere(folder: Path) -> Iterator[Served]:
    """A server whose jobs `kqs work` runs."""
    with serving(folder, WORKER__CONCURRENCY="0") as server, working(folder, server, "steps"):
        yield server


Lanes = Callable[[Path], AbstractContextManager[Served]]


@pytest.fixture(params=[lanes_here, lanes_elsewhere], ids=["here", "elsewhere"])
def lanes(request: pytest.FixtureRequest) -> Lanes:
    lanes: Lanes = request.param
    return lanes


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_what_a_handler_saved_goes_to_the_next_run(lanes: Lanes, folder: Path, kind: str) -> None:
    with lanes(folder) as server:
        job_id = ask(server, "insert", {"type": f"fails-{kind}", "retry_delay": 0})
        record = ended(server, job_id)
        assert (record["result"], record["attempt"], record["progress"]) == ({"step": 5, "attempt": 1}, 2, None)


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_what_a_handler_saved_outlives_a_kill_of_the_server(folder: Path, kind: str) -> None:
    mark = folder / "saved"
    with lanes_here(folder) as server:
        job_id = ask(server, "insert", {"type": f"slow-{kind}", "data": str(mark), "ghost_delay": 0})
        eventually(mark.exists, bool)
        eventually(lambda: progress(server, job_id), lambda seen: seen == {"step": 2, "attempt": 1})
        server.stop(signal.SIGKILL)
    with lanes_here(folder) as server:
        assert ended(server, job_id)["result"] == {"step": 2, "attempt": 1}


def test_a_worker_that_dies_leaves_what_its_handlers_saved(folder: Path) -> None:
    with serving(folder, WORKER__CONCURRENCY="0") as server:
        job_id = ask(server, "insert", {"type": "exits", "data": str(folder / "exit"), "ghost_delay": 0})
        with working(folder, server, "steps") as worker:
            eventually(lambda: progress(server, job_id), lambda seen: seen == {"step": 999, "attempt": 1}, what="kept")
            (folder / "exit").touch()
            assert worker.process.wait(30) == 7
        with working(folder, server, "steps"):
            assert ended(server, job_id)["result"] == {"step": 999, "attempt": 1}


def test_what_cannot_be_kept_is_a_value_error(lanes: Lanes, folder: Path) -> None:
    with lanes(folder) as server:
        record = ended(server, ask(server, "insert", {"type": "bad", "retries": 0}))
        assert record["state"] == "success", record["error"]
        assert len(record["result"]) == 4
        assert all("progress" in error for error in record["result"])
        assert "20002 bytes" in record["result"][2]


def test_saving_keeps_a_run_alive(lanes: Lanes, folder: Path) -> None:
    with lanes(folder) as server:
        assert ended(server, ask(server, "insert", {"type": "keeps-alive", "ttr": 2}))["result"] == 1


def test_what_a_fork_of_a_handler_saves_is_nothing(lanes: Lanes, folder: Path) -> None:
    with lanes(folder) as server:
        record = ended(server, ask(server, "insert", {"type": "forks"}))
        assert (record["state"], record["error"], record["progress"]) == ("fail", "done", "of the run")


def test_a_run_that_was_lost_saves_no_more(folder: Path) -> None:
    with lanes_here(folder) as server:
        job_id = ask(server, "insert", {"type": "lost", "ttr": 2, "ghost_delay": 0})
        assert ended(server, job_id)["result"] == "in time"
        until_said(server, "late: False")


COUNT = """
step=${KQS_JOB_PROGRESS:-0}
test "$step" = 3 && { echo "[$step, $KQS_JOB_ATTEMPT]"; exit 0; }
echo "before" >&2
echo "KQS-PROGRESS $((step + 1))" >&2
echo "after" >&2
exit 1
"""
NULL = 'test -z "${KQS_JOB_PROGRESS+set}" || exit 1; echo "KQS-PROGRESS null" >&2; exit 75'
ALIVE = "for i in 1 2 3 4 5 6; do sleep 0.5; echo KQS-PROGRESS $i >&2; done; echo $KQS_JOB_ATTEMPT"


def test_a_command_saves_by_a_line_and_finds_it_in_its_environment(tmp_path: Path) -> None:
    with serving(
        tmp_path,
        TYPES__count=settings_of(COUNT, retry_delay=0),
        TYPES__last=settings_of('echo \'KQS-PROGRESS {"a": "é"}\' >&2; exit 1', retries=0),
        TYPES__null=settings_of(NULL, retries=0),
        TYPES__wrong=settings_of("echo 'KQS-PROGRESS {wrong' >&2; echo no >&2; exit 1", retries=0),
        TYPES__burst=settings_of("printf 'KQS-PROGRESS 5\\nKQS-PROGRESS {burst\\n' >&2; exit 1", retries=0),
        TYPES__alive=settings_of(ALIVE, ttr=2),
    ) as server:
        record = ended(server, ask(server, "insert", {"type": "count"}))
        assert (record["state"], record["result"], record["progress"]) == ("success", [3, 4], None)
        assert {run["error"] for run in record["runs"][:-1]} == {"exit code 1: before\nafter"}
        record = ended(server, ask(server, "insert", {"type": "last"}))
        assert (record["error"], record["progress"]) == ("exit code 1", {"a": "é"})
        record = ended(server, ask(server, "insert", {"type": "wrong"}))
        assert (record["error"], record["progress"]) == ("exit code 1: no", None)
        until_said(server, "a command's progress is not kept")
        record = ended(server, ask(server, "insert", {"type": "burst"}))
        assert (record["error"], record["progress"]) == ("exit code 1", 5)
        until_said(server, "got {burst")
        job_id = ask(server, "insert", {"type": "null"})
        eventually(lambda: ask(server, "job", job_id)["attempt"], lambda attempt: attempt > 3, what="run again")
        assert ask(server, "job", job_id)["failures"] == 0
        assert ended(server, ask(server, "insert", {"type": "alive"}))["result"] == 1


def test_what_a_command_said_outlives_the_server(tmp_path: Path) -> None:
    script = 'test -n "$KQS_JOB_PROGRESS" && { echo "$KQS_JOB_PROGRESS"; exit 0; }; echo "KQS-PROGRESS [17]" >&2; sleep 3600'
    settings = {"TYPES__long": settings_of(script, ttr=1000, ghost_delay=0)}
    with serving(tmp_path, **settings) as server:
        job_id = ask(server, "insert", {"type": "long"})
        eventually(lambda: progress(server, job_id), lambda seen: seen == [17], what="kept")
        server.stop(signal.SIGKILL)
    with serving(tmp_path, **settings) as server:
        assert ended(server, job_id)["result"] == [17]


def test_many_connections_that_save_in_a_loop_cost_bounded_memory(tmp_path: Path) -> None:
    with serving(tmp_path, SERVE, PLAIN_ENVIRON) as server, ExitStack() as stack:
        workers = [stack.enter_context(working_at(server)) for _ in range(100)]
        workers[0].call("insert", [JOB | {"ttr": 1000}] * 100)
        runs: list[tuple[WireWorker, str]] = []
        for worker in workers:
            (run,) = worker.reserve("mail")
            runs.append((worker, run["run"]))
        before = resident_bytes(server)
        for step in range(20):
            calls = [(worker, worker.send("touch", {"run": token, "progress": LONGEST})) for worker, token in runs]
            if step % 2:
                for worker, _ in calls:
                    while worker.line()["id"] != worker._next_id:
                        continue
        assert resident_bytes(server) - before < 60 * 2**20
        assert ask(server, "health")["problems"] == []


def resident_bytes(server: Served) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])
