"""Finding the records that fit a filter, a slice at a time, by the index that leads to the fewest others.

A way is one leg or several, each along one index. Whoever goes on begins behind the last key that was looked at; records that
share one key are met by what comes second, `tie`, lest a million of them be one slice.

Jobs that wait for others are met before those where they are called off or deleted, and behind them where they are retried: a
slice later the end of one would have failed the other, or let it begin. As a rule a job was accepted behind what it waits for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from kqs.filter import Filter, Pattern
from kqs.states import ENDED, WAITING, State
from kqs.store import change as bounds
from kqs.store.base import LISTED_BYTES, Change
from kqs.store.mongo.client import Document
from kqs.store.mongo.documents import Place
from kqs.store.mongo.session import Session

#: what is read of a record that fits
FIELDS = [
    *("order", "node", "type", "prio", "place", "state", "attempt", "returned", "epoch", "owner", "options"),
    *("data_bytes", "born", "expire_at", "crc32c", "accepted_at", "drop_at", "wake_at", "past"),
    *("data_bulk", "result_bulk", "resource", "parked", "called", "unique", "group"),
    *("hold", "after", "members", "tally", "batch", "member"),
]
#: long data of a record that does not say its length
_UNKNOWN_BYTES = 1024 * 1024


class Leg(NamedTuple):
    """Records of `base`, by `key` from `low` on, and then by `tie`.

    is_types: not they, but the legs of each `type` there. is_groups: likewise, of each `group`. is_newest_first: the last key
    comes first.
    """

    base: Document
    key: str
    low: object
    tie: str
    is_types: bool = False
    is_groups: bool = False
    is_newest_first: bool = False


class At(NamedTuple):
    """Where to go on. keys: the condition for those of the first leg that are left; same, after: of one key, what is left."""

    legs: tuple[Leg, ...]
    keys: Document | None = None
    same: object = None
    after: object = None


_READY = {"place": int(Place.READY)}
_BY_AGE = Leg({}, "order", 0, "_id")
_TYPES = Leg(_READY, "type", "", "prio", is_types=True)
_LATER = Leg({}, "wake_at", 0.0, "order")
_PARKED = Leg({}, "parked", "", "order")
_HELD = Leg({}, "hold", "", "order")
_NEWEST_HELD = Leg({}, "hold", "", "order", is_newest_first=True)
_RUNNING = Leg({}, "owner", 0, "order")


def way(change: Change, *, may_hold: bool) -> At:
    """Return the beginning of the way to what fits. may_hold: there may be jobs that wait for others."""
    states = change.states
    holds = may_hold and change.meets_held_first
    if change.wanted.ids is not None:
        named = _of_ids(change.wanted.ids)
        held = [leg._replace(key="hold", low="", tie="order", is_newest_first=True) for leg in named]
        return At(_behind_held(held, named, change) if holds else named)
    if states is None or len(states) == len(State):
        return At(_behind_held([_NEWEST_HELD], (_BY_AGE,), change) if holds else (_BY_AGE,))
    legs: list[Leg] = []
    if states & WAITING:
        legs += [_NEWEST_HELD, _LATER, _PARKED] if holds else [_LATER, _PARKED, _HELD]
        legs += [_TYPES] if change.wanted.type is None else _of_type(change.wanted.type)
    if State.PROCESSING in states:
        legs.append(_RUNNING)
    # what has failed since its parent was cancelled is behind that
    for state in sorted(states & ENDED, reverse=True):
        is_it = {"state": int(state)}
        legs += [Leg({**is_it, "drop_at": None}, "order", 0, "_id"), Leg(is_it, "drop_at", 0.0, "order")]
    return At(tuple(legs))


def way_to(ids: Sequence[str]) -> At:
    """Return the beginning of the way to these jobs."""
    return At(_of_ids(ids))


def _of_ids(ids: Sequence[str]) -> tuple[Leg, ...]:
    ids = sorted(set(ids))
    parts = [ids[n : n + bounds.LOOKED] for n in range(0, len(ids), bounds.LOOKED)]
    return tuple(Leg({"_id": {"$in": part}}, "order", 0, "_id") for part in parts)


def _behind_held(held: Sequence[Leg], legs: Sequence[Leg], change: Change) -> tuple[Leg, ...]:
    """Return both: what is held, which is in `legs`, too, before the rest. It is gone by then, unless nothing is done."""
    if change.is_dry:
        legs = [leg._replace(base={**leg.base, "hold": None}) for leg in legs]
    return *held, *legs


def _of_type(type_: str) -> list[Leg]:
    is_it = {**_READY, "type": type_}
    return [Leg({**is_it, "group": None}, "prio", 0, "order"), Leg(is_it, "group", "", "prio", is_groups=True)]


def conditions(wanted: Filter) -> list[Document]:
    """Return what a filter asks for, but for its pattern."""
    found: list[Document] = []
    if wanted.type is not None:
        found.append({"type": wanted.type})
    if wanted.resource is not None:
        found.append({"resource": wanted.resource})
    if wanted.group is not None:
        found.append({"group": wanted.group})
    if wanted.ids is not None:
        found.append({"_id": {"$in": list(wanted.ids)}})
    if wanted.states is not None:
        other = [int(state) for state in sorted(wanted.states - {State.PROCESSING})]
        ways: list[Document] = [{"state": {"$in": other}, "place": {"$ne": int(Place.RUNNING)}}] if other else []
        if State.PROCESSING in wanted.states:
            ways.append({"place": int(Place.RUNNING)})
        found.append({"$or": ways} if ways else {"place": -1})
    if wanted.accepted_before is not None:
        by_order = {"accepted_at": None, "order": {"$lt": wanted.accepted_before * 1e6}}
        found.append({"$or": [{"accepted_at": {"$lt": wanted.accepted_before}}, by_order]})
    return found


async def find(
    session: Session, asked: Sequence[Document], match: Pattern | None, at: At, most: int, *, is_read: bool
) -> tuple[list[Document], At | None]:
    """Return the next records that fit, `most` at most, and where to go on; None: there are no more.

    Args: is_read: whoever asks reads the data of all of them.
    """
    found: list[Document] = []
    budget, left_bytes = bounds.LOOKED, bounds.LOOKED_BYTES
    while at.legs and budget > 0 and left_bytes > 0 and len(found) < most:
        leg = at.legs[0]
        if leg.is_types:
            at, budget = await _next_type(session, at), budget - 1
            continue
        if leg.is_groups:
            at, budget = await _next_group(session, at), budget - 1
            continue
        part, following, looked = await _part(session, asked, at, most - len(found))
        budget -= looked
        if part and (match is not None or is_read):
            # in the order in which it can be gone on from any of them
            part.sort(key=lambda one: (one[leg.key], one[leg.tie]), reverse=leg.is_newest_first)
            fitting, done = await read(session, part, match, left_bytes)
            left_bytes -= sum([one.get("data_bytes", LISTED_BYTES) for one in part[:done]])
            if done < len(part):
                last = part[done - 1]
                return found + fitting, At(at.legs, None, last[leg.key], last[leg.tie])
            part = fitting
        found += part
        at = following
        if found and leg.is_newest_first and at.legs[:1] != (leg,):
            break  # the next leg may meet these again, as long as nothing is done with them
    return found, at if at.legs else None


async def _next_type(session: Session, at: At) -> At:
    keys = at.keys or {"$gte": at.legs[0].low}
    first = await session.jobs.find({**_READY, "type": keys}, ["type"]).sort("type", 1).limit(1).to_list(None)
    if not first:
        return At(at.legs[1:])
    type_ = first[0]["type"]
    return At((*_of_type(type_), _TYPES._replace(base={**_READY}, low=type_ + "\0"), *at.legs[1:]))


async def _next_group(session: Session, at: At) -> At:
    """Return where the next group of a type begins, or what comes behind all of them."""
    line, *others = at.legs
    behind = {**line.base, "group": {"$gt": line.low}}
    first = await session.jobs.find(behind, ["group"]).sort("group", 1).limit(1).to_list(None)
    if not first:
        return At(tuple(others))
    name = first[0]["group"]
    return At((Leg({**line.base, "group": name}, "prio", 0, "order"), line._replace(low=name), *others))


async def _part(session: Session, asked: Sequence[Document], at: At, most: int) -> tuple[list[Document], At, int]:
    """Look at some records of one leg; return those that fit, where to go on, and at how many it has looked, about."""
    leg = at.legs[0]
    is_same = at.same is not None
    by = leg.tie if is_same else leg.key
    direction, ahead, before, upto = (-1, "$lt", "$gt", "$gte") if leg.is_newest_first else (1, "$gt", "$lt", "$lte")
    left: Document = at.keys or ({"$gt": leg.low} if leg.is_newest_first else {"$gte": leg.low})
    if is_same:
        left = {ahead: at.after} if at.after is not None else {}
    base: Document = {**leg.base, leg.key: at.same} if is_same else dict(leg.base)
    there: Document = {**base, by: left} if left else base
    edge = await session.jobs.find(there, [by]).sort(by, direction).skip(bounds.LOOKED - 1).limit(1).to_list(None)
    window: list[Document] = [there]
    if edge:
        window.append({by: {upto if is_same else before: edge[0][by]}})
    query = session.jobs.find({"$and": [*window, *asked]}, FIELDS).sort(by, direction).limit(most + 1)
    found: list[Document] = await query.to_list(None)
    looked = bounds.LOOKED if edge else bounds.LOOKED // 10 + len(found)
    if len(found) > most:
        beyond = found[most][by]
        kept = [one for one in found[:most] if one[by] != beyond]
        if is_same:
            if not kept and most < bounds.SLICE:
                return [], at, bounds.LOOKED  # the next slice has room for all that share it
            kept = kept or found[:most]
            return kept, At(at.legs, None, at.same, kept[-1][by]), looked
        return kept, At(at.legs, {ahead: kept[-1][by]}) if kept else At(at.legs, None, beyond), looked
    if edge:
        return found, At(at.legs, None, at.same, edge[0][by]) if is_same else At(at.legs, None, edge[0][by]), looked
    return found, At(at.legs, {ahead: at.same}) if is_same else At(at.legs[1:]), looked


async def read(session: Session, found: list[Document], pattern: Pattern | None, most_bytes: int) -> tuple[list[Document], int]:
    """Return which of these fit, with their `data`, as far as `most_bytes` go and the time for it, and how many those are."""
    fitting: list[Document] = []
    total = done = 0
    spent = 0.0
    while done < len(found) and total < most_bytes and spent < bounds.MATCH_S:
        part = [found[done]]
        size = part[0].get("data_bytes", 0)
        for one in found[done + 1 :]:
            size += one.get("data_bytes", LISTED_BYTES if "data_bulk" not in one else _UNKNOWN_BYTES)
            if size > _UNKNOWN_BYTES or len(part) == bounds.SLICE:
                break
            part.append(one)
        fields = ["data", "data_long", "data_bulk", "data_crc32c"]
        documents = {one["_id"]: one for one in await session.find([one["_id"] for one in part], {}, fields)}
        for one in part:
            data = await session.bulk.get("data", documents[one["_id"]]) if one["_id"] in documents else None
            started = time.monotonic()
            is_fitting = pattern is None or (data is not None and pattern.is_in(data))
            spent += time.monotonic() - started
            if is_fitting:
                fitting.append(one if data is None else one | {"data": data})
            done += 1
            total += len(data or b"")
            if spent >= bounds.MATCH_S:
                break
    return fitting, done
