"""A child process of a server: `kqs work` on a socket that the server has passed on, which lives no longer than that.

Descriptors: 3 is the connection, 4 where it tells how it is (kqs.children.words). The brief came on stdin.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket as sockets
import sys
from collections.abc import Callable
from posix import _exit as leave_now  # as in kqs.process.forks
from typing import Any, NoReturn

import msgspec
from structlog.typing import EventDict, Processor

from kqs import log as logs
from kqs.children.words import (
    STATUS,
    TOO_MANY_JOBS,
    TOO_MUCH_MEMORY,
    WIRE,
    Beat,
    Born,
    Leaving,
    Ready,
    Unfit,
    Word,
    config_of,
    told,
)
from kqs.client import Address
from kqs.client.link import Link
from kqs.clock import Clock
from kqs.errors import ExitCode, StartupError
from kqs.handlers import Registry
from kqs.job import Run
from kqs.log import get_logger
from kqs.minding.launch import set_name
from kqs.modules import load_modules, with_commands
from kqs.outpost.line import Line
from kqs.outpost.outpost import Outpost, OutpostSettings
from kqs.outpost.source import WireSource
from kqs.process import forks, memory
from kqs.process.descriptors import allow_files
from kqs.process.host import hosted
from kqs.process.sentry import Sentry
from kqs.reasons import reason_of
from kqs.service import SystemClock
from kqs.supervisor import Supervisor, when_done
from kqs.worker import Worker

log = get_logger("kqs.work")

#: how often it tells that its loop turns, and looks at its memory, in s
BEAT_S = 1.0
#: who is about to be worn says so this long before, in s, as far as it can tell: the next one takes about as long to start
OVERLAP_S = 2.0
#: what is said while so many runs wait in hand gathers for so long, in s: reports of runs that follow each other on a loop that
#: they fill would come a few at a time, and each time costs the server as much as twenty runs. Of handlers that take 1 ms of
#: CPU two processes do 1.75 times as much as one with 0.02 s, and 1.81 times with 0.06; 0.1 gains nothing more
ENOUGH = 8
GATHER_S = 0.06


class GivenLine(Line):
    """A connection that was there before; there is no other, and no use without it."""

    def __init__(self, given: sockets.socket, supervisor: Supervisor) -> None:
        super().__init__(Address(socket="given"), supervisor)
        self._given: sockets.socket | None = given
        self._is_told_lost = False  # that it opens is nothing to tell

    async def _connect(self) -> Link:
        given, self._given = self._given, None
        if given is None:
            logs.flush()
            leave_now(ExitCode.UNAVAILABLE)  # the server is gone, and has taken back the runs
        loop = asyncio.get_running_loop()
        return (await loop.create_unix_connection(lambda: Link(self._heard, self._lost), sock=given))[1]

    async def _beat(self) -> None:
        """Ask for no word of the server: it may be held up, and that it is gone shows."""
        await asyncio.Event().wait()


class WearingSource(WireSource):
    """Lets so many runs begin, and no more. begun_count: how many have."""

    def __init__(self, line: Line, clock: Clock, supervisor: Supervisor, most: int, on_worn: Callable[[], None]) -> None:
        """Args: most: 0: any number."""
        super().__init__(line, clock, supervisor)
        self._most = most
        self._on_worn = on_worn
        self._timer: asyncio.TimerHandle | None = None
        self.begun_count = 0
        #: tells how many runs are in hand that have not begun
        self.waiting_count: Callable[[], int] = lambda: 0

    def may_begin(self, run: Run, _consumer: object = None, /) -> bool:
        """Tell whether a run is still ours, and may begin; one that may not is given back."""
        if not super().may_begin(run):
            return False
        if self._most and self.begun_count >= self._most:
            self.give_back(run)
            return False
        self.begun_count += 1
        if self.begun_count == self._most:
            if self._consumer is not None:
                self._consumer.stopped = True  # nothing more is asked for, from this turn on
            self._on_worn()
        return True

    def _note(self) -> None:
        """Have what there is to be said go out soon, and together, while there is enough to do; else with this turn."""
        if self._timer is None and not self._is_due and self.waiting_count() >= ENOUGH:
            self._timer = self._supervisor.call_later(GATHER_S, "work", self._send)
        elif self._timer is None or self.waiting_count() < ENOUGH:
            super()._note()

    def _send(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super()._send()


class Child(Outpost):
    """One child process."""

    def __init__(self, settings: OutpostSettings, sentry: Sentry) -> None:
        super().__init__(settings, sentry)
        self._config = settings.commands
        self._source: WearingSource
        self._worker: Worker
        self._is_leaving = self._is_ending = False
        self._tasks: list[asyncio.Task[None]] = []

    def _load(self) -> Registry:
        return with_commands(load_modules(self._config.worker.modules), self._config)

    def _make_line(self) -> Line:
        return GivenLine(sockets.socket(fileno=WIRE), self._supervisor)

    def _make_source(self, line: Line) -> WireSource:
        most = self._config.worker.max_jobs
        self._source = WearingSource(line, SystemClock(), self._supervisor, most, lambda: self._end(TOO_MANY_JOBS))
        return self._source

    def _tell_start(self, types: frozenset[str]) -> None:
        log.debug("started", pid=os.getpid(), types=", ".join(sorted(types)))

    async def run(self) -> ExitCode:
        """Work until asked to end, or worn; return the exit code. Raises: StartupError: a module or type is none."""
        try:
            return await super().run()
        finally:
            await self._supervisor.end(*self._tasks)

    async def _work(self, worker: Worker) -> None:
        self._worker = worker
        self._source.waiting_count = lambda: worker.waiting_count
        self._tasks.append(self._supervisor.spawn(self._beat(worker), "beat"))
        say(Ready())
        await super()._work(worker)
        say(Leaving("it was asked to end"))

    def _leave(self, why: str) -> None:
        """Have another started, and go on until it may be there."""
        if not self._is_leaving:
            self._is_leaving = True
            say(Leaving(why))
            self._supervisor.call_later(OVERLAP_S, "leave", self._end, why)

    def _end(self, why: str) -> None:
        """Let others have the jobs, and end when all runs have."""
        self._leave(why)
        if not self._is_ending:
            self._is_ending = True
            self._tasks.append(self._supervisor.spawn(self._end_with_runs(), "leave", when_done))

    async def _end_with_runs(self) -> None:
        await self._worker.drain()
        self._stop.request()

    async def _beat(self, worker: Worker) -> None:
        """Tell that the loop turns, for ever, and leave when this is worn or soon will be."""
        settings, source = self._config.worker, self._source
        while True:
            say(Beat(worker.problems()))
            begun_count = source.begun_count
            await asyncio.sleep(BEAT_S)
            soon_count = (source.begun_count - begun_count) * OVERLAP_S / BEAT_S
            if settings.max_jobs and source.begun_count + soon_count >= settings.max_jobs:
                self._leave(TOO_MANY_JOBS)
            elif settings.max_rss_bytes and source.begun_count and _takes_more_than(settings.max_rss_bytes):
                self._leave(TOO_MUCH_MEMORY)


def _takes_more_than(most_bytes: int) -> bool:
    with contextlib.suppress(OSError):  # there may be no descriptor for a look now
        return memory.resident_bytes() > most_bytes
    return False


def say(word: Word) -> None:
    """Tell the server something, unless it does not listen."""
    with contextlib.suppress(OSError):
        os.write(STATUS, told(word))


def _take_descriptors() -> None:
    """Keep what was passed on to this process alone; handlers find no brief on stdin."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for number in (WIRE, STATUS):
        os.set_inheritable(number, False)
        os.set_blocking(number, False)
    forks.own(STATUS)
    allow_files()


def _marked(number: int) -> Processor:
    """Return what says in each line of the log which child has written it."""

    def mark(_logger: object, _method: str, event: EventDict) -> EventDict:
        event["child"] = number
        return event

    return mark


def main(brief: dict[str, Any]) -> NoReturn:
    """Be a child process, to the end of it."""
    _take_descriptors()
    say(Born(os.getpid()))
    set_name(b"kqs-child")
    config = config_of(brief)
    worker = config.worker
    if worker.max_jobs:
        worker = msgspec.structs.replace(worker, concurrency=min(worker.concurrency, worker.max_jobs))
    name = f"{sockets.gethostname()}:{os.getpid()}"
    settings = OutpostSettings(Address(socket="given"), worker, name, tuple(worker.types), commands=config)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        logs.configure(config.log)
        logs.PROCESSORS.insert(1, _marked(brief["number"]))
        code = hosted(lambda sentry: Child(settings, sentry).run(), worker.grace_s)
    except StartupError as error:
        say(Unfit(str(error)))
        code = error.exit_code
    except OSError as error:
        say(Unfit(reason_of(error)))
        code = ExitCode.IO_FAILED
    sys.exit(code)
