"""The queue inside a program: a core, and a client that speaks to it within the process."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from contextlib import AsyncExitStack
from os import PathLike
from pathlib import Path
from typing import Any

from kqs.client import Client
from kqs.clock import Clock
from kqs.config import Config, anchored, config_of
from kqs.core import Core
from kqs.errors import KqsError
from kqs.handlers import Registry
from kqs.library.apart import Apart
from kqs.library.bulk import BulkStore
from kqs.library.passing import MEMORY, passing_folder, passing_sections
from kqs.library.queue import DEFAULT_CONCURRENCY, Queue
from kqs.library.running import Running, checked_concurrency
from kqs.library.within import opener
from kqs.log import get_logger
from kqs.rpc.context import Context
from kqs.supervisor import Supervisor, when_done
from kqs.tasks import spawn

log = get_logger("kqs.library")

#: nobody waits longer for a queue's end, in s: each part's stop is bounded, but a disk may hang, and where a signal's handler
#: raised in the midst of something nobody may ever hear the end of that. A server has as long
CLOSE_S = 30.0

#: sections of a configuration that mean something here
SECTIONS = ("journal", "store", "broker", "defaults", "types", "schedules")


class QueueFailedError(KqsError):
    """A part of the queue cannot go on. It takes nothing any more; what it has kept is there when it is opened again."""


class NodeQueue(Queue):
    """See the module docstring. Several may stand in one process, each on a folder of its own."""

    def __init__(
        self,
        config: Config,
        concurrency: int,
        clock: Clock | None = None,
        *,
        bulk: BulkStore | None = None,
        keeps: bool = True,
        is_passing: bool = False,
    ) -> None:
        """Args:

        clock: None: the machine's.
        keeps: False: its folder is gone when it is closed, or could not be opened.
        is_passing: see kqs.core.Core.
        """
        self._is_passing = is_passing
        self._keeps = keeps
        self._clock = clock
        self._config = config
        self._concurrency = checked_concurrency(concurrency)
        self._stack = AsyncExitStack()
        self._supervisor = Supervisor(self._failed)
        self._apart = Apart(bulk, self._supervisor, self.job)
        self._fault: QueueFailedError | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Start.

        Raises: StartupError: another has the folder, or it is damaged; the message says which, and what to do.
            QueueFailedError: a part has failed meanwhile.
        """
        async with AsyncExitStack() as stack:
            if not self._keeps:
                stack.callback(shutil.rmtree, self._config.journal.dir, ignore_errors=True)
            core = Core(self._config, Registry(), self._supervisor, lambda: None, self._clock, is_passing=self._is_passing)
            self._core = await stack.enter_async_context(core)
            section = self._config.server
            context = Context(core.backend, self._supervisor, self._quit, section)
            stack.push_async_callback(self._end_calls, context)
            self._client = Client(max_line_bytes=section.max_line_bytes, open_link=opener(context))
            self._client.call_itself("the queue")
            await self._client.open()
            stack.push_async_callback(self._client.close)
            stack.push_async_callback(self._apart.close)
            self._running = Running(self._client, self._supervisor, self._concurrency, self._apart)
            stack.push_async_callback(self._running.close)
            if self._fault is not None:
                raise self._fault
            self._stack = stack.pop_all()
            self._loop = asyncio.get_running_loop()

    def _check_options(self, type_: str, options: Mapping[str, Any]) -> None:
        return

    def _heed(self, type_: str, options: dict[str, Any]) -> None:
        self._core.set_handler_options(type_, options)

    async def close(self) -> None:
        """See Queue.close. Raises: QueueFailedError: a part had failed before, or it takes too long."""
        if self._loop is not None and self._client.is_elsewhere:
            return
        if self._closing is None:
            self._check_loop()
            self._closing = spawn(self._stack.aclose(), "kqs-library-close")
        done, _ = await asyncio.wait([self._closing], timeout=CLOSE_S)
        if not done:
            raise QueueFailedError(f"it is not closed after {CLOSE_S:g} s, and goes on with that")
        await self._closing
        if self._fault is not None:
            raise self._fault

    def _check_loop(self) -> None:
        """Raise RuntimeError if it is open in another event loop."""
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("it was opened in another event loop, which must close it")

    async def _end_calls(self, context: Context) -> None:
        await self._supervisor.end(*context.tasks)
        context.answers.stop()

    def _quit(self) -> None:
        """Do as the call `quit` says, which a program may make as any other."""
        self._supervisor.spawn(self.close(), "the library's end", when_done)

    def _failed(self, name: str, error: BaseException) -> None:
        log.error("the queue cannot go on", part=name, exc_info=error)
        self._fault = QueueFailedError(f"{name}: {error or type(error).__name__}")
        self._fault.__cause__ = error
        if self._loop is not None:
            self._supervisor.spawn(self._client.close(), "the library's client's end", when_done)


def config_for(folder: str | PathLike[str], sections: Mapping[str, Mapping[str, Any]]) -> Config:
    """Return the settings of a queue in `folder`. Raises: as `open_queue`."""
    if unknown := sorted(set(sections) - set(SECTIONS)):
        raise ValueError(f"{unknown[0]}: expected one of {', '.join(SECTIONS)}")
    for name, section in sections.items():
        _check_section(name, section)
    if not isinstance(folder, str | PathLike) or not str(folder) or "\0" in str(folder):
        raise ValueError(f"folder: expected a path, got {folder!r:.60}")
    settings: dict[str, Any] = {name: dict(section) for name, section in sections.items()}
    settings["journal"] = {**settings.get("journal", {}), "dir": str(folder)}
    settings["worker"] = {"modules": [], "concurrency": 0}
    return anchored(config_of(settings, "kqs.open"), Path.cwd())


def _check_section(name: str, section: object) -> None:
    """Raises: ValueError: it is no mapping of settings by their names, in which there may be others."""
    if not isinstance(section, Mapping):
        raise ValueError(f"{name}: expected a mapping of settings, got {section!r:.60}")
    for key, value in section.items():
        if not isinstance(key, str):
            raise ValueError(f"{name}: expected the name of a setting, got {key!r:.60}")
        if isinstance(value, Mapping):
            _check_section(f"{name}.{key}", value)


def open_queue(
    folder: str | PathLike[str],
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    bulk: BulkStore | None = None,
    **sections: Mapping[str, Any],
) -> Queue:
    """Return the queue that is kept in `folder`, for `async with`: journal, store and all inside this program.

    Args: folder: `:memory:`: one of its own, in memory, which is gone when the queue is closed. concurrency: jobs that
        `run_jobs` runs at a time. bulk: where long data goes; it is closed with the queue. sections: settings, as the
        sections of kqs.toml have them: `store`, `types`, `defaults`, `schedules`, `journal`, `broker`.
    Raises: StartupError, ValueError: a section or setting is none, or the folder no path; the message names it.
    """
    if folder == MEMORY:
        return NodeQueue(config_for(passing_folder(), passing_sections(sections)), concurrency, bulk=bulk, keeps=False)
    return NodeQueue(config_for(folder, sections), concurrency, bulk=bulk)
