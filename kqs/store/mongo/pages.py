"""A page of records that fit a filter, in order: no longer than one slice takes."""

from __future__ import annotations

from typing import Any

from kqs.filter import Filter
from kqs.job import JobRecord
from kqs.store import change as bounds
from kqs.store.base import MAX_ORDER
from kqs.store.mongo import walk
from kqs.store.mongo.batches import Batches
from kqs.store.mongo.client import Document
from kqs.store.mongo.documents import is_there
from kqs.store.mongo.records import LISTED, all_listed
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session


async def page(
    session: Session,
    servers: Servers,
    batches: Batches,
    wanted: Filter,
    after: int | None,
    limit: int,
    newest_first: bool,
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
    found: list[Any] = await session.jobs.find({"$and": asked}, LISTED).sort("order", direction).limit(limit).to_list(None)
    if len(found) == limit:
        following = found[-1]["order"]
        ids = [document["_id"] for document in found if document["order"] == following]
        found += await session.jobs.find({"$and": [*asked, {"order": following, "_id": {"$nin": ids}}]}, LISTED).to_list(None)
    if wanted.match is not None and found:
        fitting, done = await walk.read(session, found, wanted.match, bounds.LOOKED_BYTES)
        following = found[done - 1]["order"] if done < len(found) else following
        ids = [document["_id"] for document in fitting]
        found = [document for document in found[:done] if document["_id"] in ids]
    return await all_listed(batches, found), following
