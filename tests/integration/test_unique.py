"""Unique keys and full answers over a real server, in both dialects: one job waits of a key, and who inserted it is told."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import WITHIN_S, RefusedError, ask, peer_of
from tests.support.mongodb import MongoServer, a_database, mongodb
from tests.support.serving import SERVE_ENVIRON, Served, serving

#: no handler takes it
JOB = {"type": "mail"}


@pytest.fixture(scope="module", params=["sqlite", "mongodb"])
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    if request.param == "sqlite":
        yield None
        return
    with mongodb(tmp_path_factory.mktemp("mongodb")) as uri:
        yield uri


def settings_of(store: str | None) -> dict[str, str]:
    return {} if store is None else {"STORE__KIND": "mongodb", "STORE__URI": a_database(store)}


@pytest.fixture
def settings(stores: str | None) -> dict[str, str]:
    return settings_of(stores)


@pytest.fixture
def served(tmp_path: Path, settings: dict[str, str]) -> Iterator[Served]:
    with serving(tmp_path, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def refusing(stores: str | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without jobs, for all tests that see that something is refused."""
    with serving(tmp_path_factory.mktemp("refusing"), **settings_of(stores)) as running:
        yield running


def waiting(served: Served) -> list[str]:
    return [record["id"] for record in ask(served, "jobs", {"type": "mail", "limit": 1000})]


def jsonrpc(served: Served, method: str, params: object) -> Any:
    (answer,) = served.ask(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
    return json.loads(answer)


def test_full_answer_says_whether_the_insert_made_a_job(served: Served) -> None:
    with peer_of(served) as peer:
        made = peer.call("insert", JOB | {"answer": "full"})
        assert made == {"id": made["id"], "created": True}
        given = JOB | {"id": "mine", "answer": "full"}
        assert peer.call("insert", given) == {"id": "mine", "created": True}
        assert peer.call("insert", given) == {"id": "mine", "created": False}
        assert peer.call("insert", JOB | {"id": "mine"}) == "mine"
        assert peer.call("insert", [JOB | {"id": "a"}, given, JOB | {"id": "b", "answer": "full"}]) == [
            "a",
            {"id": "mine", "created": False},
            {"id": "b", "created": True},
        ]
        keyed = JOB | {"id": "c", "unique": "c", "on_conflict": "refuse", "data": 1}
        again = JOB | {"id": "c", "answer": "full", "data": 2}
        assert peer.call("insert", [keyed, again, JOB | {"id": "c", "data": 3}]) == ["c", {"id": "c", "created": False}, "c"]
        assert peer.call("job", "c")["data"] == 1
        assert "answer" not in peer.call("job", "mine")
        assert "answer" not in peer.call("job", "mine")["options"]


def test_second_waiting_job_of_a_key_is_joined(served: Served) -> None:
    with peer_of(served) as peer:
        first = peer.call("insert", JOB | {"unique": "k"})
        assert peer.call("insert", JOB | {"unique": "k"}) == first
        assert peer.call("insert", JOB | {"unique": "k", "id": "mine", "answer": "full"}) == {"id": first, "created": False}
        assert peer.call("insert", [JOB | {"unique": "k"}, JOB | {"unique": "l", "id": "l"}, JOB | {"unique": "l"}]) == [
            first,
            "l",
            "l",
        ]
        assert peer.call("job", first)["unique"] == "k"
        with pytest.raises(RefusedError) as caught:
            peer.call("job", "mine")
        assert caught.value.code == "not_found"
        assert peer.call("insert", {"type": "sms", "unique": "k"}) != first
    assert waiting(served) == [first, "l"]


def test_second_waiting_job_of_a_key_may_be_refused(served: Served) -> None:
    refusing = JOB | {"unique": "k", "on_conflict": "refuse"}
    with peer_of(served) as peer:
        first = peer.call("insert", refusing)
        with pytest.raises(RefusedError, match=first) as caught:
            peer.call("insert", refusing | {"answer": "full"})
        assert caught.value.code == "duplicate"
        answers = peer.call("insert", [JOB | {"id": "a"}, refusing, JOB | {"unique": "k"}])
        assert (answers[0], answers[1]["code"], answers[2]) == ("a", "duplicate", first)
        assert answers[1]["message"].startswith("job 1: unique: ")
    refused = jsonrpc(served, "insert", refusing)
    assert refused["error"]["data"] == {"code": "duplicate"}
    assert jsonrpc(served, "insert", JOB | {"unique": "k", "answer": "full"})["result"] == {"id": first, "created": False}
    assert jsonrpc(served, "insert", [refusing])["result"][0]["code"] == "duplicate"
    assert waiting(served) == [first, "a"]


def test_running_job_does_not_count_and_one_that_waits_again_does(served: Served) -> None:
    with peer_of(served) as worker, peer_of(served) as peer:
        first = peer.call("insert", JOB | {"unique": "k", "retry_delay": 60})
        (run,) = worker.call("reserve", {"types": ["mail"], "wait": 10})
        assert run["id"] == first
        second = peer.call("insert", JOB | {"unique": "k", "delay": 60})
        assert second != first
        worker.call("finish", {"run": run["run"], "report": "fail", "reason": "no"})
        assert peer.call("insert", JOB | {"unique": "k"}) == first
    assert waiting(served) == [first, second]


def test_job_that_meets_a_worker_runs_at_once_and_is_answered(served: Served) -> None:
    with peer_of(served) as worker, peer_of(served) as peer:
        worker.send("reserve", {"types": ["mail"], "wait": 10})
        made = peer.call("insert", JOB | {"unique": "k", "answer": "full"})
        (run,) = worker.receive()
        assert (run["id"], made["created"]) == (made["id"], True)
        worker.call("finish", {"run": run["run"], "report": "ok"})
        assert peer.call("insert", JOB | {"unique": "k", "answer": "full"})["created"]


@pytest.mark.parametrize("shape", [{"unique": "k"}, {"id": "mine"}])
def test_of_a_hundred_inserts_at_once_one_makes_the_job(served: Served, shape: dict[str, str]) -> None:
    def insert(_: int) -> dict[str, Any]:
        with peer_of(served) as peer:
            answer: dict[str, Any] = peer.call("insert", JOB | shape | {"answer": "full"})
            return answer

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(insert, range(100)))
    (made,) = [answer for answer in answers if answer["created"]]
    assert {answer["id"] for answer in answers} == {made["id"]}
    assert waiting(served) == [made["id"]]


def test_keys_and_what_was_joined_outlive_a_kill(tmp_path: Path, settings: dict[str, str]) -> None:
    with serving(tmp_path, **settings) as server, peer_of(server) as worker:
        first = ask(server, "insert", JOB | {"unique": "k"})
        assert ask(server, "insert", JOB | {"unique": "k", "id": "never"}) == first
        (run,) = worker.call("reserve", {"types": ["mail"], "wait": 10})
        worker.call("finish", {"run": run["run"], "report": "ok"})
        server.stop(signal.SIGKILL)
    with serving(tmp_path, **settings) as server:
        assert [record["state"] for record in ask(server, "jobs")] == ["success"]
        assert ask(server, "insert", JOB | {"unique": "k", "answer": "full"})["created"]
        server.stop(signal.SIGKILL)
    with serving(tmp_path, **settings) as server:
        assert not ask(server, "insert", JOB | {"unique": "k", "answer": "full"})["created"]
        assert len(waiting(server)) == 2


def test_end_of_input_and_a_lost_client_cost_nothing(served: Served) -> None:
    (answer,) = served.ask(json.dumps({"id": 1, "n": "insert", "m": JOB | {"unique": "k"}}))
    first = json.loads(answer)["m"]
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", served.port)) as peer:
            peer.sendall(json.dumps({"id": 1, "n": "insert", "m": JOB | {"unique": "k"}}).encode() + b"\n")
    assert waiting(served) == [first]
    assert ask(served, "insert", JOB | {"unique": "k"}) == first


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"unique": ""}, "unique: expected 1 to 200 bytes of printable text"),
        ({"unique": 7}, "unique: expected 1 to 200 bytes of printable text"),
        ({"unique": "é" * 101}, "unique: expected 1 to 200 bytes of printable text"),
        ({"unique": "a\u202eb"}, "unique: expected 1 to 200 bytes of printable text"),
        ({"on_conflict": "refuse"}, "on_conflict: expected a unique key beside it, got none"),
        ({"unique": "k", "on_conflict": "drop"}, 'on_conflict: expected "join" or "refuse"'),
        ({"answer": "id"}, 'answer: expected "full"'),
    ],
)
def test_what_fits_no_field_is_refused(refusing: Served, fields: dict[str, object], complaint: str) -> None:
    for job in (JOB | fields, [JOB | fields]):
        with pytest.raises(RefusedError, match=complaint) as caught:
            ask(refusing, "insert", job)
        assert caught.value.code == "bad_job"
    assert ask(refusing, "jobs") == []


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[MongoServer]:
    (tmp_path / "mongodb").mkdir()
    mongo = MongoServer(tmp_path / "mongodb")
    mongo.start()
    yield mongo
    mongo.stop()


def test_store_that_is_away_is_not_waited_for_and_decides_when_it_is_back(tmp_path: Path, mongo: MongoServer) -> None:
    uri = f"{mongo.uri}/kqs?serverSelectionTimeoutMS=500"
    with serving(tmp_path, STORE__KIND="mongodb", STORE__URI=uri) as server:
        ask(server, "insert", JOB | {"id": "first", "unique": "k"})
        mongo.stop()
        with ThreadPoolExecutor(4) as pool:
            keyed = [pool.submit(ask, server, "insert", JOB | {"id": f"l{n}", "unique": "l"}) for n in range(3)]
            given = pool.submit(ask, server, "insert", JOB | {"id": "mine", "answer": "full"})
            for waiting_one in (*keyed, given):
                error = waiting_one.exception(WITHIN_S)
                assert isinstance(error, RefusedError)
                assert error.code == "timeout"
        assert ask(server, "insert", JOB | {"id": "plain"}) == "plain"
        mongo.start()
        assert ask(server, "insert", JOB | {"id": "mine", "answer": "full"}) == {"id": "mine", "created": False}
        joined = {ask(server, "insert", JOB | {"id": f"l{n}", "unique": "l"}) for n in range(3)}
        assert joined == {job_id for job_id in waiting(server) if job_id.startswith("l")}
        assert sorted(waiting(server))[0] == "first"
        assert len(waiting(server)) == 4


def test_kill_before_the_store_has_any_of_them_leaves_one_job_of_a_key(tmp_path: Path, mongo: MongoServer) -> None:
    settings = {"STORE__KIND": "mongodb", "STORE__URI": f"{mongo.uri}/kqs?serverSelectionTimeoutMS=500"}
    with serving(tmp_path, **settings) as server:
        ask(server, "insert", JOB | {"id": "before", "unique": "before"})
        mongo.stop()
        with peer_of(server) as peer:
            for number in range(10):
                peer.send("insert", JOB | {"id": f"k{number}", "unique": "k"})
                peer.send("insert", JOB | {"id": f"b{number}", "unique": "before"})
            assert peer.call("insert", JOB | {"id": "last"}) == "last"  # so all before are flushed
            server.stop(signal.SIGKILL)
    mongo.start()
    with serving(tmp_path, **settings) as server:
        assert waiting(server) == ["before", "k0", "last"]
        assert ask(server, "insert", JOB | {"id": "k5", "unique": "k"}) == "k0"


def test_server_that_stops_without_its_store_tells_who_waits(tmp_path: Path, mongo: MongoServer) -> None:
    settings = {"STORE__KIND": "mongodb", "STORE__URI": f"{mongo.uri}/kqs?serverSelectionTimeoutMS=300"}
    with serving(tmp_path, **settings) as server, peer_of(server) as peer:
        ask(server, "insert", JOB)
        mongo.stop()
        peer.send("insert", JOB | {"unique": "k"})
        assert ask(server, "insert", JOB | {"id": "last"}) == "last"
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(RefusedError) as caught:
            peer.receive()
        assert caught.value.code == "timeout"
        assert server.process.wait(WITHIN_S) == 0


def test_of_inserts_at_two_servers_of_a_store_one_makes_the_job(tmp_path: Path, mongo: MongoServer) -> None:
    settings = {"STORE__KIND": "mongodb", "STORE__URI": f"{mongo.uri}/kqs"}
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    with serving(folders[0], **settings) as one, serving(folders[1], **settings) as two:

        def insert(number: int) -> dict[str, Any]:
            answer: dict[str, Any] = ask(
                (one, two)[number % 2], "insert", JOB | {"unique": f"k{number // 20}", "answer": "full"}
            )
            return answer

        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(insert, range(100)))
        for key in range(5):
            of_key = answers[20 * key : 20 * key + 20]
            assert [answer["created"] for answer in of_key].count(True) == 1
            assert len({answer["id"] for answer in of_key}) == 1
        assert len(waiting(one)) == 5


def test_journal_of_a_dead_server_is_taken_over_and_its_keys_are_asked_for_anew(tmp_path: Path) -> None:
    dead, living = tmp_path / "dead", tmp_path / "living"
    dead.mkdir()
    living.mkdir()
    with serving(dead) as server:
        ask(server, "insert", JOB | {"id": "a", "unique": "k", "answer": "full"})
        ask(server, "insert", JOB | {"id": "b", "unique": "l", "on_conflict": "refuse", "answer": "full"})
        server.stop(signal.SIGKILL)
    with serving(living) as server:
        assert ask(server, "insert", JOB | {"id": "ours", "unique": "l"}) == "ours"
        command = ["journal", "replay", str(dead / "journal"), "--to", f"127.0.0.1:{server.port}", "--all", "--json"]
        done = subprocess.run([sys.executable, "-m", "kqs", *command], env=SERVE_ENVIRON, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert sorted(json.loads(line)["id"] for line in done.stdout.splitlines()) == ["a", "ours"]
        assert waiting(server) == ["ours", "a"]
