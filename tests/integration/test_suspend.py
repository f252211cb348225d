"""Suspended types over TCP: on one server, over its kill, in children and elsewhere, and over two servers of one store."""

from __future__ import annotations

import json
import signal
import threading
from functools import partial
from operator import le, lt
from pathlib import Path

import pytest

from tests.support.asking import RefusedError, ask, eventually, peer_of, until
from tests.support.beanstalkd import running_beanstalkd
from tests.support.mongodb import a_database
from tests.support.processes import having_children
from tests.support.serving import serving

COUNTED = """
import asyncio
import os
import time
import kqs

async def note(name):
    with open("began", "a") as began:
        began.write(f"{name} {time.time()}\\n")

@kqs.handler("mail")
async def mail(data):
    await note("mail")
    await asyncio.sleep(data or 0)

@kqs.handler("thumb")
def thumb(data):
    with open("began", "a") as began:
        began.write(f"thumb {time.time()}\\n")
    time.sleep(data or 0)

@kqs.handler("video")
async def video(data):
    await note("video")
"""
SETTINGS = {"WORKER__MODULES": '["counted"]', "WORKER__CONCURRENCY": "4"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "counted.py").write_text(COUNTED)
    (tmp_path / "began").write_text("")
    return tmp_path


def began(folder: Path, name: str) -> list[float]:
    return [float(line.split()[1]) for line in (folder / "began").read_text().splitlines() if line.startswith(f"{name} ")]


def all_began(folder: Path, name: str) -> int:
    return len(began(folder, name)) + len(began(folder / "two", name))


def test_nothing_of_a_type_begins_between_suspend_and_resume(folder: Path) -> None:
    with serving(folder, **SETTINGS) as server:
        assert ask(server, "suspend", "mail") == {"type": "mail", "suspended": True, "changed": True}
        assert ask(server, "suspend", {"type": "mail"}) == {"type": "mail", "suspended": True, "changed": False}
        ask(server, "insert", [{"type": name} for name in ("mail", "video") * 50])
        until(server, jobs_success=50)
        assert len(began(folder, "video")) == 50
        assert began(folder, "mail") == []
        health = ask(server, "health")
        assert (health["ok"], health["notes"]) == (True, ["50 jobs of type 'mail' wait, which is suspended"])
        assert ask(server, "resume", "mail") == {"type": "mail", "suspended": False, "changed": True}
        until(server, jobs_success=100)
        assert ask(server, "resume", "mail")["changed"] is False
        assert ask(server, "health")["notes"] == []


@pytest.mark.parametrize("name", ["mail", "thumb"])
@pytest.mark.parametrize("broker", ["memory", "beanstalkd"])
def test_under_load_nothing_begins_after_the_answer(folder: Path, name: str, broker: str) -> None:
    with running_beanstalkd() as beanstalkd:
        settings = SETTINGS | {"BROKER__KIND": broker, "BROKER__SERVERS": json.dumps([beanstalkd.address])}
        with serving(folder, **settings) as server, peer_of(server) as peer:
            stopped = threading.Event()

            def pour() -> None:
                with peer_of(server) as other:
                    while not stopped.is_set():
                        other.call("insert", [{"type": name, "data": 0.002}] * 5)

            pouring = threading.Thread(target=pour)
            pouring.start()
            try:
                for _ in range(3):
                    before = len(began(folder, name))
                    eventually(lambda: len(began(folder, name)), partial(lt, before + 20))
                    peer.call("suspend", name)
                    last = len(began(folder, name))
                    peer.call("insert", {"type": "video"})
                    until(server, running=0)
                    if name == "thumb":  # its runs have begun when a thread is told of them, and write when it has a turn
                        last, at_answer = len(began(folder, name)), last
                        assert last - at_answer <= int(SETTINGS["WORKER__CONCURRENCY"])
                    videos = len(began(folder, "video"))
                    assert ask(server, "insert", [{"type": "video"}] * 20)
                    eventually(lambda: len(began(folder, "video")), partial(le, videos + 20))
                    assert len(began(folder, name)) == last
                    peer.call("resume", name)
            finally:
                stopped.set()
                pouring.join(30)
            until(server, jobs_new=0, running=0, journal_unfed_records=0)
            stats = peer.call("stats")
            assert (stats["runs_ghost"], stats["jobs_fail"]) == (0, 0)


def test_a_type_stays_suspended_over_kill_9_also_for_what_the_journal_holds(folder: Path) -> None:
    with serving(folder, **SETTINGS) as server, peer_of(server) as peer:
        peer.call("suspend", "mail")
        peer.call("insert", [{"type": "mail"}] * 1000)
        server.stop(signal.SIGKILL)
    for _ in range(2):
        with serving(folder, **SETTINGS) as server, peer_of(server) as peer:
            peer.call("insert", [{"type": name} for name in ("mail", "video") * 10])
            until(server, journal_unfed_records=0, jobs_processing=0)
            eventually(lambda: ask(server, "stats"), lambda stats: stats["jobs_success"] >= 10)
            assert began(folder, "mail") == []
            server.stop(signal.SIGKILL)
    with serving(folder, **SETTINGS) as server:
        assert ask(server, "resume", "mail")["changed"] is True
        until(server, jobs_success=1040)


def test_a_resumed_type_stays_so_over_kill_9(folder: Path) -> None:
    with serving(folder, **SETTINGS) as server, peer_of(server) as peer:
        peer.call("suspend", "mail")
        peer.call("resume", "mail")
        server.stop(signal.SIGKILL)
    with serving(folder, **SETTINGS) as server:
        ask(server, "insert", {"type": "mail"})
        until(server, jobs_success=1)


def test_workers_elsewhere_get_none(folder: Path) -> None:
    with serving(folder, WORKER__CONCURRENCY="0") as server, peer_of(server) as peer, peer_of(server) as standing:
        peer.call("suspend", "mail")
        peer.call("insert", [{"type": "mail"}, {"type": "video"}])
        assert peer.call("reserve", {"types": ["mail"]}) == []
        assert [run["type"] for run in peer.call("reserve", {"types": ["mail", "video"], "count": 5, "wait": 5})] == ["video"]
        assert peer.call("reserve", {"types": ["mail"], "count": 5, "wait": 0.2}) == []
        standing.send("work", {"types": ["mail"], "room": 5})
        peer.call("insert", {"type": "mail"})
        peer.call("resume", "mail")
        given: list[object] = []
        while len(given) < 2:
            given += standing.receive()
        assert ask(server, "stats")["running_remote"] == 3


def test_children_get_none(tmp_path: Path) -> None:
    with having_children(tmp_path, 2) as server, peer_of(server) as peer:
        peer.call("suspend", "double")
        peer.call("insert", [{"type": "double", "data": n} for n in range(20)])
        peer.call("insert", [{"type": "pid"}] * 20)
        until(server, jobs_success=20, jobs_new=20, running=0)
        peer.call("resume", "double")
        until(server, jobs_success=40)


@pytest.mark.parametrize(
    "argument", [None, {}, "", "x" * 201, {"type": None}, {"type": 1}, ["mail"], {"type": "m", "x": 1}, "a\nb"]
)
def test_what_is_no_type_is_refused(folder: Path, argument: object) -> None:
    with serving(folder) as server:
        for name in ("suspend", "resume"):
            with pytest.raises(RefusedError, match="bad_call"):
                ask(server, name, argument)


@pytest.mark.parametrize("broker", ["memory", "beanstalkd"])
def test_all_servers_of_a_store_hear_of_it(folder: Path, server_uri: str, broker: str) -> None:
    (folder / "two").mkdir()
    (folder / "two" / "counted.py").write_text(COUNTED)
    (folder / "two" / "began").write_text("")
    with running_beanstalkd() as beanstalkd:
        settings = SETTINGS | {"STORE__KIND": "mongodb", "STORE__URI": a_database(server_uri)}
        settings |= {"BROKER__KIND": broker, "BROKER__SERVERS": json.dumps([beanstalkd.address])}
        with serving(folder, **settings) as one, serving(folder / "two", **settings) as two:
            ask(one, "suspend", "mail")
            eventually(lambda: ask(two, "suspend", "mail"), lambda answer: not answer["changed"])
            eventually(lambda: ask(two, "insert", {"type": "mail"}) and ask(two, "health")["notes"], bool)
            mails = len(began(folder / "two", "mail"))
            ask(two, "insert", [{"type": "mail"}] * 20)
            ask(two, "insert", [{"type": "video"}] * 20)
            eventually(lambda: all_began(folder, "video"), lambda n: n == 20)
            assert (began(folder, "mail"), len(began(folder / "two", "mail"))) == ([], mails)
            two.stop(signal.SIGKILL)
            with serving(folder / "two", **settings) as again:
                ask(again, "insert", [{"type": "mail"}] * 20)
                ask(again, "insert", [{"type": "video"}] * 20)
                eventually(lambda: all_began(folder, "video"), lambda n: n >= 40)
                assert (began(folder, "mail"), len(began(folder / "two", "mail"))) == ([], mails)
                ask(again, "resume", "mail")
                eventually(lambda: all_began(folder, "mail"), lambda count: count >= 41)
