"""`kqs journal replay`: a dead server's journal, brought to another one by hand."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.asking import ask, until
from tests.support.mongodb import MongoServer, a_database, client_of
from tests.support.serving import SERVE, SERVE_ENVIRON, Served, serving

HANDLER = """
import os
import kqs

@kqs.handler("noted")
async def noted(data):
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(f"{data}\\n")
"""


def replay(journal: Path, to: Served | int, *options: str) -> subprocess.CompletedProcess[str]:
    port = to if isinstance(to, int) else to.port
    command = [sys.executable, "-m", "kqs", "journal", "replay", str(journal), "--to", f"127.0.0.1:{port}", *options]
    return subprocess.run(command, env=SERVE_ENVIRON, capture_output=True, text=True, timeout=60)


def noted(first: int, count: int) -> list[dict[str, object]]:
    return [{"type": "noted", "data": n} for n in range(first, first + count)]


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


@pytest.fixture
def mongo(tmp_path: Path) -> Iterator[MongoServer]:
    (tmp_path / "mongodb").mkdir()
    server = MongoServer(tmp_path / "mongodb")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Of a server that dies, and of one that lives."""
    folders = [tmp_path / name for name in ("dead", "alive")]
    for folder in folders:
        folder.mkdir()
        (folder / "jobs.py").write_text(HANDLER)
    return folders


def test_what_only_a_dead_servers_journal_holds_runs_elsewhere_and_nothing_twice(
    mongo: MongoServer, folders: list[Path], tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    environ = {**SERVE_ENVIRON, "NOTES": str(notes)}
    uri = a_database(f"{mongo.uri}/?serverSelectionTimeoutMS=1000")
    settings = {"STORE__KIND": "mongodb", "STORE__URI": uri, "WORKER__MODULES": '["jobs"]', "STORE__KEEP_SUCCESS_S": "0"}
    with serving(folders[0], SERVE, environ, **settings) as server:
        ask(server, "insert", noted(0, 20))
        until(server, journal_unfed_records=0, runs_done=20)
        journal = folders[0] / "journal"
        assert replay(journal, server).returncode == 75  # while it runs
        mongo.stop()
        ids = [
            ask(server, "insert", [job | {"delay": 0.01} for job in noted(20, 10)]),
            ask(server, "insert", [{"type": "noted", "data": 30, "delay": 3600}]),
        ]
        server.stop(signal.SIGKILL)
    before = bytes_in(journal)
    mongo.start()
    with serving(folders[1], SERVE, environ, **settings) as server:
        assert replay(journal, 1).returncode == 69
        assert [replay(journal, server).returncode for _ in range(2)] == [0, 0]
        until(server, runs_done=10, jobs_delayed=1, journal_unfed_records=0)
        assert ask(server, "job", ids[1][0])["state"] == "delayed"
        assert server.stop() == 0
    assert bytes_in(journal) == before
    assert sorted(map(int, notes.read_text().split())) == list(range(30))


def test_a_journal_moves_to_a_server_with_a_store_of_its_own(folders: list[Path], tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    environ = {**SERVE_ENVIRON, "NOTES": str(notes)}
    settings = {"WORKER__MODULES": '["jobs"]'}
    with serving(folders[0], SERVE, environ, WORKER__CONCURRENCY="0", **settings) as server:
        ask(server, "insert", noted(0, 1000))
        ids = [ask(server, "insert", job) for job in noted(1000, 3)]
        until(server, jobs_new=1003)
        server.stop()
    with serving(folders[1], SERVE, environ, **settings) as server:
        for _ in range(2):
            done = replay(folders[0] / "journal", server, "--all")
            assert (done.returncode, done.stdout) == (0, "1,003 inserted\n")
        until(server, jobs_success=1003, journal_unfed_records=0)
        assert ask(server, "job", ids[0])["data"] == 1000
    assert sorted(map(int, notes.read_text().split())) == list(range(1003))


def test_a_restored_database_is_refused_by_a_newer_journal_and_takes_it_by_replay(
    mongo: MongoServer, folders: list[Path], tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    environ = {**SERVE_ENVIRON, "NOTES": str(notes)}
    uri = a_database(mongo.uri)
    settings = {"STORE__KIND": "mongodb", "STORE__URI": uri, "WORKER__MODULES": '["jobs"]'}
    with serving(folders[0], SERVE, environ, **settings, WORKER__CONCURRENCY="0") as server:
        ask(server, "insert", noted(0, 20))
        until(server, jobs_new=20)
        assert server.stop() == 0
    with client_of(uri) as client:
        client.drop_database(client.get_default_database())
    with pytest.raises(AssertionError, match="restore both together"), serving(folders[0], SERVE, environ, **settings):
        pass
    old = (folders[0] / "journal").rename(folders[0] / "journal.old")
    with serving(folders[0], SERVE, environ, **settings) as server:
        assert replay(old, server, "--all").returncode == 0
        until(server, jobs_success=20)
    assert sorted(map(int, notes.read_text().split())) == list(range(20))


def test_a_server_that_cannot_take_them_is_told_once(folders: list[Path]) -> None:
    with serving(folders[0], WORKER__CONCURRENCY="0", WORKER__MODULES='["jobs"]') as server:
        ask(server, "insert", noted(0, 50))
        server.stop(signal.SIGKILL)
    with serving(folders[1], WORKER__MODULES='["jobs"]', JOURNAL__MIN_FREE_BYTES=str(2**50)) as server:
        done = replay(folders[0] / "journal", server)
    assert (done.returncode, done.stdout) == (75, "0 inserted\n")
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == ["not all were inserted", "no_space"]
