"""The store's one thread, and group commit.

Operations asked for while a commit is under way wait in a queue; the thread takes all of them, does them in order in one
transaction, and hands every result back in one call to the loop. One that raises must not fail its neighbours: the transaction
is rolled back and each operation of the group is done again in a transaction of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from kqs.errors import StoreUnavailableError
from kqs.store.sqlite.connection import translated
from kqs.store.sqlite.session import Session

T = TypeVar("T")

#: quiet for so long, the thread copies the WAL into the file
_IDLE_S = 0.5


class Operation:
    """One thing to do, and who waits for it."""

    __slots__ = ("durable", "future", "run")

    def __init__(self, run: Callable[[Session], Any], future: asyncio.Future[Any], durable: bool) -> None:
        self.run = run
        self.future = future
        self.durable = durable


Outcome = tuple[Operation, Any, Exception | None]


class StoreThread:
    """Runs operations on a session. `call`, `start` and `stop` are for the loop thread."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._queue: SimpleQueue[Operation | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self, open_session: Callable[[Session], T]) -> T:
        """Start the thread, open the session on it and return what that returns. Raises: what it raises; nothing is left."""
        assert self._thread is None, "started twice"
        self._loop = asyncio.get_running_loop()
        self._queue = SimpleQueue()
        opened: asyncio.Future[T] = self._loop.create_future()
        opening = Operation(open_session, opened, durable=True)
        self._thread = threading.Thread(target=self._main, args=(opening,), name="kqs-store", daemon=True)
        self._thread.start()
        try:
            return await opened
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Finish what was asked, close the session, end the thread. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(thread.join)

    def call(self, run: Callable[[Session], T], *, durable: bool = False) -> asyncio.Future[T]:
        """Do `run(session)` in the next transaction.

        Raises (from the future): StoreError, after which nothing of this operation was done.
        """
        if self._thread is None or self._loop is None:
            raise StoreUnavailableError("the store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(Operation(run, future, durable))
        return future

    def _main(self, opening: Operation) -> None:
        outcome = _attempt(opening, self._session)
        self._hand_back([outcome])
        is_open = outcome[2] is None
        while is_open:
            group, is_open = self._gather()
            if group:
                self._hand_back(self._execute(group))
        self._session.close()

    def _gather(self) -> tuple[list[Operation], bool]:
        """Wait for work, then take all there is; False with it when it is the last."""
        operation = self._next()
        group: list[Operation] = []
        while operation is not None:
            group.append(operation)
            try:
                operation = self._queue.get_nowait()
            except Empty:
                return group, True
        return group, False

    def _next(self) -> Operation | None:
        if self._session.is_idle_work_left:
            try:
                return self._queue.get(timeout=_IDLE_S)
            except Empty:
                self._session.tidy()
        return self._queue.get()

    def _execute(self, group: list[Operation]) -> list[Outcome]:
        session = self._session
        try:
            session.begin(durable=any(operation.durable for operation in group))
            outcomes: list[Outcome] = [(operation, operation.run(session), None) for operation in group]
            session.commit()
        except Exception as error:
            session.rollback(error)
            if len(group) == 1:
                return [(group[0], None, translated(error))]
            return [outcome for operation in group for outcome in self._execute([operation])]
        return outcomes

    def _hand_back(self, outcomes: list[Outcome]) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_resolve, outcomes)


def _attempt(operation: Operation, session: Session) -> Outcome:
    try:
        return operation, operation.run(session), None
    except Exception as error:
        return operation, None, translated(error)


def _resolve(outcomes: list[Outcome]) -> None:
    for operation, result, error in outcomes:
        if operation.future.done():  # its caller was cancelled
            continue
        if error is None:
            operation.future.set_result(result)
        else:
            operation.future.set_exception(error)
