"""A node without a socket: journal, store, broker, queue, workers and feeder, joined. Only here are concrete engines named.

The order in which they start and stop is written here, once. Start: journal (replay), store, queue, workers, feeder (these
four: see startup.py). Stop, each step bounded: let runs finish, end the feeder, put the last reports into the store, close the
store, close the journal. Nothing is changed in the process around it, and several cores may stand in one, each on a journal of
its own.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from kqs.backend import ServerBackend
from kqs.broker.base import Broker
from kqs.broker.memory import MemoryBroker
from kqs.children import Children
from kqs.children.child import Door
from kqs.clock import Clock
from kqs.config import Config
from kqs.errors import (
    ExitCode,
    JournalCorruptError,
    JournalError,
    JournalLockedError,
    JournalVersionError,
    StartupError,
)
from kqs.executor import Executor
from kqs.feeder import Feeder
from kqs.handlers import Registry
from kqs.ids import Ids
from kqs.inserter import Inserter
from kqs.journal import JOURNAL_FILES, Journal, JournalName, Recovery
from kqs.options import Cascade
from kqs.parts import Parts
from kqs.process import forks
from kqs.queue.queue import Queue, QueueSettings
from kqs.queue.rules import Retention
from kqs.remote import Desk
from kqs.schedules.plans import plans_of
from kqs.schedules.schedules import Schedules
from kqs.service import SystemClock
from kqs.startup import Startup, owner_name
from kqs.store.base import Store
from kqs.store.sqlite import SqliteStore
from kqs.supervisor import Supervisor, when_done
from kqs.wire.runs import MAX_TYPES
from kqs.worker import Worker


class Core:
    """See the module docstring: `async with Core(...) as core`. It may be entered again when it was left.

    inserter: the way of jobs into it. backend: what it can be asked. Both are there once it was entered.
    """

    def __init__(
        self,
        config: Config,
        registry: Registry,
        supervisor: Supervisor,
        on_journal: Callable[[], None],
        clock: Clock | None = None,
        *,
        is_passing: bool = False,
    ) -> None:
        """Args:

        registry: the handlers of the jobs that are run here.
        supervisor: of this node alone; told of a fault, its owner must leave the core.
        on_journal: called when the journal is ours alone, before anything else is opened; what it raises ends the start.
        clock: None: the machine's.
        is_passing: nothing is to outlive it: journal and store are in memory, and what they do is done on the loop.
        """
        self._config = config
        self._registry = registry
        self._supervisor = supervisor
        self._on_journal = on_journal
        self._owned: list[forks.Owned] = []
        self._folder: forks.Identity | None = None
        self._clock = clock or SystemClock()
        self._is_passing = is_passing
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._stack = AsyncExitStack()
        self._startup: Startup
        self._queue: Queue
        self._worker: Worker
        self._desk: Desk
        self._schedules: Schedules
        self._children: Children
        self.inserter: Inserter
        self.backend: ServerBackend

    async def __aenter__(self) -> Self:
        """Start. Raises: StartupError: it could not, and all is closed again; so it is when this is cancelled."""
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, all that is running included; a part that fails in that is a fault, and keeps no other from its end."""
        await self._stack.aclose()

    async def rest(self) -> None:
        """Run no more jobs: return when those that run have ended, or grace is over. Everything else goes on. Idempotent."""
        await self._supervisor.end_part("startup", self._startup.stop)
        await self._supervisor.end_part("children", self._children.drain)
        parts = {"worker": self._worker.stop, "remote": self._desk.stop, "schedules": self._schedules.stop}
        ends = [self._supervisor.end_part(name, stop) for name, stop in parts.items()]
        await asyncio.wait([self._supervisor.spawn(end, "rest", when_done) for end in ends])
        await self._supervisor.end_part("children", self._children.stop)

    @property
    def next_at(self) -> float:
        """Return when time alone changes something next, as far as is known, in Unix seconds; -math.inf: now."""
        return min(self._queue.next_at, self._schedules.ticker.next_at)

    async def look_again(self) -> None:
        """Look at the clock, which was set forward. Raises: StoreUnavailableError."""
        self._schedules.ticker.wake()
        await self._queue.look_again()

    def set_handler_options(self, type_: str, options: dict[str, Any]) -> None:
        """Have jobs of a type, from now on, have these options of its handler; they are checked."""
        self._queue.cascade.set_handler_options(type_, options)

    def open(self, door: Door) -> None:
        """Let child processes run jobs, if there are to be any. door: serves their connections."""
        self._children.start(door)

    async def _start(self, stack: AsyncExitStack) -> None:
        config, supervisor = self._config, self._supervisor
        plans = plans_of(config.schedules)
        store = self._make_store()
        journal = self._make_journal(store)
        stack.callback(self._disown_files)
        self._own_files()
        stack.push_async_callback(supervisor.end_part, "journal", journal.stop)
        recovery = await _open_journal(journal, config.journal.dir, partial(owner_name, store))
        self._own_files()  # the folders are there now
        self._on_journal()
        stack.push_async_callback(supervisor.end_part, "store", store.close)
        ids = Ids(recovery.node, recovery.last_order)
        cascade = self._cascade()
        broker = _make_broker(config, cascade, supervisor)
        settings = self._queue_settings(store)
        queue = Queue(store, broker, cascade, self._clock, settings, lambda: feeder.checkpointed_order, supervisor)
        self._queue = queue
        queue.bounds.first_order = recovery.last_order + 1
        feeder = Feeder(journal, queue, store, ids, cascade, supervisor)
        journal.listen(feeder)
        worker = self._worker = self._make_worker(queue)
        children = self._children = self._make_children(worker)
        desk = self._desk = Desk(queue, config.worker.grace_s, supervisor)
        self.inserter = Inserter(journal, ids, self._clock.now, queue.asked, queue.bounds, queue.subscriptions.of)
        schedules = self._schedules = Schedules(plans, store, self.inserter, self._clock, supervisor, feeder.catch_up)
        parts = Parts(
            journal=journal,
            feeder=feeder,
            queue=queue,
            worker=worker,
            desk=desk,
            children=children,
            schedules=schedules,
            inserter=self.inserter,
            clock=self._clock,
            only_accepts=config.worker.concurrency == 0,
        )
        self._startup = Startup(store, recovery, parts, supervisor)
        stack.push_async_callback(supervisor.end_part, "queue", queue.stop)
        stack.push_async_callback(supervisor.end_part, "feeder", feeder.stop)
        stack.push_async_callback(self.rest)
        self.backend = ServerBackend(parts)
        self.inserter.check_order = self.backend.check_order
        await self._startup.start()

    def _own_files(self) -> None:
        """Keep the files from processes that are forked off."""
        config = self._config
        files = {config.journal.dir: list(JOURNAL_FILES)}
        if config.store.kind == "sqlite":
            files.setdefault(config.store_path.parent, []).extend([config.store_path.name, f"{config.store_path.name}-*"])
        self._owned = [forks.own_files(folder, patterns) for folder, patterns in files.items()]
        self._folder = forks.own_folder(config.journal.dir)

    def _disown_files(self) -> None:
        for owned in self._owned:
            forks.disown_files(owned)
        if self._folder is not None:
            forks.disown(self._folder)

    def _make_store(self) -> Store:
        if self._config.store.kind == "mongodb":
            from kqs.store.mongo import MongoStore  # its driver takes memory that other servers need not spend

            return MongoStore(self._config.store, self._clock, self._supervisor, self._config.server.namespace)
        path, section = self._config.store_path, self._config.store
        return SqliteStore(path, section, self._clock, self._supervisor, is_passing=self._is_passing)

    def _make_journal(self, store: Store) -> Journal:
        return Journal(
            self._config.journal,
            self._clock,
            on_low=store.give_back,
            owed=store.owed_bytes,
            on_fault=lambda error: self._supervisor.fault("journal", error),
            is_passing=self._is_passing,
        )

    def _cascade(self) -> Cascade:
        cascade = Cascade(self._config.defaults, self._config.types)
        for type_, options in self._registry.options.items():
            cascade.set_handler_options(type_, options)
        return cascade

    def _queue_settings(self, store: Store) -> QueueSettings:
        config, keep = self._config, self._config.store
        retention = Retention(keep.keep_success_s, keep.keep_fail_s)
        looks = _seek_looks(config.broker.kind) if store.is_shared else 0
        return QueueSettings(self._name, retention, keep.keep_success_count, looks, config.taking)

    def _make_worker(self, queue: Queue) -> Worker:
        config, supervisor = self._config, self._supervisor
        executor = Executor(max(1, config.worker.concurrency), supervisor)
        section = config.worker
        if section.processes:
            executor.look_after(self._registry.commands)
            section = msgspec.structs.replace(section, concurrency=0)
        return Worker(queue.runs, self._registry, executor, section, self._name, supervisor)

    def _make_children(self, worker: Worker) -> Children:
        """Return the child processes. Raises: StartupError: they could not ask for so many types."""
        if len(worker.types) > MAX_TYPES and self._config.worker.processes:
            message = f"[worker] processes: {len(worker.types)} types have a handler, expected at most {MAX_TYPES}"
            raise StartupError(f"{message}; choose some with [worker] types", ExitCode.CONFIG)
        return Children(self._config, self._supervisor, worker.types)


def _seek_looks(broker_kind: str) -> int:
    """Return how often a ready job of a shared store must be seen before it counts as unknown to a broker of this kind."""
    return 1 if broker_kind == "memory" else 2


def _make_broker(config: Config, cascade: Cascade, supervisor: Supervisor) -> Broker:
    section = config.broker
    if section.kind == "memory":
        return MemoryBroker(supervisor, section.max_entries)
    from kqs.broker.beanstalkd import BeanstalkdBroker  # a tenth of the modules, which other servers need not wait for

    return BeanstalkdBroker(
        supervisor, section, config.server.namespace, lambda type_, options: _ttr_s(cascade, type_, options)
    )


def _ttr_s(cascade: Cascade, type_: str, options: bytes | None) -> float:
    """Return a waiting job's ttr. Its options may be damaged in the store, which is found when it is claimed."""
    try:
        return cascade.resolve(type_, options).ttr
    except (msgspec.DecodeError, ValueError):
        return cascade.resolve(type_, None).ttr


async def _open_journal(journal: Journal, folder: Path, lost: Callable[[], JournalName | None]) -> Recovery:
    try:
        return await journal.start(lost)
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
