"""The part of a start that needs the store: at once, or later where the store is another machine's and is away.

Until then the journal takes the inserts, and nothing else goes on: no epoch is known, so nothing can be claimed or fed.
"""

from __future__ import annotations

import asyncio

from kqs.errors import (
    ExitCode,
    JournalError,
    StartupError,
    StoreCorruptError,
    StoreDoubtError,
    StoreError,
    StoreUnavailableError,
)
from kqs.journal import JournalName, Recovery
from kqs.log import get_logger
from kqs.parts import Parts
from kqs.pauses import STORE_FIRST_S, STORE_LONGEST_S, Pauses
from kqs.service import Service
from kqs.store.base import Store, StoreInfo
from kqs.supervisor import Supervisor, when_done
from kqs.trouble import Trouble

log = get_logger("kqs")


def owner_name(store: Store) -> JournalName | None:
    """Return the name of the journal whose store it is; None: nobody's, or shared. Blocks. Raises: StartupError."""
    try:
        owner = store.owner()
    except StoreError as error:
        raise _refused(error) from error
    return None if owner is None else JournalName(bytes.fromhex(owner.journal_id), bytes.fromhex(owner.node))


def _refused(error: StoreError) -> StartupError:
    is_damaged = isinstance(error, StoreCorruptError) and not isinstance(error, StoreDoubtError)
    return StartupError(str(error), ExitCode.DATA_DAMAGED if is_damaged else ExitCode.IO_FAILED)


class Startup(Service):
    """Opens the store, and then starts the queue, the worker, the feeder and the schedules, in this order.

    Whoever owns those stops them, after this, whether they were started or not.
    """

    def __init__(self, store: Store, recovery: Recovery, parts: Parts, supervisor: Supervisor) -> None:
        """Args: store: one that others share may be away, and is waited for in the background, after `start`."""
        self._store = store
        self._recovery = recovery
        self._parts = parts
        self._supervisor = supervisor
        self._info: StoreInfo | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start all, or begin to wait for the store.

        Raises: StartupError: 65 the store is damaged, or does not belong to this journal; 74 it refuses.
        """
        try:
            await self._join()
        except StoreUnavailableError as error:
            if not self._store.is_shared:
                raise StartupError(str(error), ExitCode.IO_FAILED) from error
            self._parts.feeder.wait_for_store(self._recovery.checkpoint_seq)
            self._task = self._supervisor.spawn(self._wait(error), "startup", when_done)

    async def stop(self) -> None:
        """Wait no more."""
        task, self._task = self._task, None
        await self._supervisor.end(task)

    async def _wait(self, error: StoreUnavailableError) -> None:
        pauses = Pauses(STORE_FIRST_S, STORE_LONGEST_S)
        trouble = Trouble(log, "the store is not there yet, new jobs wait in the journal; trying again", "the store is there")
        while True:
            self._parts.feeder.trouble = f"the store is not there yet, new jobs wait in the journal: {error}"
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
            await self._parts.queue.start(self._info)
        except StoreUnavailableError:
            raise
        except StoreError as error:
            raise _refused(error) from error
        parts = self._parts
        await parts.worker.start()
        parts.desk.start(self._info.store_id)
        await parts.feeder.start(self._info)
        await parts.schedules.start()

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
        try:
            if info.fed_seq > recovery.next_seq:
                self._skip_to(info.fed_seq)
            if recovery.is_renewed:
                await self._parts.journal.settle_renewal()
                log.warning("the store goes on with a new journal, in place of the one that is lost")
        except JournalError as error:
            raise StartupError(str(error), ExitCode.IO_FAILED) from error
        ids = self._parts.inserter.ids
        ids.last_order = max(ids.last_order, info.last_order)
        return info

    def _skip_to(self, fed_seq: int) -> None:
        """Go on behind what the store has of a journal that lost its end.

        Raises: StartupError: it may be an older journal. JournalError: the disk refuses.
        """
        recovery = self._recovery
        # while a store is away, records may have got numbers that it knows already: only damage that was seen is a reason then
        has_lost = recovery.is_cut or recovery.is_renewed or not (self._store.is_shared or recovery.is_as_stopped)
        if not (has_lost and self._parts.journal.skip_to(fed_seq)):
            raise StartupError(
                f"the journal ends at record {recovery.next_seq}, but the store has {fed_seq}: "
                "the journal is missing or older than its store; restore both together, or `kqs journal renew` it",
                ExitCode.DATA_DAMAGED,
            )
        if not recovery.is_renewed:
            log.error("the journal has lost its end, which the store has", journal_end=recovery.next_seq, store_end=fed_seq)
