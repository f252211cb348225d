"""How those stand that wait: what comes before a job, and how long the oldest of a type has waited. All of it bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kqs.job import instant_of
from kqs.store import base
from kqs.store.mongo.client import Document
from kqs.store.mongo.documents import Place
from kqs.store.mongo.groups import names
from kqs.store.mongo.session import Session
from kqs.tasks import side_by_side

#: types that are asked about at a time; other operations need connections too
_AT_ONCE = 8
#: jobs of one of them that are read at a time
_JOBS_AT_ONCE = 20


async def before(session: Session, type_: str, rank: tuple[int, int], most: int, group: str | None) -> int:
    """See Store.before."""
    prio, order = rank
    line = {"type": type_, "group": group}
    count = await _count(session, {**line, "prio": {"$lt": prio}}, most)
    if count < most:
        count += await _count(session, {**line, "prio": prio, "order": {"$lt": order}}, most - count)
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

    found = await side_by_side(map(look, types), "oldest of types")
    return {type_: at for type_, at in zip(types, found, strict=True) if at is not None}


async def _oldest(session: Session, type_: str, prios: int) -> float | None:
    """Look at the first jobs, some at a time: of many types all are among these."""
    foremost: list[Document] = []
    prio = -1
    while len(foremost) < prios:
        found = await _first(session, {"type": type_, "group": None, "prio": {"$gt": prio}}, _JOBS_AT_ONCE)
        for document in found:
            if document["prio"] != prio and len(foremost) < prios:
                prio = document["prio"]
                foremost.append(document)
        if len(found) < _JOBS_AT_ONCE:
            break
    for name in await names(session, type_, "", prios):
        foremost += await _first(session, {"type": type_, "group": name}, 1)
    if not foremost:
        return None
    oldest = min(foremost, key=lambda document: int(document["order"]))
    return float(oldest.get("accepted_at") or instant_of(oldest["order"]))


async def _first(session: Session, line: Document, count: int) -> list[Document]:
    found = session.jobs.find({"place": int(Place.READY), **line}, ["order", "prio", "accepted_at"])
    return await found.sort([("prio", 1), ("order", 1)]).limit(count).to_list(None)


async def first_in_line(session: Session, type_: str, most: int) -> list[str]:
    """See Store.first_in_line."""
    ready: Document = {"place": int(Place.READY), "type": type_, "group": None}
    found: list[Document] = []
    prio = -1
    for _ in range(base.LINE_PRIOS):
        wanted = {**ready, "prio": {"$gt": prio}}
        first = await session.jobs.find(wanted, ["prio"]).sort([("prio", 1), ("order", 1)]).limit(1).to_list(None)
        if not first:
            break
        prio = first[0]["prio"]
        cursor = session.jobs.find({**ready, "prio": prio}, ["order"]).sort([("prio", 1), ("order", 1)]).limit(most)
        found += await cursor.to_list(None)
    else:
        found = await session.jobs.find(ready, ["order"]).sort([("order", 1)]).limit(most).to_list(None)
    for name in await names(session, type_, "", base.LINE_PRIOS):
        of_group = session.jobs.find({**ready, "group": name}, ["order"]).sort([("prio", 1), ("order", 1)])
        found += await of_group.limit(most).to_list(None)
    found.sort(key=lambda document: int(document["order"]))
    return [str(document["_id"]) for document in found[:most]]
