"""docs/coming-from.md is true: each row of its first four tables is a test here, named after its section and its first cell."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import kqs
from kqs.config import load_config
from kqs.handlers import HandlerError
from tests.support.asking import RefusedError, ask, eventually
from tests.support.serving import ROOT, SERVE_ENVIRON, Served, serving
from tests.support.wire_worker import WireWorker, working_at

PAGE = (ROOT / "docs" / "coming-from.md").read_text()
SECTIONS = ("kqueue", "KQS", "Kickq", "redis-dist-job-queue")
HANDLERS = """
import kqs


@kqs.handler("thisIsMyTaskId")
async def perform(params):
    return params["theString"].upper()


@kqs.handler("thrower", retries=0)
def throw(data):
    raise OSError("thrown")
"""
#: long enough for a run that is to be lost in a test, and short enough to wait for
SHORT_TTR_S = 0.1


def section(name: str) -> str:
    return PAGE.split(f"\n## {name}\n")[1].split("\n## ")[0]


def name_of(heading: str, cell: str) -> str:
    """The name of the row's test."""
    words = re.sub(r"\([^)]*\)", "", cell)
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", words)
    return "_".join(["test", *re.findall(r"[a-z0-9]+", f"{heading} {words}".lower())])


def test_each_row_has_a_test_and_each_test_a_row() -> None:
    rows = [
        name_of(heading, cell)
        for heading in SECTIONS
        for cell in re.findall(r"^\| (.+?) \|", section(heading), re.MULTILINE)
        if cell != "there"
    ]
    prefixes = tuple(name_of(heading, "") + "_" for heading in SECTIONS)
    tests = [name for name in globals() if name.startswith(prefixes)]
    assert sorted(rows) == sorted(tests)
    assert len(rows) == len(set(rows))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("coming")
    (folder / "older.py").write_text(HANDLERS)
    with serving(folder, WORKER__MODULES='["kqs.builtin", "older"]') as served:
        yield served


@pytest.fixture
def wire(server: Served) -> Iterator[WireWorker]:
    with working_at(server) as worker:
        yield worker


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[kqs.Queue]:
    """A queue inside the test."""
    async with kqs.open(tmp_path / "queue") as opened:
        yield opened


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """A type of the test's own."""
    name: str = request.node.name
    return name


def insert(wire: WireWorker, kind: str, **fields: object) -> str:
    job_id: str = wire.call("insert", {"type": kind, **fields})
    return job_id


def refusal(wire: WireWorker, name: str, argument: object = None) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        wire.call(name, argument)
    return refused.value


def job(wire: WireWorker, job_id: str) -> dict[str, Any]:
    record: dict[str, Any] = wire.call("job", job_id)
    return record


def options(wire: WireWorker, kind: str, **fields: object) -> dict[str, Any]:
    """What a job of these fields has come to have."""
    found: dict[str, Any] = job(wire, insert(wire, kind, **fields))["options"]
    return found


def take(wire: WireWorker, kind: str) -> dict[str, Any]:
    (run,) = wire.reserve(kind)
    return run


def fail(wire: WireWorker, run: dict[str, Any], reason: str = "no") -> None:
    assert wire.call("finish", {"run": run["run"], "report": "fail", "reason": reason}) is True


def ordered(wire: WireWorker, kind: str, *jobs: Mapping[str, object]) -> list[str]:
    """Insert jobs that nobody takes yet, then take them; return their ids as they came."""
    ids = wire.call("insert", [{"type": kind, **fields} for fields in jobs])
    wire.call("explain", ids[-1])
    runs = wire.reserve(kind, count=len(jobs))
    while len(runs) < len(jobs) and (more := wire.reserve(kind, count=len(jobs) - len(runs), wait=1)):
        runs += more
    return [run["id"] for run in runs]


def happening(wire: WireWorker, kind: str, *events: str) -> int:
    return wire.send("events", {"types": [kind], "events": list(events)})


def gone(wire: WireWorker, kind: str) -> None:
    """Have a worker take a job of the type and die."""
    other = WireWorker(wire.socket.getpeername()[1])
    take(other, kind)
    other.vanish()


# kqueue


async def test_kqueue_new_kqueue_open_close(server: Served, tmp_path: Path) -> None:
    for made in (kqs.open(tmp_path / "queue"), kqs.connect(f"localhost:{server.port}")):
        await made.open()
        assert await made.call("ping") == "pong"
        await made.close()


async def test_kqueue_bulk_store(wire: WireWorker, kind: str, tmp_path: Path) -> None:
    data = "x" * 300_000
    insert(wire, kind, data=data)
    assert take(wire, kind)["data"] == data
    async with kqs.open(tmp_path / "queue", bulk=kqs.FolderBulk(tmp_path / "bulk")) as queue:
        for length in (65_534, 65_535):  # and the quotes
            await queue.add_job(kind, "x" * length)
        assert len(list((tmp_path / "bulk").iterdir())) == 1
        for _ in range(2):
            (run,) = await queue.reserve(kind, 1, 10)
            assert len(run.data) in (65_534, 65_535)
            await run.finish()
    assert list((tmp_path / "bulk").iterdir()) == []


async def test_kqueue_add_job(queue: kqs.Queue, wire: WireWorker, kind: str) -> None:
    job = await queue.add_job("jobtype1", "myPayload1", id="job-of-mine", prio="high", delay=60, ttr=5)
    assert job.id == "job-of-mine"
    record = await queue.job(job.id)
    assert record is not None
    assert (record.data, record.options["ttr"]) == ("myPayload1", 5)
    assert isinstance(insert(wire, kind), str)


def test_kqueue_priority_prio_urgent(wire: WireWorker, kind: str) -> None:
    names = ["bulk", "low", "normal", "high", "urgent"]
    ordered_ids = ordered(wire, kind, *({"prio": name, "id": f"prio-{name}"} for name in names))
    assert ordered_ids == [f"prio-{name}" for name in reversed(names)]
    assert [options(wire, kind, prio=name)["prio"] for name in names] == [12000, 11000, 10000, 9000, 8000]


def test_kqueue_priority_0(wire: WireWorker, kind: str) -> None:
    assert ordered(wire, kind, {"prio": "urgent", "id": "urgent"}, {"prio": 0, "id": "zero"}) == ["zero", "urgent"]


def test_kqueue_delay(wire: WireWorker, kind: str) -> None:
    record = job(wire, insert(wire, kind, delay=60))
    assert record["state"] == "delayed"
    assert record["due_at"] - record["accepted_at"] == pytest.approx(60, abs=0.1)
    assert job(wire, insert(wire, kind, delay=0))["state"] == "new"
    assert job(wire, insert(wire, kind, at="2099-01-01T00:00:00Z"))["state"] == "delayed"


def test_kqueue_ttr(wire: WireWorker, kind: str) -> None:
    assert options(wire, kind)["ttr"] == 30
    assert options(wire, kind, ttr=0.1)["ttr"] == 0.1


def test_kqueue_ttr_0(wire: WireWorker, kind: str) -> None:
    assert refusal(wire, "insert", {"type": kind, "ttr": 0}).code == "bad_job"


def test_kqueue_unknown_options(wire: WireWorker, kind: str) -> None:
    refused = refusal(wire, "insert", {"type": kind, "priority": 5})
    assert refused.code == "bad_job"
    assert "priority" in str(refused)


def test_kqueue_type_names(wire: WireWorker) -> None:
    insert(wire, "é" + 198 * "x")
    assert refusal(wire, "insert", {"type": "x" * 201}).code == "bad_job"


async def test_kqueue_add_handler(queue: kqs.Queue, wire: WireWorker) -> None:
    queue.add_handler("jobtype1", lambda _data: None)
    with pytest.raises(HandlerError, match="two handlers"):
        queue.add_handler("jobtype1", lambda _data: None)
    call = wire.send("insert", {"type": "thisIsMyTaskId", "data": {"theString": "a"}, "wait": 30})
    wire.next(call)
    assert wire.next(call)["result"] == "A"


async def test_kqueue_remove_handler(queue: kqs.Queue, wire: WireWorker, kind: str) -> None:
    queue.add_handler("jobtype1", lambda _data: None)
    assert queue.remove_handler("jobtype1")
    await queue.add_job("jobtype1")
    assert await queue.run_jobs(-1) == 0
    order = wire.send("work", {"types": [kind], "room": 5})
    insert(wire, kind)
    (run,) = wire.next(order)
    assert wire.call("withdraw", {"call": order}) is True
    waiting = insert(wire, kind)
    assert wire.finish(run["run"]) == [True]
    assert job(wire, waiting)["state"] == "new"


def test_kqueue_success_of_a_handler_cb(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind)
    wire.call("finish", {"run": take(wire, kind)["run"], "report": "ok", "result": 7})
    record = job(wire, job_id)
    assert (record["state"], record["result"]) == ("success", 7)
    assert record["drop_at"] - record["ended_at"] == pytest.approx(3600, abs=1)


def test_kqueue_failure_of_a_handler_cb(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind)
    fail(wire, take(wire, kind), "no such file")
    record = job(wire, job_id)
    assert (record["state"], record["error"], record["options"]["retries"]) == ("retry", "no such file", -1)
    assert record["due_at"] - record["runs"][0]["ended_at"] == pytest.approx(30, abs=1)


def test_kqueue_delete_job(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind)
    run = take(wire, kind)["run"]
    assert wire.finish(run, run) == [True, True]
    assert job(wire, job_id)["state"] == "success"
    assert wire.finish(run, report="fail") == ["stale"]


def test_kqueue_renew_job(wire: WireWorker, kind: str) -> None:
    insert(wire, kind, ttr=20)
    assert wire.call("touch", {"run": take(wire, kind)["run"]})["left"] == pytest.approx(20, abs=0.5)


def test_kqueue_unget_job(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind)
    assert wire.call("release", {"run": take(wire, kind)["run"], "prio": "low", "delay": 60}) is True
    record = job(wire, job_id)
    assert (record["failures"], record["interrupted"]) == (0, 1)
    assert record["due_at"] > time.time() + 50


def test_kqueue_retry_job(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind)
    fail(wire, take(wire, kind), "the disk is full")
    record = job(wire, job_id)
    assert (record["state"], record["failures"], record["runs"][0]["error"]) == ("retry", 1, "the disk is full")


def test_kqueue_retry_delay_sec(wire: WireWorker, kind: str) -> None:
    assert options(wire, kind)["retry_delay"] == 30
    wire.call("configure", {"type": kind, "options": {"retry_delay": 5}})
    assert options(wire, kind)["retry_delay"] == 5


async def ran_of_three(queue: kqs.Queue, *limits: float | None) -> int:
    """How many of three jobs run_jobs runs, of which one fails."""

    async def run(data: int) -> None:
        if data == 0:
            raise OSError("no")

    queue.add_handler("jobtype1", run)
    await queue.add_jobs([{"type": "jobtype1", "data": number} for number in range(3)])
    return await queue.run_jobs(*limits)  # type: ignore[arg-type] # a count is among them


@pytest.mark.parametrize(("limits", "ran"), [((), 1), ((2,), 2), ((100,), 3), ((-1,), 3), ((3, -1), 3), ((3, 30.0), 3)])
async def test_kqueue_run_jobs(queue: kqs.Queue, limits: tuple[float, ...], ran: int) -> None:
    assert await ran_of_three(queue, *limits) == ran


async def test_kqueue_count_limit_0(queue: kqs.Queue) -> None:
    assert await ran_of_three(queue, 0) == 0


async def test_kqueue_time_limit_ms_alone(queue: kqs.Queue) -> None:
    assert await ran_of_three(queue, None, 0.5) == 3


async def test_kqueue_time_limit_ms_0(queue: kqs.Queue) -> None:
    assert await ran_of_three(queue, 2, 0) == 2


def test_kqueue_purge_jobs(wire: WireWorker, kind: str) -> None:
    mine, later, other = wire.call(
        "insert", [{"type": kind, "data": "a.png"}, {"type": kind, "data": "b.png", "delay": 60}, {"type": kind, "data": "c"}]
    )
    assert wire.call("purge", {"type": kind, "regex": r"\.png"}) == 2
    assert [refusal(wire, "job", job_id).code for job_id in (mine, later)] == ["not_found"] * 2
    assert take(wire, kind)["id"] == other
    assert wire.call("purge", {"type": kind, "regex": kind}) == 0


def test_kqueue_ttr_is_over(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind, ttr=SHORT_TTR_S)
    first = take(wire, kind)
    again = take(wire, kind)
    assert (again["id"], again["ghosts"], again["failures"]) == (job_id, 1, 0)
    assert wire.finish(first["run"]) == ["stale"]
    assert (options(wire, kind)["ghosts"], options(wire, kind)["ghost_delay"]) == (10, 1)


async def test_kqueue_one_job_at_a_time(wire: WireWorker, kind: str, tmp_path: Path) -> None:
    running: list[int] = []
    most = 0

    async def run(data: int) -> None:
        nonlocal most
        running.append(data)
        most = max(most, len(running))
        await asyncio.sleep(0)
        running.remove(data)

    async with kqs.open(tmp_path / "one", concurrency=1) as queue:
        queue.add_handler("jobtype1", run)
        await queue.add_jobs([{"type": "jobtype1", "data": number} for number in range(5)])
        assert await queue.run_jobs(-1) == 5
    assert most == 1
    assert load_config(None, {}).worker.concurrency == 100
    wire.call("limit", {"type": kind, "concurrency": 1})
    assert len(ordered(wire, kind, {}, {})) == 1
    assert len(ordered(wire, kind + "-free", {}, {})) == 2


def test_kqueue_suspend_a_type(wire: WireWorker, kind: str) -> None:
    assert wire.call("suspend", kind)["suspended"]
    job_id = insert(wire, kind)
    assert wire.reserve(kind, wait=0) == []
    assert wire.call("explain", job_id)["reason"] == "suspended"
    wire.call("resume", kind)
    assert take(wire, kind)["id"] == job_id


def test_kqueue_stats(wire: WireWorker) -> None:
    assert wire.call("stats")["calls"] > 0


async def test_the_example_of_kqueue(queue: kqs.Queue) -> None:
    payloads: list[str] = []
    jobs = [await queue.add_job("jobtype1", f"myPayload{i}") for i in range(1, 11)]

    async def handle_job(data: str) -> None:
        payloads.append(data)

    queue.add_handler("jobtype1", handle_job)
    ran = 0
    while ran < 10:
        ran += await queue.run_jobs(count_limit=100, time_limit_s=0.2)
    assert sorted(payloads) == sorted(f"myPayload{i}" for i in range(1, 11))
    assert {(await job.wait(1)).state for job in jobs} == {"success"}


# KQS


def test_kqs_insert(wire: WireWorker, kind: str) -> None:
    job_id = wire.call("insert", {"type": kind, "data": {"a": 1}})
    assert job(wire, job_id)["data"] == {"a": 1}


def test_kqs_insert_of_an_array(wire: WireWorker, kind: str) -> None:
    assert len(wire.call("insert", [{"type": kind}, {"type": kind}])) == 2
    assert refusal(wire, "insert", [{"type": kind, "id": "before-a-bad-one"}, {"data": 1}]).code == "bad_job"
    assert refusal(wire, "job", "before-a-bad-one").code == "not_found"


def test_kqs_insert_of_nothing(wire: WireWorker) -> None:
    assert refusal(wire, "insert").code == "bad_job"


def test_kqs_type_is_missing(wire: WireWorker) -> None:
    assert refusal(wire, "insert", {"data": 1}).code == "bad_job"


def test_kqs_data(server: Served, wire: WireWorker, kind: str) -> None:
    server.ask('{"n":"insert","m":{"type":"%s","id":"as-sent","data":{"a" :1e400}}}' % kind)  # noqa: UP031
    (answer,) = server.ask('{"n":"job","m":"as-sent"}')
    assert '"data":{"a" :1e400}' in answer
    assert job(wire, insert(wire, kind))["data"] is None


def test_kqs_prio(wire: WireWorker, kind: str) -> None:
    assert options(wire, kind, prio="high")["prio"] == 9000
    assert refusal(wire, "insert", {"type": kind, "prio": "higher"}).code == "bad_job"


def test_kqs_prio_0(wire: WireWorker, kind: str) -> None:
    assert options(wire, kind, prio=0)["prio"] == 0
    assert options(wire, kind, prio=500)["prio"] == 500


def test_kqs_delay(wire: WireWorker, kind: str) -> None:
    assert options(wire, kind, delay=60.5)["delay"] == 60.5
    assert refusal(wire, "insert", {"type": kind, "delay": "5"}).code == "bad_job"


def test_kqs_ttr_0(wire: WireWorker, kind: str) -> None:
    assert refusal(wire, "insert", {"type": kind, "ttr": 0}).code == "bad_job"
    assert options(wire, kind)["ttr"] == 30


def test_kqs_unknown_fields(wire: WireWorker, kind: str) -> None:
    assert '"dealy"; the nearest known one is "delay"' in str(refusal(wire, "insert", {"type": kind, "dealy": 1}))


def test_kqs_auth_in_the_job(server: Served, wire: WireWorker, kind: str) -> None:
    insert(wire, kind, id="with-auth", auth={"usr": "nobody", "pwd": "wrong-secret"})
    (answer,) = server.ask('{"n":"job","m":"with-auth"}')
    assert "wrong-secret" not in answer


def test_kqs_quit(tmp_path: Path) -> None:
    with serving(tmp_path) as own, working_at(own) as wire:
        insert(wire, "slow")
        run = take(wire, "slow")
        assert wire.call("quit") == "stopping"
        assert wire.finish(run["run"]) == [True]
        assert own.process.wait(30) == 0


def test_kqs_stats(server: Served, wire: WireWorker, kind: str) -> None:
    before = wire.call("stats")
    insert(wire, kind)
    after = wire.call("stats")
    assert after["jobCount"] - before["jobCount"] == 1
    assert after["callCount"] > before["callCount"]
    assert (after["errorCount"], after["process"]) == (after["errors"], server.process.pid)


def test_kqs_ping(wire: WireWorker) -> None:
    assert wire.call("ping") == "pong"


def test_kqs_echo(server: Served) -> None:
    (answer,) = server.ask('{"v":1,"id":0,"n":"echo","m":{"a" :1e400}}')
    assert '"m":{"a" :1e400}' in answer


def test_kqs_makerpc_js_call_data_through_nc(server: Served) -> None:
    (answer,) = server.ask('{"v":1,"id":0,"n":"insert","m":{"type":"ping","data":{"a":1}}}')
    assert answer.startswith('{"v":1,"id":0,"e":null,"s":"end","m":"')
    command = [sys.executable, "-m", "kqs", "insert", "ping", "{a:1}", "--server", f"127.0.0.1:{server.port}"]
    done = subprocess.run(command, env=SERVE_ENVIRON, capture_output=True, text=True, timeout=60, check=True)
    assert ask(server, "job", done.stdout.strip())["data"] == {"a": 1}


def test_kqs_a_failed_job(wire: WireWorker, kind: str) -> None:
    found = options(wire, kind)
    assert (found["retries"], found["retry_delay"], found["backoff"]) == (-1, 30, "constant")


def test_kqs_a_type_without_a_handler(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind)
    assert wire.call("explain", job_id)["reason"] == "no_worker"
    assert kind in str(wire.call("health"))


def test_kqs_a_crash(tmp_path: Path) -> None:
    with serving(tmp_path) as killed, working_at(killed) as wire:
        insert(wire, "a", id="ran")
        take(wire, "a")
        insert(wire, "a", id="waited")
        killed.stop(signal.SIGKILL)
    with serving(tmp_path) as own, working_at(own) as wire:
        assert {(run["id"], run["ghosts"]) for run in [take(wire, "a"), take(wire, "a")]} == {("ran", 1), ("waited", 0)}


def test_kqs_one_job_at_a_time(wire: WireWorker, kind: str) -> None:
    wire.call("limit", {"type": kind, "concurrency": 1})
    assert len(ordered(wire, kind, {}, {})) == 1


def test_kqs_config_default_js(tmp_path: Path) -> None:
    file = tmp_path / "kqs.toml"
    file.write_text(PAGE.split("```toml\n")[1].split("```")[0])
    config = load_config(file, {})
    assert (config.server.port, config.broker.servers, config.store.uri) == (
        14151,
        ["localhost:11300"],
        "mongodb://localhost/kqueue",
    )


# Kickq


def test_kickq_kickq_create(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind, data={"to": "ann"}, retries=2)
    assert job(wire, job_id)["options"]["retries"] == 2


def test_kickq_kickq_process(wire: WireWorker, kind: str) -> None:
    wire.call("insert", [{"type": kind + "-a"}, {"type": kind + "-b"}])
    runs = [run for _ in range(2) for run in wire.reserve(kind + "-a", kind + "-b")]
    assert {run["type"] for run in runs} == {kind + "-a", kind + "-b"}


def test_kickq_concurrent_jobs(wire: WireWorker, kind: str) -> None:
    order = wire.send("work", {"types": [kind]})
    first, second = insert(wire, kind), insert(wire, kind)
    (run,) = wire.next(order)
    assert (run["id"], job(wire, second)["state"]) == (first, "new")
    wire.finish(run["run"])
    assert wire.next(order)[0]["id"] == second


def test_kickq_kickq_get(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind)
    assert job(wire, job_id)["id"] == job_id


def test_kickq_kickq_delete(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind)
    assert wire.call("delete", job_id)["count"] == 1
    assert refusal(wire, "job", job_id).code == "not_found"


def test_kickq_kickq_config(wire: WireWorker, kind: str) -> None:
    wire.call("configure", {"type": kind, "options": {"ttr": 60}})
    assert options(wire, kind)["ttr"] == 60
    assert options(wire, kind, ttr=5)["ttr"] == 5


def test_kickq_kickq_reset(wire: WireWorker, kind: str) -> None:
    order = wire.send("work", {"types": [kind]})
    assert wire.call("withdraw", {"call": order}) is True
    assert wire.next(order) is None


def test_kickq_kickq_metrics(wire: WireWorker, kind: str) -> None:
    insert(wire, kind)
    (stands,) = wire.call("types", {"type": kind})
    assert stands["counts"] == {"new": 1}


def test_kickq_delay(wire: WireWorker, kind: str) -> None:
    record = job(wire, insert(wire, kind, delay=1.5))
    assert record["due_at"] - record["accepted_at"] == pytest.approx(1.5, abs=0.1)


def test_kickq_process_timeout(wire: WireWorker, kind: str) -> None:
    insert(wire, kind, ttr=10)
    assert wire.call("touch", {"run": take(wire, kind)["run"]})["left"] == pytest.approx(10, abs=0.5)


def test_kickq_late_callbacks(wire: WireWorker, kind: str) -> None:
    insert(wire, kind, ttr=SHORT_TTR_S)
    late = take(wire, kind)
    take(wire, kind)
    assert wire.finish(late["run"]) == ["stale"]


def test_kickq_retry_false(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind, retries=0)
    fail(wire, take(wire, kind))
    assert job(wire, job_id)["state"] == "fail"


def test_kickq_retry_times_3(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind, retries=2, retry_delay=0)
    for _ in range(3):
        fail(wire, take(wire, kind))
    record = job(wire, job_id)
    assert (record["state"], len(record["runs"])) == ("fail", 3)


def test_kickq_retry_interval(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind, retry_delay=7200)
    fail(wire, take(wire, kind))
    assert job(wire, job_id)["due_at"] == pytest.approx(time.time() + 3600, abs=10)
    longer = insert(wire, kind, retry_delay=7200, max_retry_delay=7200)
    fail(wire, take(wire, kind))
    assert job(wire, longer)["due_at"] == pytest.approx(time.time() + 7200, abs=10)


def test_kickq_ghost_retry_false(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind, ghosts=0)
    gone(wire, kind)
    assert wire.call("job", {"id": job_id, "wait": 30})["state"] == "fail"


def test_kickq_ghost_times(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind, ghosts=1)
    gone(wire, kind)
    gone(wire, kind)
    assert wire.call("job", {"id": job_id, "wait": 30})["ghosts"] == 2


def test_kickq_ghost_interval(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind, ghost_delay=1800)
    gone(wire, kind)
    gone(wire, kind)
    record = eventually(lambda: job(wire, job_id), lambda seen: seen["ghosts"] == 2)
    assert record["due_at"] == pytest.approx(time.time() + 1800, abs=10)


def test_kickq_hotjob_hotjob_timeout(wire: WireWorker, kind: str) -> None:
    hot = wire.send("insert", {"type": kind, "wait": 30, "delay": 0.1})
    job_id = wire.next(hot)
    wire.call("finish", {"run": take(wire, kind)["run"], "report": "ok", "result": 7})
    assert wire.next(hot) == {"id": job_id, "state": "success", "result": 7}


def test_kickq_hotjob_promise(wire: WireWorker, kind: str) -> None:
    hot = wire.send("insert", {"type": kind, "wait": 30, "retries": 1, "retry_delay": 0})
    wire.next(hot)
    fail(wire, take(wire, kind), "first")
    fail(wire, take(wire, kind), "second")
    with pytest.raises(RefusedError, match="job_failed: second"):
        wire.next(hot)
    timed = wire.send("insert", {"type": kind, "wait": 0.05})
    job_id = wire.next(timed)
    with pytest.raises(RefusedError, match="timeout"):
        wire.next(timed)
    assert job(wire, job_id)["state"] == "new"


def test_kickq_state_queued(wire: WireWorker, kind: str) -> None:
    heard = happening(wire, kind, "queued")
    job_id = insert(wire, kind, delay=2)
    assert job(wire, job_id)["state"] == "delayed"
    assert wire.next(heard)["id"] == job_id
    assert job(wire, job_id)["state"] == "delayed"


def test_kickq_event_kickq_create(wire: WireWorker, kind: str) -> None:
    heard = happening(wire, kind, "created")
    job_id = insert(wire, kind)
    assert wire.next(heard)["id"] == job_id


def test_kickq_event_kickq_queued(wire: WireWorker, kind: str) -> None:
    heard = happening(wire, kind, "queued")
    job_id = insert(wire, kind)
    assert wire.next(heard)["id"] == job_id


def test_kickq_event_kickq_success(wire: WireWorker, kind: str) -> None:
    heard = happening(wire, kind, "success")
    insert(wire, kind)
    wire.call("finish", {"run": take(wire, kind)["run"], "report": "ok", "result": 7})
    assert wire.next(heard)["job"]["result"] == 7


def test_kickq_event_kickq_fail(wire: WireWorker, kind: str) -> None:
    heard = happening(wire, kind, "retry", "ghost", "fail")
    insert(wire, kind, retries=1, retry_delay=0)
    fail(wire, take(wire, kind))
    gone(wire, kind)
    fail(wire, take(wire, kind))
    assert [wire.next(heard)["event"] for _ in range(3)] == ["retry", "ghost", "fail"]


def test_kickq_event_kickq_delete(wire: WireWorker, kind: str) -> None:
    heard = happening(wire, kind, "deleted")
    job_id = insert(wire, kind)
    wire.call("delete", job_id)
    assert wire.next(heard)["id"] == job_id


def test_kickq_purge_timeout(wire: WireWorker, kind: str) -> None:
    kept = insert(wire, kind, keep=86400)
    wire.finish(take(wire, kind)["run"])
    record = job(wire, kept)
    assert record["drop_at"] - record["ended_at"] == pytest.approx(86400, abs=1)
    failed = insert(wire, kind, retries=0)
    fail(wire, take(wire, kind))
    assert job(wire, failed)["drop_at"] is None


def test_kickq_runs_last_error(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind, retries=0)
    fail(wire, take(wire, kind), "no such address")
    record = job(wire, job_id)
    assert (record["error"], record["runs"][0]["attempt"], record["runs"][0]["state"]) == ("no such address", 1, "fail")
    assert record["accepted_at"] <= record["runs"][0]["started_at"] <= record["ended_at"] + 0.01


def test_kickq_a_worker_that_dies(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind)
    gone(wire, kind)
    again = take(wire, kind)
    assert (again["id"], again["ghosts"]) == (job_id, 1)


def test_kickq_unknown_options(wire: WireWorker, kind: str) -> None:
    assert refusal(wire, "insert", {"type": kind, "retryTimes": 3}).code == "bad_job"


def test_the_example_of_kickq(wire: WireWorker, kind: str) -> None:
    hot = wire.send("insert", {"type": kind, "data": "some data", "wait": 10, "retries": 0, "ttr": 10})
    job_id = wire.next(hot)
    run = take(wire, kind)
    assert (run["id"], run["data"]) == (job_id, "some data")
    wire.finish(run["run"])
    assert wire.next(hot)["state"] == "success"


# redis-dist-job-queue


def test_redis_dist_job_queue_submit_job(wire: WireWorker, kind: str) -> None:
    assert job(wire, insert(wire, kind, data={"theString": "derp"}))["type"] == kind


def test_redis_dist_job_queue_resource_id(wire: WireWorker, kind: str) -> None:
    first, second = wire.call("insert", [{"type": kind, "resource": kind}, {"type": kind, "resource": kind}])
    wire.call("explain", second)
    (run,) = wire.reserve(kind, count=2)
    assert run["id"] == first
    assert wire.call("explain", second)["holder"] == first
    wire.finish(run["run"])
    assert take(wire, kind)["id"] == second
    assert options(wire, kind).get("resource") is None


def test_redis_dist_job_queue_params(wire: WireWorker, kind: str) -> None:
    insert(wire, kind, data={"theString": "derp"})
    assert take(wire, kind)["data"] == {"theString": "derp"}


def test_redis_dist_job_queue_retries(wire: WireWorker, kind: str) -> None:
    assert options(wire, kind)["retries"] == -1
    job_id = insert(wire, kind + "-none", retries=0)
    fail(wire, take(wire, kind + "-none"))
    assert job(wire, job_id)["state"] == "fail"


def test_redis_dist_job_queue_a_try(wire: WireWorker, kind: str) -> None:
    insert(wire, kind, retries=1, retry_delay=0)
    gone(wire, kind)
    fail(wire, take(wire, kind))
    run = take(wire, kind)
    assert (run["attempt"], run["failures"], run["ghosts"]) == (3, 1, 1)


def test_redis_dist_job_queue_order_of_a_resource_s_jobs(wire: WireWorker, kind: str) -> None:
    ids = wire.call("insert", [{"type": kind, "resource": kind, "prio": prio} for prio in ("normal", "low", "high", "high")])
    first = take(wire, kind)
    wire.call("explain", ids[-1])
    came = [first["id"]]
    wire.finish(first["run"])
    for _ in range(3):
        run = take(wire, kind)
        came.append(run["id"])
        wire.finish(run["run"])
    assert [job_id for job_id in came if job_id != first["id"]] == [
        job_id for job_id in (ids[2], ids[3], ids[0], ids[1]) if job_id != first["id"]
    ]


def test_redis_dist_job_queue_order_of_a_retry(wire: WireWorker, kind: str) -> None:
    first = insert(wire, kind, retry_delay=0)
    run = take(wire, kind)
    wire.call("suspend", kind)
    insert(wire, kind)
    fail(wire, run)
    eventually(lambda: wire.call("explain", first), lambda why: (why["state"], why["reason"]) == ("retry", "suspended"))
    wire.call("resume", kind)
    assert take(wire, kind)["id"] == first


def test_redis_dist_job_queue_register_task(wire: WireWorker) -> None:
    taken = {name for worker in wire.call("workers") if worker["kind"] == "server" for name in worker["types"]}
    assert {"thisIsMyTaskId", "thrower", "ping"} <= taken


def test_redis_dist_job_queue_an_unregistered_task(wire: WireWorker, kind: str) -> None:
    assert wire.call("explain", insert(wire, kind))["reason"] == "no_worker"


def test_redis_dist_job_queue_perform(wire: WireWorker) -> None:
    job_id = insert(wire, "thrower")
    record = wire.call("job", {"id": job_id, "wait": 30})
    assert record["state"] == "fail"
    assert "thrown" in record["error"]


def test_redis_dist_job_queue_callback_called_twice(wire: WireWorker, kind: str) -> None:
    insert(wire, kind)
    run = take(wire, kind)["run"]
    assert wire.finish(run, run) == [True, True]
    assert wire.finish(run, report="again") == ["stale"]


def test_redis_dist_job_queue_timeout(wire: WireWorker, kind: str) -> None:
    insert(wire, kind, ttr=10, auto_touch=True)
    run = take(wire, kind)
    assert (run["ttr"], run["auto_touch"]) == (10, True)
    assert options(wire, kind)["auto_touch"] is False


def test_redis_dist_job_queue_start(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__CONCURRENCY="0") as own, working_at(own) as wire:
        job_id = insert(wire, "ping")
        assert wire.call("explain", job_id)["reason"] == "no_worker"
        assert take(wire, "ping")["id"] == job_id


def test_redis_dist_job_queue_worker_count(wire: WireWorker) -> None:
    (own,) = [worker for worker in wire.call("workers") if worker["kind"] == "server"]
    assert own["room"] + own["open"] == 100


def test_redis_dist_job_queue_child_process_count(children: Served) -> None:
    assert ask(children, "stats")["children_running"] == 1


def test_redis_dist_job_queue_child_restart(children: Served) -> None:
    killed = ask(children, "stats")["child_1_pid"]
    subprocess.run(["kill", "-9", str(int(killed))], check=True)
    stats = eventually(lambda: ask(children, "stats"), lambda seen: seen["child_1_pid"] not in (0, killed))
    assert stats["children_restarts"] == 1


@pytest.fixture(scope="module")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("children"), WORKER__PROCESSES="1") as served:
        eventually(lambda: ask(served, "stats"), lambda seen: seen["children_running"] == 1)
        yield served


def test_redis_dist_job_queue_flush_stale_timeout(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind, ttr=3600)
    gone(wire, kind)
    assert take(wire, kind)["id"] == job_id


def test_redis_dist_job_queue_force_flush_stale_jobs(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind, ttr=SHORT_TTR_S)
    take(wire, kind)
    assert take(wire, kind)["id"] == job_id


def test_redis_dist_job_queue_shutdown(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__GRACE_S="-1") as own, working_at(own) as wire:
        insert(wire, "slow")
        run = take(wire, "slow")
        own.process.send_signal(signal.SIGTERM)
        eventually(own.log.read_text, lambda said: "stopping" in said)
        assert wire.finish(run["run"]) == [True]
        assert own.process.wait(30) == 0


def test_redis_dist_job_queue_retry_failed_jobs(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind, retries=1, retry_delay=0)
    for _ in range(2):
        fail(wire, take(wire, kind))
    assert wire.call("retry", {"type": kind, "state": "fail"})["ids"] == [job_id]
    fail(wire, take(wire, kind))
    assert job(wire, job_id)["state"] == "retry"


def test_redis_dist_job_queue_delete_failed_jobs(wire: WireWorker, kind: str) -> None:
    job_id = insert(wire, kind, retries=0)
    fail(wire, take(wire, kind))
    assert wire.call("delete", {"type": kind, "state": "fail"})["ids"] == [job_id]


def test_redis_dist_job_queue_job_success(server: Served, wire: WireWorker) -> None:
    heard = happening(wire, "thisIsMyTaskId", "success")
    job_id = ask(server, "insert", {"type": "thisIsMyTaskId", "data": {"theString": "derp"}})
    assert wire.next(heard)["id"] == job_id


def test_redis_dist_job_queue_job_fail(wire: WireWorker, kind: str) -> None:
    heard = happening(wire, kind, "retry", "ghost", "fail")
    insert(wire, kind, retries=1, retry_delay=0)
    fail(wire, take(wire, kind))
    fail(wire, take(wire, kind))
    assert [wire.next(heard)["event"] for _ in range(2)] == ["retry", "fail"]


def test_redis_dist_job_queue_namespace_queue_id(server: Served, children: Served, kind: str) -> None:
    job_id = ask(server, "insert", {"type": kind})
    with pytest.raises(RefusedError, match="not_found"):
        ask(children, "job", job_id)


def test_the_synopsis_of_redis_dist_job_queue(wire: WireWorker) -> None:
    call = wire.send(
        "insert", {"type": "thisIsMyTaskId", "resource": "resource_id", "data": {"theString": "derp"}, "retries": 0, "wait": 30}
    )
    wire.next(call)
    assert wire.next(call)["result"] == "DERP"
