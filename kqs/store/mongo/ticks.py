"""Schedules: one document each.

    _id           the name
    plan          what it says, as JSON
    origin, created_at, since, revision, passed_at, tick_at, missed, skipped, suspended_at   as Schedule's
    nodes         {node: 1}, the servers whose config has it
    by            {node: {first, last}}: the orders of the jobs by whose insert that server has moved `passed_at` last

Beside them stands {_id: "", changes}, a number that grows with whatever is put, removed, suspended or resumed.

A tick moves its schedule on before its job is stored, so no other server's is stored after that. `by` lets whoever repeats the
insert, after an answer that was lost or a kill, know that it was first itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from pymongo import UpdateOne

from kqs.job import Accepted
from kqs.store.mongo.client import Document
from kqs.store.mongo.session import Session
from kqs.store.ticks import Passed, Plan, Schedule, name_of

_CHANGES = ""
_FIELDS = ("origin", "created_at", "since", "revision", "passed_at", "tick_at", "missed", "skipped", "suspended_at")

_encode = msgspec.json.Encoder().encode
_decode_plan = msgspec.json.Decoder(Plan).decode


async def put(session: Session, schedule: Schedule, node: str | None) -> Schedule:
    """See Store.put_schedule."""
    fields: Document = {
        "plan": _encode(schedule.plan).decode(),
        "origin": schedule.origin,
        "created_at": schedule.created_at,
        "since": schedule.since,
        "revision": schedule.revision,
    }
    if node is None:
        fields["nodes"] = {}
    else:
        fields[f"nodes.{node}"] = 1
    zeros = {"$max": {"passed_at": 0.0, "tick_at": 0.0}, "$inc": {"missed": 0, "skipped": 0}}
    ours = {"_id": schedule.name}
    ahead = {**ours, "revision": {"$ne": schedule.revision}, "passed_at": {"$gt": schedule.since}}
    await session.schedules.update_one(ahead, {"$set": {**fields, "passed_at": 0.0}})
    await session.schedules.update_one(ours, {"$set": fields, **zeros}, upsert=True)
    await _note_change(session)
    found = await schedules(session, [schedule.name])
    return found[0] if found else schedule  # somebody has removed it meanwhile


async def remove(session: Session, name: str, node: str | None) -> bool:
    """See Store.remove_schedule."""
    if node is None:
        done = bool((await session.schedules.delete_one({"_id": name})).deleted_count)
    else:
        ours = {"_id": name, f"nodes.{node}": 1}
        done = bool((await session.schedules.update_one(ours, {"$unset": {f"nodes.{node}": ""}})).matched_count)
        await session.schedules.delete_one({"_id": name, "origin": "config", "nodes": {}})
    await _note_change(session)
    return done


async def schedules(session: Session, names: Sequence[str] | None) -> list[Schedule]:
    """See Store.schedules."""
    wanted: Document = {"$ne": _CHANGES} if names is None else {"$in": list(names)}
    found = await session.schedules.find({"_id": wanted}).sort("_id", 1).to_list(None)
    return [_schedule(one) for one in found]


async def changes(session: Session) -> int:
    """See Store.schedule_changes."""
    found = await session.schedules.find_one({"_id": _CHANGES})
    return 0 if found is None else int(found["changes"])


async def suspend(session: Session, name: str, at: float | None, since: float) -> Schedule | None:
    """See Store.suspend_schedule."""
    if at is None:
        change: Document = {"$set": {"suspended_at": None}, "$max": {"since": since}}
        await session.schedules.update_one({"_id": name, "suspended_at": {"$ne": None}}, change)
    else:
        await session.schedules.update_one({"_id": name, "suspended_at": None}, {"$set": {"suspended_at": at}})
    await _note_change(session)
    found = await schedules(session, [name])
    return found[0] if found else None


async def pass_ticks(session: Session, passed: Sequence[Passed]) -> list[bool]:
    """See Store.pass_ticks. Where another server has decided just the same, it is done as well."""
    writes = [
        UpdateOne(
            {"_id": one.name, "revision": one.revision, "passed_at": one.expected},
            {"$set": {"passed_at": one.passed_at}, "$inc": {"missed": one.missed, "skipped": one.skipped}},
        )
        for one in passed
    ]
    await session.schedules.bulk_write(writes, ordered=False)
    found = {one.name: one for one in await schedules(session, [one.name for one in passed])}
    return [
        one.name in found and (found[one.name].revision, found[one.name].passed_at) == (one.revision, one.passed_at)
        for one in passed
    ]


async def refused(session: Session, node: str, jobs: Sequence[Accepted]) -> set[int]:
    """Let schedules have passed the ticks whose jobs are about to be stored; return the orders of those they had passed."""
    open_: dict[str, list[Accepted]] = {}
    for job in jobs:
        open_.setdefault(name_of(job.id), []).append(job)
    refused: set[int] = set()
    while open_:
        writes = []
        found = {one["_id"]: one async for one in session.schedules.find({"_id": {"$in": list(open_)}})}
        for name, ticked in list(open_.items()):
            left = _left(found.get(name), node, ticked, refused)
            if left is None:
                del open_[name]
            else:
                writes.append(left)
        if writes:
            await session.schedules.bulk_write(writes, ordered=False)
    return refused


def _left(document: Document | None, node: str, jobs: Sequence[Accepted], refused: set[int]) -> UpdateOne | None:
    """Return the write by which the schedule passes those of these ticks that it has not; None: all is decided.

    Those that it has passed join `refused`, unless it was by their own insert.
    """
    if document is None:
        return None
    ours = document.get("by", {}).get(node, {"first": 0, "last": -1})
    ticks = {job.order: job.tick for job in jobs if job.tick is not None}
    own = [order for order in ticks if ours["first"] <= order <= ours["last"]]
    ahead = [order for order, at in ticks.items() if at > document["passed_at"]]
    refused.update(ticks.keys() - {*own, *ahead})
    if not ahead:
        return None
    last = max(ticks[order] for order in ahead)
    orders = [*own, *ahead]
    return UpdateOne(
        {"_id": document["_id"], "passed_at": document["passed_at"]},
        {"$set": {"passed_at": last, "tick_at": last, f"by.{node}": {"first": min(orders), "last": max(orders)}}},
    )


async def _note_change(session: Session) -> None:
    await session.schedules.update_one({"_id": _CHANGES}, {"$inc": {"changes": 1}}, upsert=True)


def _schedule(document: Document) -> Schedule:
    fields: dict[str, Any] = {name: document[name] for name in _FIELDS if name in document}
    nodes = frozenset(document.get("nodes", {}))
    return Schedule(document["_id"], _decode_plan(document["plan"]), nodes=nodes, **fields)
