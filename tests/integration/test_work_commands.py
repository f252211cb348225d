"""Commands of a real `kqs work`: from its --config to a job's record, and nothing is left, however it ends."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import Peer, eventually, peer_of, telling, until_said
from tests.support.commands import alive, nap, until_gone, until_running
from tests.support.serving import SERVE_ENVIRON, Served, free_port, serving
from tests.support.working import WORK, working

ENDED = ("success", "fail")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path, WORKER__CONCURRENCY="0", SERVER__PORT=str(free_port())) as server:
        yield server


def config(folder: Path, **scripts: str) -> str:
    """Write a configuration whose commands are these scripts; return its path."""
    path = folder / "work.toml"
    sections = [f"[types.{type_}]\ncommand = ['sh', '-c', '''{script}''']\n" for type_, script in scripts.items()]
    path.write_text("[worker]\nconcurrency = 0\n" + "\n".join(sections))
    return str(path)


def ended(peer: Peer, job_id: str, *states: str) -> dict[str, Any]:
    record: dict[str, Any] = eventually(lambda: peer.call("job", job_id), lambda job: job["state"] in (states or ENDED))
    return record


def test_jobs_are_run_by_commands_beside_handlers_and_none_without_either_is_asked_for(tmp_path: Path, server: Served) -> None:
    (tmp_path / "doubling.py").write_text("import kqs\n\n@kqs.handler('double')\ndef double(data):\n    return 2 * data\n")
    path = config(tmp_path, who='echo "$KQS_JOB_ID $KQS_JOB_TYPE $KQS_JOB_ATTEMPT"', bad="echo no >&2; exit 1", late="exit 75")
    Path(path).write_text(Path(path).read_text() + "[types.cat]\ncommand = ['./cat.sh', '-']\noutput_bytes = 100\n")
    (tmp_path / "cat.sh").write_text('#!/bin/sh\nexec cat "$@"\n')
    (tmp_path / "cat.sh").chmod(0o700)
    with working(tmp_path, server, "--config", path, "doubling") as worker, peer_of(server) as peer, telling(worker):
        assert ended(peer, peer.insert("double", 21))["result"] == 42
        assert ended(peer, peer.insert("who", id="me"))["result"] == "me who 1"
        assert ended(peer, peer.insert("cat", {"a": [1]}))["result"] == {"a": [1]}
        assert ended(peer, peer.insert("bad", retries=0))["error"] == "exit code 1: no"
        flood = ended(peer, peer.insert("cat", "x" * 200))
        assert flood["error"] == "its output has more than 100 bytes (output_bytes)"
        assert ended(peer, peer.insert("late"), "retry")["failures"] == 0
        foreign = peer.insert("foreign")
        assert ended(peer, peer.insert("double", 1))["result"] == 2
        assert peer.call("job", foreign)["attempt"] == 0


def test_commands_alone_need_no_module(tmp_path: Path, server: Served) -> None:
    path = config(tmp_path, one="echo 1", two="echo 2")
    with working(tmp_path, server, "--config", path, "--types", "one") as worker, peer_of(server) as peer, telling(worker):
        two = peer.insert("two")
        assert ended(peer, peer.insert("one"))["result"] == 1
        assert peer.call("job", two)["attempt"] == 0
        until_said(worker, "types=one")
        assert worker.stop() == 0


def test_no_command_outlives_a_killed_worker_and_its_run_goes_back_at_once(tmp_path: Path, server: Served) -> None:
    naps = [nap() for _ in range(3)]
    path = config(
        tmp_path, long=f'trap "" TERM HUP; test $KQS_JOB_ATTEMPT = 2 || {{ {naps[0]} & setsid {naps[1]} & {naps[2]}; }}'
    )
    with peer_of(server) as peer:
        with working(tmp_path, server, "--config", path) as worker:
            job_id = peer.insert("long", ttr=600)
            until_running(*naps)
            worker.stop(signal.SIGKILL)
            until_gone(*naps)
        with working(tmp_path, server, "--config", path):
            assert [run["state"] for run in ended(peer, job_id)["runs"]] == ["ghost", "success"]


@pytest.mark.parametrize("options", [{"ttr": 3, "ghosts": 0}, {"time_limit": 3, "retries": 0}])
def test_a_run_that_the_server_gives_up_is_killed_and_its_lane_is_free(
    tmp_path: Path, server: Served, options: dict[str, float]
) -> None:
    deaf = nap()
    path = config(tmp_path, deaf=f"trap '' TERM; setsid {deaf} & {deaf}; {deaf}", one="echo 1")
    with working(tmp_path, server, "--concurrency", "1", "--config", path) as worker, peer_of(server) as peer, telling(worker):
        job_id = peer.insert("deaf", **options)
        until_running(deaf, deaf)
        assert ended(peer, job_id)["state"] == "fail"
        until_gone(deaf)
        assert ended(peer, peer.insert("one"))["result"] == 1
        assert "ignores its cancellation" not in worker.log.read_text()


def test_a_stop_lets_commands_finish_for_grace_and_kills_the_others(tmp_path: Path, server: Served) -> None:
    left = nap()
    quick = "echo > began; while ! test -f go; do sleep 0.05; done; echo done"
    path = config(tmp_path, long=f"setsid {left} & {left}", quick=quick)
    with working(tmp_path, server, "--grace", "2", "--config", path) as worker, peer_of(server) as peer:
        long_id, quick_id = peer.insert("long"), peer.insert("quick")
        until_running(left, left)
        eventually((tmp_path / "began").exists, bool)
        worker.process.send_signal(signal.SIGTERM)
        until_said(worker, "waiting for runs to finish")
        (tmp_path / "go").touch()
        assert worker.process.wait(20) == 0
        assert alive(left) == []
        assert peer.call("job", quick_id)["result"] == "done"
        record = ended(peer, long_id, "new", "retry")
        assert (record["interrupted"], record["ghosts"], record["failures"]) == (1, 0, 0)


@pytest.mark.parametrize("hold", [False, True])
def test_a_command_whose_server_is_killed_is_killed_too_unless_it_is_held(tmp_path: Path, server: Served, hold: bool) -> None:
    left = nap()
    script = f'test $KQS_JOB_ATTEMPT = 2 || while ! test -f go; do {left}; done; echo "$KQS_JOB_ATTEMPT"'
    path = config(tmp_path, long=script)
    with working(tmp_path, server, *["--hold"] * hold, "--config", path) as worker, telling(worker):
        with peer_of(server) as peer:
            job_id = peer.insert("long", ttr=60)
        until_running(left)
        server.stop(signal.SIGKILL)
        until_said(worker, "the connection was lost")
        if hold:
            until_running(left)
            (tmp_path / "go").touch()
            subprocess.run(["pkill", "-x", "-f", left], check=True)
        else:
            until_gone(left)
        with (
            serving(tmp_path, WORKER__CONCURRENCY="0", SERVER__PORT=str(server.port)) as again,
            peer_of(again) as peer,
        ):
            record = ended(peer, job_id)
            assert (record["result"], record["ghosts"]) == ((1, 0) if hold else (2, 1))


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        ([], 2, "expected a MODULE, or --config for commands: nothing says what is to run jobs"),
        (["--config", "nowhere.toml"], 78, "nowhere.toml: no such file or directory"),
        (["--config", "empty.toml"], 78, "MODULE: no type with a handler or a command, expected 1 to 1000"),
        (["--config", "both.toml", "doubling"], 78, "two handlers for type 'double': "),
    ],
)
def test_a_wrong_command_line_stops_the_start(tmp_path: Path, arguments: list[str], status: int, line: str) -> None:
    (tmp_path / "doubling.py").write_text("import kqs\n\n@kqs.handler('double')\ndef double(data):\n    return 2 * data\n")
    (tmp_path / "both.toml").write_text("[types.double]\ncommand = ['cat']\n")
    (tmp_path / "empty.toml").touch()
    done = subprocess.run(
        [*WORK, *arguments], cwd=tmp_path, env=SERVE_ENVIRON, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, line in done.stderr) == (status, True), done.stderr
