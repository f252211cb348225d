"""The store on the loop: for one that is in memory, as tests have it, where hops between threads cost more than all it does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from kqs.errors import StoreUnavailableError
from kqs.store.sqlite import forking
from kqs.store.sqlite.operations import Hearing, Operation, attempt, execute, settle
from kqs.store.sqlite.session import Session

T = TypeVar("T")


class StoreHere:
    """See kqs.store.sqlite.operations.Runner. Each operation is done before `call` returns, in a transaction of its own."""

    def __init__(self, session: Session) -> None:
        self.hearing = Hearing()
        self._session = session
        self._in_use = threading.Lock()  # for forks by other threads
        self._is_open = False

    async def start(self, open_session: Callable[[Session], T]) -> T:
        """See Runner.start."""
        assert not self._is_open, "started twice"
        opened: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        forking.watch(self._in_use, self._session)
        with self._in_use:
            settle([attempt(Operation(open_session, opened, durable=True), self._session)])
        self._is_open = opened.exception() is None
        if self._is_open:
            self.hearing.tell_of(self._session)
        else:
            self._close()
        return await opened

    async def stop(self) -> None:
        """See Runner.stop."""
        if self._is_open:
            self._is_open = False
            self._close()

    def call(self, run: Callable[[Session], T], *, durable: bool = False, small: bool = False) -> asyncio.Future[T]:
        """See Runner.call."""
        if not self._is_open:
            raise StoreUnavailableError("the store is closed")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._in_use:
            outcomes = execute(self._session, [Operation(run, future, durable, small)])
            for chore in self._session.chores():
                chore()
        self.hearing.tell_of(self._session)
        settle(outcomes)
        return future

    def expect_slow(self) -> None:
        """See Runner.expect_slow: everything is done here all the same."""

    def _close(self) -> None:
        with self._in_use:
            self._session.close()
        forking.forget(self._in_use)
