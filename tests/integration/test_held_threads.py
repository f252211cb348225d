"""Handlers that hold what the process has: threads, the loop's executor, its end. The server goes on, and stops in time."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.asking import ask, eventually, peer_of, until, until_said
from tests.support.misbehaving import misbehaving
from tests.support.serving import SERVE, SERVE_ENVIRON, Served, serving

#: what a stop may take at a grace of one second: cancelled runs have another, and what is left of the process two
STOP_S = 10


def held(server: Served, count: int) -> None:
    eventually(server.log.read_text, lambda said: said.count("held") >= count)


def stop(server: Served) -> tuple[int, float]:
    began = time.monotonic()
    return server.stop(), time.monotonic() - began


def test_jobs_are_fed_and_run_while_handlers_hold_all_threads_of_the_loop(tmp_path: Path) -> None:
    with misbehaving(tmp_path) as server, peer_of(server) as peer:
        for _ in range(60):
            peer.insert("to_thread")
        held(server, 60)
        peer.call("insert", [{"type": "ping"} for _ in range(5000)])
        until(server, jobs_success=5000)
        assert ask(server, "health")["ok"] is True
        code, took_s = stop(server)
        assert code == 0
        assert took_s < STOP_S
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        stats = until(server, jobs_success=5000)
        assert stats["jobs_retry"] == 60


@pytest.mark.parametrize(
    "type_",
    ["run_in_executor", "thread", "plain", "pool", "process", "process_pool", "hook", "finalizer", "task", "generator"],
)
def test_a_stop_takes_seconds_whatever_handlers_leave_behind(tmp_path: Path, type_: str) -> None:
    with misbehaving(tmp_path) as server, peer_of(server) as peer:
        for _ in range(8):
            peer.insert(type_)
        held(server, 8)
        job_id = peer.insert("ping")
        code, took_s = stop(server)
        assert code == 0, server.log.read_text()
        assert took_s < STOP_S
    with serving(tmp_path) as server:
        eventually(lambda: ask(server, "job", job_id)["state"], lambda state: state == "success")


def test_a_process_that_a_handler_started_is_terminated_with_a_server_that_cannot_wait(tmp_path: Path) -> None:
    with misbehaving(tmp_path) as server, peer_of(server) as peer:
        peer.insert("process")
        until_said(server, "child ")
        child = int(server.log.read_text().rpartition("child ")[2].split()[0])
        assert stop(server)[0] == 0
        eventually(lambda: _state(child), lambda state: state in ("gone", "Z"))


def test_a_start_that_fails_ends_although_a_module_holds_a_thread(tmp_path: Path) -> None:
    (tmp_path / "threaded.py").write_text("import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = {"SERVER__HOST": "127.0.0.1", "SERVER__PORT": str(taken.getsockname()[1]), "WORKER__MODULES": '["threaded"]'}
        environ = SERVE_ENVIRON | {f"KQS_{name}": value for name, value in settings.items()}
        done = subprocess.run(SERVE, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 69
    assert "in use" in done.stderr


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return "gone"
