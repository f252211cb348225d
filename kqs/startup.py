"""The part of a start that needs the store: at once, or later where the store is another machine's and is away.

Until then the journal takes the inserts, and nothing else goes on: no epoch is known, so nothing can be claimed or fed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kqs.errors import (
    ExitCode,
    JournalError,
    StartupError,
    StoreCorruptError,
    StoreDoubtError,
    StoreError,
    StoreUnavailableError,
)
from kqs.feeder import Feeder
from kqs.ids import Ids
from kqs.journal import Recovery
from kqs.log import get_logger
from kqs.pauses import Pauses
from kqs.queue.queue import Queue
from kqs.remote import Desk
from kqs.schedules.schedules import Schedules
from kqs.service import Service
from kqs.store.base import Store, StoreInfo
from kqs.supervisor import Supervisor, when_done
from kqs.trouble import Trouble
from kqs.worker import Worker

log = get_logger("kqs")

#: between two tries of a store that is away, in s: the first wait, which doubles, and the longest
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 5.0


class Startup(Service):
    """Opens the store, and then starts the queue, the worker, the feeder and the schedules, in this order.

    Whoever owns those stops them, after this, whether they were started or not.
    """

    def __init__(
        self,
        store: Store,
        recovery: Recovery,
        ids: Ids,
        queue: Queue,
        worker: Worker,
        feeder: Feeder,
        desk: Desk,
        supervisor: Supervisor,
        *,
        may_wait: bool,
        skip_to: Callable[[int], bool] = lambda _seq: False,
        schedules: Schedules | None = None,
    ) -> None:
        """Args: may_wait: a store that is away is waited for in the background, after `start`. skip_to: the journal's."""
        self._store = store
        self._recovery = recovery
        self._ids = ids
        self._queue = queue
        self._worker = worker
        self._feeder = feeder
        self._desk = desk
        self._schedules = schedules
        self._supervisor = supervisor
        self._may_wait = may_wait
        self._journal_skip_to = skip_to
        self._info: StoreInfo | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start all, or begin to wait for the store.

        Raises: StartupError: 65 the store is damaged, or does not belong to this journal; 74 it refuses.
        """
        try:
            await self._join()
        except StoreUnavailableError as error:
            if not self._may_wait:
                raise StartupError(str(error), ExitCode.IO_FAILED) from error
            self._feeder.wait_for_store(self._recovery.checkpoint_seq)
            self._task = self._supervisor.spawn(self._wait(error), "startup", when_done)

    async def stop(self) -> None:
        """Wait no more."""
        task, self._task = self._task, None
        await self._supervisor.end(task)

    async def _wait(self, error: StoreUnavailableError) -> None:
        pauses = Pauses(FIRST_WAIT_S, LONGEST_WAIT_S)
        trouble = Trouble(log, "the store is not there yet, new jobs wait in the journal; trying again", "the store is there")
        while True:
            self._feeder.trouble = f"the store is not there yet, new jobs wait in the journal: {error}"
            trouble.met(error=str(error))
            await asyncio.sleep(pauses.next_s())
            try:
                await self._join()
            except StoreUnavailableError as again:
                error = again
            else:
                trouble.over()
                return

    async def _join(self) -> None:
        try:
            if self._info is None:
                self._info = await self._open()
            await self._queue.start(self._info)
        except StoreUnavailableError:
            raise
        except StoreDoubtError as error:
            raise StartupError(str(error), ExitCode.IO_FAILED) from error
        except StoreCorruptError as error:
            raise StartupError(str(error), ExitCode.DATA_DAMAGED) from error
        except StoreError as error:
            raise StartupError(str(error), ExitCode.IO_FAILED) from error
        await self._worker.start()
        self._desk.start(self._info.store_id)
        await self._feeder.start(self._info)
        if self._schedules is not None:
            await self._schedules.start()

    async def _open(self) -> StoreInfo:
        """Open the store and make sure that it belongs to what the journal says. Raises: StoreError, StartupError."""
        recovery = self._recovery
        info = await self._store.open(recovery.journal_id, recovery.node)
        if info.fed_seq < recovery.checkpoint_seq:
            raise StartupError(
                f"the store ends at record {info.fed_seq}, but the journal was cut up to {recovery.checkpoint_seq}: "
                "the store is missing or older than its journal; restore both together",
                ExitCode.DATA_DAMAGED,
            )
        if info.fed_seq > recovery.next_seq:
            self._skip_to(info.fed_seq)
        self._ids.last_order = max(self._ids.last_order, info.last_order)
        return info

    def _skip_to(self, fed_seq: int) -> None:
        """Go on behind what the store has of a journal that lost its end. Raises: StartupError: it may be an older journal."""
        recovery = self._recovery
        # while a store is away, records may have got numbers that it knows already: only damage that was seen is a reason then
        has_lost = recovery.is_cut or not (self._may_wait or recovery.is_as_stopped)
        try:
            is_done = has_lost and self._journal_skip_to(fed_seq)
        except JournalError as error:
            raise StartupError(str(error), ExitCode.IO_FAILED) from error
        if not is_done:
            raise StartupError(
                f"the journal ends at record {recovery.next_seq}, but the store has {fed_seq}: "
                "the journal is missing or older than its store; restore both together",
                ExitCode.DATA_DAMAGED,
            )
        log.error("the journal has lost its end, which the store has", journal_end=recovery.next_seq, store_end=fed_seq)
