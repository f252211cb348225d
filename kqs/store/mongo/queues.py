"""How those stand that wait: what comes before a job, and how long the oldest of a type has waited. All of it bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kqs.job import instant_of
from kqs.store.mongo.client import Document
from kqs.store.mongo.documents import Place
from kqs.store.mongo.session import Session

#: types that are asked about at a time; other operations need connections too
_AT_ONCE = 8
#: jobs of one of them that are read at a time
_JOBS_AT_ONCE = 20


async def before(session: Session, type_: str, rank: tuple[int, int], most: int) -> int:
    """See Store.before."""
    prio, order = rank
    count = await _count(session, {"type": type_, "prio": {"$lt": prio}}, most)
    if count < most:
        count += await _count(session, {"type": type_, "prio": prio, "order": {"$lt": order}}, most - count)
    return count


async def _count(session: Session, conditions: Document, most: int) -> int:
    found = session.jobs.find({"place": int(Place.READY), **conditions}, ["order"]).limit(most)
    return len(await found.to_list(None))


async def oldest(session: Session, types: Sequence[str], prios: int) -> dict[str, float]:
    """See Store.oldest."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def look(type_: str) -> float | None:
        async with places:
            return await _oldest(session, type_, prios)

    found = await asyncio.gather(*map(look, types))
    return {type_: at for type_, at in zip(types, found, strict=True) if at is not None}


async def _oldest(session: Session, type_: str, prios: int) -> float | None:
    """Look at the first jobs, some at a time: of many types all are among these."""
    oldest: Document | None = None
    prio, seen = -1, 0
    while seen < prios:
        wanted = {"place": int(Place.READY), "type": type_, "prio": {"$gt": prio}}
        cursor = (
            session.jobs.find(wanted, ["order", "prio", "accepted_at"]).sort([("prio", 1), ("order", 1)]).limit(_JOBS_AT_ONCE)
        )
        found = await cursor.to_list(None)
        for document in found:
            if document["prio"] == prio:
                continue
            if seen == prios:
                break
            prio, seen = document["prio"], seen + 1
            oldest = min(oldest or document, document, key=lambda one: int(one["order"]))
        if len(found) < _JOBS_AT_ONCE:
            break
    if oldest is None:
        return None
    return float(oldest.get("accepted_at") or instant_of(oldest["order"]))
