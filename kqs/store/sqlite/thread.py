"""The store's one thread, and group commit.

Operations asked for while a commit is under way wait in a queue; the thread takes all of them, does them in order in one
transaction, and hands every result back in one call to the loop. One that raises must not fail its neighbours: the transaction
is rolled back and each operation of the group is done again in a transaction of its own.

A small operation that finds nothing before it is done on the loop (kqs.store.sqlite.lone), also a durable one as long as the
disk is quick: two hops between threads cost more than its transaction.

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
from kqs.process.threads import in_thread
from kqs.store.base import Waiting
from kqs.store.sqlite.connection import translated
from kqs.store.sqlite.lone import Lone
from kqs.store.sqlite.session import Session
from kqs.supervisor import Supervisor

T = TypeVar("T")

#: quiet for so long, the thread copies the WAL into the file and shrinks it; and goes on with that after so long
_IDLE_S = 0.5
_STILL_IDLE_S = 0.05


class Operation:
    """One thing to do, and who waits for it."""

    __slots__ = ("durable", "future", "run", "small")

    def __init__(self, run: Callable[[Session], Any], future: asyncio.Future[Any], durable: bool, small: bool = False) -> None:
        self.run = run
        self.future = future
        self.durable = durable
        self.small = small


Outcome = tuple[Operation, Any, BaseException | None]


class News(NamedTuple):
    """What the thread tells the loop of a group. flush_s: how long it took, if it was a small durable operation; else 0.0."""

    outcomes: list[Outcome]
    called: list[Entry]
    follows: bool
    waiting: Waiting | None
    flush_s: float


class StoreThread:
    """Runs operations on a session. `call`, `start` and `stop` are for the loop thread."""

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
        #: called on the loop with jobs that were called, before the operation that did so is told of
        self.on_called: Callable[[list[Entry]], None] = _nobody
        #: called on the loop when `follow` has something to do
        self.on_followed: Callable[[], None] = _nothing
        #: called on the loop with what has become of what waits, before the operations that did so are told of
        self.on_waiting: Callable[[Waiting], None] = _nobody

    async def start(self, open_session: Callable[[Session], T]) -> T:
        """Start the thread, open the session on it and return what that returns. Raises: what it raises; nothing is left."""
        assert self._thread is None, "started twice"
        self._loop = asyncio.get_running_loop()
        self._queue = SimpleQueue()
        opened: asyncio.Future[T] = self._loop.create_future()
        opening = Operation(open_session, opened, durable=True)
        self._unresolved = 1
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
            await in_thread(thread.join)

    def call(self, run: Callable[[Session], T], *, durable: bool = False, small: bool = False) -> asyncio.Future[T]:
        """Do `run(session)` in the next transaction; a `small` one at once, if nothing is before it.

        Raises (from the future): StoreError, after which nothing of this operation was done.
        """
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
        """Do nothing on the loop for a while: much is being written, and any commit may have to copy it into the file."""
        self._lone.expect_slow()

    def _do_here(self, operation: Operation) -> bool:
        """Do an operation on the loop, unless another comes before it or these have been slow lately."""
        began, durable = time.monotonic(), operation.durable
        if not self._lone.decide(began, durable=durable) or self._unresolved:
            return False
        if not self._session_in_use.acquire(blocking=False):
            return False
        try:
            self._resolve_here(self._execute([operation], owing=True))
        finally:
            self._session_in_use.release()
        self._lone.did(began, time.monotonic(), durable=durable)
        return True

    def _main(self, opening: Operation) -> None:
        try:
            self._serve(opening)
        except BaseException as death:
            self._call_back(self._die, death)
        finally:
            self._session.close()

    def _serve(self, opening: Operation) -> None:
        self._group = [opening]
        outcome = _attempt(opening, self._session)
        self._group = []
        self._hand_back(News([outcome], [], False, self._session.take_waiting(), 0.0))
        is_open = outcome[2] is None
        while is_open:
            self._group, is_open = self._gather()
            if self._group:
                news = self._do_group()
                self._group = []
                self._hand_back(news)
            if self._session.wants_shrink:
                with self._session_in_use:
                    self._session.shrink()
            if self._session.wants_room:
                with self._session_in_use:
                    self._session.give_back()

    def _do_group(self) -> News:
        is_flush = len(self._group) == 1 and self._group[0].small and self._group[0].durable
        with self._session_in_use:
            began = time.monotonic()
            outcomes = self._execute(self._group)
            took_s = time.monotonic() - began
            session = self._session
            return News(
                outcomes,
                session.take_untold(),
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
        while self._session.is_idle_work_left:
            try:
                return self._queue.get(timeout=quiet_s)
            except Empty:
                quiet_s = _STILL_IDLE_S
                with self._session_in_use:
                    self._session.tidy()
        return self._queue.get()

    def _execute(self, group: list[Operation], *, owing: bool = False) -> list[Outcome]:
        session = self._session
        try:
            session.begin(durable=any(operation.durable for operation in group))
            outcomes: list[Outcome] = [(operation, operation.run(session), None) for operation in group]
            session.commit(owing=owing)
        except Exception as error:
            session.rollback(error)
            if len(group) == 1:
                return [(group[0], None, translated(error))]
            return [outcome for operation in group for outcome in self._execute([operation])]
        return outcomes

    def _resolve_here(self, outcomes: list[Outcome]) -> None:
        if called := self._session.take_untold():
            self.on_called(called)
        if self._session.take_follows():
            self.on_followed()
        if (waiting := self._session.take_waiting()) is not None:
            self.on_waiting(waiting)
        _settle(outcomes)

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
        _settle([(operation, None, self._death) for operation in unserved])
        self._supervisor.fault("store thread", self._death)

    def _resolve(self, news: News) -> None:
        outcomes, called, follows, waiting, flush_s = news
        self._unresolved -= len(outcomes)
        if flush_s:
            self._lone.observe(flush_s)
        if called:
            self.on_called(called)
        if follows:
            self.on_followed()
        if waiting is not None:
            self.on_waiting(waiting)
        _settle(outcomes)


def _nothing() -> None:
    return None


def _nobody(_news: object) -> None:
    return None


def _attempt(operation: Operation, session: Session) -> Outcome:
    try:
        return operation, operation.run(session), None
    except Exception as error:
        return operation, None, translated(error)


def _settle(outcomes: list[Outcome]) -> None:
    for operation, result, error in outcomes:
        if operation.future.done():  # its caller was cancelled
            continue
        if error is None:
            operation.future.set_result(result)
        else:
            operation.future.set_exception(error)
