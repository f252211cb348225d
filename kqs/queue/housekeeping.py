"""What is not urgent and is looked after every few seconds: runs of dead servers, a clock that was set back, what is over."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from kqs.clock import Clock
from kqs.errors import StoreUnavailableError
from kqs.job import instant_of
from kqs.log import get_logger
from kqs.queue.jumps import JUMP_S
from kqs.queue.orphans import Orphans
from kqs.queue.seeker import Seeker
from kqs.queue.timetable import SLICE, Timetable
from kqs.store.base import Store
from kqs.trouble import Trouble

log = get_logger("kqs.queue")

#: retention is not urgent: ended records are looked at this often, in s
HOUSEKEEPING_S = 5.0
#: for so long after a job has come that is to wait for others, records stay that are over, and until they have been over for as
#: long, in s: it was told that they are known, and is stored within half of that, unless the store is away
CHILDREN_S = 10.0


class Housekeeping:
    """See the module docstring. `run` is the body of its task."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        timetable: Timetable,
        seeker: Seeker,
        orphans: Orphans,
        replayable_order: Callable[[], int],
        keep_success_count: int,
    ) -> None:
        """Args: keep_success_count: most successes that are kept.

        replayable_order: returns the first order that a replay of the journal could bring back, of which no record goes.
        """
        self._store = store
        self._clock = clock
        self._timetable = timetable
        self._seeker = seeker
        self._orphans = orphans
        self._replayable_order = replayable_order
        self._keep_success_count = keep_success_count
        self._was_ahead = False
        self._children_at = -math.inf

    def start(self, last_order: int) -> None:
        """Begin with a store whose newest job has `last_order`."""
        self._was_ahead = instant_of(last_order) > self._clock.now() + JUMP_S

    def expect_children(self) -> None:
        """Take in that a job comes that is to wait for others: what is over stays until it is stored."""
        self._children_at = self._clock.monotonic()

    async def run(self) -> None:
        """Keep house for ever."""
        trouble = Trouble(log, "cannot keep house, trying again", "keeps house again", self._clock.monotonic)
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            try:
                await self.keep()
            except StoreUnavailableError as error:
                trouble.met(error=str(error))
            else:
                trouble.over()

    async def keep(self) -> None:
        """Give back the runs of servers that died, learn of what others stored, and drop what is over."""
        await self._orphans.recover()
        if back_s := self._timetable.jumps.back_s():
            log.warning("the clock was set back", seconds=round(back_s, 3))
            self._was_ahead = True
        if self._was_ahead:
            log.info("shortened waits that count from a clock that was ahead", count=await self._timetable.revise())
            self._was_ahead = False
        await self._timetable.look()
        await self._seeker.look()
        await self.sweep()

    async def sweep(self) -> int:
        """Drop the records whose retention is over; return how many went."""
        before, swept = self._replayable_order(), 0
        while gone := await self._store.sweep(self._over_at(), SLICE, before):
            swept += gone
        while gone := await self._store.trim_successes(self._keep_success_count, SLICE, before):
            swept += gone
        return swept

    def _over_at(self) -> float:
        """Return by which instant the retention of what goes is over: a while ago, where children may be on their way."""
        now = self._clock.now()
        is_expecting = self._store.is_shared or self._clock.monotonic() - self._children_at < CHILDREN_S
        return now - CHILDREN_S if is_expecting else now
