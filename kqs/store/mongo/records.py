"""Looking at records: one, or a page of them."""

from __future__ import annotations

from typing import Any

from kqs.filter import Filter
from kqs.job import JobRecord, State
from kqs.store import change as bounds
from kqs.store.base import DAMAGED, LISTED_BYTES
from kqs.store.mongo import walk
from kqs.store.mongo.client import Document
from kqs.store.mongo.documents import Place, is_intact, is_there, record_of
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session
from kqs.store.mongo.slices import MAX_ORDER, slices

#: what a listing leaves out
_LISTED = {"data_long": 0, "result_long": 0}


async def job(session: Session, servers: Servers, job_id: str) -> JobRecord | None:
    """See Store.job."""
    document = await session.jobs.find_one({"_id": job_id, **is_there(session.now(), servers.replaceable)})
    if document is None:
        return None
    data = await session.bulk.get("data", document)
    record = record_of(document, data, await session.bulk.get("result", document))
    if not is_intact(document, data):
        record.data, record.error = b"null", DAMAGED
    return record


async def jobs(
    session: Session,
    servers: Servers,
    type_: str | None,
    state: State | None,
    after: int | None,
    limit: int,
    newest_first: bool,
) -> list[JobRecord]:
    """See Store.jobs. Records of one order, which different servers may make, stay on one page."""
    conditions = is_there(session.now(), servers.replaceable)
    if type_ is not None:
        conditions["type"] = type_
    if state is not None:
        conditions["$and"] = [_is_in(state)]
    found: list[Any] = []
    async for part in slices(session.jobs, after, newest_first=newest_first):
        wanted = session.jobs.find({**conditions, **part}, _LISTED).sort("order", -1 if newest_first else 1)
        found += await wanted.limit(limit - len(found)).to_list(None)
        if len(found) == limit:
            break
    if found:
        ids = [document["_id"] for document in found if document["order"] == found[-1]["order"]]
        found += await session.jobs.find({**conditions, "order": found[-1]["order"], "_id": {"$nin": ids}}, _LISTED).to_list(
            None
        )
    return [_listed(document) for document in found]


async def page(
    session: Session, servers: Servers, wanted: Filter, after: int | None, limit: int, newest_first: bool
) -> tuple[list[JobRecord], int | None]:
    """See Store.page. Records of one order, which different servers may make, stay on one page."""
    beyond, upto, direction = ("$lt", "$gte", -1) if newest_first else ("$gt", "$lte", 1)
    along: Document = {"order": {beyond: after if after is not None else MAX_ORDER if newest_first else -1}}
    if wanted.ids is not None:
        along["_id"] = {"$in": list(wanted.ids)}
    edge = await session.jobs.find(along, ["order"]).sort("order", direction).skip(bounds.LOOKED - 1).limit(1).to_list(None)
    following: int | None = edge[0]["order"] if edge else None
    asked = [along, is_there(session.now(), servers.replaceable), *walk.conditions(wanted)]
    if following is not None:
        asked.append({"order": {upto: following}})
    found: list[Any] = await session.jobs.find({"$and": asked}, _LISTED).sort("order", direction).limit(limit).to_list(None)
    if len(found) == limit:
        following = found[-1]["order"]
        ids = [document["_id"] for document in found if document["order"] == following]
        found += await session.jobs.find({"$and": [*asked, {"order": following, "_id": {"$nin": ids}}]}, _LISTED).to_list(None)
    if wanted.match is not None and found:
        fitting, done = await walk.read(session, found, wanted.match, bounds.LOOKED_BYTES)
        following = found[done - 1]["order"] if done < len(found) else following
        ids = [document["_id"] for document in fitting]
        found = [document for document in found[:done] if document["_id"] in ids]
    return [_listed(document) for document in found], following


def _is_in(state: State) -> Document:
    """Return the condition for a state; a job that runs keeps the one that it waited in."""
    if state is State.PROCESSING:
        return {"place": int(Place.RUNNING)}
    return {"state": int(state), "place": {"$ne": int(Place.RUNNING)}}


def _listed(document: Any) -> JobRecord:
    data = document.get("data")
    record = record_of(document, data, document.get("result"))
    if data is not None and not is_intact(document, data):
        record.data, record.error = b"null", DAMAGED
    if record.progress is not None and len(record.progress) > LISTED_BYTES:
        record.progress = None
    del record.runs[:-1]
    return record
