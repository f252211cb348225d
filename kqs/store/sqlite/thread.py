"""The store's one thread, and group commit.

Operations asked for while a commit is under way wait in a queue; the thread takes all of them, does them in order in one
transaction, and hands every result back in one call to the loop.

A small operation that finds nothing before it is done on the loop (kqs.store.sqlite.lone), also a durable one as long as the
disk is quick: two hops between threads cost more than its transaction. To copy the WAL into the file is left to the thread.

An error that nothing foresees ends the thread. All who wait for it are told, and whoever asks later: nobody waits for ever.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from kqs.errors import StoreUnavailableError
from kqs.job import Entry
from kqs.newthread import new_thread
from kqs.process.threads import in_thread
from kqs.store.base import Waiting
from kqs.store.sqlite import forking
from kqs.store.sqlite.lone import Lone
from kqs.store.sqlite.operations import Hearing, Operation, Outcome, attempt, execute, settle
from kqs.store.sqlite.session import Session
from kqs.supervisor import Supervisor

T = TypeVar("T")

#: quiet for so long, the thread copies the WAL into the file and shrinks it; and goes on with that after so long
_IDLE_S = 0.5
_STILL_IDLE_S = 0.05


class News(NamedTuple):
    """What the thread tells the loop of a group. flush_s: how long it took, if it was a small durable operation; else 0.0."""

    outcomes: list[Outcome]
    called: list[Entry]
    follows: bool
    waiting: Waiting | None
    flush_s: float


def _nothing(_session: Session) -> None:
    """Change nothing."""


class StoreThread:
    """See kqs.store.sqlite.operations.Runner."""

    def __init__(self, session: Session, supervisor: Supervisor) -> None:
        self._session = session
        self._supervisor = supervisor
        self._queue: SimpleQueue[Operation | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session_in_use = threading.Lock()
        self._unresolved = 0
        self._lone = Lone()
        self._group: list[Operation] = []  # what the thread has in hand
        self._death: BaseException | None = None
        self.hearing = Hearing()

    async def start(self, open_session: Callable[[Session], T]) -> T:
        """See Runner.start. It starts the thread, and opens the session on it."""
        assert self._thread is None, "started twice"
        self._loop = asyncio.get_running_loop()
        self._queue = SimpleQueue()
        opened: asyncio.Future[T] = self._loop.create_future()
        opening = Operation(open_session, opened, durable=True)
        self._unresolved = 1
        forking.watch(self._session_in_use, self._session)
        self._thread = new_thread(self._main, "kqs-store", opening)
        try:
            return await opened
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """See Runner.stop. It ends the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await in_thread(thread.join)

    def call(self, run: Callable[[Session], T], *, durable: bool = False, small: bool = False) -> asyncio.Future[T]:
        """See Runner.call."""
        if self._thread is None or self._loop is None:
            raise StoreUnavailableError("the store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        if self._death is not None:
            future.set_exception(self._death)
            return future
        operation = Operation(run, future, durable, small)
        if not (small and self._do_here(operation)):
            self._unresolved += 1
            self._queue.put(operation)
        return future

    def expect_slow(self) -> None:
        """See Runner.expect_slow: do nothing on the loop for a while."""
        self._lone.expect_slow()

    def _do_here(self, operation: Operation) -> bool:
        """Do an operation on the loop, unless another comes before it or these have been slow lately."""
        began, durable = time.monotonic(), operation.durable
        if not self._lone.decide(began, durable=durable) or self._unresolved:
            return False
        if not self._session_in_use.acquire(blocking=False):
            return False
        try:
            outcomes = execute(self._session, [operation], owing=True)
            self.hearing.tell_of(self._session)
            settle(outcomes)
        finally:
            self._session_in_use.release()
        if self._session.space.wants_copy:
            self.call(_nothing).cancel()  # nobody waits for it, but the thread wakes up
        self._lone.did(began, time.monotonic(), durable=durable)
        return True

    def _main(self, opening: Operation) -> None:
        try:
            self._serve(opening)
        except BaseException as death:
            self._call_back(self._die, death)
        finally:
            with self._session_in_use:
                self._session.close()
            forking.forget(self._session_in_use)

    def _serve(self, opening: Operation) -> None:
        self._group = [opening]
        with self._session_in_use:
            outcome = attempt(opening, self._session)
        self._group = []
        self._hand_back(News([outcome], [], False, self._session.take_waiting(), 0.0))
        is_open = outcome[2] is None
        while is_open:
            self._group, is_open = self._gather()
            if self._group:
                news = self._do_group()
                self._group = []
                self._hand_back(news)
            for chore in self._session.chores():
                with self._session_in_use:
                    chore()

    def _do_group(self) -> News:
        is_flush = len(self._group) == 1 and self._group[0].small and self._group[0].durable
        with self._session_in_use:
            began = time.monotonic()
            outcomes = execute(self._session, self._group)
            took_s = time.monotonic() - began
            session = self._session
            return News(
                outcomes,
                session.take_called(),
                session.take_follows(),
                session.take_waiting(),
                took_s if is_flush else 0.0,
            )

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
        quiet_s = _IDLE_S
        while self._session.space.is_untidy:
            try:
                return self._queue.get(timeout=quiet_s)
            except Empty:
                quiet_s = _STILL_IDLE_S
                with self._session_in_use:
                    self._session.tidy()
        return self._queue.get()

    def _hand_back(self, news: News) -> None:
        self._call_back(self._resolve, news)

    def _call_back(self, step: Callable[[Any], None], news: Any) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._supervisor.guard, "store thread", step, news)

    def _die(self, death: BaseException) -> None:
        """Take in that the thread has ended: everybody who waits for it is told why."""
        self._death = RuntimeError(f"the store's thread ended: {type(death).__name__}: {death}")
        self._death.__cause__ = death
        unserved, self._group = self._group, []
        while not self._queue.empty():
            if (operation := self._queue.get_nowait()) is not None:
                unserved.append(operation)
        settle([(operation, None, self._death) for operation in unserved])
        self._supervisor.fault("store thread", self._death)

    def _resolve(self, news: News) -> None:
        outcomes, called, follows, waiting, flush_s = news
        self._unresolved -= len(outcomes)
        if flush_s:
            self._lone.observe(flush_s)
        self.hearing.tell(called, follows, waiting)
        settle(outcomes)
