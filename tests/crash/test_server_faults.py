"""A real server under load whose disk, store, descriptors or handlers fail: what it says, what it keeps, how it comes back."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import WITHIN_S, Peer, RefusedError, ask, eventually, peer_of, until, until_said
from tests.support.disks import Disk, small_disk
from tests.support.serving import SERVE, SERVE_ENVIRON, Served, free_port, serving

MIB = 1 << 20
HANDLERS = """
import asyncio
import os
import time
import kqs

@kqs.handler("later")
async def later(data):
    return data

@kqs.handler("gated")
async def gated(data):
    while not os.path.exists("gate"):
        await asyncio.sleep(0.02)

@kqs.handler("stuck")
def stuck(data):
    time.sleep(600)

@kqs.handler("exits")
async def exits(data):
    raise SystemExit(3)

@kqs.handler("exits-in-thread")
def exits_in_thread(data):
    raise SystemExit(3)

@kqs.handler("leaks")
async def leaks(data):
    for _ in range(100):
        asyncio.get_running_loop().create_task(asyncio.sleep(600))

@kqs.handler("hogs")
async def hogs(data):
    time.sleep(2)

@kqs.handler("deaf")
async def deaf(data):
    print("deaf begun", flush=True)
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

@kqs.handler("dies-once")
async def dies_once(data, job):
    if job.attempt == 1:
        os._exit(9)
"""


@pytest.fixture(autouse=True)
def handlers(tmp_path: Path) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path, 96 * MIB) as disk:
        yield disk


def on_disk(disk: Disk, **settings: str) -> dict[str, str]:
    """Return the settings of a server that keeps its journal on the disk."""
    return {"JOURNAL__DIR": str(disk.path), "JOURNAL__SEGMENT_BYTES": str(MIB), "WORKER__MODULES": '["handlers"]', **settings}


def insert_until_refused(peer: Peer, type_: str, data: object = None) -> tuple[list[str], str]:
    """Return the ids that were answered, and the code of the refusal."""
    ids: list[str] = []
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        try:
            ids.append(peer.insert(type_, data))
        except RefusedError as refusal:
            return ids, refusal.code
    raise AssertionError(f"none of {len(ids)} inserts was refused")


def insert_when_taken(peer: Peer, type_: str, data: object = None) -> str:
    """Insert again and again until it is taken, as a client would."""

    def attempt() -> str | None:
        try:
            return peer.insert(type_, data)
        except RefusedError:
            return None

    job_id = eventually(attempt, lambda seen: seen is not None)
    assert job_id is not None
    return job_id


def lost(server: Served, ids: list[str], state: str = "success") -> list[str]:
    """Return the ids of those that are not in `state`."""
    with peer_of(server) as peer:
        return [job_id for job_id in ids if peer.call("job", job_id)["state"] != state]


def run_kqs(folder: Path, *args: str, **settings: str) -> subprocess.CompletedProcess[str]:
    variables = {f"KQS_{key}": value for key, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "kqs", *args],
        cwd=folder,
        env={**SERVE_ENVIRON, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_nearly_full_disk_refuses_inserts_while_runs_go_on_until_there_is_room(tmp_path: Path, disk: Disk) -> None:
    settings = on_disk(disk, JOURNAL__MIN_FREE_BYTES=str(40 * MIB))
    with serving(tmp_path, disk.command(tmp_path), **settings) as server, peer_of(server) as peer:
        running = [peer.insert("gated") for _ in range(10)]
        disk.fill(leave_bytes=36 * MIB)
        assert insert_until_refused(peer, "later")[1] == "no_space"
        health = peer.call("health")
        assert (health["ok"], health["verdict"]) == (False, "failing")
        assert "free on the journal's disk" in health["problems"][0]
        (tmp_path / "gate").touch()
        eventually(lambda: lost(server, running), lambda seen: seen == [])
        disk.relieve()
        taken = insert_when_taken(peer, "later")
        assert peer.call("health")["verdict"] == "ok"
        eventually(lambda: lost(server, [taken]), lambda seen: seen == [])


def test_a_full_disk_loses_nothing_and_is_recovered_from_alone(tmp_path: Path, disk: Disk) -> None:
    settings = on_disk(disk, JOURNAL__MIN_FREE_BYTES="0")
    with serving(tmp_path, disk.command(tmp_path), **settings) as server, peer_of(server) as peer:
        kept = [peer.insert("later", "x" * 1000) for _ in range(50)]
        disk.fill()
        more, code = insert_until_refused(peer, "later", "x" * 20_000)
        assert code in ("journal_failed", "no_space")
        assert peer.call("health")["verdict"] == "failing"
        assert peer.call("ping") == "pong"
        disk.relieve()
        kept += [*more, insert_when_taken(peer, "later")]
        eventually(lambda: lost(server, kept), lambda seen: seen == [])
        server.stop(signal.SIGKILL)
    with serving(tmp_path, disk.command(tmp_path), **settings) as server:
        assert lost(server, kept) == []


def test_a_full_disk_gets_back_what_the_store_has(tmp_path: Path, disk: Disk) -> None:
    settings = on_disk(disk, JOURNAL__MIN_FREE_BYTES="0")
    with serving(tmp_path, disk.command(tmp_path), **settings) as server, peer_of(server) as peer:
        for _ in range(50):
            peer.insert("gated", "x" * 50_000)
        eventually(lambda: peer.call("stats")["journal_unfed_records"], lambda seen: seen == 0)
        disk.fill()
        eventually(lambda: peer.call("stats")["journal_segments"], lambda seen: seen == 1)
        assert disk.free_bytes() >= MIB


def test_a_full_disk_does_not_hold_up_the_stop(tmp_path: Path, disk: Disk) -> None:
    settings = on_disk(disk, JOURNAL__MIN_FREE_BYTES="0", WORKER__GRACE_S="0.1")
    with serving(tmp_path, disk.command(tmp_path), **settings) as server, peer_of(server) as peer:
        kept = [peer.insert("gated", "x" * 20_000) for _ in range(20)]
        disk.fill()
        more, _ = insert_until_refused(peer, "gated", "x" * 20_000)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15
    disk.relieve()
    (tmp_path / "gate").touch()
    with serving(tmp_path, disk.command(tmp_path), **settings) as server:
        eventually(lambda: lost(server, kept + more), lambda seen: seen == [])


def test_a_nearly_full_disk_at_the_start_is_started_on_and_takes_no_insert(tmp_path: Path, disk: Disk) -> None:
    disk.fill(MIB // 2)
    with serving(tmp_path, disk.command(tmp_path), **on_disk(disk)) as server, peer_of(server) as peer:
        assert insert_until_refused(peer, "later") == ([], "no_space")
        assert "free on the journal's disk" in peer.call("health")["problems"][0]


def test_a_full_disk_at_the_first_start_is_one_clear_line(tmp_path: Path, disk: Disk) -> None:
    settings = {f"KQS_{key}": value for key, value in (on_disk(disk) | {"SERVER__PORT": str(free_port())}).items()}
    disk.fill()
    ended = subprocess.run(
        disk.command(tmp_path), env=SERVE_ENVIRON | settings, capture_output=True, text=True, timeout=30, check=False
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (74, 1), ended.stderr
    assert "no space left" in ended.stderr
    assert not list(disk.seen.glob("*.kqj*"))


def test_files_that_may_not_grow_refuse_inserts_until_they_may(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__MODULES='["handlers"]') as server, peer_of(server) as peer:
        kept = [peer.insert("later", "x" * 1000) for _ in range(20)]
        _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (65536, hard))
        more, code = insert_until_refused(peer, "later", "x" * 1000)
        assert code == "journal_failed"
        assert peer.call("health")["verdict"] == "failing"
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        kept += [*more, insert_when_taken(peer, "later")]
        eventually(lambda: lost(server, kept), lambda seen: seen == [])
        assert server.stop() == 0


def test_a_log_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    command = ["sh", "-c", 'exec "$@" >/dev/full 2>&1', "sh", *SERVE]
    with serving(tmp_path, command, WORKER__MODULES='["handlers"]') as server:
        job_id = ask(server, "insert", {"type": "exits", "retries": 0})
        eventually(lambda: lost(server, [job_id], "fail"), lambda seen: seen == [])
        assert server.stop() == 0


def test_a_store_that_refuses_delays_jobs_but_no_insert(tmp_path: Path, disk: Disk) -> None:
    settings = {"STORE__URI": str(disk.path / "store.sqlite"), "WORKER__MODULES": '["handlers"]'}
    with serving(tmp_path, disk.command(tmp_path), **settings) as server, peer_of(server) as peer, peer_of(server) as other:
        disk.fill()
        began = time.monotonic()
        ids = [peer.insert("later", "x" * 50_000) for _ in range(100)]
        assert time.monotonic() - began < 15
        health = eventually(lambda: peer.call("health"), lambda seen: bool(seen["problems"]))
        assert health["verdict"] == "degraded"
        assert "database or disk is full" in health["problems"][0]
        other.send("job", ids[-1])
        disk.relieve()
        assert other.receive()["id"] == ids[-1]
        eventually(lambda: lost(server, ids), lambda seen: seen == [])
        assert peer.call("health")["verdict"] == "ok"


def test_a_job_that_the_store_does_not_take_is_not_waited_for_for_ever(tmp_path: Path, disk: Disk) -> None:
    settings = {"STORE__URI": str(disk.path / "store.sqlite"), "WORKER__MODULES": '["handlers"]'}
    with serving(tmp_path, disk.command(tmp_path), **settings) as server, peer_of(server) as peer, peer_of(server) as other:
        disk.fill()
        ids = [peer.insert("later", "x" * 50_000) for _ in range(100)]
        other.send("jobs", {})
        asked: list[Callable[[], object]] = [lambda: peer.call("job", ids[-1]), other.receive]
        for one in asked:
            with pytest.raises(RefusedError) as refused:
                one()
            assert refused.value.code == "busy"
        assert server.stop() == 0
    disk.relieve()
    with serving(tmp_path, disk.command(tmp_path), **settings) as server:
        eventually(lambda: lost(server, ids), lambda seen: seen == [])


def test_nobody_can_lock_the_store_of_a_running_server(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__MODULES='["handlers"]') as server:
        with (
            sqlite3.connect(tmp_path / "journal/store.sqlite", timeout=0.1) as intruder,
            pytest.raises(sqlite3.Error, match="lock"),
        ):
            intruder.execute("begin exclusive")
        intruder.close()
        job_id = ask(server, "insert", {"type": "later"})
        eventually(lambda: lost(server, [job_id]), lambda seen: seen == [])


def test_a_store_locked_at_the_start_is_one_clear_line(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        ask(server, "insert", {"type": "later"})
        server.stop()
    with closing(sqlite3.connect(tmp_path / "journal/store.sqlite", isolation_level=None)) as intruder:
        intruder.execute("begin exclusive")
        ended = run_kqs(tmp_path, "serve", SERVER__PORT="0")
    assert (ended.returncode, ended.stderr.count("\n")) == (74, 1), ended.stderr
    assert "locked" in ended.stderr
    with serving(tmp_path, WORKER__MODULES='["handlers"]') as server:
        until(server, jobs_success=1)


def test_a_store_overwritten_while_in_use_ends_the_server_and_leaves_the_journal(tmp_path: Path) -> None:
    settings = {"STORE__CACHE_BYTES": str(MIB), "BROKER__MAX_ENTRIES": "100", "WORKER__CONCURRENCY": "1"}
    with serving(tmp_path, WORKER__MODULES='["handlers"]', **settings) as server, peer_of(server) as peer:
        ids = []
        for _ in range(20):
            ids += peer.call("insert", [{"type": "gated", "data": "x" * 200} for _ in range(1000)])
        until(server, journal_unfed_records=0)
        (tmp_path / "gate").touch()
        assert eventually(lambda: overwrite(tmp_path / "journal/store.sqlite", server), lambda seen: seen is not None) == 65
        assert "the store is damaged" in server.log.read_text()
    ended = run_kqs(tmp_path, "serve", SERVER__PORT="0")
    assert (ended.returncode, ended.stderr.count("\n")) == (65, 1), ended.stderr
    assert "store" in ended.stderr
    assert run_kqs(tmp_path, "journal", "dump", "journal").stdout.count("gated") >= len(ids)


FAILING = """
import os
import sqlite3

class FailingConnection(sqlite3.Connection):
    def execute(self, sql, *values):
        if sql == "commit" and os.path.exists("fault"):
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = getattr(sqlite3, open("fault").read())
            os.unlink("fault")
            raise error
        return super().execute(sql, *values)

connect = sqlite3.connect
sqlite3.connect = lambda *args, **settings: connect(*args, factory=FailingConnection, **settings)
"""


@pytest.fixture
def failing(tmp_path: Path) -> dict[str, str]:
    """Settings of a server, the next commit of whose store fails with the error that the file `fault` names."""
    (tmp_path / "failing.py").write_text(FAILING)
    return {"WORKER__MODULES": '["failing", "handlers"]'}


def test_a_flush_that_fails_ends_the_server_in_one_line_and_a_restart_goes_on(tmp_path: Path, failing: dict[str, str]) -> None:
    with serving(tmp_path, **failing) as server, peer_of(server) as peer:
        ids = [peer.insert("later", n) for n in range(20)]
        until(server, jobs_success=20)
        (tmp_path / "fault").write_text("SQLITE_IOERR_FSYNC")
        ids += insert_until_closed(peer, "later")
        assert server.process.wait(WITHIN_S) == 74
        told = server.log.read_text()
        assert "Traceback" not in told
        assert told.count("stopping, for an I/O error left a commit of the store in doubt") == 1
    with serving(tmp_path, **failing) as server:
        until(server, jobs_success=len(ids))
        assert lost(server, ids) == []


IN_DOUBT: dict[str, object] = {
    "suspend": "other",
    "limit": {"type": "later", "rate": 5},
    "configure": {"type": "later", "options": {"ttr": 5}},
    "schedule": {"name": "hourly", "every": 3600, "job": {"type": "later"}},
    "subscribe": {"type": "a", "subscriber": "b"},
    "cancel": {"type": "later"},
    "job": "nobody",
    "jobs": {},
    "types": None,
    "stats": None,
    "health": None,
}


def refusal(peer: Peer) -> str:
    """Return the code of the next answer, which is an error."""
    with pytest.raises(RefusedError) as refused:
        peer.receive()
    return refused.value.code


@pytest.mark.parametrize("name", IN_DOUBT)
def test_a_call_that_meets_a_store_in_doubt_is_told_of_the_stop_and_leaves_no_trace(
    name: str, tmp_path: Path, failing: dict[str, str]
) -> None:
    with serving(tmp_path, **failing) as server, peer_of(server) as peer:
        (tmp_path / "fault").write_text("SQLITE_IOERR_FSYNC")
        peer.send("suspend", "later")  # its commit fails, or one that was under way
        peer.send(name, IN_DOUBT[name])
        assert sorted(refusal(peer) for _ in range(2)) in (["busy", "draining"], ["draining", "draining"])
        assert server.process.wait(WITHIN_S) == 74
        told = server.log.read_text()
        assert "Traceback" not in told
        assert told.count("stopping, for an I/O error left a commit of the store in doubt") == 1


def test_a_write_that_fails_after_a_repeated_insert_passes(tmp_path: Path, failing: dict[str, str]) -> None:
    with serving(tmp_path, **failing, WORKER__CONCURRENCY="0") as server, peer_of(server) as peer:
        for _ in range(2):
            peer.call("insert", {"type": "later", "id": "mine"})
            until(server, journal_unfed_records=0)
        (tmp_path / "fault").write_text("SQLITE_IOERR_WRITE")
        peer.insert("later")
        until(server, jobs_new=2)
        assert not (tmp_path / "fault").exists()
        assert server.stop() == 0


def test_a_job_whose_record_was_altered_fails_and_the_others_run(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server, peer_of(server) as peer:
        ids = [peer.insert("later", {"n": n}) for n in range(5)]
        until(server, jobs_new=5)
        assert server.stop() == 0
    with closing(sqlite3.connect(tmp_path / "journal/store.sqlite", isolation_level=None)) as db:
        db.execute("update jobs set type = 'exits' where ord = (select min(ord) from jobs)")
        db.execute("""update jobs set data = cast('{"n":7}' as blob) where ord = (select max(ord) from jobs)""")
    with serving(tmp_path, WORKER__MODULES='["handlers"]', STORE__KEEP_FAIL_S="3600") as server:
        until(server, jobs_success=3, jobs_fail=2)
        for job_id in (ids[0], ids[-1]):
            record = ask(server, "job", job_id)
            assert (record["state"], record["data"]) == ("fail", None)
            assert "damaged" in record["error"]
            assert record["runs"] == []
        until_said(server, "stored jobs are damaged")
    with closing(sqlite3.connect(tmp_path / "journal/store.sqlite")) as db:
        kept = db.execute("select drop_at - ended_at from jobs where state = 6").fetchall()
    assert kept == [(3600.0,)] * 2


def insert_until_closed(peer: Peer, type_: str) -> list[str]:
    """Return the ids that were answered before the server closed the connection or refused."""
    ids: list[str] = []
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        try:
            ids.append(peer.insert(type_))
        except (OSError, EOFError, RefusedError):
            return ids
    raise AssertionError(f"the server goes on after {len(ids)} inserts")


def overwrite(path: Path, server: Served) -> int | None:
    """Put garbage into the file; return the server's exit status if it has ended."""
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))
    return server.process.poll()


def insert_many(server: Served, count: int) -> None:
    with peer_of(server) as peer:
        for _ in range(count // 1000):
            peer.send("insert", [{"type": "later", "data": n} for n in range(1000)])
        for _ in range(count // 1000):
            peer.receive()


def test_a_large_journal_survives_kills_and_stops_in_the_middle_of_its_feeding(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        insert_many(server, 50_000)
        server.stop(signal.SIGKILL)
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        server.stop(signal.SIGKILL)
    with serving(tmp_path, WORKER__MODULES='["handlers"]') as server:
        server.stop(signal.SIGKILL)
    with serving(tmp_path, WORKER__MODULES='["handlers"]') as server:
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
    with serving(tmp_path, WORKER__MODULES='["handlers"]') as server:
        stats = until(server, jobs_success=50_000)
        assert stats["journal_unfed_records"] == 0


def left_by_a_kill(folder: Path, count: int) -> Path:
    """Journal `count` jobs one by one, kill the server and take its store away; return the last segment."""
    with serving(folder, WORKER__CONCURRENCY="0") as server, peer_of(server) as peer:
        for number in range(count):
            peer.insert("later", f"job {number}")
        server.stop(signal.SIGKILL)
    for path in (folder / "journal").glob("store.sqlite*"):
        path.unlink()
    return max((folder / "journal").glob("*.kqj"))


def successes(server: Served) -> list[Any]:
    found = ask(server, "jobs", {"state": "success", "limit": 1000})
    return [record["data"] for record in found]


def test_a_torn_tail_is_set_aside_and_the_rest_is_run(tmp_path: Path) -> None:
    segment = left_by_a_kill(tmp_path, 20)
    content = segment.read_bytes().rstrip(b"\0")
    segment.write_bytes(content[:-4])
    with serving(tmp_path, WORKER__MODULES='["handlers"]') as server:
        until(server, jobs_success=19)
        assert successes(server) == [f"job {number}" for number in range(19)]
        torn = segment.with_name(segment.name + ".torn")
        assert b"job 19" in torn.read_bytes()
        until_said(server, f"torn tail, which was set aside file={segment.name}")


def test_a_flipped_bit_is_refused_by_place_and_repaired_by_hand(tmp_path: Path) -> None:
    segment = left_by_a_kill(tmp_path, 20)
    content = bytearray(segment.read_bytes())
    content[content.index(b"job 7") + 1] ^= 1
    segment.write_bytes(content)
    before = {path.name: path.read_bytes() for path in (tmp_path / "journal").iterdir() if path.name != "lock"}
    ended = run_kqs(tmp_path, "serve", SERVER__PORT="0")
    assert (ended.returncode, ended.stderr.count("\n")) == (65, 1), ended.stderr
    assert re.search(rf"{segment.name}:\d+", ended.stderr)
    assert f"`kqs journal repair {tmp_path / 'journal'}`" in ended.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "journal").iterdir() if path.name != "lock"} == before
    run_kqs(tmp_path, "journal", "repair", "journal")
    with serving(tmp_path, WORKER__MODULES='["handlers"]') as server:
        until(server, jobs_success=19)
        assert successes(server) == [f"job {number}" for number in range(20) if number != 7]


def test_connections_cannot_take_the_descriptors_of_journal_and_store(tmp_path: Path) -> None:
    command = ["sh", "-c", 'ulimit -n 128 && exec "$@"', "sh", *SERVE]
    settings = {"WORKER__MODULES": '["handlers"]', "JOURNAL__SEGMENT_BYTES": str(MIB)}
    with ExitStack() as crowd, serving(tmp_path, command, **settings) as server, peer_of(server) as peer:
        assert peer.call("ping") == "pong"
        for _ in range(300):
            crowd.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        ids = [peer.insert("later", "x" * 100_000) for _ in range(50)]
        eventually(lambda: {peer.call("job", job_id)["state"] for job_id in ids}, lambda seen: seen == {"success"})
        assert peer.call("stats")["journal_failures"] == 0
        eventually(partial(share_of_a_core, server.process.pid), lambda share: share < 0.5)
        crowd.close()
        assert eventually(lambda: try_ping(server), lambda seen: seen == "pong")


def share_of_a_core(pid: int) -> float:
    """Return what a process takes for a while: a busy loop shows by the time it takes, and nothing else."""
    used_s, began = cpu_seconds(pid), time.monotonic()
    time.sleep(0.5)
    return (cpu_seconds(pid) - used_s) / (time.monotonic() - began)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def try_ping(server: Served) -> object:
    try:
        return ask(server, "ping")
    except (RefusedError, EOFError, OSError) as error:
        return repr(error)


def test_handlers_that_misbehave_are_judged_and_the_others_run(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__MODULES='["handlers"]', WORKER__GRACE_S="0.1") as server, peer_of(server) as peer:
        stuck = peer.insert("stuck", ttr=0.2, ghosts=0)
        exits = [peer.insert(type_, retries=0) for type_ in ("exits", "exits-in-thread")]
        leaks, hogs = peer.insert("leaks"), peer.insert("hogs")
        deaf = peer.insert("deaf", ttr=0.2, ghosts=0)
        plain = [peer.insert("later", number) for number in range(20)]
        eventually(lambda: lost(server, [*plain, leaks, hogs]), lambda seen: seen == [])
        eventually(lambda: lost(server, [stuck, *exits, deaf], "fail"), lambda seen: seen == [])
        assert [peer.call("job", job_id)["error"].splitlines()[0] for job_id in exits] == ["SystemExit: 3"] * 2
        assert "no report within ttr" in peer.call("job", stuck)["error"]
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 8


def test_a_job_that_takes_the_process_with_it_is_run_again_by_the_next_one(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__MODULES='["handlers"]') as server:
        with peer_of(server) as peer:
            ids = peer.call("insert", [{"type": "gated"}, {"type": "dies-once", "delay": 0.2}])
        assert server.process.wait(30) == 9
    (tmp_path / "gate").touch()
    with serving(tmp_path, WORKER__MODULES='["handlers"]') as server:
        eventually(lambda: lost(server, ids), lambda seen: seen == [])
        assert ask(server, "job", ids[1])["ghosts"] == 1


def test_a_backlog_waits_for_its_handler_and_can_be_paged_through(tmp_path: Path) -> None:
    with serving(tmp_path) as server, peer_of(server) as peer:
        ids = []
        for _ in range(5):
            ids += peer.call("insert", [{"type": "later", "data": n} for n in range(500)])
        assert until(server, jobs_new=2500)["jobs_without_handler"] == 2500
        assert peer.call("health")["notes"] == ["2500 jobs of type 'later' wait, and no handler takes them"]
        assert list(paged(peer)) == ids
    with serving(tmp_path, WORKER__MODULES='["handlers"]') as server:
        assert until(server, jobs_success=2500)["jobs_without_handler"] == 0


def paged(peer: Peer) -> Iterator[str]:
    after = None
    while page := peer.call("jobs", {"limit": 1000} | ({"after": after} if after else {})):
        yield from (record["id"] for record in page)
        after = page[-1]["id"]
