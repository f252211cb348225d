"""Signals: heard whatever holds the process, and what each of them means."""

from __future__ import annotations

import os
import pty
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, Popen

import pytest

from tests.support.asking import ask, eventually, peer_of, until, until_said
from tests.support.misbehaving import misbehaving
from tests.support.mortal import mortal
from tests.support.serving import SERVE, SERVE_ENVIRON, Served, free_port, serving
from tests.support.working import WORK

#: the grace of these servers, what the loop is given beyond it, and what a busy machine takes
WITHIN_S = 15

#: makes the terminal that it is given the session's own, and runs the rest of its arguments there
ON_TERMINAL = """
import os, sys
os.dup2(os.open(sys.argv[1], os.O_RDWR), 0)
os.execv(sys.argv[2], sys.argv[2:])
"""

#: a lock's `acquire` blocks without code of its own, as the system call does, and takes the handle for `blocking`
STUCK = """
import asyncio, os, threading, kqs
from kqs.journal.files import OsFiles

@kqs.handler("freeze")
async def freeze(data):
    (lock := threading.Lock()).acquire()
    os.fdatasync = lock.acquire
    print("frozen", flush=True)
    asyncio.get_running_loop().call_soon(OsFiles().flush, 1)
"""


def stop(server: Served, *numbers: int) -> tuple[int, float]:
    """Send signals; return the exit status and how long the end took."""
    began = time.monotonic()
    for number in numbers:
        server.process.send_signal(number)
    return server.process.wait(60), time.monotonic() - began


def until_taken(server: Served) -> None:
    """Return when a process has taken the signals that it was sent: those of one kind that it has not are one."""
    status = Path(f"/proc/{server.process.pid}/status")
    eventually(status.read_text, lambda text: int(text.partition("ShdPnd:")[2].split()[0], 16) == 0, what="taken")


@contextmanager
def starting(folder: Path, command: tuple[str, ...] = SERVE, **settings: str) -> Iterator[Served]:
    """Run a server that is not waited for."""
    port = free_port()
    given = {"SERVER__HOST": "127.0.0.1", "SERVER__PORT": str(port)} | settings
    environ = SERVE_ENVIRON | {f"KQS_{name}": value for name, value in given.items()}
    log = folder / "starting.log"
    with log.open("wb") as output:
        process = Popen(
            mortal(command), cwd=folder, env=environ, stdin=DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield Served(process, port, log)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.parametrize("type_", ["loop", "spinning"])
def test_a_stop_is_obeyed_while_a_handler_holds_the_loop(tmp_path: Path, type_: str) -> None:
    with misbehaving(tmp_path) as server, peer_of(server) as peer:
        ids = peer.call("insert", [{"type": "ping"} for _ in range(100)])
        until(server, jobs_success=100)
        peer.send("insert", {"type": type_})
        until_said(server, "held")
        code, took_s = stop(server, signal.SIGTERM)
        assert code == 70
        assert took_s < WITHIN_S
        assert re.search(r"a handler holds the event loop at \S+/misbehaving.py:\d+, ", server.log.read_text())
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        assert {ask(server, "job", job_id)["state"] for job_id in ids} == {"success"}


@pytest.mark.parametrize("settings", [{}, {"WORKER__PROCESSES": "1"}], ids=["in the server", "in a child"])
def test_what_holds_the_loop_for_long_is_said_while_it_does(tmp_path: Path, settings: dict[str, str]) -> None:
    with misbehaving(tmp_path, **settings) as server, peer_of(server) as peer:
        peer.send("insert", {"type": "loop", "data": 10, "wait": 60})
        until_said(server, "a handler holds the event loop at ")
        assert "let go" not in server.log.read_text()
        until_said(server, "the event loop turns again after_s=")
        assert re.search(r"loop at \S+/misbehaving.py:\d+, and nothing else goes on", server.log.read_text())
        assert isinstance(peer.receive(), str)
        assert peer.receive()["state"] == "success"


def test_a_disk_that_does_not_answer_is_not_taken_for_a_handler(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    with serving(tmp_path, WORKER__MODULES='["stuck"]', WORKER__GRACE_S="0.1") as server, peer_of(server) as peer:
        peer.send("insert", {"type": "freeze"})
        until_said(server, "frozen")
        code, took_s = stop(server, signal.SIGTERM)
        assert code == 70
        assert took_s < WITHIN_S
        assert re.search(r"the event loop does not get on at \S+/kqs/journal/files.py:\d+, ", server.log.read_text())


def test_a_handler_that_holds_the_loop_for_less_than_the_grace_may_finish(tmp_path: Path) -> None:
    with misbehaving(tmp_path, WORKER__GRACE_S="30") as server, peer_of(server) as peer:
        peer.send("insert", {"type": "loop", "data": 5})
        until_said(server, "held")
        assert stop(server, signal.SIGTERM)[0] == 0
        assert "let go" in server.log.read_text()
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        until(server, jobs_success=1)


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT, signal.SIGTERM)])
def test_a_second_signal_means_now_also_while_a_handler_holds_the_loop(tmp_path: Path, numbers: tuple[int, int]) -> None:
    with misbehaving(tmp_path, WORKER__GRACE_S="-1") as server, peer_of(server) as peer:
        peer.send("insert", {"type": "loop"})
        until_said(server, "held")
        server.process.send_signal(numbers[0])
        until_taken(server)
        code, took_s = stop(server, numbers[1])
        assert code == 0
        assert took_s < WITHIN_S
        assert "stopping at once" in server.log.read_text()


GIVING = """
import asyncio, signal, kqs

def give_away(how):
    loop = asyncio.get_running_loop()
    if how == "added":
        loop.add_signal_handler(signal.SIGTERM, print)
    elif how == "removed":
        loop.add_signal_handler(signal.SIGTERM, print)
        loop.remove_signal_handler(signal.SIGTERM)
    else:
        signal.signal(signal.SIGTERM, getattr(signal, how))

{at_import}

@kqs.handler("give", retries=0)
async def give(how):
    give_away(how)
    await asyncio.sleep(2.5)
"""
HOWS = ("SIG_IGN", "SIG_DFL", "added", "removed")


@pytest.mark.parametrize("how", HOWS)
def test_a_signal_that_a_handler_gives_away_stops_the_server_in_order_all_the_same(tmp_path: Path, how: str) -> None:
    (tmp_path / "giving.py").write_text(GIVING.format(at_import=""))
    with serving(tmp_path, WORKER__MODULES='["giving"]') as server, peer_of(server) as peer:
        peer.insert("give", how)
        until(server, jobs_success=1)  # by then the server has looked
        assert stop(server, signal.SIGTERM)[0] == 0
        assert "stopped" in server.log.read_text()


@pytest.mark.parametrize("how", HOWS)
def test_so_does_one_that_a_module_gives_away(tmp_path: Path, how: str) -> None:
    (tmp_path / "giving.py").write_text(GIVING.format(at_import=f"give_away({how!r})"))
    with serving(tmp_path, WORKER__MODULES='["giving"]') as server:
        assert stop(server, signal.SIGTERM)[0] == 0
        assert "stopped" in server.log.read_text()


def test_quit_twice_in_one_write_is_a_quit(tmp_path: Path) -> None:
    with misbehaving(tmp_path, WORKER__GRACE_S="20") as server, peer_of(server) as peer:
        inserted = peer.insert("loop", 2)
        until_said(server, "held")
        assert [line.count('"stopping"') for line in server.ask('{"n":"quit"}', '{"n":"quit"}', '{"n":"quit"}')] == [1, 1, 1]
        assert server.process.wait(30) == 0
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        assert ask(server, "job", inserted)["state"] == "success"


def test_a_signal_after_a_quit_is_no_second_signal(tmp_path: Path) -> None:
    with misbehaving(tmp_path, WORKER__GRACE_S="20") as server, peer_of(server) as peer:
        inserted = peer.insert("plain", 2)
        until_said(server, "held")
        server.ask('{"n":"quit"}')
        assert stop(server, signal.SIGTERM)[0] == 0
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        assert ask(server, "job", inserted)["state"] == "success"


def assert_heard_before_the_start(server: Served, number: int) -> None:
    """See to it that a process whose module says that it hangs, and does, ends in good order at a signal."""
    until_said(server, "hangs")
    code, took_s = stop(server, number)
    assert code == 0
    assert took_s < WITHIN_S
    assert "before anything had begun" in server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("hang", ["time.sleep(600)", "threading.Event().wait()", "while True: pass"])
def test_a_stop_is_obeyed_while_a_module_hangs_in_its_import(tmp_path: Path, hang: str, number: int) -> None:
    (tmp_path / "hanging.py").write_text(f"import threading, time\nprint('hangs', flush=True)\n{hang}\n")
    with starting(tmp_path, WORKER__MODULES='["hanging"]') as server:
        assert_heard_before_the_start(server, number)


#: signals that were given away are taken back by then, in s
LOOKED_S = 2.5
GIVEN_AWAY = """
import kqs, signal, time

def hang():
    signal.signal(signal.SIGTERM, signal.{how})
    time.sleep({looked_s})
    print("hangs", flush=True)
    {hang}

{at_import}

@kqs.handler("hang", retries=0)
async def hang_on_the_loop(data):
    hang()
"""


@pytest.mark.parametrize("how", ["SIG_IGN", "SIG_DFL"])
@pytest.mark.parametrize("hang", ["time.sleep(600)", "while True: pass"])
@pytest.mark.parametrize("command", [SERVE, (*WORK, "hanging")], ids=["serve", "work"])
def test_so_it_is_while_one_hangs_that_gave_the_signal_away(
    tmp_path: Path, command: tuple[str, ...], hang: str, how: str
) -> None:
    (tmp_path / "hanging.py").write_text(GIVEN_AWAY.format(how=how, looked_s=LOOKED_S, hang=hang, at_import="hang()"))
    with starting(tmp_path, command, WORKER__MODULES='["hanging"]') as server:
        assert_heard_before_the_start(server, signal.SIGTERM)


def test_so_it_is_while_a_handler_holds_the_loop_that_gave_the_signal_away(tmp_path: Path) -> None:
    source = GIVEN_AWAY.format(how="SIG_IGN", looked_s=LOOKED_S, hang="time.sleep(600)", at_import="")
    (tmp_path / "hanging.py").write_text(source)
    with serving(tmp_path, WORKER__MODULES='["hanging"]', WORKER__GRACE_S="1") as server, peer_of(server) as peer:
        peer.send("insert", {"type": "hang"})
        until_said(server, "hangs")
        code, took_s = stop(server, signal.SIGTERM)
        assert code == 70
        assert took_s < WITHIN_S
        assert "a handler holds the event loop" in server.log.read_text()


def test_a_stop_is_obeyed_while_the_journal_is_replayed(tmp_path: Path) -> None:
    (tmp_path / "slow_disk.py").write_text(
        "import time\n"
        "from kqs.journal import OsFiles\n"
        "def slow(*arguments): print('replaying', flush=True); time.sleep(600)\n"
        "OsFiles.read = slow\n"
    )
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server, peer_of(server) as peer:
        inserted = peer.insert("ping")
        server.stop(signal.SIGKILL)
    with starting(tmp_path, WORKER__MODULES='["slow_disk"]') as server:
        until_said(server, "replaying")
        code, took_s = stop(server, signal.SIGTERM)
        assert code == 0
        assert took_s < WITHIN_S
    with serving(tmp_path) as server:
        eventually(lambda: ask(server, "job", inserted), lambda job: job["state"] == "success")


def test_a_stop_is_obeyed_while_mongodb_is_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, STORE__KIND="mongodb", STORE__URI="mongodb://127.0.0.1:1") as server, peer_of(server) as peer:
        peer.insert("ping")
        assert stop(server, signal.SIGTERM)[0] == 0


def test_a_module_s_own_signals_are_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import signal\nsignal.signal(signal.SIGUSR1, lambda number, frame: print(f'own signal {number}', flush=True))\n"
    )
    with serving(tmp_path, WORKER__MODULES='["own"]') as server:
        server.process.send_signal(signal.SIGUSR1)
        until_said(server, f"own signal {signal.SIGUSR1:d}")
        assert server.stop() == 0


def test_a_handler_that_adds_and_removes_a_signal_of_its_own_makes_it_deaf_to_none(tmp_path: Path) -> None:
    with misbehaving(tmp_path) as server, peer_of(server) as peer:
        peer.insert("deaf")
        until(server, jobs_success=1)
        assert stop(server, signal.SIGTERM)[0] == 0


RAISING = """
import ctypes
import threading

import kqs


@kqs.handler("raise", retries=0)
def raise_into(name):
    (thread,) = [thread for thread in threading.enumerate() if thread.name == name]
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(ZeroDivisionError))
"""


def test_a_handler_that_raises_into_the_thread_of_signals_makes_it_deaf_to_none(tmp_path: Path) -> None:
    (tmp_path / "raising.py").write_text(RAISING)
    with serving(tmp_path, WORKER__MODULES='["raising"]') as server, peer_of(server) as peer:
        peer.insert("raise", "kqs-sentry")
        until_said(server, "an error was raised into the thread that hears signals")
        assert stop(server, signal.SIGTERM)[0] == 0


CLOSING = """
import asyncio
import os
import signal

import kqs


@kqs.handler("close")
async def close(which):
    await asyncio.sleep(1.5)  # by then the server has looked
    mouth = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(mouth)
    ends = [int(name) for name in os.listdir("/proc/self/fd") if name != str(mouth) and is_same(int(name), mouth)]
    os.close({"mouth": mouth, "ear": ends[0]}[which])


def is_same(number, other):
    try:
        return os.path.sameopenfile(number, other)
    except OSError:
        return False
"""


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("which", ["ear", "mouth"])
def test_a_handler_that_closes_what_signals_are_heard_by_makes_it_deaf_to_none(
    tmp_path: Path, which: str, at_once: bool
) -> None:
    (tmp_path / "closing.py").write_text(CLOSING)
    with serving(tmp_path, WORKER__MODULES='["closing"]') as server, peer_of(server) as peer:
        peer.insert("close", which)
        until(server, jobs_success=1)
        if not at_once:
            until_said(server, "users' code closed what signals are heard by")
        assert stop(server, signal.SIGTERM)[0] == 0
        assert "stopped" in server.log.read_text()


def test_a_hang_up_is_ignored_by_a_service(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.process.send_signal(signal.SIGHUP)
        until_said(server, "SIGHUP ignored")
        assert ask(server, "ping") == "pong"
        assert server.stop() == 0


def test_a_terminal_that_goes_stops_its_server_in_good_order(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    command = (sys.executable, "-c", ON_TERMINAL, os.ttyname(its), *SERVE)
    with misbehaving(tmp_path, command, WORKER__GRACE_S="20") as server, peer_of(server) as peer:
        os.close(its)
        inserted = peer.insert("plain", 2)
        until_said(server, "held")
        os.close(ours)  # the last end: the kernel sends SIGHUP to the session
        server.process.send_signal(signal.SIGHUP)  # as a shell does too
        assert server.process.wait(30) == 0
    with serving(tmp_path, WORKER__CONCURRENCY="0") as server:
        assert ask(server, "job", inserted)["state"] == "success"


@pytest.mark.parametrize(("ignored", "number"), [("HUP", signal.SIGHUP), ("INT", signal.SIGINT)])
def test_what_was_ignored_at_the_start_stays_so(tmp_path: Path, ignored: str, number: int) -> None:
    """As nohup has SIGHUP, and a shell SIGINT of what a script starts in the background."""
    ours, its = pty.openpty()
    ignoring = ("sh", "-c", f'trap "" {ignored}; exec "$@"', "sh")
    command = (sys.executable, "-c", ON_TERMINAL, os.ttyname(its), "/bin/sh", *ignoring[1:], *SERVE)
    with serving(tmp_path, command) as server:
        server.process.send_signal(number)
        assert ask(server, "ping") == "pong"
        assert server.stop() == 0
    os.close(its)
    os.close(ours)
