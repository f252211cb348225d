"""The end of child processes: with their server, in good order or not, and with nothing of it in their hands."""

from __future__ import annotations

import os
import pty
import random
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.asking import ask, eventually, peer_of, until, until_at_least, until_said
from tests.support.commands import alive, nap, settings_of
from tests.support.processes import environ_of, family, having_children, insert, pids, record_of, runs_of, until_gone
from tests.support.serving import STOPPED_WITHIN_S, Served, serving


def reopened(folder: Path, *jobs: str) -> list[dict[str, object]]:
    """Return the records of jobs after the server's end."""
    with serving(folder, WORKER__CONCURRENCY="0") as server:
        return [ask(server, "job", job_id) for job_id in jobs]


def test_a_stop_lets_runs_finish_and_takes_no_more(tmp_path: Path) -> None:
    with having_children(tmp_path, 2, WORKER__CONCURRENCY="1", WORKER__GRACE_S="60") as server:
        jobs = [insert(server, "until", "let-go") for _ in range(3)]
        until(server, running=2)
        everybody = family(server)
        server.process.send_signal(signal.SIGTERM)
        until_said(server, "waiting for remote runs to finish")
        (tmp_path / "let-go").touch()
        assert server.process.wait(STOPPED_WITHIN_S) == 0
        until_gone(everybody)
        said = server.log.read_text()
        assert "killing them" not in said
        assert "starting another" not in said
    records = reopened(tmp_path, *jobs)
    assert [record["state"] for record in records] == ["success", "success", "new"]


def test_a_run_beyond_the_grace_is_given_back_for_free(tmp_path: Path) -> None:
    with having_children(tmp_path, 1, WORKER__GRACE_S="0.2") as server:
        job_id = insert(server, "sleep", 600)
        until_said(server, "begun")
        assert server.stop() == 0
        assert "cancelled" in server.log.read_text()
    (record,) = reopened(tmp_path, job_id)
    assert (record["interrupted"], record["ghosts"], runs_of(record)) == (1, 0, ["interrupted"])


@pytest.mark.parametrize(("type_", "data"), [("end", {"how": "block"}), ("block_thread", None)])
def test_a_run_that_blocks_for_ever_keeps_no_stop_from_its_end(tmp_path: Path, type_: str, data: object) -> None:
    with having_children(tmp_path, 2, WORKER__GRACE_S="0.5") as server:
        job_id = insert(server, type_, data, ttr=600)
        eventually(lambda: ask(server, "job", job_id)["state"], lambda state: state == "processing")
        everybody = family(server)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15
        until_gone(everybody)
    (record,) = reopened(tmp_path, job_id)
    assert (record["interrupted"], record["ghosts"]) == (1, 0)


def test_a_second_signal_ends_all_now(tmp_path: Path) -> None:
    with having_children(tmp_path, 2, WORKER__GRACE_S="-1") as server:
        job_id = insert(server, "sleep", 600)
        until_said(server, "begun")
        everybody = family(server)
        server.process.send_signal(signal.SIGTERM)
        until_said(server, "waiting for remote runs to finish")
        assert server.stop(signal.SIGTERM) == 0
        until_gone(everybody)
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:  # which may have to read the claim from the journal first
        eventually(lambda: ask(server, "job", job_id), lambda record: record["ghosts"] == 1)


def test_quit_stops_them_too(tmp_path: Path) -> None:
    with having_children(tmp_path, 2) as server:
        everybody = family(server)
        with peer_of(server) as peer:
            peer.call("quit")
        assert server.process.wait(30) == 0
        until_gone(everybody)


def test_a_stop_while_children_start_leaves_none(tmp_path: Path) -> None:
    for delay_s in (0, 0.05, 0.15, 0.4):
        with serving(tmp_path, WORKER__PROCESSES="3") as server:
            time.sleep(delay_s)
            everybody = family(server)
            assert server.stop() == 0
            until_gone(everybody)


def test_a_hang_up_kills_nobody(tmp_path: Path) -> None:
    with having_children(tmp_path, 2) as server:
        before = pids(server)
        for pid in (server.process.pid, *before):
            os.kill(pid, signal.SIGHUP)
        until_said(server, "SIGHUP ignored")
        assert record_of(server, insert(server, "double", 2))["result"] == 4
        assert pids(server) == before


ON_TERMINAL = """
import os, sys
os.dup2(os.open(sys.argv[1], os.O_RDWR), 0)
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_ctrl_c_on_a_terminal_is_for_the_server_which_drains_them(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = (sys.executable, "-c", ON_TERMINAL, os.ttyname(theirs), sys.executable, "-m", "kqs", "serve")
    with having_children(tmp_path, 1, command=command) as server:
        job_id = insert(server, "sleep", 1)
        until_said(server, "begun")
        os.write(ours, b"\x03")
        assert server.process.wait(30) == 0
        said = server.log.read_text()
        assert f"ended {job_id}" in said
        assert "has died" not in said
    (record,) = reopened(tmp_path, job_id)
    assert runs_of(record) == ["success"]
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    ("type_", "data"),
    [("sleep", 600), ("end", {"how": "block"}), ("block_thread", None), ("double", 1)],
    ids=["waits", "blocks", "blocks-in-a-thread", "idles"],
)
def test_no_child_outlives_a_killed_server_whatever_it_is_at(tmp_path: Path, type_: str, data: object) -> None:
    with having_children(tmp_path, 2) as server:
        insert(server, type_, data, ttr=600)
        if type_ != "double":
            eventually(lambda: ask(server, "stats")["running"], lambda running: running == 1)
        everybody = family(server)
        assert len(everybody) >= 5  # the keeper, and two with their minders
        server.stop(signal.SIGKILL)
        until_gone(everybody)


def test_a_stopped_child_does_not_outlive_a_killed_server(tmp_path: Path) -> None:
    with having_children(tmp_path, 1) as server:
        everybody = family(server)
        (child,) = pids(server)
        os.kill(child, signal.SIGSTOP)
        server.stop(signal.SIGKILL)
        until_gone(everybody)


def test_no_child_outlives_a_server_that_was_killed_with_its_keeper(tmp_path: Path) -> None:
    with having_children(tmp_path, 1) as server:
        everybody = family(server)
        insert(server, "end", {"how": "block"}, ttr=600)
        until_said(server, "ending block")
        keeper = everybody[0]
        os.kill(keeper, signal.SIGKILL)
        server.stop(signal.SIGKILL)
        until_gone(everybody)


def test_commands_die_with_the_child_that_runs_them_and_so_with_the_server(tmp_path: Path) -> None:
    one, two = nap(), nap()
    script = f'if [ "$KQS_JOB_ATTEMPT" = 1 ]; then setsid {one} & exec {one}; else exec {two}; fi'
    with having_children(tmp_path, 1, TYPES__resize=settings_of(script)) as server:
        job_id = insert(server, "resize", ttr=600, ghost_delay=0)
        eventually(lambda: alive(one), lambda found: len(found) == 2)
        (child,) = pids(server)
        os.kill(child, signal.SIGKILL)
        eventually(lambda: alive(one), lambda found: not found)
        eventually(lambda: alive(two), bool)
        assert ask(server, "job", job_id)["ghosts"] == 1
        everybody = family(server)
        server.stop(signal.SIGKILL)
        until_gone(everybody)
        eventually(lambda: alive(two), lambda found: not found)


def test_a_kill_at_any_moment_leaves_no_process_and_loses_no_job(tmp_path: Path) -> None:
    settings = {"WORKER__PROCESSES": "3", "WORKER__MODULES": '["chores"]', "WORKER__MAX_JOBS": "20"}
    jobs: list[str] = []
    seen: set[int] = set()
    with having_children(tmp_path, 3, WORKER__MAX_JOBS="20") as server:
        jobs += _kill_at_random(server, seen)
    for _ in range(5):
        with serving(tmp_path, **settings) as server:
            jobs += _kill_at_random(server, seen)
        until_gone(list(seen))
    with having_children(tmp_path, 2) as server:
        for job_id in jobs:
            record_of(server, job_id)


def _kill_at_random(server: Served, seen: set[int]) -> list[str]:
    with peer_of(server) as peer:
        jobs: list[str] = peer.call("insert", [{"type": "pid", "ghosts": -1, "ghost_delay": 0}] * 100)
    deadline = time.monotonic() + random.uniform(0, 1.5)
    while time.monotonic() < deadline:
        seen.update(family(server))
        time.sleep(0.01)
    seen.update(family(server))
    server.stop(signal.SIGKILL)
    until_gone(list(seen))
    return jobs


def descriptors(pid: int) -> dict[int, str]:
    """Return what a process has open."""
    found: dict[int, str] = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found[int(path.name)] = str(path.readlink())
    return found


def test_they_have_no_descriptor_of_the_server(tmp_path: Path) -> None:
    with having_children(tmp_path, 1) as server, peer_of(server):
        job_id = insert(server, "sleep", 600)
        until_said(server, "begun")
        (pid,) = pids(server)
        of_server, of_child = set(descriptors(server.process.pid).values()), descriptors(pid)
        assert of_child[0] == "/dev/null"
        shared = {number for number, found in of_child.items() if found in of_server and number > 2}
        # the pipe on which it tells how it is, and where the log goes; what is anonymous is each process's own
        named = {of_child[number] for number in shared if not of_child[number].startswith("anon_inode:")}
        assert named <= {of_child[4], of_child[2], "/dev/null"}
        assert not [found for found in of_child.values() if str(tmp_path / "journal") in found]
        assert ask(server, "job", job_id)["state"] == "processing"


def test_handlers_find_no_word_of_systemd_and_nothing_that_a_fork_could_keep(tmp_path: Path) -> None:
    with having_children(tmp_path, 1) as server:
        assert "NOTIFY_SOCKET" in environ_of(server.process.pid)
        found = record_of(server, insert(server, "environ"))["result"]
        assert "NOTIFY_SOCKET" not in found
        assert found["KQS_WORKER__PROCESSES"] == "1"


def test_they_take_no_place_of_a_client(tmp_path: Path) -> None:
    with having_children(tmp_path, 3, SERVER__MAX_CONNECTIONS="1") as server, peer_of(server) as peer:
        assert peer.call("ping") == "pong"
        assert len(pids(server)) == 3
        job_id = peer.insert("double", 1)
        assert record_of(server, job_id)["result"] == 2


def test_many_restarts_leave_no_descriptor_and_no_process_behind(tmp_path: Path) -> None:
    with having_children(tmp_path, 2, WORKER__MAX_JOBS="5") as server:
        until_at_least(server, children_running=2)

        def held() -> tuple[int, int]:
            return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir())), len(family(server))

        before = held()
        with peer_of(server) as peer:
            jobs = peer.call("insert", [{"type": "pid"}] * 60)
        for job_id in jobs:
            record_of(server, job_id)
        eventually(held, lambda now: now <= (before[0] + 2, before[1] + 1))


def test_without_a_descriptor_to_be_had_one_is_started_later(tmp_path: Path) -> None:
    with having_children(tmp_path, 1) as server:
        (pid,) = pids(server)
        before = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (5, before[1]))
        os.kill(pid, signal.SIGKILL)
        until_said(server, "no process can be had for it: too many open files")
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, before)
        assert record_of(server, insert(server, "double", 3))["result"] == 6
