"""Deleting the records of ended jobs, whichever server stored them.

The eldest server does it for all. Two at once would find the same records, and neither would know what it has deleted of them;
and two that saw more successes than may be kept would both delete the excess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kqs.states import ENDED, State
from kqs.store.mongo import uniques
from kqs.store.mongo.client import Document
from kqs.store.mongo.documents import GONE_STATE, Place
from kqs.store.mongo.follow import Follower
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session

_FIELDS = ["type", "place", "state", "order", "unique", "data_bulk", "result_bulk", "batch", "member", "members"]
_ENDED = [int(state) for state in sorted(ENDED)]


async def sweep(session: Session, servers: Servers, follower: Follower, now: float, limit: int, before_order: int) -> int:
    """See Store.sweep. Of another server's records, those go that its journal cannot bring back."""
    bounds = await servers.replay_bounds(before_order)
    if not servers.is_eldest:
        return 0
    over: Document = {"state": {"$in": _ENDED}, "drop_at": {"$lte": now}, **bounds}
    count = await _delete(session, follower, await _found(session, over, "drop_at", limit))
    if count < limit:
        await _forget_some(session, servers, follower, bounds, limit)
    return count


async def _forget_some(session: Session, servers: Servers, follower: Follower, bounds: Document, limit: int) -> None:
    """Take away records that were deleted and stayed as long as they were needed."""
    gone = {"state": GONE_STATE, "place": int(Place.GONE), **bounds}
    found = (
        await session.jobs.find(gone, ["order", "owner", "place", "batch", "member", "members"])
        .sort("drop_at", 1)
        .limit(limit)
        .to_list(None)
    )
    if any("owner" in document for document in found):  # who runs it has not seen yet that it is gone
        living = await servers.living()
        found = [document for document in found if document.get("owner") not in living]
    if found:
        await follower.bury(found)
        await session.jobs.delete_many({**_just(found), **gone})


async def forget(session: Session, servers: Servers, follower: Follower, documents: Sequence[Document]) -> None:
    """Take away those of these records that need not stay, which were deleted; those of runs do, for who runs them to see.

    Args: documents: as they were before.
    """
    if documents:
        await follower.batches.keep_ends([{**one, "place": Place.GONE} for one in documents if one["place"] != Place.ENDED])
        gone = {"place": int(Place.GONE), "owner": None, **await servers.replay_bounds()}
        await session.jobs.delete_many({**_just(documents), **gone})


async def trim_successes(
    session: Session, servers: Servers, follower: Follower, keep_count: int, limit: int, before_order: int
) -> int:
    """See Store.trim_successes."""
    if not servers.is_eldest:
        return 0
    counts = await session.tallies.read()
    excess = min(sum(states.get(State.SUCCESS, 0) for states in counts.values()) - keep_count, limit)
    if excess <= 0:
        return 0
    success: Document = {"state": int(State.SUCCESS), **await servers.replay_bounds(before_order)}
    documents = await _found(session, {**success, "drop_at": {"$gte": 0.0}}, "drop_at", excess)
    if len(documents) < excess:
        documents += await _found(session, {**success, "drop_at": None}, "order", excess - len(documents))
    return await _delete(session, follower, documents)


async def _found(session: Session, conditions: Document, by: str, limit: int) -> list[Any]:
    cursor = session.jobs.find({"place": int(Place.ENDED), **conditions}, _FIELDS).sort(by, 1)
    return await cursor.limit(limit).to_list(None)


async def _delete(session: Session, follower: Follower, documents: list[Any]) -> int:
    if not documents:
        return 0
    await follower.bury(documents)
    await uniques.forget(session, uniques.keys_of(documents))
    deleted = await session.jobs.delete_many({**_just(documents), "place": int(Place.ENDED)})
    kinds = [(document["type"], document["state"]) for document in documents]
    if deleted.deleted_count == len(documents) or len(set(kinds)) == 1:
        session.tallies.remove(kinds[: deleted.deleted_count])
    elif deleted.deleted_count:
        session.tallies.doubt()  # another server deleted some of them, and counted those
    await session.bulk.delete(documents)
    return deleted.deleted_count


def _just(documents: Sequence[Document]) -> Document:
    """Return the condition for these records alone: a new job of one of their ids may stand there by now, and be over, too."""
    return {name: {"$in": [document[name] for document in documents]} for name in ("_id", "order")}
