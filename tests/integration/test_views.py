"""`explain`, `types`, `workers` and `stats` over TCP."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import Peer, RefusedError, ask, eventually, peer_of, until
from tests.support.mongodb import a_database
from tests.support.processes import having_children, pids
from tests.support.serving import Served, serving

SLEEPER = """
import asyncio
import kqs

@kqs.handler("sleep")
async def sleep(data):
    await asyncio.sleep(data)

@kqs.handler("fail")
async def fail(data):
    raise ValueError(data)
"""


@pytest.fixture(params=["sqlite", "mongodb"])
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    settings = {"WORKER__MODULES": '["sleeper"]', "WORKER__CONCURRENCY": "1", "TYPES__sleep": '{"weight":3}'}
    if request.param == "mongodb":
        uri: str = request.getfixturevalue("server_uri")
        settings |= {"STORE__KIND": "mongodb", "STORE__URI": a_database(uri)}
    with serving(tmp_path, **settings) as server:
        yield server


def reason(peer: Peer, job_id: str, wanted: str) -> dict[str, Any]:
    answer: dict[str, Any] = eventually(lambda: peer.call("explain", job_id), lambda answer: answer["reason"] == wanted)
    return answer


def test_each_reason_is_told_of_a_job_that_has_it(peer: Peer) -> None:
    running = peer.insert("sleep", 60)
    assert reason(peer, running, "running")["attempt"] == 1
    behind = [peer.insert("sleep", 0) for _ in range(3)]
    assert reason(peer, behind[2], "behind")["before"] == 2
    assert reason(peer, behind[0], "next")["text"].startswith("It is the next of its type")
    assert reason(peer, peer.insert("sleep", 0, prio="urgent"), "next")
    assert reason(peer, behind[0], "behind")["text"] == "1 job of its type comes before it."
    assert reason(peer, peer.insert("nobody"), "no_worker")
    assert reason(peer, peer.insert("sleep", 0, delay=1000), "not_due")["due_at"] > 0
    peer.call("suspend", "sleep")
    assert reason(peer, behind[1], "suspended")["suspended_at"] > 0
    assert peer.call("explain", {"id": running})["reason"] == "running"
    with pytest.raises(RefusedError, match="not_found"):
        peer.call("explain", "nobody")


def test_who_waits_for_a_resource_is_told_who_has_it(tmp_path: Path) -> None:
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    with serving(tmp_path, WORKER__MODULES='["sleeper"]') as server, peer_of(server) as peer:
        holder = peer.insert("sleep", 60, resource="disk")
        reason(peer, holder, "running")
        waiting = reason(peer, peer.insert("sleep", 0, resource="disk"), "resource")
        assert (waiting["holder"], waiting["resource"]) == (holder, "disk")
        reason(peer, peer.insert("sleep", 0, resource="net"), "success")
        line = peer.call("insert", [{"type": f"nobody {number}", "resource": "net"} for number in range(20)])
        until(server, journal_unfed_records=0)
        last = reason(peer, peer.insert("sleep", 0, resource="net"), "line")
        assert (last["turn"] in line, last["resource"]) == (True, "net")
        assert "no worker of this server takes" in last["text"]


def test_more_than_a_thousand_are_not_counted(peer: Peer) -> None:
    peer.insert("sleep", 60)
    many = peer.call("insert", [{"type": "sleep", "data": 0}] * 1500)
    assert reason(peer, many[-1], "behind")["text"] == "More than 1,000 jobs of its type come before it."
    assert peer.call("explain", many[1000])["before"] == 1000


def test_ends_and_retries_are_told_with_their_errors(peer: Peer) -> None:
    failed = reason(peer, peer.insert("fail", "boom", retries=0), "failed")
    assert failed["failures"] == 1
    assert "boom" in failed["error"]
    retried = reason(peer, peer.insert("fail", "boom", retry_delay=1000), "not_due")
    assert "it is tried again after 1 failure, the last one" in retried["text"]
    assert reason(peer, peer.insert("sleep", 0), "success")["ended_at"] > 0
    assert reason(peer, peer.insert("nobody", expire=0.2), "expired")


def test_types_tell_counts_rates_times_and_who_takes_them(peer: Peer, served: Served) -> None:
    peer.call("insert", [{"type": "sleep", "data": 0.01}] * 20)
    until(served, jobs_success=20)
    peer.insert("sleep", 60)
    until(served, running=1)
    peer.call("insert", [{"type": "sleep", "data": 60}, {"type": "sleep", "prio": 0, "delay": 1000}, {"type": "nobody"}])
    until(served, journal_unfed_records=0)
    peer.call("suspend", "quiet")
    fail, nobody, quiet, sleep = peer.call("types")
    assert [row["type"] for row in (fail, nobody, quiet, sleep)] == ["fail", "nobody", "quiet", "sleep"]
    assert sleep["counts"] == {"new": 1, "delayed": 1, "processing": 1, "success": 20}
    assert 0 <= sleep["oldest_s"] < 60
    assert sleep["in_per_s"][0] > sleep["out_per_s"][0] > 0
    assert 0.01 <= sleep["run_s"]["p50"] < 1
    assert sleep["wait_s"]["p99"] >= sleep["wait_s"]["p50"] > 0
    assert (sleep["limits"], sleep["workers_count"], len(sleep["workers"])) == ({"weight": 3}, 1, 1)
    assert (nobody["counts"], nobody["workers"], nobody["run_s"]) == ({"new": 1}, [], None)
    assert (quiet["counts"], quiet["suspended_at"] > 0) == ({}, True)
    assert (fail["counts"], fail["oldest_s"], fail["suspended_at"]) == ({}, None, None)
    assert [row["type"] for row in peer.call("types", {"limit": 2, "after": "fail"})] == ["nobody", "quiet"]
    assert [row["type"] for row in peer.call("types", {"type": "quiet"})] == ["quiet"]
    assert peer.call("types", {"type": "other"}) == []
    with pytest.raises(RefusedError, match="bad_call"):
        peer.call("types", {"limit": 1001})


def test_many_types_come_in_pages(peer: Peer, served: Served) -> None:
    peer.call("insert", [{"type": f"t{number:04}", "delay": 1000} for number in range(1100)])
    until(served, jobs_delayed=1100)
    seen: list[str] = []
    while page := peer.call("types", {"limit": 1000, "after": seen[-1] if seen else None}):
        seen += [row["type"] for row in page]
    assert seen == ["fail", "sleep", *(f"t{number:04}" for number in range(1100))]


def test_workers_are_the_server_and_who_has_asked_for_jobs(peer: Peer, served: Served) -> None:
    (own,) = peer.call("workers")
    assert own == own | {"kind": "server", "address": None, "types": ["fail", "sleep"], "types_count": 2, "room": 1, "open": 0}
    with peer_of(served) as other:
        other.send("work", {"types": ["mail", "video"], "room": 5, "worker": "w:1"})
        peer.call("insert", [{"type": "mail"}] * 3)
        given: list[dict[str, Any]] = []
        while len(given) < 3:
            given += other.receive()
        with peer_of(served) as third:
            third.call("finish", {"run": given[0]["run"], "report": "ok"})
            third.call("finish", {"run": given[1]["run"], "report": "fail", "reason": "no"})
        _, remote = peer.call("workers")
        assert remote["address"].startswith("127.0.0.1:")
        assert remote["since"] >= own["since"]
        wanted = {"name": "w:1", "kind": "remote", "types": ["mail", "video"], "room": 4, "open": 1, "done": 2, "failed": 1}
        assert remote.items() >= wanted.items()
    eventually(lambda: peer.call("workers"), lambda workers: len(workers) == 1)


def test_a_worker_that_is_away_with_held_runs_is_told(peer: Peer, served: Served) -> None:
    with peer_of(served) as other:
        peer.insert("mail", ttr=600)
        assert other.call("reserve", {"types": ["mail"], "wait": 10, "worker": "w:1", "hold": True})
    workers = eventually(lambda: peer.call("workers"), lambda workers: workers[-1]["kind"] == "away")
    assert workers[-1].items() >= {"name": "w:1", "types": ["mail"], "open": 1, "room": 0, "address": None}.items()


def test_children_are_workers_of_their_own(tmp_path: Path) -> None:
    with having_children(tmp_path, 2) as server, peer_of(server) as peer:
        peer.call("insert", [{"type": "double", "data": 1}] * 20)
        until(server, jobs_success=20)
        workers = peer.call("workers")
        assert [worker["kind"] for worker in workers] == ["child", "child"]
        assert {int(worker["name"].rpartition(":")[2]) for worker in workers} == set(pids(server))
        assert sum(worker["done"] for worker in workers) == 20
        (double,) = peer.call("types", {"type": "double"})
        assert double["workers_count"] == 2


def test_stats_have_the_names_of_older_systems(peer: Peer, served: Served) -> None:
    peer.call("insert", [{"type": "later", "delay": 60}] * 3)
    with pytest.raises(RefusedError):
        peer.call("nope")
    stats = peer.call("stats")
    assert (stats["jobCount"], stats["errorCount"], stats["process"]) == (3, 1, served.process.pid)
    assert stats["callCount"] == stats["calls"] >= 2
    assert all(isinstance(value, int | float) for value in stats.values())


def test_a_job_that_is_journaled_only_is_told_of(tmp_path: Path) -> None:
    settings = {"STORE__KIND": "mongodb", "STORE__URI": "mongodb://127.0.0.1:1/kqs?serverSelectionTimeoutMS=200"}
    with serving(tmp_path, **settings) as server:
        made, given = ask(server, "insert", [{"type": "ping"}, {"type": "ping", "id": "mine"}])
        answer = ask(server, "explain", made)
        assert (answer["id"], answer["reason"], answer["state"]) == (made, "journaled", None)
        for job_id in (given, "nobody", "fffffffffffff" + made[13:]):
            with pytest.raises(RefusedError, match="busy"):
                ask(server, "explain", job_id)
        assert [worker["kind"] for worker in ask(server, "workers")] == ["server"]
        with pytest.raises(RefusedError, match="busy"):
            ask(server, "types")
        server.stop(signal.SIGKILL)


def test_answers_are_no_longer_where_there_are_a_great_many_jobs(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as peer:
        for _ in range(4):
            jobs = [{"type": f"t{number % 50}", "prio": number % 7, "delay": number % 2 * 1000} for number in range(5000)]
            peer.call("insert", jobs)
        until(server, journal_unfed_records=0, jobs_new=10_000, jobs_delayed=10_000)
        for name in ("types", "workers", "stats"):
            assert len(json.dumps(peer.call(name))) < 100_000
