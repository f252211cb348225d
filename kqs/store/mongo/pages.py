"""A page of records that fit a filter, in order: no longer than one slice takes."""

from __future__ import annotations

import time
from typing import Any

from kqs.filter import Filter, Pattern
from kqs.job import JobRecord
from kqs.store import change as bounds
from kqs.store.mongo.client import Document
from kqs.store.mongo.records import LISTED, is_in, is_there, listed
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session

#: data is looked through on the loop, for so long at a time, in s
_MATCH_S = 0.003
_MAX_ORDER = 2**63 - 1


async def page(
    session: Session, servers: Servers, wanted: Filter, after: int | None, limit: int, newest_first: bool
) -> tuple[list[JobRecord], int | None]:
    """See Store.page. Records of one order, which different servers may make, stay on one page."""
    beyond, upto, direction = ("$lt", "$gte", -1) if newest_first else ("$gt", "$lte", 1)
    orders: Document = {beyond: after if after is not None else _MAX_ORDER if newest_first else -1}
    named: Document = {} if wanted.ids is None else {"_id": {"$in": list(wanted.ids)}}
    looked = session.jobs.find({**named, "order": orders}, ["order"]).sort("order", direction)
    edge = await looked.skip(bounds.LOOKED - 1).limit(1).to_list(None)
    reached: int | None = None
    if edge:
        reached = edge[0]["order"]
        orders[upto] = reached
    fitting = {"$and": [is_there(session, servers), *_conditions(wanted)], **named}
    fields = None if wanted.match is not None else LISTED
    found = await session.jobs.find({**fitting, "order": orders}, fields).sort("order", direction).limit(limit).to_list(None)
    if len(found) == limit:
        reached = found[-1]["order"]
        ids = [document["_id"] for document in found if document["order"] == reached]
        ties: Document = {**fitting, "order": reached, "_id": {"$nin": ids, **named.get("_id", {})}}
        found += await session.jobs.find(ties, fields).to_list(None)
    if wanted.match is not None and found:
        found, reached = await _matching(session, found, wanted.match, reached)
    return [listed(document) for document in found], reached


def _conditions(wanted: Filter) -> list[Document]:
    conditions: list[Document] = []
    if wanted.type is not None:
        conditions.append({"type": wanted.type})
    if wanted.states is not None:
        conditions.append({"$or": [*map(is_in, sorted(wanted.states)), {"_id": {"$in": []}}]})
    if wanted.resource is not None:
        conditions.append({"resource": wanted.resource})
    if (before := wanted.accepted_before) is not None:
        by_order = {"accepted_at": None, "order": {"$lt": round(before * 1_000_000)}}
        conditions.append({"$or": [{"accepted_at": {"$lt": before}}, by_order]})
    return conditions


async def _matching(session: Session, found: list[Any], pattern: Pattern, reached: int | None) -> tuple[list[Any], int | None]:
    """Return those in whose data the pattern is found, as far as one slice goes, and the order that it has reached."""
    until = time.monotonic() + _MATCH_S
    fitting: list[Any] = []
    size = 0
    for place, document in enumerate(found):
        data = await session.bulk.get("data", document) or b""
        size += len(data)
        if pattern.is_in(data):
            fitting.append(document)
        is_last_of_order = place + 1 == len(found) or found[place + 1]["order"] != document["order"]
        if is_last_of_order and (size >= bounds.LOOKED_BYTES or time.monotonic() >= until):
            return fitting, document["order"] if place + 1 < len(found) else reached
    return fitting, reached
