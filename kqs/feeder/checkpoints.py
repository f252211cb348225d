"""When the journal's checkpoint moves: behind what the store has made durable, now and then.

A restart reads again what stands above the checkpoint, so it moves after so many bytes, and when all has been quiet for a
moment, or the store has refused jobs for as long: on a full disk, room comes from the segments of those it has. One that cannot
be written is tried again as soon; nothing is lost meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kqs.errors import JournalError, StoreCorruptError, StoreError
from kqs.feeder.held import Reach
from kqs.journal import Journal
from kqs.log import get_logger
from kqs.store.base import Store, StoreInfo
from kqs.supervisor import Supervisor
from kqs.trouble import Trouble

log = get_logger("kqs.feeder")

#: so many bytes of records may be fed before it moves amid work: a restart reads them again
AFTER_BYTES = 64 * 1024 * 1024
#: how long nothing was fed before it moves, in s: it costs some flushes, which no pause between two bursts is worth
AFTER_S = 2.0


class Checkpoints:
    """See the module docstring. Call from the feeder's task."""

    def __init__(self, journal: Journal, store: Store, on_due: Callable[[], None], supervisor: Supervisor) -> None:
        """Args: on_due: called when `is_due` becomes true by itself."""
        self._journal = journal
        self._store = store
        self._on_due = on_due
        self._supervisor = supervisor
        self._reach = Reach(0, 0)
        self._moved_to = 0
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._lasting = Trouble(log, "the checkpoint cannot move, trying again until it can", "the checkpoint moves again")
        #: it should move once all is quiet
        self.is_due = False
        #: why the journal keeps what the store has
        self.trouble: str | None = None
        #: no replay can bring back a job with an order below this one
        self.order = 0

    def start(self, info: StoreInfo) -> None:
        """Begin with what the store has already."""
        self._reach = Reach(info.fed_seq, info.last_order + 1)
        self._moved_to = self._journal.checkpoint_seq
        if self._moved_to == info.fed_seq:
            self.order = self._reach.order

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def fed(self, reach: Reach, size_bytes: int) -> None:
        """Note that the store has the journal up to `reach`, which took it `size_bytes` of records."""
        self._reach = Reach(reach.seq, max(self._reach.order, reach.order))
        self._bytes += size_bytes
        if self._lasting.is_on:
            self.arm()

    @property
    def is_overdue(self) -> bool:
        """Tell whether it must move even amid work: so much was fed since, or it should have moved and could not."""
        return self._bytes >= AFTER_BYTES or (self._lasting.is_on and self.is_due)

    def arm(self) -> None:
        """Become due in a while, if there is anything to do; for when nothing is being fed."""
        if self._reach.seq > self._moved_to and self._timer is None:
            self._timer = self._supervisor.call_later(AFTER_S, "checkpoints", self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.is_due = True
        self._on_due()

    async def move(self) -> None:
        """Let the store make durable what it has, and move the checkpoint there.

        Raises: StoreCorruptError: no later try will find the store whole.
        """
        self.is_due = False
        if self._reach.seq <= self._moved_to:
            return
        self._bytes = 0
        order = self._reach.order
        try:
            durable_seq = await self._store.sync()
        except StoreCorruptError:
            raise
        except StoreError as error:
            self.trouble = f"the journal keeps what the store has: {error}"
            self._lasting.met(error=f"the store cannot be made durable: {error}")
            return
        try:
            await self._journal.checkpoint(durable_seq)
        except JournalError as error:
            self.trouble = f"the journal gives no space back: {error}"
            self._lasting.met(error=f"it cannot be written: {error}")
            return
        self._moved_to = durable_seq
        self.order = order
        self.trouble = None
        self._lasting.over(seq=durable_seq)
