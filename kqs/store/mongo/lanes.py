"""The order of operations: writes of one kind go one after another, those of different kinds side by side.

Whoever looks at records sees all that was asked for before. An operation goes on when its caller is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum, auto
from typing import Any, TypeVar

from kqs.errors import StoreUnavailableError
from kqs.store.mongo.client import DRIVER_ERRORS, translated
from kqs.supervisor import Supervisor, with_its_answer

T = TypeVar("T")


class Lane(Enum):
    """A kind of write."""

    INSERT = auto()
    CLAIM = auto()
    REPORT = auto()
    CALL = auto()
    HOUSEKEEPING = auto()


class Lanes:
    """Runs operations as tasks. Call from the loop thread."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._last: dict[Lane, asyncio.Task[Any]] = {}  # of each lane, as long as it is under way
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_open = True

    def write(self, lane: Lane, operation: Callable[[], Coroutine[Any, Any, T]]) -> Awaitable[T]:
        """Run `operation` after the writes of its lane; housekeeping after all writes.

        Raises (when awaited): StoreError.
        """
        after = self._last.values() if lane is Lane.HOUSEKEEPING else [self._last[lane]] if lane in self._last else []
        task = self._start(list(after), operation)
        self._last[lane] = task
        return asyncio.shield(task)

    def look(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> Awaitable[T]:
        """Run `operation` after all writes asked for so far, and beside later ones."""
        return asyncio.shield(self._start(list(self._last.values()), operation))

    def alone(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> Awaitable[T]:
        """Run `operation` after all that was asked for so far, and before all that comes later."""
        task = self._start(list(self._tasks), operation)
        self._last = dict.fromkeys(Lane, task)
        return asyncio.shield(task)

    async def close(self) -> None:
        """Take no more, and return when all is done. Idempotent."""
        self._is_open = False
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, after: list[asyncio.Task[Any]], operation: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        if not self._is_open:
            raise StoreUnavailableError("the store is closed")
        task = self._supervisor.spawn(_run(after, operation), "store operation", with_its_answer)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        for lane in [lane for lane, last in self._last.items() if last is task]:
            del self._last[lane]  # and with it what it has returned: a claim brings data
        if not task.cancelled():
            task.exception()  # or asyncio would log it where the caller has gone


async def _run(after: list[asyncio.Task[Any]], operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
    if after:
        await asyncio.wait(after)
    try:
        return await operation()
    except DRIVER_ERRORS as error:
        raise translated(error) from error
