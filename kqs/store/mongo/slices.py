"""All jobs by age, a slice at a time: no question to the server takes long, however many jobs there are."""

from __future__ import annotations

from collections.abc import AsyncIterator

from motor.motor_asyncio import AsyncIOMotorCollection

from kqs.store.mongo.client import Document

#: jobs of one slice
SLICE = 50_000


async def slices(jobs: AsyncIOMotorCollection[Document]) -> AsyncIterator[Document]:
    """Yield conditions on `order` that part the jobs."""
    at: int | None = -1
    while at is not None:
        condition: Document = {"$gt": at}
        edge = await jobs.find({"order": condition}, ["order"]).sort("order", 1).skip(SLICE - 1).limit(1).to_list(None)
        at = edge[0]["order"] if edge else None
        yield {"order": condition if at is None else {**condition, "$lte": at}}
