"""What owners do with their jobs, over a real server: cancel, retry, delete, purge, and look for them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import Peer, RefusedError, ask, eventually, peer_of, telling, until
from tests.support.serving import SERVE, Served, serving
from tests.support.wire_worker import working_at
from tests.support.working import working

CHORES = """
import asyncio
import threading
import time
from pathlib import Path

import kqs


@kqs.handler("sleep")
async def sleep(data):
    print("begun", flush=True)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("heard", flush=True)
        raise


@kqs.handler("thread")
def thread(data):
    print("begun", flush=True)
    while not Path(data).exists():
        time.sleep(0.01)
    return "late"


@kqs.handler("fail")
async def fail(data):
    raise kqs.Fail("no")


@kqs.handler("ok")
async def ok(data):
    return data
"""
COMMANDS = """
[types.sleeper]
command = ["sh", "-c", "echo $$ > pid; echo begun >&2; sleep 60"]
"""


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without jobs, for all tests that see that something is refused."""
    with serving(tmp_path_factory.mktemp("refusing"), WORKER__CONCURRENCY="0") as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server that runs nothing of its own."""
    with serving(tmp_path, WORKER__MODULES="[]", WORKER__CONCURRENCY="0") as server, telling(server):
        yield server


@pytest.fixture
def peer(server: Served) -> Iterator[Peer]:
    with peer_of(server) as peer:
        yield peer


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Served]:
    """A server with handlers."""
    (tmp_path / "chores.py").write_text(CHORES)
    with serving(tmp_path, WORKER__MODULES='["chores"]', WORKER__GRACE_S="0") as server, telling(server):
        yield server


def states(peer: Peer, ids: list[str]) -> list[str]:
    return [peer.call("job", job_id)["state"] for job_id in ids]


def refusal(peer: Peer, name: str, argument: object) -> tuple[str, str]:
    with pytest.raises(RefusedError) as refused:
        peer.call(name, argument)
    return refused.value.code, str(refused.value)


def test_waiting_jobs_are_cancelled_retried_and_deleted(peer: Peer) -> None:
    ids = peer.call("insert", [{"type": "mail"}, {"type": "mail", "delay": 60}, {"type": "mail", "id": "mine"}])
    assert peer.call("cancel", ids[0]) == {"count": 1, "ids": [ids[0]], "skipped": 0}
    assert peer.call("cancel", ids) == {"count": 2, "ids": ids[1:], "skipped": 0}
    assert states(peer, ids) == ["cancelled"] * 3
    assert peer.call("cancel", {"type": "mail"})["count"] == 0
    assert sorted(peer.call("retry", {"type": "mail"})["ids"]) == sorted(ids)
    assert states(peer, ids) == ["retry"] * 3
    assert peer.call("delete", {"ids": ids[:2]})["count"] == 2
    assert peer.call("delete", ids)["ids"] == ["mine"]
    assert peer.call("jobs") == []
    assert refusal(peer, "job", "mine")[0] == "not_found"
    assert peer.call("delete", "mine") == {"count": 0, "ids": [], "skipped": 0}


def test_journaled_jobs_are_changed_before_the_store_has_them(peer: Peer) -> None:
    for turn in range(30):
        peer.send("insert", [{"type": "mail"}] * (turn + 1))
        peer.send("delete", {"type": "mail"})
        answers = [peer.receive(), peer.receive()]
        (done,) = [answer for answer in answers if isinstance(answer, dict)]
        assert done["count"] == turn + 1
        assert peer.call("jobs", {"type": "mail"}) == []


def test_dry_run_tells_and_does_nothing(peer: Peer) -> None:
    ids = peer.call("insert", [{"type": "mail"}] * 3)
    for name in ("cancel", "delete"):
        assert peer.call(name, {"type": "mail", "dry_run": True})["count"] == 3
    assert peer.call("purge", {"type": "mail", "dry_run": True}) == 3
    assert states(peer, ids) == ["new"] * 3
    peer.call("cancel", {"all": True})
    assert peer.call("retry", {"all": True, "dry_run": True}) == {"count": 3, "ids": ids, "skipped": 0}
    assert states(peer, ids) == ["cancelled"] * 3


def test_purge_is_deletion_of_a_types_waiting_jobs(peer: Peer) -> None:
    peer.call("insert", [{"type": "mail", "data": n} for n in range(20)] + [{"type": "other"}, {"type": "mail", "delay": 9}])
    assert peer.call("purge", {"type": "mail", "regex": "^1"}) == 11
    assert peer.call("purge", {"type": "mail"}) == 10
    assert peer.call("purge", {"type": "mail"}) == 0
    assert [job["type"] for job in peer.call("jobs")] == ["other"]


def test_filters_name_the_jobs_that_are_meant(peer: Peer) -> None:
    ids = peer.call("insert", [{"type": "ab"[n % 2], "data": {"n": n}, "delay": 60 * (n // 4)} for n in range(8)])
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({"type": "a"}, [0, 2, 4, 6]),
        ({"state": "delayed"}, [4, 5, 6, 7]),
        ({"state": ["new", "delayed"], "type": "b"}, [1, 3, 5, 7]),
        ({"match": '"n": ?[37]'}, [3, 7]),
        ({"id": ids[2]}, [2]),
        ({"ids": [ids[1], ids[2], "none"], "type": "a"}, [2]),
        ({"older_than": 3600}, []),
        ({"older_than": 0}, list(range(8))),
        ({"resource": "r"}, []),
        ({"all": True}, list(range(8))),
    ]
    for wanted, numbers in cases:
        expected = [ids[number] for number in numbers]
        assert sorted(peer.call("delete", {**wanted, "dry_run": True})["ids"]) == expected, wanted
        wanted.pop("all", None)
        assert [job["id"] for job in peer.call("jobs", wanted)] == expected, wanted
        assert [job["id"] for job in peer.call("jobs", {**wanted, "newest": True})] == expected[::-1], wanted


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ({}, "all"),
        (None, "all"),
        ({"all": False}, "all"),
        ({"dry_run": True}, "all"),
        ({"typ": "a"}, "type"),
        ({"state": "gone"}, "state"),
        ({"state": []}, "state"),
        ({"match": "(a"}, "match: missing ): (a"),
        ({"match": "a" * 2000}, "match: expected at most"),
        ({"match": "(a{100}){9}"}, "match: too costly"),
        ({"match": 7}, "match"),
        ({"ids": ["a"] * 1001}, "ids"),
        ({"older_than": -1}, "older_than"),
        ({"older_than": "1"}, "older_than"),
        ([1], "argument"),
        ([["a"], 1], "ids"),
        (7, "argument"),
    ],
)
@pytest.mark.parametrize("name", ["cancel", "retry", "delete"])
def test_what_names_no_jobs_is_refused(refusing: Served, name: str, argument: object, told: str) -> None:
    with peer_of(refusing) as peer:
        code, message = refusal(peer, name, argument)
    assert code == "bad_call"
    assert told in message


def test_calls_by_position_are_understood(server: Served) -> None:
    (job_id,) = ask(server, "insert", [{"type": "mail"}])
    call = '{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}'
    answers = server.ask(
        call % ("cancel", f'["{job_id}"]'),
        call % ("retry", f'[{{"ids":["{job_id}"]}}]'),
        call % ("delete", f'[["{job_id}"]]'),
    )
    assert ['"count":1' in answer for answer in answers] == [True] * 3


def test_a_thousand_ids_fit_in_one_call(peer: Peer) -> None:
    ids = [f"{n}-" + "x" * 190 for n in range(1000)]
    peer.call("insert", [{"type": "mail", "id": job_id} for job_id in ids])
    done = peer.call("delete", ids)
    assert (done["count"], done["ids"], len(ids)) == (1000, ids[:100], 1000)


def test_retried_jobs_run_after_those_that_wait(peer: Peer, server: Served) -> None:
    first, second = peer.call("insert", [{"type": "mail", "retries": 0}, {"type": "mail"}])
    with working_at(server) as worker:
        (run,) = worker.reserve("mail")
        worker.call("finish", {"run": run["run"], "report": "fail", "reason": "oops"})
        failed = peer.call("job", first)
        assert (failed["state"], failed["error"]) == ("fail", "oops")
        peer.call("retry", first)
        (third,) = peer.call("insert", [{"type": "mail"}])
        order = []
        for _ in range(3):
            (run,) = worker.reserve("mail")
            worker.finish(run["run"])
            order.append(run["id"])
    assert order == [second, first, third]
    record = peer.call("job", first)
    assert [run["state"] for run in record["runs"]] == ["fail", "success"]
    assert record["accepted_at"] == failed["accepted_at"]


def test_jobs_that_wait_after_a_run_are_cancelled_too(peer: Peer, server: Served) -> None:
    ids = peer.call("insert", [{"type": "mail", "retry_delay": 60, "ghosts": 9}] * 3)
    with working_at(server) as worker:
        runs = worker.reserve("mail", count=3)
        while len(runs) < 3:
            runs += worker.reserve("mail", count=3)
        worker.call("finish", {"run": runs[0]["run"], "report": "fail", "reason": "oops"})
        worker.call("release", {"run": runs[1]["run"], "delay": 60})
    eventually(lambda: sorted(states(peer, ids)), lambda found: found == ["ghost", "retry", "retry"])
    assert peer.call("cancel", {"state": ["retry", "ghost"]})["count"] == 3
    records = [peer.call("job", job_id) for job_id in ids]
    assert {record["state"] for record in records} == {"cancelled"}
    assert sorted(record["runs"][-1]["state"] for record in records) == ["fail", "ghost", "interrupted"]
    peer.call("retry", ids)
    assert {tuple(record[name] for name in ("state", "failures", "ghosts", "interrupted")) for record in peer.call("jobs")} == {
        ("retry", 0, 0, 0)
    }


def test_a_client_that_goes_away_does_not_end_what_it_asked_for(server: Served, peer: Peer) -> None:
    peer.call("insert", [{"type": "mail"}] * 20_000)
    with peer_of(server) as other:
        other.send("purge", {"type": "mail"})
        eventually(lambda: peer.call("stats")["jobs_new"], lambda count: 0 < count < 20_000 or count == 0)
    until(server, jobs_new=0)


def begun(server: Served) -> None:
    eventually(server.log.read_text, lambda said: "begun" in said)


def test_cancelled_coroutine_hears_it_and_its_job_has_ended(running: Served) -> None:
    with peer_of(running) as peer:
        job_id = peer.insert("sleep")
        begun(running)
        assert peer.call("cancel", job_id)["count"] == 1
        record = eventually(lambda: peer.call("job", job_id), lambda record: record["state"] == "cancelled")
        assert (record["error"], record["cancel_at"]) == ("cancelled", None)
        assert [run["state"] for run in record["runs"]] == ["cancelled"]
        assert record["drop_at"] is None
    eventually(running.log.read_text, lambda said: "heard" in said)
    assert running.stop() == 0


def test_report_of_a_cancelled_thread_is_refused(running: Served, tmp_path: Path) -> None:
    with peer_of(running) as peer:
        job_id = peer.insert("thread", str(tmp_path / "go"))
        begun(running)
        peer.call("cancel", {"type": "thread"})
        eventually(lambda: peer.call("job", job_id)["state"], lambda state: state == "cancelled")
        (tmp_path / "go").touch()
        assert peer.call("insert", {"type": "ok", "id": "next"}) == "next"
        eventually(lambda: peer.call("job", "next")["state"], lambda state: state == "success")
        assert peer.call("job", job_id)["state"] == "cancelled"


def test_cancelled_command_is_killed(tmp_path: Path) -> None:
    (tmp_path / "kqs.toml").write_text(COMMANDS)
    with serving(tmp_path, (*SERVE, "--config", "kqs.toml")) as server, telling(server), peer_of(server) as peer:
        job_id = peer.insert("sleeper")
        pid = eventually(lambda: _pid(tmp_path / "pid"), bool)
        peer.call("cancel", job_id)
        eventually(lambda: Path(f"/proc/{pid}").exists(), lambda exists: not exists)
        eventually(lambda: peer.call("job", job_id)["state"], lambda state: state == "cancelled")


def _pid(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


def test_deletion_of_a_running_job_needs_force(running: Served) -> None:
    with peer_of(running) as peer:
        ids = [peer.insert("sleep"), peer.insert("sleep", delay=60)]
        begun(running)
        code, message = refusal(peer, "delete", ids[0])
        assert (code, ids[0] in message) == ("running", True)
        assert peer.call("delete", {"type": "sleep"}) == {"count": 1, "ids": [ids[1]], "skipped": 1}
        assert peer.call("delete", {"id": ids[0], "force": True}) == {"count": 1, "ids": [ids[0]], "skipped": 0}
        assert refusal(peer, "job", ids[0])[0] == "not_found"
        until(running, runs_stale=1)
    eventually(running.log.read_text, lambda said: "heard" in said)


def test_remote_worker_hears_of_it_at_once_and_with_its_next_touch(server: Served, peer: Peer) -> None:
    with working_at(server) as worker:
        ids = peer.call("insert", [{"type": "mail"}] * 2)
        standing = worker.send("work", {"types": ["mail"], "room": 5})
        runs = worker.next(standing)
        while len(runs) < 2:
            runs += worker.next(standing)
        assert peer.call("cancel", {"type": "mail"})["count"] == 2
        told = {worker.next(standing)["cancel"] for _ in runs}
        assert told == {run["run"] for run in runs}
        assert [touched["cancel"] for touched in worker.call("touch", [{"run": run["run"]} for run in runs])] == [True, True]
        records = [peer.call("job", job_id) for job_id in ids]
        assert {record["state"] for record in records} == {"processing"}
        assert all(record["cancel_at"] <= time.time() for record in records)
        assert peer.call("cancel", {"type": "mail"})["count"] == 0
        assert worker.finish(runs[0]["run"]) == [True]
        assert worker.call("finish", {"run": runs[1]["run"], "report": "fail", "reason": "stopped"}) is True
        assert states(peer, [run["id"] for run in runs]) == ["success", "cancelled"]
        assert peer.call("job", runs[1]["id"])["error"] == "stopped"


@pytest.mark.parametrize(
    "end", [{"report": "again"}, {"report": "fail"}, {"report": "fail", "final": True}, "release", "unbegun", "lost"]
)
def test_whatever_ends_a_cancelled_run_ends_its_job(server: Served, peer: Peer, end: Any) -> None:
    with working_at(server) as worker:
        (job_id,) = peer.call("insert", [{"type": "mail", "ghost_delay": 0}])
        (run,) = worker.reserve("mail")
        peer.call("cancel", job_id)
        if end == "release":
            assert worker.call("release", {"run": run["run"]}) is True
        elif end == "unbegun":
            assert worker.call("release", {"run": run["run"], "begun": False}) is True
        elif end != "lost":
            assert worker.call("finish", {"run": run["run"], **end}) is True
    record = eventually(lambda: peer.call("job", job_id), lambda record: record["state"] == "cancelled")
    assert [run["state"] for run in record["runs"]] == ([] if end == "unbegun" else ["cancelled"])


def test_run_of_a_job_that_was_deleted_by_force_is_told_and_its_report_is_stale(server: Served, peer: Peer) -> None:
    with working_at(server) as worker:
        peer.call("insert", [{"type": "mail"}])
        (run,) = worker.reserve("mail")
        assert peer.call("delete", {"all": True, "force": True})["count"] == 1
        assert worker.call("touch", {"run": run["run"]})["cancel"] is True
        assert worker.finish(run["run"]) == ["stale"]
        assert peer.call("jobs") == []


def test_worker_of_ours_ends_cancelled_runs_at_once(server: Served, peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "chores.py").write_text(CHORES)
    with working(tmp_path, server, "chores") as worker:
        job_id = peer.insert("sleep", ttr=600)
        eventually(worker.log.read_text, lambda said: "begun" in said)
        peer.call("cancel", job_id)
        eventually(lambda: peer.call("job", job_id)["state"], lambda state: state == "cancelled")
        eventually(worker.log.read_text, lambda said: "heard" in said)


def test_nothing_that_was_changed_comes_back_after_kill_9(tmp_path: Path) -> None:
    settings = {"WORKER__MODULES": "[]", "WORKER__CONCURRENCY": "0"}
    for turn in range(5):
        with serving(tmp_path, **settings) as server, peer_of(server) as peer:
            gone = peer.call("insert", [{"type": "gone"}] * 300)
            kept = peer.call("insert", [{"type": "kept"}] * 300)
            assert peer.call("cancel", {"type": "kept"})["count"] == 300
            assert (peer.call("purge", {"type": "gone"}) if turn % 2 else peer.call("delete", gone)["count"]) == 300
            server.stop(signal.SIGKILL)
        with serving(tmp_path, **settings) as server, peer_of(server) as peer:
            assert peer.call("jobs", {"type": "gone"}) == []
            assert set(states(peer, kept)) == {"cancelled"}
            assert peer.call("retry", {"type": "kept"})["count"] == 300
            server.stop(signal.SIGKILL)
        with serving(tmp_path, **settings) as server, peer_of(server) as peer:
            assert set(states(peer, kept)) == {"retry"}
            assert peer.call("delete", {"all": True})["count"] == 300
            assert peer.call("stats")["jobs_retry"] == 0


def test_a_kill_in_the_midst_leaves_what_was_done_and_a_second_call_goes_on(tmp_path: Path) -> None:
    settings = {"WORKER__MODULES": "[]", "WORKER__CONCURRENCY": "0"}
    count = 60_000
    with serving(tmp_path, **settings) as server, peer_of(server) as peer:
        for _ in range(count // 20_000):
            peer.call("insert", [{"type": "mail"}] * 20_000)
        until(server, jobs_new=count)
        threading.Timer(0.1, server.process.kill).start()
        with suppress(EOFError, OSError):
            peer.call("purge", {"type": "mail"})
        server.process.wait(30)
    with serving(tmp_path, **settings) as server, peer_of(server) as peer:
        left = peer.call("stats")["jobs_new"]
        assert peer.call("purge", {"type": "mail"}) == left
        assert peer.call("jobs") == []


def test_cancel_of_a_running_job_holds_over_kill_9(tmp_path: Path) -> None:
    with serving(tmp_path) as server, working_at(server) as worker, peer_of(server) as peer:
        (job_id,) = peer.call("insert", [{"type": "mail"}])
        worker.reserve("mail")
        peer.call("cancel", job_id)
        server.stop(signal.SIGKILL)
    with serving(tmp_path) as server, peer_of(server) as peer:
        record = peer.call("job", job_id)
        assert (record["state"], record["error"]) == ("cancelled", "the server died during the run")


def test_held_run_hears_after_a_restart_that_it_was_cancelled(tmp_path: Path) -> None:
    with serving(tmp_path) as server, working_at(server) as worker, peer_of(server) as peer:
        (job_id,) = peer.call("insert", [{"type": "mail"}])
        (run,) = worker.call("reserve", {"types": ["mail"], "wait": 9, "worker": "w", "hold": True})
        peer.call("cancel", job_id)
        server.stop(signal.SIGKILL)
    with serving(tmp_path) as server, working_at(server) as worker, peer_of(server) as peer:
        assert worker.call("touch", {"run": run["run"]})["cancel"] is True
        assert worker.call("release", {"run": run["run"]}) is True
        assert peer.call("job", job_id)["state"] == "cancelled"


@pytest.mark.parametrize("newest", [False, True])
def test_pages_go_on_exactly_where_the_last_one_ended(peer: Peer, newest: bool) -> None:
    ids = peer.call("insert", [{"type": "ab"[n % 2]} for n in range(500)])
    wanted = [job_id for n, job_id in enumerate(ids) if n % 2]
    found, cursor = [], ""
    while cursor is not None:
        page = peer.call("jobs", {"type": "b", "limit": 60, "cursor": cursor, "newest": newest})
        assert len(page["jobs"]) <= 60
        found += [job["id"] for job in page["jobs"]]
        cursor = page["cursor"]
    assert found == (wanted[::-1] if newest else wanted)
    found, after = [], {}
    while page := peer.call("jobs", {"type": "b", "limit": 60, "newest": newest, **after}):
        found += [job["id"] for job in page]
        after = {"after": found[-1]}
    assert found == (wanted[::-1] if newest else wanted)


def test_a_cursor_is_refused_that_is_none(peer: Peer) -> None:
    assert refusal(peer, "jobs", {"cursor": "x"})[0] == "bad_call"
    assert refusal(peer, "jobs", {"cursor": "", "after": "a"})[0] == "bad_call"
