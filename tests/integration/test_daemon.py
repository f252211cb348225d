"""A real `kqs serve`: how it starts, what it refuses, how it stops, what it finds again."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.asking import RefusedError, ask, peer_of, until, until_said
from tests.support.serving import ROOT, SERVE, Served, serving

SLOW = """
import asyncio
import kqs

@kqs.handler("slow")
async def slow(data, job):
    print("begun", job.id)
    await asyncio.sleep(data)
    print("ended", job.id)
    return data

@kqs.handler("deadly")
def deadly(data):
    import os
    os._exit(9)
"""


def insert(server: Served, type_: str, data: object, **options: object) -> str:
    with peer_of(server) as peer:
        return peer.insert(type_, data, **options)


def refused(folder: Path, *args: str, **settings: str) -> tuple[int, str]:
    """Run a server that must not start; return its exit code and stderr."""
    variables = {f"KQS_{key}": value for key, value in settings.items()}
    result = subprocess.run(
        [sys.executable, "-m", "kqs", "serve", *args],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return result.returncode, result.stderr


def names(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "lock"}


def test_an_inserted_ping_runs_with_no_code_written(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        job_id = insert(server, "ping", {"a": 1})
        until(server, jobs_success=1)
        record = ask(server, "job", job_id)
        assert (record["state"], record["data"], record["failures"]) == ("success", {"a": 1}, 0)
        until_said(server, 'ping running, payload = {"a": 1}')


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_good_order(tmp_path: Path, number: int) -> None:
    with serving(tmp_path) as server:
        insert(server, "ping", 1)
        assert server.stop(number) == 0


def test_quit_answers_and_stops(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert '"s":"end"' in server.ask('{"n":"quit"}')[0]
        assert server.process.wait(30) == 0


def test_a_run_in_progress_may_finish_within_the_grace(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    with serving(tmp_path, WORKER__MODULES='["slow"]') as server:
        insert(server, "slow", 0.5)
        until_said(server, "begun")
        assert server.stop() == 0
        assert "ended" in server.log.read_text()
    with serving(tmp_path, WORKER__MODULES='["slow"]') as server:
        assert ask(server, "stats")["jobs_success"] == 1


def test_a_run_beyond_the_grace_is_given_back_for_free(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    with serving(tmp_path, WORKER__MODULES='["slow"]', WORKER__GRACE_S="0.1") as server:
        job_id = insert(server, "slow", 60)
        until_said(server, "begun")
        assert server.stop() == 0
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        record = ask(server, "job", job_id)
        assert (record["state"], record["interrupted"], record["ghosts"]) == ("retry", 1, 0)
        assert [run["state"] for run in record["runs"]] == ["interrupted"]


def test_a_second_signal_stops_it_now(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    with serving(tmp_path, WORKER__MODULES='["slow"]', WORKER__GRACE_S="-1") as server:
        insert(server, "slow", 600)
        until_said(server, "begun")
        server.process.send_signal(signal.SIGTERM)
        until_said(server, "waiting for runs to finish")
        assert server.stop() == 0


def test_a_stopping_server_takes_no_new_jobs(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    with serving(tmp_path, WORKER__MODULES='["slow"]', WORKER__GRACE_S="60") as server, peer_of(server) as peer:
        slow = peer.insert("slow", 600)
        until_said(server, "begun")
        server.process.send_signal(signal.SIGTERM)
        until_said(server, "waiting for runs to finish")
        with pytest.raises(RefusedError, match="draining"):
            peer.insert("slow", 1)
        peer.call("cancel", slow)
        assert server.process.wait(30) == 0


def test_a_stopping_server_does_what_owners_say_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    plan = {"name": "s", "every": 3600, "job": {"type": "mail"}}
    lasting = [
        ("suspend", "held"),
        ("resume", "was held"),
        ("limit", {"type": "mail", "concurrency": 3}),
        ("configure", {"type": "mail", "options": {"prio": 5}}),
        ("subscribe", {"type": "mails", "subscriber": "mail"}),
        ("unsubscribe", {"type": "mails", "subscriber": "was"}),
    ]
    with serving(tmp_path, WORKER__MODULES='["slow"]', WORKER__GRACE_S="60") as server, peer_of(server) as peer:
        ended, slow = peer.insert("wrong", retries=0), peer.insert("slow", 600)
        cancelled, deleted, purged = (peer.insert(type_) for type_ in ("mail", "mail", "purged"))
        peer.call("cancel", ended)
        peer.call("schedule", {**plan, "name": "was"})
        peer.call("suspend", "was held")
        peer.call("subscribe", {"type": "mails", "subscriber": "was"})
        until_said(server, "begun")
        server.process.send_signal(signal.SIGTERM)
        until_said(server, "waiting for runs to finish")
        for name, job_id in (("cancel", cancelled), ("delete", deleted), ("retry", ended)):
            assert peer.call(name, job_id)["count"] == 1
        assert peer.call("purge", {"type": "purged"}) == 1
        assert all(peer.call(name, argument)["changed"] for name, argument in lasting)
        peer.call("schedule", plan)
        peer.call("unschedule", "was")
        for name, argument in (("fire", "s"), ("batch", {"open": True, "then": {"type": "mail"}}), ("events", {})):
            with pytest.raises(RefusedError, match="draining"):
                peer.call(name, argument)
        peer.call("cancel", slow)  # which is what it waits for
        assert server.process.wait(30) == 0
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server, peer_of(server) as peer:
        assert [peer.call("job", job_id)["state"] for job_id in (cancelled, slow, ended)] == ["cancelled", "cancelled", "retry"]
        for gone in (deleted, purged):
            with pytest.raises(RefusedError, match="not_found"):
                peer.call("job", gone)
        assert [found["name"] for found in peer.call("schedules", {})] == ["s"]
        assert not any(peer.call(name, argument)["changed"] for name, argument in lasting)


def test_after_kill_9_every_accepted_job_is_there(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        ids = ask(server, "insert", [{"type": "ping", "data": n} for n in range(100)])
        server.stop(signal.SIGKILL)
    with serving(tmp_path) as server:
        until(server, jobs_success=100)
        record = ask(server, "job", ids[42])
        assert record["data"] == 42


def test_a_job_that_kills_the_server_each_time_ends_as_a_failure(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    job_id: object = None
    for number in range(3):
        with serving(tmp_path, WORKER__MODULES='["slow"]') as server:
            if number == 0:
                job_id = insert(server, "deadly", None, ghosts=2, ghost_delay=0, delay=0.1)  # which is answered first
            assert server.process.wait(30) == 9
    with serving(tmp_path, WORKER__MODULES='["slow"]') as server:
        record = ask(server, "job", job_id)
        assert (record["state"], record["ghosts"], record["failures"]) == ("fail", 3, 0)


def test_concurrency_0_only_accepts(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        insert(server, "ping", 1)
        assert until(server, jobs_new=1)["jobs_without_handler"] == 1
        assert ask(server, "health") == {"ok": True, "verdict": "ok", "problems": [], "notes": []}


def test_a_type_that_no_handler_takes_is_named(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        insert(server, "nobody's", 1)
        assert until(server, jobs_new=1)["jobs_without_handler"] == 1
        assert ask(server, "health")["notes"] == ["""1 job of type "nobody's" waits, and no handler takes it"""]


def test_a_second_server_on_the_same_journal_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        code, said = refused(tmp_path, SERVER__PORT="0")
        assert (code, said.count("\n")) == (75, 1), said
        assert str(server.process.pid) in said


def test_a_busy_port_is_one_clear_line_and_nothing_is_left_running(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, said = refused(tmp_path, SERVER__PORT=port)
    assert (code, said.count("\n")) == (69, 1), said
    assert port in said
    assert not (tmp_path / "journal").exists()


@pytest.mark.parametrize(
    ("text", "clue"),
    [
        ("[server]\nprot = 1\n", "port"),
        ("[server]\nport = 'x'\n", "server.port"),
        ("[server]\nport = 70000\n", "server.port"),
        ("[server\nport = 1", "line"),
        ("[worker]\nmodules = ['no_such_module']\n", "no_such_module"),
        ("[server]\nhost = '0.0.0.0'\n", "allow_public"),
    ],
)
def test_a_wrong_config_is_one_clear_line_and_touches_nothing(tmp_path: Path, text: str, clue: str) -> None:
    (tmp_path / "kqs.toml").write_text(text)
    code, said = refused(tmp_path, "--config", "kqs.toml")
    assert (code, said.count("\n")) == (78, 1), said
    assert clue in said
    assert not (tmp_path / "journal").exists()


def test_a_journal_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        insert(server, "ping", 1)
        server.stop()
    segment = max((tmp_path / "journal").glob("*.kqj"))
    content = bytearray(segment.read_bytes())
    content[8:10] = (99).to_bytes(2, "little")
    segment.write_bytes(content)
    before = names(tmp_path / "journal")
    code, said = refused(tmp_path, SERVER__PORT="0")
    assert code == 65, said
    assert segment.name in said
    assert names(tmp_path / "journal") == before


def test_a_journal_whose_store_is_gone_is_fed_again_from_its_start(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        insert(server, "ping", 1)
        server.stop(signal.SIGKILL)
    for path in (tmp_path / "journal").glob("store.sqlite*"):
        path.unlink()
    with serving(tmp_path) as server:
        until(server, jobs_success=1)


def test_a_missing_store_beside_a_later_checkpoint_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        insert(server, "ping", 1)
        until(server, jobs_new=1)
        assert server.stop() == 0
    for path in (tmp_path / "journal").glob("store.sqlite*"):
        path.unlink()
    code, said = refused(tmp_path, SERVER__PORT="0")
    assert code == 65, said
    assert "store" in said


def test_a_store_without_its_journal_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        insert(server, "ping", 1)
        until(server, jobs_new=1)
        assert server.stop() == 0
    for path in (tmp_path / "journal").glob("*"):
        if not path.name.startswith("store"):
            path.unlink()
    code, said = refused(tmp_path, SERVER__PORT="0")
    assert code == 65, said
    assert "journal" in said


def test_the_start_says_what_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "kqs.toml").write_text('[log]\nformat = "json"\n')
    with serving(tmp_path, (*SERVE, "--config", "kqs.toml")) as served:
        assert ask(served, "stats")["pid"] == served.process.pid
        served.stop()
        told = [line for line in map(json.loads, served.log.read_text().splitlines()) if line["event"] == "started"]
    assert [(line["config"], line["journal"], line["modules"], line["types"]) for line in told] == [
        (str(tmp_path / "kqs.toml"), str(tmp_path / "journal"), "kqs.builtin", "echo, ping")
    ]


def test_a_variable_that_lacks_an_underscore_is_warned_of(tmp_path: Path) -> None:
    with serving(tmp_path, LOG_LEVEL="debug") as server:
        until_said(server, "a variable sets nothing, for want of an underscore variable=KQS_LOG_LEVEL expected=KQS_LOG__LEVEL")
