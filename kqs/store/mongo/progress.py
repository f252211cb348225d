"""How far runs are: one bulk write with an update a run, and a look when one of them was refused."""

from __future__ import annotations

from collections.abc import Sequence

from pymongo import UpdateOne

from kqs.job import Claim, Progress
from kqs.store.mongo.client import Document
from kqs.store.mongo.documents import Place
from kqs.store.mongo.session import Session


async def save(session: Session, saved: Sequence[Progress]) -> list[bool]:
    """See Store.save. What is written is durable in any case; to repeat it does no harm."""
    if not saved:
        return []
    last = {one.claim: one.value for one in saved}
    written = await session.jobs.bulk_write([_update(claim, value) for claim, value in last.items()], ordered=False)
    if written.matched_count == len(last):
        return [True] * len(saved)
    found = await session.find([claim.id for claim in last], {"place": int(Place.RUNNING)}, ["order", "attempt", "epoch"])
    running = {(one["_id"], one["order"], one["attempt"], one["epoch"]) for one in found}
    return [(one.claim.id, one.claim.order, one.claim.attempt, one.claim.epoch) in running for one in saved]


def _update(claim: Claim, value: bytes) -> UpdateOne:
    is_running: Document = {
        "_id": claim.id,
        "order": claim.order,
        "attempt": claim.attempt,
        "epoch": claim.epoch,
        "place": int(Place.RUNNING),
    }
    return UpdateOne(is_running, {"$set": {"progress": value}} if value else {"$unset": {"progress": ""}})
