"""The oldest go: jobs end as cancelled of types of which more wait than `max_waiting` allows, if their `drop` is "oldest".

What is too many is asked of the store's own count, so a start goes on where the last boot has ended. Of a store that others
share, the count is read anew before, since they do the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from kqs.errors import StoreUnavailableError
from kqs.filter import Filter
from kqs.log import get_logger
from kqs.queue.bounds import Bounds
from kqs.queue.changes import Changes, Request
from kqs.states import WAITING, waiting_count
from kqs.store import change as slices
from kqs.store.base import Store, Verb
from kqs.trouble import Trouble

log = get_logger("kqs.queue")

#: who could not drop what is too many tries again after so long, in s
AGAIN_S = 1.0


class Drops:
    """See the module docstring. `services` has the body of its task."""

    def __init__(self, bounds: Bounds, store: Store, changes: Changes) -> None:
        self._bounds = bounds
        self._store = store
        self._changes = changes
        self._lasting = Trouble(log, "jobs beyond max_waiting cannot be dropped yet", "jobs beyond max_waiting are dropped")

    def services(self) -> dict[str, Coroutine[Any, Any, None]]:
        """Return the bodies of the tasks that it needs, by name; they run for ever."""
        return {"queue-drops": self._run()} if self._bounds.dropping else {}

    async def _run(self) -> None:
        over = self._bounds.over
        while True:
            await over.wait()
            over.clear()
            try:
                is_done = await self._drop_all()
            except StoreUnavailableError as error:
                self._lasting.met(error=str(error))
                is_done = False
            else:
                self._lasting.over()
            if not is_done:  # what is counted is not there, or not any more
                await asyncio.sleep(AGAIN_S)
                over.set()

    async def _drop_all(self) -> bool:
        """Drop a slice of each type; False: there is nothing to drop of what is counted. Raises: StoreUnavailableError."""
        excess = await self._excess()
        dropped = [await self._drop(type_, min(count, slices.SLICE)) for type_, count in excess.items()]
        if dropped and self._store.is_shared:
            await self._store.counts()  # and with it the others can see what we have done
        return not excess or any(dropped)

    async def _excess(self) -> dict[str, int]:
        excess = self._bounds.excess()
        if not excess or not self._store.is_shared:
            return excess
        counts = await self._store.counts()
        waiting = {type_: waiting_count(counts.get(type_, {})) - self._bounds.limits[type_] for type_ in excess}
        return {type_: count for type_, count in waiting.items() if count > 0}

    async def _drop(self, type_: str, most: int) -> int:
        """Cancel those that have stood in line for longest; if none stands there, those whose time comes first."""
        ids = await self._store.first_in_line(type_, most)
        wanted = Filter(ids=tuple(ids), states=WAITING) if ids else Filter(type=type_, states=WAITING)
        error = f"dropped: type {type_!r} has max_waiting = {self._bounds.limits[type_]}, and drops the oldest"
        done = await self._changes.do(Request(Verb.CANCEL, wanted, most=most, error=error), _no_orders)
        self._bounds.dropped[type_] += done.count
        return done.count


def _no_orders(_count: int) -> int:
    raise AssertionError("nothing is revived")
