"""Looking at records: one, or several as listings show them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kqs.job import JobRecord
from kqs.store.base import DAMAGED, LISTED_BYTES, MOST_ENDS, Looked
from kqs.store.mongo.batches import Batches
from kqs.store.mongo.documents import Place, is_intact, is_there, record_of
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session

#: what a listing leaves out
LISTED = {"data_long": 0, "result_long": 0}
#: and a look
_UNREAD = {"data": 0, "data_long": 0}


async def job(session: Session, servers: Servers, batches: Batches, job_id: str) -> JobRecord | None:
    """See Store.job."""
    document = await session.jobs.find_one({"_id": job_id, **is_there(session.now(), servers.replaceable)})
    if document is None:
        return None
    data = await session.bulk.get("data", document)
    record = record_of(document, data, await session.bulk.get("result", document))
    if not is_intact(document, data):
        record.data, record.error = b"null", DAMAGED
    record.tally = (await batches.tallies([document])).get(job_id)
    return record


async def look(session: Session, servers: Servers, job_ids: Sequence[str]) -> Looked:
    """See Store.look."""
    found = await session.find(list(job_ids), {"place": {"$ne": int(Place.GONE)}}, ["place", "drop_at"])
    now = session.now()
    over = frozenset(document["_id"] for document in found if document.get("drop_at", math.inf) <= now)
    if over:
        known = await session.find(list(over), is_there(now, servers.replaceable), ["place"])
        over -= {document["_id"] for document in known}
    ended = [document["_id"] for document in found if document["place"] == Place.ENDED][:MOST_ENDS]
    # once more: others may have retried or deleted some, or replaced them, since they were found
    documents = await session.find(ended, {"place": int(Place.ENDED)}, _UNREAD) if ended else []
    records = [record_of(document, None, await session.bulk.get("result", document)) for document in documents]
    return Looked(frozenset(document["_id"] for document in found), records, over)


async def all_listed(batches: Batches, documents: Sequence[Any]) -> list[JobRecord]:
    """Return records as listings show them, with how batches stand."""
    shown = [listed(document) for document in documents]
    tallies = await batches.tallies(documents)
    for record in shown if tallies else ():
        record.tally = tallies.get(record.id)
    return shown


def listed(document: Any) -> JobRecord:
    """Return a record as listings show it."""
    data = document.get("data")
    record = record_of(document, data, document.get("result"))
    if data is not None and not is_intact(document, data):
        record.data, record.error = b"null", DAMAGED
    if record.progress is not None and len(record.progress) > LISTED_BYTES:
        record.progress = None
    del record.runs[:-1]
    return record
