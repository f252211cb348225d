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
    of_type: Document = {"place": int(Place.READY), "type": type_}
    found = await _first_of_line(session, {**of_type, "group": None}, most)
    groups = await names(session, type_, "", base.LINE_PRIOS + 1)
    if len(groups) > base.LINE_PRIOS:
        found += await _oldest_of(session, {**of_type, "group": {"$gt": ""}}, most)
    else:
        for name in groups:
            found += await _first_of_line(session, {**of_type, "group": name}, most)
    found.sort(key=lambda document: int(document["order"]))
    return [str(document["_id"]) for document in found[:most]]


async def _first_of_line(session: Session, line: Document, most: int) -> list[Document]:
    """Return the oldest of a group, or of those without, and maybe others of it."""
    found: list[Document] = []
    prio = -1
    for _ in range(base.LINE_PRIOS):
        first = await session.jobs.find({**line, "prio": {"$gt": prio}}, ["prio"]).sort("prio", 1).limit(1).to_list(None)
        if not first:
            return found
        prio = first[0]["prio"]
        cursor = session.jobs.find({**line, "prio": prio}, ["order"]).sort([("prio", 1), ("order", 1)]).limit(most)
        found += await cursor.to_list(None)
    return await _oldest_of(session, line, most)


async def _oldest_of(session: Session, jobs: Document, most: int) -> list[Document]:
    found: list[Document] = await session.jobs.find(jobs, ["order"]).sort("order", 1).limit(most).to_list(None)
    return found
