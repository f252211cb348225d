"""The daemon: the only place that names concrete engines, and the order in which everything starts and stops.

Start: bind, journal (replay), store, queue, workers, feeder (these four: see startup.py), accept, then `ready`. Stop, each step
bounded: refuse new jobs, let runs finish, answer what was asked, put the last reports into the store, close the store, close
the journal. A service that dies stops the daemon; nothing limps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shlex
import signal
import socket
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import structlog
import uvloop

from kqs import log as logs
from kqs.backend import ServerBackend
from kqs.broker.base import Broker
from kqs.broker.beanstalkd import BeanstalkdBroker
from kqs.broker.memory import MemoryBroker
from kqs.config import Config, ServerSection
from kqs.errors import (
    ExitCode,
    JournalCorruptError,
    JournalError,
    JournalLockedError,
    JournalVersionError,
    StartupError,
    StoreCorruptError,
    StoreDoubtError,
)
from kqs.executor import Executor
from kqs.feeder import Feeder
from kqs.handlers import Registry, load_modules
from kqs.ids import Ids
from kqs.journal import Journal, Recovery
from kqs.notify import Notifier
from kqs.options import Cascade
from kqs.queue.queue import Queue, QueueSettings
from kqs.queue.rules import Retention
from kqs.server.listener import ACCEPTS_AT_ONCE, Listener
from kqs.server.server import RESERVED_CONNECTIONS, Server
from kqs.service import SystemClock
from kqs.startup import Startup
from kqs.store.base import Store
from kqs.store.sqlite import SqliteStore
from kqs.worker import Worker

log = structlog.get_logger("kqs")

#: how long one thread may keep the interpreter from another, in s
SWITCH_INTERVAL_S = 0.001
#: how much longer than the workers' grace a stop may take, in s: what systemd is told
STOP_MARGIN_S = 30.0
#: how long tasks that handlers left behind may take to heed their cancellation, in s
LEFTOVER_WAIT_S = 1.0
#: open files that connections must leave to the journal, the store, the loop and handlers; to those who look after the server;
#: and to those who are accepted only to be told that they are too many, and closed in the turn after
SPARE_FILES = 64 + 2 * RESERVED_CONNECTIONS + 2 * ACCEPTS_AT_ONCE


class StopSwitch:
    """Turned by a signal, `quit`, or a service that died. A second request ends the process at once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.cause: BaseException | None = None

    def request(self) -> None:
        """Begin the orderly stop; called again, exit now: what runs goes back at the next start."""
        if self._event.is_set():
            log.warning("stopping at once")
            os._exit(0)
        self._event.set()

    def fail(self, error: BaseException) -> None:
        """Stop because a service died of `error`."""
        log.error("a service died, stopping", exc_info=error)
        self.cause = self.cause or error
        self._event.set()

    async def wait(self) -> None:
        """Return when the stop was requested."""
        await self._event.wait()

    def listen(self) -> None:
        """Let SIGTERM and SIGINT request the stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.request)


class Daemon:
    """One server over the configured engines."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clock = SystemClock()
        self._notifier = Notifier(os.environ)
        self._name = f"{socket.gethostname()}:{os.getpid()}"

    async def run(self) -> ExitCode:
        """Serve until stopped; return the exit code. Raises: StartupError: it could not start, and is closed again."""
        stop = StopSwitch()
        stop.listen()
        registry = load_modules(self._config.worker.modules)
        async with AsyncExitStack() as stack:
            server = await self._start(stack, stop, registry)
            for host, port in server.addresses:
                log.info("listening", host=host, port=port)
            if self._config.server.socket:
                log.info("listening", socket=self._config.server.socket)
            watchdog = asyncio.get_running_loop().create_task(self._watch(), name="watchdog")
            self._notifier.ready()
            await stop.wait()
            self._notifier.stopping()
            self._notifier.extend_timeout(max(self._config.worker.grace_s, 0) + STOP_MARGIN_S)
            log.info("stopping")
            watchdog.cancel()
        code = _exit_code(stop.cause)
        log.info("stopped")
        await _end_leftovers(code)
        return code

    async def _start(self, stack: AsyncExitStack, stop: StopSwitch, registry: Registry) -> Server:
        config = self._config
        section = _spare_files(config.server)
        listener = Listener(section)
        stack.callback(listener.close)
        await listener.bind()

        journal = Journal(
            config.journal,
            self._clock,
            on_commit=lambda records: feeder.committed(records),
            claim=lambda record: feeder.claim(record),
        )
        stack.push_async_callback(journal.stop)
        recovery = await _open_journal(journal, config.journal.dir)
        listener.bind_socket()
        store = self._make_store()
        stack.push_async_callback(store.close)
        ids = Ids(recovery.node, recovery.last_order)
        cascade = self._cascade(registry)
        settings = QueueSettings(
            self._name,
            Retention(config.store.keep_success_s, config.store.keep_fail_s),
            config.store.keep_success_count,
            seek_looks=_seek_looks(config),
        )
        broker = _make_broker(config, cascade)
        queue = Queue(store, broker, cascade, self._clock, settings, lambda: feeder.checkpointed_order)
        feeder = Feeder(journal, queue, store, ids, cascade)
        executor = Executor(max(1, config.worker.concurrency))
        worker = Worker(queue, registry, executor, config.worker, self._name, config.weights)
        backend = ServerBackend(journal, feeder, queue, worker, ids, self._clock, stop.request)
        server = Server(section, backend, clock=self._clock.now, listener=listener, trace=config.log.level == "debug")
        startup = Startup(store, recovery, ids, queue, worker, feeder, may_wait=config.store.kind == "mongodb")
        for service in (queue, feeder, worker, startup):
            service.on_task_death = stop.fail
        for stop_service in (queue.stop, feeder.stop, server.stop, worker.stop, startup.stop):
            stack.push_async_callback(stop_service)
        await startup.start()
        stack.callback(server.drain)
        await server.start()
        return server

    def _make_store(self) -> Store:
        if self._config.store.kind == "mongodb":
            from kqs.store.mongo import MongoStore  # its driver takes memory that other servers need not spend

            return MongoStore(self._config.store, self._clock, self._config.server.namespace)
        return SqliteStore(self._config.store_path, self._config.store, self._clock)

    def _cascade(self, registry: Registry) -> Cascade:
        cascade = Cascade(self._config.defaults, self._config.types)
        for type_, options in registry.options.items():
            cascade.set_handler_options(type_, options)
        return cascade

    async def _watch(self) -> None:
        """Tell systemd that the loop turns, as often as it asks for."""
        while (interval_s := self._notifier.watchdog_interval_s) is not None:
            self._notifier.watchdog()
            await asyncio.sleep(interval_s)


def _seek_looks(config: Config) -> int:
    """Return how often a ready job must be seen before it counts as unknown to our broker; 0: it knows all there are."""
    if config.store.kind != "mongodb":
        return 0
    return 1 if config.broker.kind == "memory" else 2


def _make_broker(config: Config, cascade: Cascade) -> Broker:
    section = config.broker
    if section.kind == "memory":
        return MemoryBroker(section.max_entries)
    return BeanstalkdBroker(
        section.servers,
        section.max_entries,
        section.max_server_entries,
        config.server.namespace,
        lambda type_, options: cascade.resolve(type_, options).ttr,
        section.body_bytes,
    )


async def _open_journal(journal: Journal, folder: Path) -> Recovery:
    try:
        return await journal.start()
    except JournalLockedError as error:
        raise StartupError(str(error), ExitCode.TEMPORARY) from error
    except JournalCorruptError as error:
        where = shlex.quote(str(folder))
        cure = f"`kqs journal verify {where}` tells more, `kqs journal repair {where}` salvages what is intact"
        raise StartupError(f"{error}; {cure}", ExitCode.DATA_DAMAGED) from error
    except JournalVersionError as error:
        raise StartupError(str(error), ExitCode.DATA_DAMAGED) from error
    except JournalError as error:
        raise StartupError(str(error), ExitCode.IO_FAILED) from error


def _exit_code(cause: BaseException | None) -> ExitCode:
    if cause is None:
        return ExitCode.OK
    if isinstance(cause, StartupError):
        return cause.exit_code
    if isinstance(cause, StoreDoubtError):
        return ExitCode.IO_FAILED
    return ExitCode.DATA_DAMAGED if isinstance(cause, (StoreCorruptError, JournalCorruptError)) else ExitCode.SOFTWARE


async def _end_leftovers(code: ExitCode) -> None:
    """Cancel the tasks that handlers left behind; exit at once if they do not heed it.

    The loop's own end would wait for them for ever. Everything of ours is closed by now.
    """
    leftovers = asyncio.all_tasks() - {asyncio.current_task()}
    for task in leftovers:
        task.cancel()
    if leftovers and (await asyncio.wait(leftovers, timeout=LEFTOVER_WAIT_S))[1]:
        log.warning("tasks of handlers ignore their cancellation, exiting without them")
        os._exit(code)


def _spare_files(section: ServerSection) -> ServerSection:
    """Allow this process as many open files as it may have, and leave some to the journal and the store.

    Connections beyond that are refused as `busy`; without a reserve they could keep a segment from being begun.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY or section.max_connections <= soft - SPARE_FILES:
        return section
    most = max(1, soft - SPARE_FILES)
    log.warning("fewer connections than max_connections: too few open files are allowed", most=most, open_files=soft)
    return section.model_copy(update={"max_connections": most})


def serve(config: Config) -> ExitCode:
    """Run a server until it is stopped; return its exit code.

    Raises: StartupError: it could not start; the message is one line for stderr.
    """
    logs.configure(config.log)
    # the store's thread asks for the interpreter after every statement, and a busy loop would keep it for 5 ms each time
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Daemon(config).run())
