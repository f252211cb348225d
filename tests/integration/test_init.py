"""A server that is the first process of a container: nothing it should wait for is left behind, and signals reach it."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.asking import ask, eventually, peer_of, until, until_said
from tests.support.misbehaving import misbehaving
from tests.support.require import missing, require
from tests.support.serving import SERVE, Served

#: a process namespace of its own, as a container has it
FIRST = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def first_of(server: Served) -> int:
    """Return the process that is the first one of its namespace."""
    (first,) = children(server.process.pid)
    return first


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


@pytest.fixture(autouse=True)
def namespaces() -> None:
    require("unshare")
    if subprocess.run([*FIRST, "true"], capture_output=True, timeout=30, check=False).returncode:
        missing("the right to make namespaces (unshare)")


def test_orphans_of_handlers_are_reaped_and_their_own_children_are_theirs(tmp_path: Path) -> None:
    with misbehaving(tmp_path, (*FIRST, *SERVE)) as server, peer_of(server) as peer:
        first = first_of(server)
        for _ in range(20):
            peer.insert("daemon")
        peer.insert("terminated", 20)
        until(server, jobs_success=21)
        eventually(lambda: server.log.read_text().count("grandchild of"), lambda count: count == 20)
        (served,) = eventually(lambda: children(first), lambda found: len(found) == 1)
        assert state(served) != "Z"
        assert children(served) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_it_stops_the_server_in_good_order(tmp_path: Path, number: int) -> None:
    with misbehaving(tmp_path, (*FIRST, *SERVE), WORKER__GRACE_S="20") as server, peer_of(server) as peer:
        peer.insert("plain", 1)
        until_said(server, "held")
        os.kill(first_of(server), number)
        assert server.process.wait(30) == 0
        assert "kqs: stopped" in server.log.read_text()
        assert "giving runs back" not in server.log.read_text()


def test_ctrl_c_on_its_terminal_is_one_signal(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    take = "import os, sys; os.dup2(os.open(sys.argv[1], os.O_RDWR), 0); os.execvp(sys.argv[2], sys.argv[2:])"
    own_session = ("setsid", sys.executable, "-c", take, os.ttyname(its))
    with misbehaving(tmp_path, (*FIRST, *own_session, *SERVE), WORKER__GRACE_S="20") as server, peer_of(server) as peer:
        assert len(children(first_of(server))) == 1
        peer.insert("plain", 2)
        until_said(server, "held")
        os.write(ours, b"\x03")
        assert server.process.wait(30) == 0
        assert "stopping at once" not in server.log.read_text()
    os.close(its)
    os.close(ours)


def test_its_exit_code_is_the_server_s(tmp_path: Path) -> None:
    with misbehaving(tmp_path, (*FIRST, *SERVE)) as server:
        (served,) = children(first_of(server))
        os.kill(served, signal.SIGKILL)
        assert server.process.wait(30) == 128 + signal.SIGKILL


def test_a_signal_that_means_nothing_to_the_server_is_its_own_to_ignore(tmp_path: Path) -> None:
    with misbehaving(tmp_path, (*FIRST, *SERVE)) as server:
        os.kill(first_of(server), signal.SIGHUP)
        until_said(server, "SIGHUP ignored")
        assert ask(server, "ping") == "pong"
