"""What is done with the store's session, one transaction a group, and who hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from kqs.job import Entry
from kqs.store.base import Waiting
from kqs.store.sqlite.connection import translated
from kqs.store.sqlite.session import Session

T = TypeVar("T")


class Operation:
    """One thing to do, and who waits for it."""

    __slots__ = ("durable", "future", "run", "small")

    def __init__(self, run: Callable[[Session], Any], future: asyncio.Future[Any], durable: bool, small: bool = False) -> None:
        self.run = run
        self.future = future
        self.durable = durable
        self.small = small


Outcome = tuple[Operation, Any, BaseException | None]


def execute(session: Session, group: list[Operation], *, owing: bool = False) -> list[Outcome]:
    """Do a group in one transaction.

    One that raises must not fail its neighbours: the transaction is rolled back then, and each operation is done again in one
    of its own. What is no Exception comes from a signal's handler, on the loop, and goes on its way: nothing is done then.
    Args: owing: what can be left to a later commit is, and to copy the WAL, too.
    """
    try:
        session.begin(durable=any(operation.durable for operation in group), copies=not owing)
        outcomes: list[Outcome] = [(operation, operation.run(session), None) for operation in group]
        session.commit(owing=owing)
    except BaseException as error:
        session.rollback(error)
        if not isinstance(error, Exception):
            raise
        if len(group) == 1:
            return [(group[0], None, translated(error))]
        return [outcome for operation in group for outcome in execute(session, [operation])]
    return outcomes


def attempt(operation: Operation, session: Session) -> Outcome:
    """Do what begins no transaction."""
    try:
        return operation, operation.run(session), None
    except Exception as error:
        return operation, None, translated(error)


def settle(outcomes: list[Outcome]) -> None:
    """Tell those who wait for these operations."""
    for operation, result, error in outcomes:
        if operation.future.done():  # its caller was cancelled
            continue
        if error is None:
            operation.future.set_result(result)
        else:
            operation.future.set_exception(error)


def _nothing() -> None:
    return None


def _nobody(_news: object) -> None:
    return None


class Hearing:
    """Who hears, on the loop, of what committed transactions did besides; before those who asked for the operations."""

    def __init__(self) -> None:
        #: called with jobs that were called
        self.on_called: Callable[[list[Entry]], None] = _nobody
        #: called when `follow` has something to do
        self.on_followed: Callable[[], None] = _nothing
        #: called with what has become of what waits
        self.on_waiting: Callable[[Waiting], None] = _nobody

    def tell(self, called: list[Entry], follows: bool, waiting: Waiting | None) -> None:
        """Tell all of it, as Session's take_called, take_follows and take_waiting return it."""
        if called:
            self.on_called(called)
        if follows:
            self.on_followed()
        if waiting is not None:
            self.on_waiting(waiting)

    def tell_of(self, session: Session) -> None:
        """Tell what the session has to tell."""
        self.tell(session.take_called(), session.take_follows(), session.take_waiting())


class Runner(Protocol):
    """Does operations on one session, in the order in which they are asked for. For the loop thread."""

    hearing: Hearing

    async def start(self, open_session: Callable[[Session], T]) -> T:
        """Open the session and return what that returns. Raises: what it raises; nothing is left."""
        ...

    async def stop(self) -> None:
        """Finish what was asked and close the session. Idempotent."""
        ...

    def call(self, run: Callable[[Session], T], *, durable: bool = False, small: bool = False) -> asyncio.Future[T]:
        """Do `run(session)` in the next transaction; a `small` one at once, if nothing is before it.

        Raises (from the future): StoreError, after which nothing of this operation was done. StoreUnavailableError: closed.
        """
        ...

    def expect_slow(self) -> None:
        """Take in that much is being written: any commit may have to copy it into the file."""
        ...
