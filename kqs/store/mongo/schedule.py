"""Waiting jobs: which are ready, whose time has come, and who waited too long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from pymongo import UpdateMany

from kqs.job import Entry, Rescheduled
from kqs.states import Event, State, next_state
from kqs.store import base
from kqs.store.checksum import moved
from kqs.store.ends import EXPIRED
from kqs.store.keep import own_keep_s
from kqs.store.mongo.client import Document
from kqs.store.mongo.documents import WAITS, Place, entry_fields, entry_of
from kqs.store.mongo.held import OF_THE_WAIT
from kqs.store.mongo.resources import Resources
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session
from kqs.store.showing import most_shown

#: servers whose jobs may share a rank at the end of a page
_MAX_TIES = 16


class _Alike(NamedTuple):
    """What expired jobs have in common that one update ends. is_called: it is their turn to have their resource."""

    state: int
    is_called: bool
    drop_at: float | None


async def ready(session: Session, type_: str, after: tuple[int, int] | None, limit: int, body_bytes: int | None) -> list[Entry]:
    """See Store.ready. Jobs of one rank, which different servers may make, stay on one page."""
    found: list[Document] = []
    wanted, fields = limit + _MAX_TIES, entry_fields(body_bytes)
    if after is not None:
        prio, order = after
        found = await _ready(session, {"type": type_, "prio": prio, "order": {"$gt": order}}, fields, wanted)
    if len(found) < wanted:
        beyond = {"$gt": after[0]} if after is not None else {"$gte": 0}
        found += await _ready(session, {"type": type_, "prio": beyond}, fields, wanted - len(found))
    entries = await _entries(session, found, limit, body_bytes)
    return [entry for index, entry in enumerate(entries) if index < limit or entry.rank == entries[limit - 1].rank]


async def _ready(session: Session, conditions: Document, fields: list[str], limit: int) -> list[Document]:
    is_ready = {"place": int(Place.READY), "group": None, **conditions}
    cursor = session.jobs.find(is_ready, fields).sort([("prio", 1), ("order", 1)])
    return await cursor.limit(limit).to_list(None)


async def _entries(session: Session, found: list[Document], limit: int, body_bytes: int | None) -> list[Entry]:
    """Return what the broker is told of these jobs, with long data where it is to be shown and not too much of all."""
    most = None if body_bytes is None else most_shown(body_bytes, limit)
    if most is not None and most > base.LISTED_BYTES and found:
        ids = [document["_id"] for document in found if "data" not in document]
        long = await session.find(ids, {"data_bytes": {"$lte": most}}, ["data_long"])
        shown = {document["_id"]: document.get("data_long") for document in long}
        found = [document | {"data_long": shown.get(document["_id"])} for document in found]
    return [entry_of(document, most) for document in found]


async def wake(session: Session, before: float, limit: int, body_bytes: int | None) -> list[Entry]:
    """See Store.wake. What another server wakes at the same time is returned to both."""
    due = session.jobs.find({"wake_at": {"$lte": before}}, entry_fields(body_bytes)).sort("wake_at", 1)
    found = await due.limit(limit).to_list(None)
    if found:
        await session.jobs.update_many(
            {"_id": {"$in": [document["_id"] for document in found]}, "place": int(Place.LATER), "wake_at": {"$lte": before}},
            {"$set": {"place": int(Place.READY)}, "$unset": {"wake_at": ""}},
        )
    return await _entries(session, found, limit, body_bytes)


async def reschedule(session: Session, servers: Servers, changes: Sequence[Rescheduled]) -> None:
    """See Store.reschedule."""
    if not changes:
        return
    is_alone = await servers.living() <= {session.epoch}
    found = await session.find([one.id for one in changes], {}, ["order", "node", "attempt", "crc32c"])
    documents = {(document["_id"], document["order"]): document for document in found}
    writes = [
        UpdateMany(_where(ours, place), {"$set": _times(ours, place) | _checksum(ours, document.get("crc32c"))})
        for one in changes
        if (document := documents.get((one.id, one.order))) and (ours := _ours(one, document, session.node, is_alone=is_alone))
        for place in (Place.READY, Place.LATER)
    ]
    if writes:
        await session.jobs.bulk_write(writes, ordered=False)


def _ours(one: Rescheduled, document: Document, node: str, *, is_alone: bool) -> Rescheduled | None:
    """Return which times may change by our clock; None: none may.

    Those that a job has from its insert are of the clock of its server, which may be right where ours is not. The wait of one
    that ran is of whoever ran it, which may be us. When a job expires stays as it is while others live: if our clock is wrong
    now, theirs would end it at once, and if it was, the job has a little longer.
    """
    due_at, expire_at = one.were
    if document["node"] == node:
        return one if is_alone else msgspec.structs.replace(one, expire_at=expire_at)
    if document["attempt"] and one.due_at != due_at:
        return msgspec.structs.replace(one, expire_at=expire_at)
    return None


def _where(one: Rescheduled, place: Place) -> Document:
    due_at, expire_at = one.were
    return {"_id": one.id, "order": one.order, "place": int(place), "due_at": due_at or None, "expire_at": expire_at}


def _times(one: Rescheduled, place: Place) -> Document:
    times = {"due_at": one.due_at or None, "expire_at": one.expire_at}
    if place is Place.LATER and one.due_at:  # without, it is parked, and nothing wakes it
        times["wake_at"] = one.due_at
    return {name: at for name, at in times.items() if at is not None}


def _checksum(one: Rescheduled, total: int | None) -> Document:
    was = one.were[1]
    if total is None or was is None or one.expire_at is None:
        return {}
    return {"crc32c": total ^ moved(was, one.expire_at)}


async def next_due_at(session: Session) -> float | None:
    """See Store.next_due_at."""
    found = await session.jobs.find({"wake_at": {"$gte": 0.0}}, ["wake_at"]).sort("wake_at", 1).limit(1).to_list(None)
    return found[0]["wake_at"] if found else None


async def next_expire_at(session: Session) -> float | None:
    """See Store.next_expire_at."""
    found = await _expiring(session, {"$gte": 0.0}, ["expire_at"], 1)
    return min((document["expire_at"] for document in found), default=None)


async def expire(
    session: Session,
    resources: Resources,
    now: float,
    limit: int,
    drop_after_s: float | None,
    by_type: Mapping[str, float | None],
) -> list[str]:
    """See Store.expire."""
    found = await _expiring(session, {"$lte": now}, ["type", "state", "options", "expire_at", "called"], limit)
    if not found:
        return []
    alike: defaultdict[_Alike, list[str]] = defaultdict(list)
    for document in found:
        keep_s = own_keep_s(document.get("options"), by_type.get(document["type"], drop_after_s))
        drop_at = None if keep_s is None else now + keep_s
        alike[_Alike(document["state"], "called" in document, drop_at)].append(document["_id"])
    async with session.marking() as mark:
        await session.jobs.bulk_write([_end_expired(kind, ids, mark, now) for kind, ids in alike.items()], ordered=False)
        ended = await session.find([document["_id"] for document in found], {"mark": mark}, ["_id"])
    ended_ids = {document["_id"] for document in ended}
    gone = [document for document in found if document["_id"] in ended_ids]
    session.tallies.remove([(document["type"], document["state"]) for document in gone])
    session.tallies.add([(document["type"], _expired(document["state"])) for document in gone])
    session.noted.note([document["_id"] for document in gone])
    for name in {document["called"] for document in gone if "called" in document}:
        await resources.calls.hand_on(name)
    return [document["_id"] for document in gone]


async def _expiring(session: Session, expire_at: Document, fields: list[str], limit: int) -> list[Document]:
    """Return those of the waiting jobs that expire first, in that order."""
    found: list[Document] = []
    for place in (Place.READY, Place.LATER):
        cursor = session.jobs.find({"place": int(place), "expire_at": expire_at}, fields).sort("expire_at", 1)
        found += await cursor.limit(limit).to_list(None)
    return sorted(found, key=lambda document: document["expire_at"])[:limit]


def _end_expired(kind: _Alike, ids: list[str], mark: int, now: float) -> UpdateMany:
    fields: Document = {"place": int(Place.ENDED), "state": int(State.FAIL), "error": EXPIRED, "ended_at": now, "mark": mark}
    if kind.drop_at is not None:
        fields["drop_at"] = kind.drop_at
    # without an epoch, no report can take this end for its own
    absent = dict.fromkeys((*OF_THE_WAIT, "epoch", "parked", "called", "pair", "pends"), "")
    # a new job may stand there by now, or one that was retried; and one that has run since, or was called, is found again
    as_found = {"state": kind.state, "called": {"$gt": ""} if kind.is_called else None}
    are_over = {"_id": {"$in": ids}, **WAITS, **as_found, "expire_at": {"$lte": now}}
    return UpdateMany(are_over, {"$set": fields, "$unset": absent})


def _expired(state: int) -> State:
    return next_state(State(state), Event.EXPIRE)
