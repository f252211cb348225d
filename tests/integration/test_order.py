"""Jobs that wait for others, and batches, over TCP: what is refused, what runs when, what is shown, what a kill leaves."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from kqs.client import Client, connect
from kqs.errors import CallError
from tests.support.asking import Peer, RefusedError, ask, peer_of
from tests.support.beanstalkd import running_beanstalkd
from tests.support.mongodb import a_database
from tests.support.serving import Served, serving

HANDLERS = """
import kqs

@kqs.handler("ok")
async def ok(data):
    return data

@kqs.handler("bad", retries=0)
async def bad(data):
    raise ValueError("no")

@kqs.handler("report")
async def report(data, job):
    return {"data": data, "batch": job.batch}
"""
#: a job that no handler takes
HELD = {"type": "held"}
OK, BAD = {"type": "ok"}, {"type": "bad"}


ENGINES = ["SQLite", "MongoDB", "MongoDB and beanstalkd"]


@contextmanager
def engines(request: pytest.FixtureRequest, folder: Path) -> Iterator[dict[str, str]]:
    """Settings of a server in `folder`, with the engines that the fixture is to have, which are its own."""
    (folder / "order_handlers.py").write_text(HANDLERS)
    settings = {"WORKER__MODULES": '["order_handlers"]'}
    with ExitStack() as stack:
        if "MongoDB" in request.param:
            settings |= {"STORE__KIND": "mongodb", "STORE__URI": a_database(request.getfixturevalue("server_uri"))}
        if "beanstalkd" in request.param:
            tubes = stack.enter_context(running_beanstalkd())
            settings |= {"BROKER__KIND": "beanstalkd", "BROKER__SERVERS": f'["{tubes.address}"]'}
        yield settings


@pytest.fixture(params=ENGINES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    with engines(request, tmp_path) as settings:
        yield settings


@pytest.fixture
def served(tmp_path: Path, settings: dict[str, str]) -> Iterator[Served]:
    with serving(tmp_path, **settings) as server:
        yield server


@pytest.fixture(scope="module", params=ENGINES)
def refusing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of all tests that see that something is refused, and leave nothing there."""
    folder = tmp_path_factory.mktemp("refusing")
    with engines(request, folder) as settings, serving(folder, **settings) as server:
        yield server


def ended(peer: Peer, job_id: str) -> dict[str, Any]:
    """The record of a job, once it has ended."""
    record: dict[str, Any] = peer.call("job", {"id": job_id, "wait": 20})
    assert record["ended_at"], record
    return record


def test_chain_runs_in_order_and_is_shown(peer: Peer) -> None:
    last, first, middle = peer.call("insert", [OK | {"after": [2]}, HELD, OK | {"after": [1]}])
    shown = peer.call("job", last)
    assert (shown["after"], shown["after_any_end"], shown["awaits"]) == ([middle], False, [middle])
    why = peer.call("explain", middle)
    assert (why["reason"], why["awaits"]) == ("after", [first])
    (run,) = peer.call("reserve", {"types": ["held"], "wait": 10})
    peer.call("finish", {"run": run["run"], "report": "ok"})
    assert ended(peer, last)["state"] == "success"
    assert peer.call("job", middle)["ended_at"] <= peer.call("job", last)["ended_at"]


def test_failure_fails_who_waits_but_not_who_waits_for_any_end(peer: Peer) -> None:
    parent = peer.call("insert", BAD)
    child = peer.call("insert", OK | {"after": [parent]})
    grandchild, other = peer.call("insert", [OK | {"after": [child]}, OK | {"after": [parent, child], "after_any_end": True}])
    assert ended(peer, child)["state"] == "fail"
    assert parent in ended(peer, child)["error"]
    assert child in ended(peer, grandchild)["error"]
    assert ended(peer, other)["state"] == "success"


def test_insert_that_waits_is_told_the_failure(peer: Peer) -> None:
    parent = peer.call("insert", BAD)
    peer.call("insert", OK | {"after": [parent], "wait": 20})
    with pytest.raises(RefusedError, match=parent) as refused:
        peer.receive()
    assert refused.value.code == "job_failed"


@pytest.mark.parametrize(
    ("jobs", "words"),
    [
        (OK | {"after": ["nobody"]}, "after: no job has the id 'nobody'"),
        (OK | {"after": [0]}, "position 0 in no array"),
        ([OK, OK | {"after": [2]}], "job 1: after: expected positions from 0 to 1, got 2"),
        ([OK | {"after": [-1]}], "job 0: after: expected up to 1000 ids"),
        ([OK | {"after": [True]}], "job 0: after: expected up to 1000 ids"),
        ([OK | {"after": [0]}], "job 0: after: the job would wait for itself"),
        ([OK | {"id": "me", "after": ["me"]}], "the job would wait for itself"),
        ([OK | {"after": [1]}, OK | {"after": [2]}, OK | {"after": [0]}], "0 → 1 → 2 → 0"),
        ([OK | {"id": "x", "after": ["y"]}, OK | {"id": "y", "after": [0]}], "the jobs 0 → 1 → 0 would wait for each other"),
        (OK | {"after": ["a b"]}, "after: expected"),
        (OK | {"after": ["x"] * 1001}, "after: expected up to 1000 ids"),
        (OK | {"after_any_end": True}, "after_any_end: expected after beside it"),
        (OK | {"batch": "none"}, "batch: no batch has the id 'none'"),
        (OK | {"members": 3}, "unknown field"),
    ],
)
def test_what_cannot_be_waited_for_is_refused_at_the_door(refusing: Served, jobs: Any, words: str) -> None:
    with pytest.raises(RefusedError, match=words.replace("'", ".")) as refused:
        ask(refusing, "insert", jobs)
    assert refused.value.code == "bad_job"
    assert ask(refusing, "jobs", {}) == []


def test_many_ties_of_one_insert_are_bounded(peer: Peer) -> None:
    first = peer.call("insert", HELD)
    with pytest.raises(RefusedError, match="at most 10000 jobs") as refused:
        peer.call("insert", [OK | {"after": [first] * 1000}] * 11)
    assert refused.value.code == "too_large"
    with pytest.raises(RefusedError, match="at most 4000 jobs"):
        peer.call("insert", [OK] * 4000 + [OK | {"after": [0]}])


def test_then_runs_once_with_what_became_of_all(peer: Peer) -> None:
    batch = peer.call("batch", {"jobs": [OK, BAD, OK | {"after": [1]}], "then": {"type": "report", "data": 7}})
    record = ended(peer, batch)
    counts = {"id": batch, "count": 3, "success": 1, "fail": 2, "cancelled": 0, "deleted": 0}
    assert record["result"] == {"data": 7, "batch": counts}
    assert record["batch"] == counts | {"open": False}
    assert record["attempt"] == 1


def test_remote_worker_is_told_what_became_of_all(peer: Peer) -> None:
    batch = peer.call("batch", {"jobs": [], "then": HELD})
    (run,) = peer.call("reserve", {"types": ["held"], "wait": 10})
    assert run["batch"] == {"id": batch, "count": 0, "success": 0, "fail": 0, "cancelled": 0, "deleted": 0}


def test_open_batch_takes_jobs_until_it_is_closed(peer: Peer) -> None:
    batch = peer.call("batch", {"open": True, "then": {"type": "report", "id": "mine"}})
    assert batch == "mine"
    one = peer.call("insert", OK | {"batch": batch})
    assert peer.call("job", one)["batch"] == batch
    ended(peer, one)
    why = peer.call("explain", batch)
    assert (why["reason"], why["count"], why["ended"], why["open"]) == ("batch", 1, 1, True)
    peer.call("insert", [OK | {"batch": batch}, BAD | {"batch": batch}])
    for _ in range(2):
        assert peer.call("batch", {"id": batch, "close": True})["count"] == 3
    with pytest.raises(RefusedError, match="is closed"):
        peer.call("insert", OK | {"batch": batch})
    assert ended(peer, batch)["result"]["batch"]["success"] == 2
    with pytest.raises(RefusedError) as refused:
        peer.call("batch", {"id": one, "close": True})
    assert refused.value.code == "not_found"


def test_batch_that_is_inserted_again_makes_nothing(peer: Peer) -> None:
    for _ in range(2):
        assert peer.call("batch", {"jobs": [HELD, HELD], "then": HELD | {"id": "once"}}) == "once"
    assert len(peer.call("jobs", {})) == 3


def test_batch_passes_no_job_of_its_id(peer: Peer) -> None:
    peer.send("insert", HELD | {"id": "mine"})
    peer.send("batch", {"open": True, "then": OK | {"id": "mine"}})
    assert [peer.receive(), peer.receive()] == ["mine", "mine"]
    assert peer.call("job", "mine")["type"] == "held"


def test_then_of_a_taken_key_is_joined_or_refused_and_makes_nothing(peer: Peer) -> None:
    then = HELD | {"unique": "k"}
    first = peer.call("batch", {"jobs": [HELD], "then": then})
    assert peer.call("batch", {"jobs": [HELD], "then": then}) == first
    told = peer.call("batch", {"open": True, "then": then | {"answer": "full"}})
    assert told == {"id": first, "created": False}
    with pytest.raises(RefusedError, match=f"then: unique: .* its id is '{first}'") as refused:
        peer.call("batch", {"jobs": [HELD], "then": then | {"on_conflict": "refuse"}})
    assert refused.value.code == "duplicate"
    assert len(peer.call("jobs", {})) == 2


def test_known_job_is_inserted_again_though_what_it_named_is_gone(peer: Peer) -> None:
    peer.call("batch", {"open": True, "then": HELD | {"id": "b"}})
    for _ in range(2):
        assert peer.call("insert", HELD | {"id": "m", "batch": "b"}) == "m"
        peer.call("batch", {"id": "b", "close": True})
    with pytest.raises(RefusedError, match="is closed"):
        peer.call("insert", [HELD | {"id": "m", "batch": "b"}, HELD | {"id": "new", "batch": "b"}])
    parent = peer.call("insert", HELD)
    for _ in range(2):
        assert peer.call("insert", OK | {"id": "c", "after": [parent]}) == "c"
        peer.call("delete", {"id": parent})
    with pytest.raises(RefusedError, match="no job has the id"):
        peer.call("insert", OK | {"after": [parent]})


def test_job_whose_keep_is_over_is_no_more_known_to_who_would_wait_for_it_than_to_anybody(peer: Peer) -> None:
    parents: list[str] = []
    for keep in (0, 60):
        parents.append(peer.call("insert", OK | {"keep": keep, "wait": 20}))
        peer.receive()
    over, kept = parents
    with pytest.raises(RefusedError, match="no job has the id"):
        peer.call("insert", OK | {"after": [kept, over]})
    with pytest.raises(RefusedError) as refused:
        peer.call("job", over)
    assert refused.value.code == "not_found"
    assert ended(peer, peer.call("insert", OK | {"after": [kept]}))["state"] == "success"


def test_member_of_a_type_with_subscribers_is_refused(peer: Peer) -> None:
    peer.call("batch", {"open": True, "then": OK | {"id": "b"}})
    peer.call("subscribe", {"type": "news", "subscriber": "held"})
    with pytest.raises(RefusedError, match="types without subscribers"):
        peer.call("insert", {"type": "news", "batch": "b"})
    assert peer.call("insert", [{"type": "news"}, OK | {"batch": "b"}])


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ({}, "batch takes"),
        ({"jobs": [OK]}, "batch takes"),
        ({"then": OK, "open": 1}, "batch takes"),
        ({"id": "x", "close": False}, "batch takes"),
        ({"jobs": OK, "then": OK}, "jobs: expected an array"),
        ({"jobs": [OK], "then": [OK]}, "then: expected a job object"),
        ({"jobs": [OK], "then": {}}, "then: type: missing"),
        ({"jobs": [OK, {"tipe": 1}], "then": OK}, "job 1: unknown field"),
        ({"jobs": [OK | {"batch": "b"}], "then": OK}, "job 0: batch: expected none"),
        ({"jobs": [OK | {"after": [1]}], "then": OK}, "job 0: after: expected positions from 0 to 0"),
        ({"jobs": [OK, OK | {"after": ["b"]}], "then": OK | {"id": "b"}}, "job 1: after: the job would wait for its own batch"),
        ({"jobs": [OK, OK | {"id": "b"}], "then": OK | {"id": "b"}}, "job 1: id: expected another than that of `then`"),
        ([OK], "batch takes"),
        ({"jobs": [OK], "then": OK, "opne": None}, 'unknown field "opne"; the nearest known one is "open"'),
        ({"open": True, "then": OK, "bogus": None}, 'unknown field "bogus"'),
        ({"id": "x", "close": True, "bogus": None}, 'unknown field "bogus"'),
    ],
)
def test_what_is_no_batch_is_refused(refusing: Served, argument: Any, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        ask(refusing, "batch", argument)
    assert ask(refusing, "jobs", {}) == []


def test_kill_loses_no_order(tmp_path: Path, settings: dict[str, str]) -> None:
    with serving(tmp_path, **settings) as served:
        with peer_of(served) as peer:
            first, child = peer.call("insert", [HELD, OK | {"after": [0]}])
            batch = peer.call("batch", {"jobs": [HELD, OK], "then": {"type": "report"}})
        served.process.send_signal(signal.SIGKILL)
        served.process.wait()
    with serving(tmp_path, **settings) as served, peer_of(served) as peer:
        assert peer.call("explain", child)["reason"] == "after"
        for _ in range(2):
            (run,) = peer.call("reserve", {"types": ["held"], "wait": 10})
            peer.call("finish", {"run": run["run"], "report": "ok"})
        assert ended(peer, first)["state"] == ended(peer, child)["state"] == "success"
        assert ended(peer, batch)["result"]["batch"]["success"] == 2


def test_large_batch_ends_in_one_then(peer: Peer, settings: dict[str, str]) -> None:
    count = 500 if "STORE__KIND" in settings else 6000  # the database of tests on a machine without a mongod is slow
    batch = peer.call("batch", {"jobs": [OK] * count, "then": {"type": "report"}})
    assert ended(peer, batch)["result"]["batch"]["success"] == count


def test_client_inserts_batches(served: Served, peer: Peer) -> None:
    async def work() -> None:
        async with connect(port=served.port) as client:
            batch = await client.batch([OK, BAD], {"type": "report"})
            record = await client.call("job", {"id": batch, "wait": 20})
            assert record["result"]["batch"]["success"] == 1
            opened = await client.open_batch({"type": "report", "id": "mine"})
            child = await client.insert("ok", batch=opened, after=[batch])
            assert (await client.close_batch(opened))["count"] == 1
            record = await client.call("job", {"id": opened, "wait": 20})
            assert record["result"]["batch"]["success"] == 1
            assert (await client.call("job", child))["state"] == "success"

    asyncio.run(work())


async def count_of_raced(one: Client, other: Client) -> tuple[bool, int]:
    """Insert a job into a batch as it is closed; return whether it was taken, and how many the batch had."""
    opened = await one.open_batch({"type": "report"})
    inserting, closing = asyncio.ensure_future(one.insert("ok", batch=opened)), asyncio.ensure_future(other.close_batch(opened))
    taken, closed = await asyncio.gather(inserting, closing, return_exceptions=True)
    assert isinstance(closed, dict)
    assert (await one.wait_job(opened, 20))["result"]["batch"]["count"] == closed["count"]
    if isinstance(taken, CallError):
        assert (taken.call_code, "is closed" in str(taken)) == ("bad_job", True)
    return isinstance(taken, str), closed["count"]


def test_job_that_comes_as_its_batch_is_closed_is_a_member_or_refused(
    served: Served, tmp_path: Path, settings: dict[str, str]
) -> None:
    async def work(port: int) -> None:
        async with connect(port=served.port) as one, connect(port=port) as other:
            for _ in range(5):
                assert await count_of_raced(one, one) == (True, 1)  # it was sent before
                was_taken, count = await count_of_raced(one, other)
                assert count == was_taken

    if "STORE__KIND" not in settings:
        asyncio.run(work(served.port))
        return
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "order_handlers.py").write_text(HANDLERS)
    with serving(tmp_path / "second", **settings) as second:
        asyncio.run(work(second.port))


def kqs(served: Served, *arguments: str, stdin: str = "") -> str:
    command = [sys.executable, "-m", "kqs", *arguments, "--server", f"127.0.0.1:{served.port}"]
    return subprocess.run(command, input=stdin, capture_output=True, check=True, text=True).stdout.strip()


def test_commands_insert_batches_of_a_file_and_open_ones(served: Served, peer: Peer) -> None:
    jobs = '{"type":"ok"}\n\n{"type":"bad","retries":0}\n'
    batch = kqs(served, "batch", "report", "--file", "-", "--id", "all", stdin=jobs)
    told = ended(peer, batch)["result"]["batch"]
    assert (batch, told["success"], told["fail"]) == ("all", 1, 1)
    opened = kqs(served, "batch", "report", "{day: 1}")
    kqs(served, "insert", "ok", "--batch", opened)
    assert json.loads(kqs(served, "batch", "--close", opened, "--json"))["open"] is False
    assert ended(peer, opened)["data"] == {"day": 1}


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ('{"type":"ok","dealy":1}', "bad_job: line 4: unknown field"),
        ('{"type":"ok","after":[1]}', "bad_job: line 4: after: the job would wait for itself"),
        ('{"type":"ok","id":"all"}', "bad_job: line 4: id: expected another than that of `then`"),
    ],
)
def test_command_says_on_which_line_of_its_file_a_job_stands_that_is_refused(served: Served, bad: str, told: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        kqs(served, "batch", "report", "--file", "-", "--id", "all", stdin=f'\n{{"type":"ok"}}\n \n{bad}\n')
    assert refused.value.stderr.startswith(f"kqs: {told}")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        kqs(served, "batch", "report", "--file", "-", "--ttr", "0", stdin='\n{"type":"ok"}\n')
    assert refused.value.stderr.startswith("kqs: bad_job: then: ttr: ")


def test_commands_say_what_a_job_comes_after(served: Served, peer: Peer) -> None:
    first = kqs(served, "insert", "held")
    batch = peer.call("batch", {"open": True, "then": HELD})
    child = kqs(served, "insert", "ok", "--after", first, "--after-any-end", "--batch", batch)
    shown = peer.call("job", child)
    assert (shown["after"], shown["after_any_end"], shown["batch"]) == ([first], True, batch)
