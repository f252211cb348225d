"""Handlers that fork: what a child does touches neither the server nor its journal, port and clients."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import ask, eventually, peer_of, until, until_said
from tests.support.beanstalkd import running_beanstalkd
from tests.support.misbehaving import misbehaving
from tests.support.serving import Served, serving

#: what a child ends with that comes back from its handler
CAME_BACK = 70


def ended(server: Served, job_id: str) -> dict[str, Any]:
    record: dict[str, Any] = eventually(
        lambda: ask(server, "job", job_id), lambda job: job["state"] in ("success", "fail", "retry")
    )
    return record


def result_of(server: Served, type_: str, data: object = None) -> Any:
    """Run a job; return its result."""
    with peer_of(server) as peer:
        record = ended(server, peer.insert(type_, data, retries=0))
    assert record["state"] == "success", record
    return record.get("result")


@pytest.fixture
def server(tmp_path: Path) -> Any:
    with misbehaving(tmp_path) as server:
        yield server


def test_a_child_that_is_terminated_takes_the_signal_alone(server: Served) -> None:
    assert result_of(server, "terminated", 100) == "terminated"
    assert result_of(server, "ping") is None
    assert server.stop() == 0


def test_a_child_that_is_interrupted_is(server: Served) -> None:
    assert set(result_of(server, "interrupted", 20)) <= {1, -signal.SIGINT}  # after it began, and before
    assert server.process.poll() is None


def test_a_pool_that_breaks_breaks_alone(server: Served) -> None:
    assert result_of(server, "broken_pool") == "broken"
    assert ask(server, "ping") == "pong"


@pytest.mark.parametrize("type_", ["returns", "raises", "exits", "plain_returns", "plain_raises", "called_later"])
def test_a_child_that_comes_back_from_its_handler_is_ended(server: Served, type_: str) -> None:
    assert result_of(server, type_) == CAME_BACK
    until(server, jobs_success=1)
    until_said(server, "has forked came back")
    assert "handler failed" not in server.log.read_text()
    with peer_of(server) as peer:
        peer.call("insert", [{"type": "ping"} for _ in range(100)])
    until(server, jobs_success=101)


def test_a_child_that_awaits_calls_no_handler_of_the_server_s(server: Served) -> None:
    with peer_of(server) as peer:
        for _ in range(20):
            peer.insert("ticks", 100_000, retries=0, ttr=60)
        for _ in range(5):
            assert ended(server, peer.insert("awaits", retries=0))["result"] == CAME_BACK
    assert "went on" not in server.log.read_text()


def test_programs_that_handlers_start_are_their_own(server: Served) -> None:
    assert set(result_of(server, "subprocesses")) == {-signal.SIGTERM}
    listed = result_of(server, "listing")
    assert "journal" not in listed
    assert "store" not in listed
    assert server.stop() == 0


def test_a_child_goes_on_with_files_and_sockets_of_its_own(server: Served) -> None:
    assert result_of(server, "own_files") == [0, "sent", "written"]


@pytest.fixture(params=["memory", "beanstalkd"])
def broker(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Yield the settings of a server with such a broker."""
    if request.param == "memory":
        yield {}
        return
    with running_beanstalkd() as server:
        yield {"BROKER__KIND": "beanstalkd", "BROKER__SERVERS": f'["localhost:{server.port}"]'}


def test_an_orphan_holds_nothing_of_a_server_that_was_killed(tmp_path: Path, broker: dict[str, str]) -> None:
    settings = {"SERVER__SOCKET": "kqs.sock", **broker}
    with misbehaving(tmp_path, **settings) as server, peer_of(server) as peer:
        peer.insert("orphan")
        until_said(server, "and no more")
        pid, held = re.findall(r"orphan (\d+) holds(.*) and no more", server.log.read_text())[0]
        orphan = int(pid)
        try:
            assert held == ""
            server.stop(signal.SIGKILL)
            with pytest.raises(EOFError):
                peer.call("ping")
            with serving(tmp_path, SERVER__PORT=str(server.port), **settings) as again:
                assert ask(again, "ping") == "pong"
            assert Path(f"/proc/{orphan}").exists()
        finally:
            os.kill(orphan, signal.SIGKILL)


def test_a_child_of_a_module_that_forks_while_it_is_loaded_is_no_second_server(tmp_path: Path) -> None:
    (tmp_path / "forking.py").write_text(
        "import os\nif pid := os.fork(): print('child', os.waitpid(pid, 0)[1] >> 8, flush=True)\n"
    )
    with serving(tmp_path, WORKER__MODULES='["forking"]') as server:
        until_said(server, f"child {CAME_BACK}")
        assert ask(server, "ping") == "pong"


def test_a_child_that_exits_on_the_loop_takes_no_wake_up_of_the_servers(server: Served) -> None:
    with peer_of(server) as peer:
        for _ in range(200):
            peer.call("insert", [{"type": "exits_in_a_task"}, *[{"type": "own_pid"}] * 5])
    until(server, jobs_success=1200)
