"""Whoever runs jobs, with room for so many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from kqs.job import Run
from kqs.store import base

#: shorter data is not counted: all that room is ever claimed for takes a few MiB of it
LONG_BYTES = 4096


class Consumer:
    """Somebody who runs jobs. `deliver` is called with claimed runs, never more than `room` in all.

    can_wait: a delivered run may wait for a slot of its type, and be delivered once more. is_remote: runs are recorded as this
    worker's, and not as the server's own. is_held: they outlive this server, so they are the store's before they begin.
    most_bytes: of data in one claim; None: as much as a store ever gives.
    """

    def __init__(
        self,
        worker: str,
        types: Iterable[str],
        room: int,
        deliver: Callable[[list[Run]], None],
        *,
        can_wait: bool = False,
        is_remote: bool = False,
        is_held: bool = False,
        most_bytes: int | None = None,
    ) -> None:
        self.worker = worker
        self.types = frozenset(types)
        self.deliver = deliver
        #: how many more runs it can take now
        self.room = room
        self._room = room
        self._is_barred = False  # it is stopped, or holds too much data: its room counts as none
        self._has_room = asyncio.Event()  # set as long as `_room` is more than 0, barred or not
        self._claims = 0  # under way
        self._settled = asyncio.Event()  # set once it has stopped and no claim is under way
        self._is_light = asyncio.Event()  # set unless it holds too much data
        self._is_light.set()
        #: data of long runs that were delivered and have not begun; while it is 0, `begin` need not be called
        self.unbegun_bytes = 0
        self.stopped = False
        #: how much room is worth a commit of its own: 1, unless runs are so short that more will be free at once
        self.worth = 1
        self.can_wait = can_wait
        self.is_remote = is_remote
        self.is_held = is_held
        self.most_bytes = most_bytes
        #: called when room is made while nothing is ready for it
        self.on_room: Callable[[], None] | None = None
        if room:
            self._has_room.set()

    def reserve(self, count: int) -> None:
        """Keep room for `count` runs that are being claimed; `settle` must follow."""
        self._claims += 1
        self._have(self._room - count)

    def settle(self, count: int, runs: list[Run]) -> None:
        """Deliver those of `count` reserved runs that were granted, and make room again for the others."""
        self._claims -= 1
        if self.stopped and not self._claims:
            self._settled.set()
        if len(runs) < count:
            self.free(count - len(runs))
        if runs:
            self.deliver(runs)

    def free(self, count: int = 1) -> None:
        """Make room again: `count` runs ended, or were not granted."""
        room = self._room
        self._have(room + count)
        if room <= 0 < room + count:
            self._has_room.set()
        if room < self.worth <= room + count and self.on_room is not None:
            self.on_room()

    def grow(self, count: int) -> None:
        """Change how many runs it takes in all; fewer if `count` is negative."""
        if count >= 0:
            self.free(count)
        else:
            self._have(self._room + count)

    def _have(self, room: int) -> None:
        self._room = room
        if not self._is_barred:
            self.room = room
        if room <= 0:
            self._has_room.clear()

    def _bar(self, *, is_barred: bool) -> None:
        self._is_barred = is_barred
        self.room = 0 if is_barred else self._room

    async def wait_room(self) -> None:
        """Return when there is room, and not too much data waits for its run to begin."""
        await self._is_light.wait()
        await self._has_room.wait()

    def weigh(self, runs: Sequence[Run]) -> None:
        """Note that the data of delivered runs is in memory until they `begin`."""
        for run in runs:
            if len(run.data) > LONG_BYTES:
                self.unbegun_bytes += len(run.data)
        if self.unbegun_bytes > base.DATA_BYTES:
            self._is_light.clear()
            self._bar(is_barred=True)

    def begin(self, run: Run) -> None:
        """Note that a delivered run begins, or was given back."""
        if len(run.data) > LONG_BYTES:
            self.unbegun_bytes -= len(run.data)
            if self.unbegun_bytes <= base.DATA_BYTES:
                self._is_light.set()
                self._bar(is_barred=self.stopped)

    async def stop(self) -> None:
        """Take no more; return when the claims under way have been settled."""
        self.stopped = True
        self._bar(is_barred=True)
        if self._claims:
            await self._settled.wait()
