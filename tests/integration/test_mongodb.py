"""`kqs serve` on MongoDB: one server and several."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from kqs.store.mongo.documents import Place
from tests.support.asking import RefusedError, ask, eventually, until
from tests.support.mongodb import MongoServer, a_database, client_of
from tests.support.serving import serving

SLOW = """
import asyncio
import kqs

@kqs.handler("slow", ghosts=3, ghost_delay=0)
async def slow(data, job):
    await asyncio.sleep(data if job.attempt == 1 else 0)
"""


@pytest.fixture
def settings(server_uri: str) -> dict[str, str]:
    return {"STORE__KIND": "mongodb", "STORE__URI": a_database(server_uri)}


def some_pings(count: int) -> list[dict[str, object]]:
    return [{"type": "ping", "data": n} for n in range(count)]


def test_jobs_inserted_over_tcp_run_to_a_stored_finish(tmp_path: Path, settings: dict[str, str]) -> None:
    with serving(tmp_path, **settings) as server:
        ids = ask(server, "insert", some_pings(100))
        until(server, jobs_success=100)
        record = ask(server, "job", ids[42])
        assert (record["state"], record["data"], record["failures"]) == ("success", 42, 0)
        assert server.stop() == 0


def test_after_kill_9_every_accepted_job_runs_once_more_at_most(tmp_path: Path, settings: dict[str, str]) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    settings |= {"WORKER__MODULES": '["kqs.builtin", "slow"]', "WORKER__CONCURRENCY": "20"}
    with serving(tmp_path, **settings) as server:
        slow = ask(server, "insert", [{"type": "slow", "data": 0.2} for _ in range(10)])
        ask(server, "insert", some_pings(200))
        until(server, journal_unfed_records=0)
        ask(server, "insert", some_pings(200))
        server.stop(signal.SIGKILL)
    with serving(tmp_path, **settings) as server:
        until(server, jobs_success=410)
        records = [ask(server, "job", job_id) for job_id in slow]
        assert all(record["attempt"] == len(record["runs"]) <= 2 for record in records)


def test_inserts_go_on_while_mongodb_is_away(tmp_path: Path) -> None:
    (tmp_path / "mongodb").mkdir()
    mongo = MongoServer(tmp_path / "mongodb")
    mongo.start()
    try:
        settings = {"STORE__KIND": "mongodb", "STORE__URI": f"{mongo.uri}/kqs?serverSelectionTimeoutMS=1500"}
        with serving(tmp_path, **settings) as server:
            ask(server, "insert", some_pings(10))
            until(server, jobs_success=10)
            mongo.stop()
            for _ in range(3):
                ask(server, "insert", some_pings(10))
            health = ask(server, "health")
            assert not health["ok"]
            mongo.start()
            until(server, jobs_success=40)
    finally:
        mongo.stop()


def test_a_run_that_ends_while_mongodb_is_away_is_reported_when_it_is_back(tmp_path: Path) -> None:
    (tmp_path / "mongodb").mkdir()
    (tmp_path / "slow.py").write_text(SLOW)
    mongo = MongoServer(tmp_path / "mongodb")
    mongo.start()
    try:
        uri = f"{mongo.uri}/kqs?serverSelectionTimeoutMS=500"
        with serving(tmp_path, STORE__KIND="mongodb", STORE__URI=uri, WORKER__MODULES='["slow"]') as server:
            job_id = ask(server, "insert", {"type": "slow", "data": 2})
            until(server, jobs_processing=1)
            mongo.stop()
            eventually(lambda: ask(server, "health"), lambda health: "the store refuses reports" in str(health["problems"]))
            mongo.start()
            until(server, jobs_success=1)
            record = ask(server, "job", job_id)
            assert [run["state"] for run in record["runs"]] == ["success"]
            eventually(lambda: ask(server, "health"), lambda health: health["ok"])
    finally:
        mongo.stop()


def test_a_server_starts_without_mongodb_and_goes_on_when_it_comes(tmp_path: Path) -> None:
    (tmp_path / "mongodb").mkdir()
    mongo = MongoServer(tmp_path / "mongodb")
    settings = {"STORE__KIND": "mongodb", "STORE__URI": f"{mongo.uri}/kqs?serverSelectionTimeoutMS=500"}
    with serving(tmp_path, **settings) as server:
        ids = [ask(server, "insert", some_pings(10)) for _ in range(3)]
        health = ask(server, "health")
        assert health["verdict"] == "degraded"
        assert health["problems"][0].startswith("the store is not there yet, new jobs wait in the journal: MongoDB is away")
        server.stop(signal.SIGKILL)
    with serving(tmp_path, **settings) as server:
        ids.append(ask(server, "insert", some_pings(10)))
        try:
            mongo.start()
            until(server, jobs_success=40, journal_unfed_records=0)
            assert ask(server, "health") == {"ok": True, "verdict": "ok", "problems": [], "notes": []}
            assert all(ask(server, "job", job_id)["attempt"] == 1 for some in ids for job_id in some)
            assert server.stop() == 0
        finally:
            mongo.stop()


@pytest.mark.parametrize("broker", ["memory", "beanstalkd"])
def test_a_server_that_waits_for_mongodb_stops_in_good_order(tmp_path: Path, broker: str) -> None:
    settings = {"STORE__KIND": "mongodb", "STORE__URI": "mongodb://127.0.0.1:1/kqs?serverSelectionTimeoutMS=200"}
    settings |= {"BROKER__KIND": broker, "BROKER__SERVERS": '["127.0.0.1:1"]'}
    with serving(tmp_path, **settings) as server:
        assert ask(server, "health")["verdict"] == "degraded"
        job_id = ask(server, "insert", {"type": "ping"})
        with pytest.raises(RefusedError, match="busy"):
            ask(server, "job", job_id)
        assert server.stop() == 0


@pytest.mark.parametrize("is_there", [True, False])
def test_a_newer_database_ends_the_server_untouched(tmp_path: Path, is_there: bool) -> None:
    (tmp_path / "mongodb").mkdir()
    mongo = MongoServer(tmp_path / "mongodb")
    newer = {"_id": "kqs", "schema": 99, "epoch": 7}
    settings = {"STORE__KIND": "mongodb", "STORE__URI": f"{mongo.uri}/kqs?serverSelectionTimeoutMS=500"}
    try:
        mongo.start()
        with client_of(mongo.uri) as client:
            client.kqs.meta.insert_one(newer)
            if is_there:
                with pytest.raises(AssertionError, match="the server ended"), serving(tmp_path, **settings):
                    pass
            else:
                mongo.stop()
                with serving(tmp_path, **settings) as server:
                    ask(server, "insert", {"type": "ping"})
                    mongo.start()
                    assert server.process.wait(30) == 65
            assert "of version 99" in next(tmp_path.glob("server-*.log")).read_text()
            assert client.kqs.list_collection_names() == ["meta"]
            assert list(client.kqs.meta.find()) == [newer]
    finally:
        mongo.stop()


def test_any_server_runs_what_any_accepted(tmp_path: Path, settings: dict[str, str]) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    with serving(folders[0], **settings, WORKER__CONCURRENCY="0") as accepts, serving(folders[1], **settings) as runs:
        job_id = ask(accepts, "insert", {"type": "ping", "data": 1})
        until(runs, jobs_success=1)
        record = ask(accepts, "job", job_id)
        assert record["state"] == "success"


def test_a_job_whose_claim_was_taken_back_begins_soon(tmp_path: Path, settings: dict[str, str]) -> None:
    with serving(tmp_path, **settings) as server, client_of(settings["STORE__URI"]) as client:
        job_id = ask(server, "insert", {"type": "ping", "delay": 3600})
        until(server, jobs_delayed=1)
        taken_back = {"$set": {"place": int(Place.LATER), "wake_at": 0.0}, "$unset": {"due_at": ""}}
        assert client.get_default_database()["jobs"].update_one({"_id": job_id}, taken_back).matched_count == 1
        assert ask(server, "job", {"id": job_id, "wait": 20})["state"] == "success"


@pytest.mark.slow
def test_jobs_of_a_killed_and_of_a_cut_off_server_go_on_elsewhere(tmp_path: Path, settings: dict[str, str]) -> None:
    folders = [tmp_path / name for name in ("dies", "hangs", "lives")]
    for folder in folders:
        folder.mkdir()
        (folder / "slow.py").write_text(SLOW)
    settings |= {"WORKER__MODULES": '["slow"]'}
    with (
        serving(folders[0], **settings) as dies,
        serving(folders[1], **settings) as hangs,
        serving(folders[2], **settings) as lives,
    ):
        lost = ask(dies, "insert", {"type": "slow", "data": 600, "ttr": 900})
        held = ask(hangs, "insert", {"type": "slow", "data": 40, "ttr": 900})
        ask(dies, "insert", {"type": "slow", "data": 0, "delay": 8})
        until(lives, jobs_processing=2, jobs_delayed=1)
        dies.stop(signal.SIGKILL)
        hangs.process.send_signal(signal.SIGSTOP)
        until(lives, within_s=75, jobs_success=3)
        hangs.process.send_signal(signal.SIGCONT)
        until(hangs, runs_stale=1)
        for job_id in (lost, held):
            record = ask(hangs, "job", job_id)
            assert [run["state"] for run in record["runs"]] == ["ghost", "success"]
