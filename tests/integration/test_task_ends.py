"""Every background task of a running server: when one ends that nobody asked to end, the server stops, and says which."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kqs.errors import ExitCode
from tests.support.asking import ask
from tests.support.beanstalkd import running_beanstalkd
from tests.support.mongodb import a_database
from tests.support.mortal_tasks import SOCKET
from tests.support.serving import SERVE, SERVE_ENVIRON, STOPPED_WITHIN_S, Served, serving

pytestmark = pytest.mark.slow

ENDS = ("cancel", "raise", "return")
#: they come and go with what they are for, which is tested where they are made
PASSING = ("accept", "call ", "refill ", "store operation")
MORTAL = {
    "WORKER__MODULES": '["tests.support.mortal_handlers"]',
    "WORKER__CONCURRENCY": "1",
    "LOG__FORMAT": "json",
}

Settings = Callable[[], dict[str, str]]


@pytest.fixture(scope="module")
def beanstalkd_address() -> Iterator[str]:
    with running_beanstalkd() as beanstalkd:
        yield beanstalkd.address


def order(folder: Path, what: str) -> list[str]:
    """Give an order (see tests/support/mortal_tasks.py); return the names of the tasks that run."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(os.path.relpath(folder / SOCKET))
        peer.sendall(f"{what}\n".encode())
        return [line.strip() for line in peer.makefile()]


def lasting_tasks(folder: Path, settings: Settings) -> list[str]:
    folder.mkdir()
    with serving(folder, SERVE, SERVE_ENVIRON | {"WATCHDOG_USEC": "60000000"}, **MORTAL, **settings()):
        names = [name for name in order(folder, "tasks") if not name.startswith(PASSING)]
    return ["consumer-" if name.startswith("consumer-") else name for name in names]  # which end with the server's pid


def deaths(server: Served) -> list[str]:
    """Return of which tasks the server has said that it stops for them."""
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return [line["task"] for line in lines if line["event"] == "a service died, stopping"]


def assert_stops(folder: Path, settings: Settings, how: str, name: str) -> None:
    folder.mkdir()
    with serving(folder, SERVE, SERVE_ENVIRON | {"WATCHDOG_USEC": "60000000"}, **MORTAL, **settings()) as server:
        order(folder, f"{how} {name}")
        assert server.process.wait(STOPPED_WITHIN_S) == ExitCode.SOFTWARE, name
        assert [death.startswith(name) for death in deaths(server)] == [True]


def assert_all_stop(folder: Path, settings: Settings, how: str, names: list[str]) -> None:
    """End one task after the other, each in a server of its own; all by an error, and half by each of the other ways."""
    chosen = {"raise": names, "cancel": names[::2], "return": names[1::2]}[how]
    with ThreadPoolExecutor(2) as pool:
        for ended in [pool.submit(assert_stops, folder / str(at), settings, how, name) for at, name in enumerate(chosen)]:
            ended.result()


@pytest.mark.parametrize("how", ENDS)
def test_a_task_that_ends_unasked_stops_the_server(tmp_path: Path, how: str) -> None:
    names = lasting_tasks(tmp_path / "first", dict)
    assert {"feeder", "queue-reports", "lane-0", "memory", "watchdog"} <= set(names)
    if how == "cancel":  # a lane goes on in another task, since handlers may cancel theirs
        names.remove("lane-0")
    assert_all_stop(tmp_path, dict, how, names)


@pytest.mark.parametrize("how", ENDS)
def test_so_does_one_of_the_shared_engines(tmp_path: Path, how: str, server_uri: str, beanstalkd_address: str) -> None:
    def settings() -> dict[str, str]:
        return {
            "STORE__KIND": "mongodb",
            "STORE__URI": a_database(server_uri),
            "BROKER__KIND": "beanstalkd",
            "BROKER__SERVERS": f'["{beanstalkd_address}"]',
        }

    names = set(lasting_tasks(tmp_path / "shared", settings)) - set(lasting_tasks(tmp_path / "own", dict))
    assert {"store heartbeat", "store upkeep", "beanstalkd-tick", f"beanstalkd {beanstalkd_address}"} <= names
    assert_all_stop(tmp_path, settings, how, sorted(names))


@pytest.mark.parametrize("how", ["cancel", "raise"])
def test_so_does_the_start_that_waits_for_its_store(tmp_path: Path, how: str) -> None:
    def settings() -> dict[str, str]:
        return {"STORE__KIND": "mongodb", "STORE__URI": "mongodb://127.0.0.1:1/kqs?serverSelectionTimeoutMS=100"}

    assert lasting_tasks(tmp_path / "first", settings) == ["startup", "watchdog", "memory"]
    assert_stops(tmp_path / "second", settings, how, "startup")


def test_a_lane_that_is_cancelled_goes_on(tmp_path: Path) -> None:
    with serving(tmp_path, **MORTAL) as server:
        order(tmp_path, "cancel lane-0")
        ask(server, "insert", {"type": "ping"})
        assert server.stop() == 0
        assert deaths(server) == []
