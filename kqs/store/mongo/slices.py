"""All jobs by age, a slice at a time: no question to the server takes long, however many jobs there are."""

from __future__ import annotations

from collections.abc import AsyncIterator

from motor.motor_asyncio import AsyncIOMotorCollection

from kqs.store.base import MAX_ORDER
from kqs.store.mongo.client import Document

#: jobs of one slice
SLICE = 50_000


async def slices(
    jobs: AsyncIOMotorCollection[Document], after: int | None = None, *, newest_first: bool = False
) -> AsyncIterator[Document]:
    """Yield conditions on `order` that part the jobs, beginning after the order `after`."""
    beyond, upto, direction = ("$lt", "$gte", -1) if newest_first else ("$gt", "$lte", 1)
    at: int | None = after if after is not None else MAX_ORDER if newest_first else -1
    while at is not None:
        condition: Document = {beyond: at}
        edge = await jobs.find({"order": condition}, ["order"]).sort("order", direction).skip(SLICE - 1).limit(1).to_list(None)
        at = edge[0]["order"] if edge else None
        yield {"order": condition if at is None else {**condition, upto: at}}
