"""The other servers of a store that several share: what they did is looked for in one place, and what they ask is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from kqs.clock import Clock
from kqs.errors import CallError, StoreUnavailableError
from kqs.job import Claim
from kqs.log import get_logger
from kqs.store.base import Changed, Store
from kqs.supervisor import Supervisor, when_done
from kqs.trouble import Trouble

log = get_logger("kqs.queue")

#: how soon this server hears that another one has cancelled what runs here, was told something of a type, or asks, in s
LOOK_S = 0.3


class Neighbours:
    """See the module docstring. Call from the loop thread; `run` is the body of its task."""

    def __init__(
        self,
        store: Store,
        call_off: Callable[[Sequence[Claim]], None],
        deleted: Callable[[Sequence[Changed]], None],
        look_at_settings: Callable[[], Awaitable[None]],
        clock: Clock,
        supervisor: Supervisor,
    ) -> None:
        """Args: call_off: ends runs. deleted: told whose jobs are gone. look_at_settings: takes in what owners have said."""
        self._store = store
        self._call_off = call_off
        self._deleted = deleted
        self._look_at_settings = look_at_settings
        self._is_more = False
        self._supervisor = supervisor
        self._answering: asyncio.Task[None] | None = None
        self._trouble = Trouble(log, "cannot hear of other servers, trying again", "hears of them again", clock.monotonic)
        #: brings all that was accepted here into the store, and the ends of runs. Raises: CallError: it does not take them
        self.on_question: Callable[[], Awaitable[None]] = _nothing

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except StoreUnavailableError as error:
                self._trouble.met(error=str(error))
            else:
                self._trouble.over()

    async def _look(self) -> None:
        news = await self._store.news()
        if news.claims:
            self._call_off(news.claims)
        if news.deleted:
            self._deleted(news.deleted)
        if news.question is not None and self._answering is None:
            self._answering = self._supervisor.spawn(self._answer(news.question), "queue-question", when_done)
        self._is_more = self._is_more or news.is_more
        if self._is_more:
            await self._look_at_settings()
            self._is_more = False

    async def _answer(self, question: int) -> None:
        try:
            await self.on_question()
            await self._store.answer(question)
        except (CallError, StoreUnavailableError):
            return  # the next look finds the question again
        finally:
            self._answering = None

    async def stop(self) -> None:
        """Answer no more."""
        await self._supervisor.end(self._answering)


async def _nothing() -> None:
    return None
