"""`kqs work`: a process that runs the jobs of a server elsewhere.

Start: modules, lanes, then the line, which is tried for until it stands. Stop: ask for no more, let runs finish, give back the
rest, report all. The process is watched over as a server's is (kqs.process).
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, field

import msgspec

from kqs import log as logs
from kqs.client import Address
from kqs.config import Config, LogSection, WorkerSection
from kqs.errors import ExitCode, StartupError
from kqs.executor import Executor, share_decimal_settings
from kqs.handlers import Registry
from kqs.log import get_logger
from kqs.modules import load_modules, taken_types, with_commands
from kqs.outpost.line import Line
from kqs.outpost.source import WireSource
from kqs.process import forks
from kqs.process.descriptors import allow_files
from kqs.process.host import hosted, until_stopped
from kqs.process.notify import Notifier
from kqs.process.sentry import STOP_MARGIN_S, Sentry
from kqs.process.stop import StopSwitch
from kqs.process.threads import start_threads
from kqs.service import SystemClock
from kqs.supervisor import Supervisor
from kqs.wire.runs import MAX_TYPES
from kqs.worker import Worker

log = get_logger("kqs.work")

#: the loop is looked at so often, in s; and counts as held when it comes so much later, in s
LOOK_S = 1.0
HELD_S = 1.0


@dataclass(frozen=True)
class OutpostSettings:
    """What the command line says. types: as it names them; none: all that have a handler. name: in the jobs' records.

    hold: runs outlive the connection, and the server. commands: whose commands run their jobs here, beside the handlers.
    """

    server: Address
    worker: WorkerSection
    name: str
    types: tuple[str, ...] = ()
    hold: bool = False
    commands: Config = field(default_factory=Config)


class Outpost:
    """One worker."""

    def __init__(self, settings: OutpostSettings, sentry: Sentry) -> None:
        self._settings = settings
        self._sentry = sentry
        self._notifier = Notifier(os.environ)
        self._stop = StopSwitch(sentry.stopping)
        self._supervisor = Supervisor(self._stop.fail)

    async def run(self) -> ExitCode:
        """Work until stopped; return the exit code. Raises: StartupError: a module or type is none."""
        settings, supervisor = self._settings, self._supervisor
        self._sentry.attach()
        forks.own_loop()
        registry = self._load()
        types = taken_types(registry, _named(settings.types, registry), "--types")
        if not 1 <= len(types) <= MAX_TYPES:  # more are for several workers, by --types
            got = f"{len(types)} types" if types else "no type"
            raise StartupError(f"MODULE: {got} with a handler or a command, expected 1 to {MAX_TYPES}", ExitCode.CONFIG)
        share_decimal_settings()
        if settings.commands.commands:  # each at work has a channel
            allow_files()
        forks.end_child()
        self._sentry.keep(supervisor)
        self._sentry.begin(self._stop.request)
        line = self._make_line()
        source = self._make_source(line)
        executor = Executor(max(1, settings.worker.concurrency), supervisor)
        section = msgspec.structs.replace(settings.worker, types=sorted(types))
        worker = Worker(source, registry, executor, section, settings.name, supervisor)
        self._tell_start(types)
        await worker.start()
        line.start()
        self._sentry.serving()
        await self._work(worker)
        self._notifier.stopping()
        self._notifier.extend_timeout(max(settings.worker.grace_s, 0) + STOP_MARGIN_S)
        log.info("stopping")
        for name, stop in {"worker": worker.stop, "source": source.stop, "line": line.stop}.items():
            await supervisor.end_part(name, stop)
        log.info("stopped", runs=worker.done_count, failed=worker.failed_count)
        return ExitCode.UNAVAILABLE if source.untaken_count and not self._stop.exit_code else self._stop.exit_code

    def _load(self) -> Registry:
        start_threads(disk=False)
        return with_commands(load_modules(self._settings.worker.modules, "MODULE"), self._settings.commands)

    def _make_line(self) -> Line:
        return Line(self._settings.server, self._supervisor)

    def _make_source(self, line: Line) -> WireSource:
        return WireSource(line, SystemClock(), self._supervisor, hold=self._settings.hold)

    def _tell_start(self, types: frozenset[str]) -> None:
        settings = self._settings
        log.info(
            "started",
            server=str(settings.server),
            name=settings.name,
            modules=", ".join(settings.worker.modules),
            types=", ".join(sorted(types)),
            concurrency=settings.worker.concurrency,
        )

    async def _work(self, worker: Worker) -> None:
        health = self._supervisor.spawn(_tell_health(worker), "health")
        await until_stopped(self._stop, self._notifier, self._supervisor)
        await self._supervisor.end(health)


async def _tell_health(worker: Worker) -> None:
    """Log what a server's `health` would say of its handlers, as it comes and goes."""
    told: set[str] = set()
    while True:
        began_at = time.monotonic()
        await asyncio.sleep(LOOK_S)
        held_s = time.monotonic() - began_at - LOOK_S
        if held_s >= HELD_S:
            log.warning("a handler has held the event loop: nothing was touched or reported meanwhile", for_s=round(held_s, 1))
        problems = set(worker.problems())
        for problem in sorted(problems - told):
            log.warning(problem)
        for problem in sorted(told - problems):
            log.info("no more", problem=problem)
        told = problems


def _named(types: tuple[str, ...], registry: Registry) -> list[str]:
    """Return the types that the command line names, by one or by several with commas between them."""
    named = [[whole] if whole in registry.types else whole.split(",") for whole in types]
    return [name for names in named for name in names]


def work(settings: OutpostSettings, section: LogSection) -> ExitCode:
    """Run the jobs of a server until stopped; return the exit code.

    Raises: StartupError: it could not start; the message is one line for stderr.
    """
    logs.configure(section)
    return hosted(lambda sentry: Outpost(settings, sentry).run(), settings.worker.grace_s)
