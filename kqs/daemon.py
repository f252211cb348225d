"""The daemon: a core (kqs.core), a listener and signals, and what is done to the whole process for them.

Start: bind, core, accept, then `ready`. Stop, each step bounded: refuse new jobs, let runs finish, answer what was asked, then
the core's own end. Whatever ends unasked stops the daemon; nothing limps. Whatever users' code does to the process, kqs.process
ends it.
"""

from __future__ import annotations

import asyncio
import os
import resource
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from kqs import log as logs
from kqs.config import Config, ServerSection, anchored, slips_in
from kqs.core import Core
from kqs.errors import ExitCode
from kqs.executor import share_decimal_settings
from kqs.handlers import Registry
from kqs.log import get_logger
from kqs.modules import load_modules, with_commands
from kqs.process import forks
from kqs.process.descriptors import allow_files
from kqs.process.host import hosted, until_stopped
from kqs.process.notify import Notifier
from kqs.process.sentry import STOP_MARGIN_S, Sentry
from kqs.process.stop import StopSwitch
from kqs.process.threads import start_threads
from kqs.server.listener import Listener
from kqs.server.server import RESERVED_CONNECTIONS, TURNED_AWAY_AT_ONCE, Server
from kqs.supervisor import Supervisor, when_done, with_its_answer

log = get_logger("kqs")

#: open files that connections must leave to the journal, the store, the loop and handlers; to those who look after the server;
#: and to those who are accepted only to be told that they are too many, and closed in the turn after
SPARE_FILES = 64 + 2 * RESERVED_CONNECTIONS + TURNED_AWAY_AT_ONCE
#: open files for a child process: its connection, its pipe, the channel to its minder, what watches it, and one while it starts
CHILD_FILES = 5


class Daemon:
    """One server over the configured engines."""

    def __init__(self, config: Config, source: Path | None, sentry: Sentry) -> None:
        """Args: source: the file that the settings are from, if any; it is told."""
        self._config = config
        self._source = source
        self._sentry = sentry
        self._notifier = Notifier(os.environ)
        self._stop = StopSwitch(sentry.stopping)
        self._supervisor = Supervisor(self._stop.fail)

    async def run(self) -> ExitCode:
        """Serve until stopped; return the exit code. Raises: StartupError: it could not start, and is closed again."""
        self._sentry.attach()
        forks.own_loop()
        start_threads(disk=True)
        registry = with_commands(load_modules(self._config.worker.modules), self._config)
        share_decimal_settings()
        forks.end_child()
        self._sentry.keep(self._supervisor)
        self._sentry.begin(self._stop.request)
        async with AsyncExitStack() as stack:
            server = await self._start_unless_stopped(stack, registry)
            if server is not None:
                self._tell_start(registry)
                await self._serve(server)
            self._notifier.stopping()
            self._notifier.extend_timeout(max(self._config.worker.grace_s, 0) + STOP_MARGIN_S)
            log.info("stopping")
        log.info("stopped")
        return self._stop.exit_code

    def _tell_start(self, registry: Registry) -> None:
        config = self._config
        for variable, meant in slips_in(os.environ):
            log.warning("a variable sets nothing, for want of an underscore", variable=variable, expected=meant)
        log.info(
            "started",
            config=str(self._source or "none, all settings are at their defaults or from the environment"),
            journal=str(config.journal.dir),
            modules=", ".join(config.worker.modules),
            types=", ".join(sorted(registry.types)),
        )

    async def _serve(self, server: Server) -> None:
        for host, port in server.addresses:
            log.info("listening", host=host, port=port)
        if self._config.server.socket:
            log.info("listening", socket=self._config.server.socket)
        await until_stopped(self._stop, self._notifier, self._supervisor)

    async def _start_unless_stopped(self, stack: AsyncExitStack, registry: Registry) -> Server | None:
        """Start; None if a stop was requested before all had started."""
        starting = self._supervisor.spawn(self._start(stack, registry), "start", with_its_answer)
        stopped = self._supervisor.spawn(self._stop.wait(), "stop during start", when_done)
        await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done():
            await self._supervisor.end(stopped)
            return await starting
        await self._supervisor.end(starting)
        if not starting.cancelled() and (error := starting.exception()) is not None:
            raise error
        return None

    async def _start(self, stack: AsyncExitStack, registry: Registry) -> Server:
        config = self._config
        section = _spare_files(config.server, _channels(config))
        listener = Listener(section, self._supervisor)
        stack.callback(listener.close)
        await listener.bind()
        forks.own_addresses(listener.addresses, Path(section.socket) if section.socket else None)
        core = await stack.enter_async_context(Core(config, registry, self._supervisor, listener.bind_socket))
        trace = config.log.level == "debug"
        server = Server(section, core.backend, self._supervisor, self._stop.request, listener=listener, trace=trace)
        stack.push_async_callback(self._supervisor.end_part, "server", server.stop)
        stack.push_async_callback(core.rest)
        self._sentry.serving()
        stack.callback(server.drain)
        await server.start()
        core.open(server.adopt)
        return server


def _channels(config: Config) -> int:
    """Return how many descriptors it takes to have processes: each command a channel, each child a few, and who follows it."""
    worker = config.worker
    if worker.processes:
        return worker.processes * 2 * CHILD_FILES
    return worker.concurrency if config.commands else 0


def _spare_files(section: ServerSection, channels: int) -> ServerSection:
    """Allow this process as many open files as it may have, and leave some to the journal, the store, and so many channels.

    Connections beyond that are refused as `busy`; without a reserve they could keep a segment from being begun.
    """
    spare = SPARE_FILES + channels
    soft = allow_files()
    if soft == resource.RLIM_INFINITY or section.max_connections <= soft - spare:
        return section
    most = max(1, soft - spare)
    log.warning("fewer connections than max_connections: too few open files are allowed", most=most, open_files=soft)
    return msgspec.structs.replace(section, max_connections=most)


def serve(config: Config, source: Path | None = None) -> ExitCode:
    """Run a server until it is stopped; return its exit code. What is left of the process ends within seconds then.

    Raises: StartupError: it could not start; the message is one line for stderr.
    """
    config = anchored(config, Path.cwd())
    logs.configure(config.log)
    return hosted(lambda sentry: Daemon(config, source and source.absolute(), sentry).run(), config.worker.grace_s)
