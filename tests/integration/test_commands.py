"""Commands of a real server: from a section of its configuration to a job's record, and nothing is left, however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import Peer, ask, eventually, peer_of, telling, until_said
from tests.support.commands import alive, command_lines, nap, settings_of, until_gone, until_running
from tests.support.serving import PLAIN_ENVIRON, SERVE, Served, serving

ENDED = ("success", "fail")


def ended(peer: Peer, job_id: str) -> dict[str, Any]:
    record: dict[str, Any] = eventually(lambda: peer.call("job", job_id), lambda job: job["state"] in ENDED, what="ended")
    return record


def helpers_of(server: Served) -> list[int]:
    """Return the helper processes of a server, which are told its number."""
    lines = command_lines()
    return [pid for pid, words in lines.items() if "kqs.minding" in " ".join(words) and words[-1] == str(server.process.pid)]


def test_jobs_of_a_type_are_run_by_its_command(tmp_path: Path) -> None:
    (tmp_path / "double.sh").write_text('#!/bin/sh\nread n\necho "$((n * ${1#--by=}))"\n')
    (tmp_path / "double.sh").chmod(0o700)
    with (
        serving(
            tmp_path,
            TYPES__double=json.dumps({"command": ["./double.sh", "--by=2"], "ttr": 20, "weight": 3}),
            TYPES__who=settings_of('echo "$KQS_JOB_ID $KQS_JOB_TYPE $KQS_JOB_ATTEMPT"; env | grep -c KQS'),
            TYPES__bad=settings_of("echo 'no such picture' >&2; exit 1", retries=0),
            TYPES__busy=settings_of('test $KQS_JOB_ATTEMPT = 3 || exit 75; echo "at last"'),
        ) as server,
        peer_of(server) as peer,
        telling(server),
    ):
        assert ended(peer, peer.insert("double", 21))["result"] == 42
        assert ended(peer, peer.insert("who", id="me"))["result"] == "me who 1\n3"
        bad = ended(peer, peer.insert("bad"))
        assert (bad["state"], bad["error"]) == ("fail", "exit code 1: no such picture")
        busy = ended(peer, peer.insert("busy"))
        assert (busy["state"], busy["result"], len(busy["runs"]), busy["failures"]) == ("success", "at last", 3, 0)
        until_said(server, 'types="bad, busy, double, echo, ping, who"')
        assert server.stop() == 0


def test_a_run_past_its_ttr_is_killed_and_its_lane_is_free(tmp_path: Path) -> None:
    deaf, slow = nap(), nap()
    with (
        serving(
            tmp_path,
            WORKER__CONCURRENCY="2",
            TYPES__deaf=settings_of(f"trap '' TERM; setsid {deaf} & {deaf}; {deaf}", ttr=0.5, ghosts=0),
            TYPES__slow=settings_of(f"{slow}", time_limit=0.5, retries=0),
        ) as server,
        peer_of(server) as peer,
        telling(server),
    ):
        ids = [peer.insert(type_) for type_ in ("deaf", "slow", "deaf", "slow")]
        records = [ended(peer, job_id) for job_id in ids]
        assert [record["state"] for record in records] == ["fail"] * 4
        assert [record["runs"][0]["state"] for record in records] == ["ghost", "fail", "ghost", "fail"]
        until_gone(deaf, slow)
        assert ended(peer, peer.insert("echo", 1))["result"] == 1
        assert "ignores its cancellation" not in server.log.read_text()


def test_a_flood_of_output_is_a_final_failure(tmp_path: Path) -> None:
    with serving(tmp_path, TYPES__flood=settings_of("yes", output_bytes=5000)) as server, peer_of(server) as peer:
        record = ended(peer, peer.insert("flood"))
        assert (record["state"], record["error"]) == ("fail", "its output has more than 5000 bytes (output_bytes)")
        assert len(record["runs"]) == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_no_command_outlives_a_killed_server(tmp_path: Path, number: int) -> None:
    naps = [nap() for _ in range(4)]
    script = f"trap '' TERM HUP; {naps[0]} & setsid {naps[1]} & (setsid nohup {naps[2]} >/dev/null 2>&1 &); {naps[3]}"
    with serving(tmp_path, SERVE, PLAIN_ENVIRON, TYPES__long=settings_of(script)) as server:
        ask(server, "insert", {"type": "long"})
        until_running(*naps)
        helpers = helpers_of(server)
        assert len(helpers) == 2
        server.process.send_signal(number)
        server.process.wait(30)
        until_gone(*naps)
        eventually(lambda: [pid for pid in helpers if Path(f"/proc/{pid}").exists()], lambda left: left == [])


def test_no_command_outlives_a_killed_server_even_if_it_has_stopped_its_minder(tmp_path: Path) -> None:
    left = nap()
    with serving(tmp_path, TYPES__long=settings_of(f"kill -STOP $PPID; {left}")) as server:
        ask(server, "insert", {"type": "long"})
        until_running(left)
        server.process.kill()
        until_gone(left)


def test_no_command_outlives_a_killed_server_whose_handler_has_forked(tmp_path: Path) -> None:
    (tmp_path / "forking.py").write_text(
        "import os, time\nimport kqs\n\n@kqs.handler('fork')\nasync def fork(data):\n"
        "    if not os.fork():\n        time.sleep(data)\n        os._exit(0)\n"
    )
    left = nap()
    with (
        serving(tmp_path, WORKER__MODULES='["forking"]', TYPES__long=settings_of(left)) as server,
        peer_of(server) as peer,
    ):
        peer.insert("long")
        until_running(left)
        ended(peer, peer.insert("fork", 60))
        server.process.kill()
        until_gone(left)


def test_a_stop_lets_commands_finish_for_grace_and_kills_the_others(tmp_path: Path) -> None:
    left, deaf = nap(), nap()
    store = {"JOURNAL__DIR": "kept", "WORKER__GRACE_S": "2"}
    types = {
        "TYPES__long": settings_of(f"setsid {left} & {left}"),
        "TYPES__deaf": settings_of(f"trap '' TERM; {deaf}; {deaf}"),
        "TYPES__quick": settings_of("echo > began; while ! test -f go; do sleep 0.05; done; echo done"),
    }
    with serving(tmp_path, SERVE, PLAIN_ENVIRON, **store, **types) as server:
        long, deaf_id, quick_id = (ask(server, "insert", {"type": type_}) for type_ in ("long", "deaf", "quick"))
        eventually(lambda: len(alive(left, deaf)), lambda count: count == 3)
        eventually((tmp_path / "began").exists, bool)
        server.process.send_signal(signal.SIGTERM)
        until_said(server, "waiting for runs to finish")
        (tmp_path / "go").touch()
        began_at = time.monotonic()
        assert server.process.wait(20) == 0
        assert time.monotonic() - began_at < 10
        assert alive(left, deaf) == []
        assert "ignore their cancellation" not in server.log.read_text()
    with serving(tmp_path, **store, WORKER__CONCURRENCY="0") as server, peer_of(server) as peer:
        assert peer.call("job", quick_id)["result"] == "done"
        for job_id in (long, deaf_id):
            record = peer.call("job", job_id)
            assert (record["interrupted"], record["ghosts"], record["failures"]) == (1, 0, 0)


def test_a_second_sigterm_ends_commands_with_the_server(tmp_path: Path) -> None:
    left = nap()
    with serving(tmp_path, WORKER__GRACE_S="-1", TYPES__long=settings_of(left)) as server:
        ask(server, "insert", {"type": "long"})
        until_running(left)
        server.process.send_signal(signal.SIGTERM)
        until_said(server, "waiting for runs to finish")
        assert server.stop() == 0
        until_gone(left)


def test_a_command_that_is_not_there_is_told_at_the_start_and_by_health(tmp_path: Path) -> None:
    with (
        serving(tmp_path, TYPES__resize=json.dumps({"command": ["./resize.sh"], "retry_delay": 0.1})) as server,
        peer_of(server) as peer,
        telling(server),
    ):
        program = tmp_path / "resize.sh"
        said = f'a command cannot be started type=resize command={program} error="{program}: no such file"'
        until_said(server, said)
        assert f"the command of type 'resize' cannot be started: {program}: no such file" in str(peer.call("health"))
        job_id = peer.insert("resize")
        failed = eventually(lambda: peer.call("job", job_id), lambda job: job["failures"] > 0)
        assert failed["error"] == f"the command cannot be started: {program}: no such file or directory"
        program.write_text("#!/bin/sh\necho 1\n")
        program.chmod(0o700)
        assert ended(peer, job_id)["result"] == 1
        assert "resize" not in str(peer.call("health"))


@pytest.mark.parametrize(
    ("types", "line"),
    [
        ({"echo": '{"command": ["cat"]}'}, "two handlers for type 'echo': "),
        ({"x": '{"command": []}'}, "types.x.command: got [], expected a list of text without NUL, the first a program"),
        ({"x": '{"cpu_s": 3}'}, "types.x.cpu_s: got 3, expected a command beside it, whose limit it is"),
    ],
)
def test_a_wrong_command_stops_the_start(tmp_path: Path, types: dict[str, str], line: str) -> None:
    environ = PLAIN_ENVIRON | {f"KQS_TYPES__{name}": text for name, text in types.items()}
    done = subprocess.run(SERVE, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 78
    assert line in done.stderr


def test_many_runs_leave_neither_descriptors_nor_processes(tmp_path: Path) -> None:
    settings = {"WORKER__CONCURRENCY": "4", "TYPES__cat": settings_of("sleep 60 & cat")}
    with serving(tmp_path, SERVE, PLAIN_ENVIRON, **settings) as server, peer_of(server) as peer, telling(server):
        run_many(peer, 20)
        before = descriptors_of(server)
        run_many(peer, 200)
        assert descriptors_of(server) <= before + 4
        assert len(helpers_of(server)) <= 5
        server.stop()
        eventually(lambda: helpers_of(server), lambda found: found == [])


def run_many(peer: Peer, count: int) -> None:
    ids = peer.call("insert", [{"type": "cat", "data": number} for number in range(count)])
    assert [ended(peer, job_id)["result"] for job_id in ids] == list(range(count))


def descriptors_of(server: Served) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def test_commands_find_descriptors_though_connections_have_taken_all_they_may(tmp_path: Path) -> None:
    lanes, gate = 150, tmp_path / "gate"
    os.mkfifo(gate)
    script = f": < {gate}"  # which opens when it is opened to write
    few_files = ("sh", "-c", 'ulimit -n 256 && exec "$@"', "sh", *SERVE)
    settings = {"WORKER__CONCURRENCY": str(lanes), "TYPES__wait": settings_of(script, retries=0)}
    with serving(tmp_path, few_files, **settings) as server, ExitStack() as stack, peer_of(server) as peer, telling(server):
        for _ in range(250):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        ids = peer.call("insert", [{"type": "wait"}] * lanes)
        eventually(
            lambda: sum(words[-1] == script for words in command_lines().values()), lambda count: count == lanes, what="running"
        )
        with gate.open("wb"):  # until all have passed: some shells have yet to come to it
            assert {ended(peer, job_id)["state"] for job_id in ids} == {"success"}
