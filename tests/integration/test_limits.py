"""Limits of types over TCP: in lanes, threads, children and elsewhere, over a kill, and told by the calls."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import RefusedError, ask, eventually, until
from tests.support.beanstalkd import running_beanstalkd
from tests.support.mongodb import a_database, mongodb
from tests.support.serving import Served, serving
from tests.support.working import working

LOGGED = """
import asyncio
import os
import time
import kqs

LOG = "@LOG@"

def note(word):
    with open(LOG, "a") as log:
        log.write(f"{word} {time.monotonic()} {os.getpid()}\\n")

@kqs.handler("mail")
async def mail(data):
    note("+")
    while data == "gate" and not os.path.exists(LOG + ".gate"):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0 if data == "gate" else data or 0)
    note("-")

@kqs.handler("thumb")
def thumb(data):
    note("+")
    time.sleep(data or 0)
    note("-")

@kqs.handler("video")
async def video(data):
    pass
"""
SETTINGS = {"WORKER__MODULES": '["logged"]', "WORKER__CONCURRENCY": "8"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "logged.py").write_text(LOGGED.replace("@LOG@", str(tmp_path / "log")))
    (tmp_path / "log").write_text("")
    return tmp_path


def log(folder: Path) -> list[tuple[str, float]]:
    """What the handlers wrote, whoever ran them: + as they begin, - as they end, and when."""
    return [(word, float(at)) for word, at, _ in map(str.split, (folder / "log").read_text().splitlines())]


def most_at_once(folder: Path) -> int:
    running = most = 0
    for word, _ in sorted(log(folder), key=lambda line: (line[1], line[0] == "+")):
        running += 1 if word == "+" else -1
        most = max(most, running)
    return most


def ends_of(folder: Path) -> int:
    return sum(word == "-" for word, _ in log(folder))


def end_what_died(folder: Path, server: Served) -> None:
    """Note as ended whatever ran in a server that is dead now."""
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    ours = [word for word, _, pid in lines if pid == str(server.process.pid)]
    count = ours.count("+") - ours.count("-")
    with (folder / "log").open("a") as file:
        file.write(f"- {time.monotonic()} {server.process.pid}\n" * count)


@pytest.mark.parametrize("broker", ["memory", "beanstalkd"])
def test_no_more_run_at_once_than_may_and_others_go_by(folder: Path, broker: str) -> None:
    with running_beanstalkd() as beanstalkd:
        settings = SETTINGS | {"BROKER__KIND": broker, "BROKER__SERVERS": json.dumps([beanstalkd.address])}
        with serving(folder, **settings) as server:
            for turn, name in enumerate(("mail", "thumb"), start=1):
                (folder / "log").write_text("")
                ask(server, "limit", {"type": name, "concurrency": 3})
                ask(server, "insert", [{"type": kind, "data": 0.02} for kind in (name, "video") * 40])
                until(server, jobs_success=80 * turn)
                assert most_at_once(folder) == 3


def test_no_more_run_at_once_than_may_of_short_ones_that_are_claimed_ahead(folder: Path) -> None:
    with serving(folder, **SETTINGS) as server:
        for turn, name in enumerate(("mail", "thumb"), start=1):
            (folder / "log").write_text("")
            ask(server, "limit", {"type": name, "max_running": 3})
            ask(server, "insert", [{"type": name}] * 1000)
            until(server, jobs_success=1000 * turn)
            assert (most_at_once(folder), ends_of(folder)) == (3, 1000)


def test_a_remote_worker_gets_no_more_than_may_run_while_lanes_claim_ahead(folder: Path) -> None:
    with serving(folder, **SETTINGS) as server:
        ask(server, "limit", {"type": "mail", "max_running": 3})
        ask(server, "insert", [{"type": "mail"}] * 1000)
        with working(folder, server, "logged"):
            ask(server, "insert", [{"type": "mail", "data": 0.001}] * 1000)
            until(server, jobs_success=2000)
        assert most_at_once(folder) == 3
        assert len({pid for _, _, pid in map(str.split, (folder / "log").read_text().splitlines())}) == 2


def test_the_configuration_limits_and_a_call_stands_above_it(folder: Path) -> None:
    with serving(folder, **SETTINGS, TYPES__MAIL__MAX_RUNNING="2") as server:
        assert limits_of(server, "mail") == {"weight": 1, "max_running": 2, "running": 0}
        ids = ask(server, "insert", [{"type": "mail", "data": 60}] * 4)
        until(server, jobs_processing=2)
        told = ask(server, "explain", ids[-1])
        assert (told["reason"], told["limit"], told["value"], told["running"]) == ("limited", "max_running", 2, 2)
        assert told["text"] == "Its type's limit max_running of 2 is reached: 2 jobs of it run here."
        changed = ask(server, "limit", {"type": "mail", "max_running": 3})
        assert changed == {"type": "mail", "limits": {"max_running": 3, "running": 2, "by_call": True}, "changed": True}
        until(server, jobs_processing=3)
        ask(server, "limit", {"type": "mail", "reset": True})
        assert limits_of(server, "mail") == {"weight": 1, "max_running": 2, "running": 3}


def limits_of(server: Served, type_: str) -> Any:
    return ask(server, "types", {"type": type_})[0]["limits"]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ({"type": "mail"}, "names no limit"),
        ({"type": "mail", "per_s": 5}, "per_s goes with a rate"),
        ({"type": "mail", "rate": 0}, "rate"),
        ({"type": "mail", "max_running": -1}, "max_running"),
        ({"type": "mail", "concurrency": 1.5}, "concurrency"),
        ({"type": "mail", "reset": True, "rate": 5}, "reset takes back"),
        ({"type": "a\n", "rate": 5}, "type"),
        ({"max_running": 5}, "type: field required"),
        ({"type": "mail", "max_runing": 5}, "max_running"),
    ],
)
def test_what_makes_no_sense_is_refused(one_server: Served, argument: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusedError, match=said) as refused:
        ask(one_server, "limit", argument)
    assert refused.value.code == "bad_call"


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("limits")) as server:
        yield server


def test_it_holds_over_a_kill_and_what_ran_makes_room(folder: Path) -> None:
    with serving(folder, **SETTINGS) as server:
        ask(server, "limit", {"type": "mail", "max_running": 2})
        ask(server, "insert", [{"type": "mail", "data": 0.7}] * 6)
        until(server, jobs_processing=2)
        server.stop(signal.SIGKILL)
    assert most_at_once(folder) == 2
    (folder / "log").write_text("")
    with serving(folder, **SETTINGS) as server:
        until(server, jobs_success=6)
    assert most_at_once(folder) == 2


def test_children_and_remote_workers_count_together(folder: Path) -> None:
    with serving(folder, **SETTINGS | {"WORKER__PROCESSES": "2"}) as server:
        ask(server, "limit", {"type": "mail", "max_running": 3})
        with working(folder, server, "logged"):
            eventually(lambda: ask(server, "workers"), lambda rows: {row["kind"] for row in rows} == {"child", "remote"})
            ask(server, "insert", [{"type": "mail", "data": 0.05}] * 20)
            until(server, jobs_success=20)
    assert most_at_once(folder) == 3


def test_a_rate_is_held(folder: Path) -> None:
    with serving(folder, **SETTINGS, TYPES__MAIL__RATE="50") as server:
        asked_at = time.monotonic()
        ask(server, "insert", [{"type": "mail"}] * 60)
        until(server, jobs_success=60)
        began = [at for word, at in log(folder) if word == "+"]
        assert began[-1] - asked_at > 0.15  # ten more than a second brings
        for index, since in enumerate(began):  # 0.2 s: what was claimed in time may begin later
            assert all(count + 1 <= 50 + (at - since + 0.2) * 50 for count, at in enumerate(began[index:]))


def test_over_three_servers_one_of_which_is_killed_no_more_run_than_may(folder: Path) -> None:
    places = [folder / name for name in ("one", "two", "three")]
    for place in places:
        place.mkdir()
        (place / "logged.py").write_text((folder / "logged.py").read_text())
    with mongodb(folder) as uri, ExitStack() as stack:
        settings = SETTINGS | {"STORE__KIND": "mongodb", "STORE__URI": a_database(uri), "TYPES__MAIL__MAX_RUNNING": "9"}
        servers = [stack.enter_context(serving(place, **settings)) for place in places]
        ask(servers[0], "limit", {"type": "mail", "max_running": 4})
        for server in servers:
            eventually(partial(limits_of, server, "mail"), lambda limits: limits.get("by_call"))
        ask(servers[0], "insert", [{"type": "mail", "data": "gate"}] * 8)
        eventually(lambda: len(log(folder)), lambda count: count == 4)  # however slow the servers are to claim
        for server in servers:
            ask(server, "insert", [{"type": "mail", "data": 0.03}] * 15)
        (folder / "log.gate").touch()
        eventually(lambda: len(log(folder)), lambda count: count > 20)
        servers[1].stop(signal.SIGKILL)
        end_what_died(folder, servers[1])
        again = stack.enter_context(serving(places[1], **settings))
        until(servers[0], jobs_success=53)  # more may have run, in the server that died
        assert most_at_once(folder) == 4
        (folder / "log").write_text("")
        ask(servers[0], "limit", {"type": "thumb", "rate": 20})
        for server in (servers[0], again):
            eventually(partial(limits_of, server, "thumb"), lambda limits: limits.get("rate"))
        asked_at = time.monotonic()
        for server in (servers[0], again):
            ask(server, "insert", [{"type": "thumb"}] * 15)
        eventually(lambda: ends_of(folder), lambda count: count == 30)
        began = sorted(at for word, at in log(folder) if word == "+")
        assert began[-1] - asked_at > 0.2  # ten more than a second brings
        for server in (servers[0], servers[2], again):
            server.stop(signal.SIGKILL)
