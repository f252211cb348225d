"""The journal or the store of a real server is taken away from under it: it says so, and answers for nothing that is gone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.asking import Peer, RefusedError, ask, eventually, peer_of, until, until_at_least, until_said
from tests.support.serving import SERVE, SERVE_ENVIRON, Served, free_port, serving


def remove_folder(journal: Path) -> None:
    shutil.rmtree(journal)


def rename_folder(journal: Path) -> None:
    journal.rename(journal.with_name("elsewhere"))


def replace_folder(journal: Path) -> None:
    rename_folder(journal)
    journal.mkdir(mode=0o700)


def remove_segments(journal: Path) -> None:
    for segment in journal.glob("*.kqj"):
        segment.unlink()


def replace_segments(journal: Path) -> None:
    for segment in journal.glob("*.kqj"):
        shutil.copy(segment, journal / "copy")
        (journal / "copy").rename(segment)


def answer(peer: Peer) -> str:
    try:
        peer.insert("echo")
    except RefusedError as refusal:
        return refusal.code
    return "taken"


@pytest.mark.parametrize("lose", [remove_folder, rename_folder, replace_folder, remove_segments, replace_segments])
@pytest.mark.parametrize("rate", ["one at a time", "many at once"])
def test_no_insert_is_answered_for_into_a_journal_that_is_gone(lose: Callable[[Path], None], rate: str, tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as peer:
        for _ in range(50):
            assert answer(peer) == "taken"
        lose(tmp_path / "journal")
        if rate == "one at a time":
            assert answer(peer) == "journal_failed"
        else:
            for _ in range(20):
                peer.send("insert", {"type": "echo"})
            for _ in range(20):
                with pytest.raises(RefusedError, match="journal_failed"):
                    peer.receive()
        health = peer.call("health")
        assert health["verdict"] == "failing"
        assert "was removed or replaced" in health["problems"][0]


def test_it_is_said_though_nobody_asks(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        remove_folder(tmp_path / "journal")
        until_said(server, "journal failed")
        assert server.stop() == 0


def test_a_folder_that_is_back_is_gone_on_with(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as peer:
        peer.insert("echo")
        rename_folder(tmp_path / "journal")
        assert answer(peer) == "journal_failed"
        (tmp_path / "elsewhere").rename(tmp_path / "journal")
        assert eventually(lambda: answer(peer), lambda seen: seen == "taken")
        assert peer.call("health")["verdict"] == "ok"
        done = until(server, jobs_success=2)["jobs_success"]
        assert server.stop() == 0
    with serving(tmp_path) as server:
        until(server, jobs_success=done)


def test_lost_segments_are_gone_on_from_when_the_store_has_their_jobs(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as peer:
        peer.insert("echo")
        remove_segments(tmp_path / "journal")
        assert answer(peer) == "journal_failed"
        eventually(lambda: answer(peer), lambda seen: seen == "taken")
        until(server, jobs_success=2)
        assert server.stop() == 0
    with serving(tmp_path) as server:
        until(server, jobs_success=2)


def test_an_emptied_segment_is_gone_on_from_when_the_store_has_its_jobs(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as peer:
        peer.insert("echo")
        os.truncate(tmp_path / "journal/000000000001.kqj", 0)
        until_said(server, "was cut short")
        eventually(lambda: answer(peer), lambda seen: seen == "taken")
        until(server, journal_unfed_records=0)
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    with serving(tmp_path) as server:
        until_at_least(server, jobs_success=2)  # the first one, and the one that was taken


def test_a_removed_lock_lets_no_second_server_in(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as peer:
        peer.insert("echo")
        (tmp_path / "journal/lock").unlink()
        second = subprocess.run(
            SERVE,
            cwd=tmp_path,
            env={**SERVE_ENVIRON, "KQS_SERVER__PORT": str(free_port())},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (second.returncode, second.stderr.count("\n")) == (75, 1), second.stderr
        assert "journal is in use by process" in second.stderr
        until_said(server, "lock was removed or replaced")
        eventually(lambda: answer(peer), lambda seen: seen == "taken")
        assert (tmp_path / "journal/lock").read_text() == f"{server.process.pid}\n"


@pytest.mark.parametrize("name", ["store.sqlite", "store.sqlite-wal"])
def test_a_store_that_is_taken_away_is_said_and_the_journal_keeps_its_jobs(name: str, tmp_path: Path) -> None:
    with serving(tmp_path, JOURNAL__SEGMENT_BYTES="1024") as server, peer_of(server) as peer:
        store = tmp_path / "journal" / name
        store.rename(store.with_name("aside"))
        for n in range(20):
            peer.insert("echo", f"{n}" + "x" * 500)
        health = eventually(lambda: peer.call("health"), lambda seen: bool(seen["problems"]))
        assert health["verdict"] == "degraded"
        assert f"{name} was removed or replaced" in health["problems"][0]
        assert ask(server, "stats")["journal_segments"] >= 10
        store.with_name("aside").rename(store)
        peer.insert("echo")
        eventually(lambda: peer.call("health")["verdict"], lambda seen: seen == "ok")
        eventually(lambda: peer.call("stats")["journal_segments"], lambda seen: seen == 1)


OWNERS_CALLS: dict[str, object] = {
    "suspend": "echo",
    "resume": "suspended",
    "limit": {"type": "echo", "rate": 5},
    "configure": {"type": "echo", "options": {"ttr": 5}},
    "subscribe": {"type": "echo", "subscriber": "other"},
    "unsubscribe": {"type": "a", "subscriber": "b"},
    "schedule": {"name": "hourly", "every": 3600, "job": {"type": "echo"}},
    "unschedule": "daily",
    "cancel": "delayed",
}


@pytest.mark.parametrize("lose", [remove_folder, rename_folder, replace_folder])
def test_nothing_is_answered_as_kept_that_a_start_would_not_find(lose: Callable[[Path], None], tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as peer:
        peer.call("suspend", "suspended")
        peer.call("subscribe", {"type": "a", "subscriber": "b"})
        peer.call("schedule", {"name": "daily", "every": 86400, "job": {"type": "echo"}})
        peer.call("insert", {"type": "nobody", "id": "delayed", "delay": 900})
        until(server, jobs_delayed=1)
        lose(tmp_path / "journal")
        for name, argument in OWNERS_CALLS.items():
            with pytest.raises(RefusedError) as refused:
                peer.call(name, argument)
            assert (name, refused.value.code) == (name, "busy")
        assert server.stop() == 0


def store_of(server: Served) -> Path:
    return server.log.parent / "journal/store.sqlite"


def remove_store(store: Path) -> None:
    store.rename(store.with_name("aside"))


def replace_store(store: Path) -> None:
    remove_store(store)
    shutil.copy(store.with_name("aside"), store)


def remove_wal(store: Path) -> None:
    remove_store(store.with_name("store.sqlite-wal"))


def empty_store(store: Path) -> None:
    os.truncate(store, 0)


def empty_wal(store: Path) -> None:
    os.truncate(store.with_name("store.sqlite-wal"), 0)


def reserved(peer: Peer) -> str:
    peer.insert("mail")
    (run,) = peer.call("reserve", {"types": ["mail"], "wait": 10})
    token: str = run["run"]
    # else the commit of the job may be under way when a file is lost: it makes one that was cut short as long as before
    eventually(lambda: peer.call("stats")["journal_unfed_records"], lambda count: count == 0)
    return token


@pytest.mark.parametrize("lose", [remove_store, replace_store, remove_wal, empty_store, empty_wal])
def test_health_says_that_the_store_was_taken_away_though_nothing_changes(lose: Callable[[Path], None], tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as peer:
        reserved(peer)
        assert peer.call("health")["problems"] == []
        lose(store_of(server))
        (problem,) = peer.call("health")["problems"]
        assert re.search(r"store's file .*store\.sqlite(-wal)? was (removed or replaced|cut short)", problem)
        with pytest.raises(RefusedError, match="busy"):
            peer.call("suspend", "echo")


@pytest.mark.parametrize("lose", [remove_store, replace_store, remove_wal, empty_store, empty_wal])
@pytest.mark.parametrize(
    ("name", "argument"),
    [("finish", {"report": "ok"}), ("finish", {"report": "fail"}), ("release", {}), ("touch", {"progress": 1})],
)
def test_no_report_is_answered_that_a_start_would_not_find(
    name: str, argument: dict[str, object], lose: Callable[[Path], None], tmp_path: Path
) -> None:
    with serving(tmp_path) as server, peer_of(server) as peer, peer_of(server) as other:
        token = reserved(peer)
        lose(store_of(server))
        peer.send(name, {"run": token} | argument)
        eventually(lambda: other.call("health")["problems"], lambda seen: "the store refuses" in str(seen))
        server.stop(signal.SIGKILL)
        with pytest.raises((EOFError, ConnectionError)):
            peer.receive()


def test_a_report_is_answered_when_the_store_is_back(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as peer, peer_of(server) as other:
        token = reserved(peer)
        remove_store(store_of(server))
        peer.send("finish", {"run": token, "report": "ok"})
        eventually(lambda: other.call("health")["problems"], lambda seen: "the store refuses" in str(seen))
        store_of(server).with_name("aside").rename(store_of(server))
        assert peer.receive() is True
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    with serving(tmp_path) as server:
        until(server, jobs_success=1)


def test_no_job_begins_whose_end_could_not_be_kept(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as peer:
        peer.insert("echo")
        until(server, jobs_success=1)
        remove_store(store_of(server))
        job_ids = [peer.insert("echo") for _ in range(20)]
        eventually(lambda: peer.call("health")["problems"], lambda seen: "the store refuses new jobs" in str(seen))
        store_of(server).with_name("aside").rename(store_of(server))
        until(server, jobs_success=21)
        assert all(peer.call("job", job_id)["runs"] for job_id in job_ids)


def lose_all(journal: Path) -> None:
    for path in journal.iterdir():
        if "sqlite" not in path.name:
            path.unlink()


@pytest.mark.parametrize("lose", [lose_all, remove_segments])
def test_a_store_goes_on_with_a_new_journal_in_place_of_its_lost_one(lose: Callable[[Path], None], tmp_path: Path) -> None:
    def kqs(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([*SERVE[:-1], *arguments], env=SERVE_ENVIRON, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout

    journal = tmp_path / "journal"
    with serving(tmp_path) as server:
        ask(server, "suspend", "echo")
        made = ask(server, "insert", {"type": "echo", "delay": 0.1})
        ask(server, "insert", [{"type": "echo", "id": "second"}, {"type": "echo", "id": "later", "delay": 3600}])
        until(server, journal_unfed_records=0)
        assert server.stop() == 0
    lose(journal)
    with pytest.raises(AssertionError, match=r"missing or older|no segment|belongs to journal"), serving(tmp_path):
        pass
    code, said = kqs("journal", "renew", str(journal))
    assert (code, "lost-1" in said) == (0, True)
    for life in range(2):
        with serving(tmp_path) as server:
            assert ask(server, "resume", "echo")["changed"] == (life == 0)
            until(server, jobs_success=2 + life)
            assert ask(server, "job", made)["state"] == "success"
            assert ask(server, "job", "later")["state"] == "delayed"
            assert ask(server, "insert", {"type": "echo", "id": f"new{life}"}) == f"new{life}"
            until(server, jobs_success=3 + life)
            assert (life == 0) == ("goes on with a new journal" in server.log.read_text())
            assert server.stop() == 0
    assert not (journal / "renewed").exists()
    assert kqs("journal", "verify", str(journal))[0] == 0
