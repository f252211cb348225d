"""What the operations share: the collections, our node, this boot's epoch, and the marks that tell its writes apart.

There is no transaction, and the answer to a write may be lost: it failed for us, and was done all the same, perhaps later. So
every write that grants or moves something leaves a mark in the documents, a number that no other write of any boot uses. The
marks of writes that failed are `doubted`: whoever repeats the operation recognises its own work by them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from motor.motor_asyncio import AsyncIOMotorCollection

from kqs.clock import Clock
from kqs.store.mongo.bulk import Bulk
from kqs.store.mongo.client import DRIVER_ERRORS, Document
from kqs.store.mongo.collections import Collections
from kqs.store.mongo.noted import Noted
from kqs.store.mongo.tallies import Tallies

#: a mark is the boot's epoch, then this many bits counted from 1
_MARK_BITS = 40


class Session:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, collections: Collections, node: str, epoch: int, bulk_bytes: int, clock: Clock) -> None:
        """Args: node: what this server's ids end with. epoch: this boot's number, which no other boot of any server has."""
        self.jobs: AsyncIOMotorCollection[Document] = collections.jobs
        self.locks: AsyncIOMotorCollection[Document] = collections.locks
        self.ends: AsyncIOMotorCollection[Document] = collections.ends
        self.said: AsyncIOMotorCollection[Document] = collections.said
        self.suspended: AsyncIOMotorCollection[Document] = collections.suspended
        self.subscriptions: AsyncIOMotorCollection[Document] = collections.subscriptions
        self.uniques: AsyncIOMotorCollection[Document] = collections.uniques
        self.schedules: AsyncIOMotorCollection[Document] = collections.schedules
        self.node = node
        self.epoch = epoch
        self.bulk_bytes = bulk_bytes
        self.bulk = Bulk(collections)
        self.tallies = Tallies(collections, clock.monotonic)
        self.noted = Noted(clock.monotonic)
        self.now, self.monotonic = clock.now, clock.monotonic
        self._last_mark = epoch << _MARK_BITS

    @asynccontextmanager
    async def marking(self, doubt: Callable[[int], None] | None = None) -> AsyncIterator[int]:
        """Yield a new mark for one attempt at a write; `doubt` is given it if nobody can say whether the write was done."""
        self._last_mark = mark = self._last_mark + 1
        try:
            yield mark
        except (*DRIVER_ERRORS, OSError):
            if doubt is not None:
                doubt(mark)
            self.tallies.doubt()
            raise

    async def find(
        self, ids: list[str], conditions: Document, fields: list[str] | Mapping[str, int] | None = None
    ) -> list[Any]:
        """Return the documents of these jobs that meet the conditions. fields: those wanted, or by 0 those that are not."""
        return await self.jobs.find({"_id": {"$in": ids}, **conditions}, fields).to_list(None)
