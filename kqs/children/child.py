"""One child process, from the server's side: from its start to its end. Call from the loop thread."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack, suppress
from typing import NamedTuple, Protocol

import msgspec

from kqs.children.words import Beat, Born, Leaving, Ready, Unfit, Word, heard
from kqs.commands.channel import Channel, MinderLostError
from kqs.commands.minders import Minders
from kqs.errors import ExitCode
from kqs.log import get_logger
from kqs.minding.command import Command
from kqs.minding.frames import Ended, Order, Unstarted
from kqs.process import forks
from kqs.reasons import reason_of
from kqs.supervisor import Supervisor

log = get_logger("kqs.children")

#: a hang-up while this goes on is none of its business. All of ours is imported before the folder can be looked into, as in the
#: server: a file there may have the name of one of Python's modules. Our package is the server's own, wherever others may be
#: found. Without rich as `kqs serve` is
_MAIN = """
import sys
sys.path[:] = [place for place in sys.path if place]
import importlib.util, json, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
brief = json.load(sys.stdin)
sys.path += [place for place in brief["path"] if place and place not in sys.path]
spec = importlib.util.spec_from_file_location("kqs", brief["home"])
sys.modules["kqs"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["kqs"])
sys.modules["rich"] = None
from kqs.outpost.child import main
del sys.modules["rich"]
sys.path[:] = brief["path"]
main(brief)
"""
#: what systemd tells the server alone
_NOT_PASSED = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
#: silent at so many looks in a row, a second each, a child is given no more jobs; and is held by a handler if it has let a
#: run's time go by
DOUBTED_LOOKS = 2
SILENT_LOOKS = 4
#: so is one that has no run, of which nothing is heard at so many
LOST_LOOKS = 15
#: and one whose connection has been gone at so many: a handler has closed it there, unseen. At its end a child closes it
#: itself, and takes two seconds at most from there
GONE_LOOKS = 5
_READ_BYTES = 64 * 1024


class Hand(Protocol):
    """What a child has of the server's jobs."""

    overdue_count: int
    lost_count: int
    is_gone: bool

    @property
    def runs_count(self) -> int:
        """Return how many runs it has."""
        ...

    def pause(self) -> None:
        """Give it no more."""
        ...

    def resume(self) -> None:
        """Give it more again."""
        ...


class Peer(Protocol):
    """The server's end of a child's connection."""

    @property
    def hand(self) -> Hand:
        """Return what came over it."""
        ...

    def abort(self) -> None:
        """Cut it: what it brought goes back."""
        ...


#: serves a connection
Door = Callable[[socket.socket], Awaitable[Peer]]


class End(NamedTuple):
    """How a child has ended, in words, and how many runs it had. is_sound: it had nothing left to do."""

    how: str
    runs_count: int
    is_sound: bool


class Child:
    """See the module docstring.

    pid: 0 until it has said it. ready: done when it asks for jobs. leaving: done when it is about to, with the reason.
    why_unfit: what kept it from starting.
    """

    def __init__(self, number: int, brief: bytes, folder: str, minders: Minders, door: Door, supervisor: Supervisor) -> None:
        self.number = number
        self._brief = brief
        self._folder = folder
        self._minders = minders
        self._door = door
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        self.began_at = self._loop.time()
        self.pid = 0
        self._pidfd = -1
        self.ready: asyncio.Future[None] = self._loop.create_future()
        self.leaving: asyncio.Future[str] = self._loop.create_future()
        self.why_unfit = ""
        self._problems: list[str] = []
        self._channel: Channel | None = None
        self._peer: Peer | None = None
        self._status = b""
        self._silent_looks = self._gone_looks = 0
        self._overdue_heard = 0
        self._why_killed = ""
        self._is_ending = False

    @property
    def is_ready(self) -> bool:
        """Tell whether it has asked for jobs."""
        return self.ready.done()

    @property
    def lived_s(self) -> float:
        """Return how long ago it was started."""
        return self._loop.time() - self.began_at

    def problems(self) -> list[str]:
        """Return what is wrong with its handlers, in words."""
        if self.is_ready and self._silent_looks >= SILENT_LOOKS:
            return [f"a handler holds its event loop, nothing was heard of it for {self._silent_looks} s"]
        return self._problems

    async def run(self) -> End:
        """Start it; return when it has ended, and nothing of it is left."""
        with ExitStack() as stack:
            try:
                report = await self._run(stack)
                how, is_sound = _told(report, self._why_killed or self.why_unfit)
            except MinderLostError:
                self._kill_orphan()
                how, is_sound = self._why_killed or "the process that watched over it was killed", False
            except OSError as error:
                how, is_sound = f"no process can be had for it: {reason_of(error)}", False
            runs_count = 0
            if self._peer is not None:
                runs_count = self._peer.hand.runs_count or self._peer.hand.lost_count
                self._peer.abort()
            return End(how, runs_count, is_sound)

    async def _run(self, stack: ExitStack) -> Ended | Unstarted:
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        with theirs:
            told, telling = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(self._stop_hearing, told, forks.own(told))
            try:
                self._channel = await self._minders.make([1, 2, theirs.fileno(), telling])
            finally:
                os.close(telling)
        stack.callback(self._channel.close)
        stack.callback(self._forget_process)
        self._peer = await self._door(ours)
        self._loop.add_reader(told, self._supervisor.guard, "children", self._note_words, told)
        if self._is_ending:
            return Ended(ExitCode.OK, False, False, b"", b"")
        report = await self._channel.run(self._order())
        while self._hear(told):
            pass
        return report

    def _order(self) -> Order:
        flags = getattr(subprocess, "_args_from_interpreter_flags")()  # noqa: B009 - as multiprocessing has it
        argv = [sys.executable, *flags, "-c", _MAIN, f"child-{self.number}"]
        return Order(Command(argv, self._folder, output_bytes=0), _environ(os.environ), self._brief)

    def end(self) -> None:
        """Have it drain; the second time, have it killed."""
        self._is_ending = True
        if self._channel is not None:
            self._channel.end()

    @property
    def is_unborn(self) -> bool:
        """Tell whether there is no process yet that could be asked to end."""
        return self._channel is None

    def give_up(self) -> None:
        """Wait no more for its end, which its minder sees to."""
        if self._channel is not None:
            self._channel.close()

    def look(self) -> None:
        """Look whether a handler holds its loop: then it gets no more jobs, and is killed if a run's time goes by meanwhile.

        One that has no connection any more can have no jobs, and is killed.
        """
        self._silent_looks += 1
        if self._peer is None or self._why_killed:
            return
        self._gone_looks += self._peer.hand.is_gone
        if self._gone_looks >= GONE_LOOKS:
            self._kill("a handler closed its connection, so it was killed")
            return
        if self._silent_looks == DOUBTED_LOOKS:
            self._peer.hand.pause()
        if self._silent_looks >= SILENT_LOOKS and self._peer.hand.overdue_count > self._overdue_heard:
            self._kill("a handler held its event loop beyond the time of a run, so it was killed")
        elif self._silent_looks >= LOST_LOOKS and self.is_ready and not self._peer.hand.runs_count:
            self._kill("a handler held its event loop after all its runs were over, so it was killed")

    def _kill(self, why: str) -> None:
        self._why_killed = why
        self.end()
        self.end()

    def _note_words(self, told: int) -> None:
        self._hear(told)

    def _hear(self, told: int) -> bool:
        """Take what it has said; False: nothing."""
        try:
            data = os.read(told, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(told)
            return False
        *lines, self._status = (self._status + data).split(b"\n")
        for line in lines:
            with suppress(msgspec.MsgspecError):  # a handler wrote there
                self._take(heard(line))
        if len(self._status) > _READ_BYTES:
            self._status = b""
        return True

    def _take(self, word: Word) -> None:
        self._note_life()
        match word:
            case Born(pid):
                self._note_birth(pid)
            case Ready() if not self.is_ready:
                self.ready.set_result(None)
                log.info("a child process runs", child=self.number, pid=self.pid)
            case Beat(problems):
                self._problems = problems
            case Unfit(why):
                self.why_unfit = why
            case Leaving(why) if not (self.leaving.done() or self._why_killed):  # being killed is no leave
                self.leaving.set_result(why)

    def _note_life(self) -> None:
        if self._peer is not None:
            self._overdue_heard = self._peer.hand.overdue_count
            if self._silent_looks >= DOUBTED_LOOKS:
                self._peer.hand.resume()
        self._silent_looks = 0

    def _note_birth(self, pid: int) -> None:
        if not self.pid:
            self.pid = pid
            with suppress(OSError):  # it has gone already, or no descriptor is left
                self._pidfd = os.pidfd_open(pid)

    def _stop_hearing(self, told: int, identity: forks.Identity) -> None:
        forks.disown(identity)
        self._loop.remove_reader(told)
        os.close(told)

    def _forget_process(self) -> None:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _kill_orphan(self) -> None:
        """Kill a child whose minder was killed, should the keeper have been, too."""
        if self._pidfd >= 0:
            with suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


def _environ(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name not in _NOT_PASSED}


def _told(report: Ended | Unstarted, why: str) -> tuple[str, bool]:
    """Return how a child has ended, in words, and whether soundly. why: it was killed, or could not start."""
    if isinstance(report, Unstarted):
        return f"it cannot be started: {report.step}: {os.strerror(report.errno).lower()}", False
    if report.code == ExitCode.OK and not why:
        return "exit code 0", True
    if why:
        return why, False
    if report.code >= 0:
        return f"exit code {report.code}", False
    try:
        return f"killed by {signal.Signals(-report.code).name}", False
    except ValueError:
        return f"killed by signal {-report.code}", False
