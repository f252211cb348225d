"""Unique keys and full answers over a real server, in both dialects: one job waits of a key, and who inserted it is told."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import RefusedError, ask, peer_of
from tests.support.mongodb import a_database, mongodb
from tests.support.serving import Served, serving

#: no handler takes it
JOB = {"type": "mail"}


@pytest.fixture(scope="module", params=["sqlite", "mongodb"])
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | None]:
    if request.param == "sqlite":
        yield None
        return
    with mongodb(tmp_path_factory.mktemp("mongodb")) as uri:
        yield uri


@pytest.fixture
def settings(stores: str | None) -> dict[str, str]:
    return {} if stores is None else {"STORE__KIND": "mongodb", "STORE__URI": a_database(stores)}


@pytest.fixture
def served(tmp_path: Path, settings: dict[str, str]) -> Iterator[Served]:
    with serving(tmp_path, **settings) as running:
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
def test_what_fits_no_field_is_refused(served: Served, fields: dict[str, object], complaint: str) -> None:
    for job in (JOB | fields, [JOB | fields]):
        with pytest.raises(RefusedError, match=complaint) as caught:
            ask(served, "insert", job)
        assert caught.value.code == "bad_job"
    assert ask(served, "jobs") == []
