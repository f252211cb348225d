"""Ready jobs that have a group, by type, group, priority and order, along the index that has all ready jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from kqs.job import Entry
from kqs.store.mongo.documents import Place, entry_fields, entry_of
from kqs.store.mongo.session import Session
from kqs.store.rotation import Turn, Turned, line_of, share_of, turned

#: groups that are asked about at a time; other operations need connections too
_AT_ONCE = 8
#: groups that have a turn in one look: each is a question or two
MOST_GROUPS = 64


async def types(session: Session, among: Collection[str]) -> list[str]:
    """See Store.grouped_types."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def has_any(type_: str) -> bool:
        async with places:
            return bool(await names(session, type_, "", 1))

    kinds = list(among)
    found = await asyncio.gather(*map(has_any, kinds))
    return [type_ for type_, has in zip(kinds, found, strict=True) if has]


async def in_turn(
    session: Session,
    type_: str,
    turn: Turn,
    count: int,
    weights: Mapping[str, int],
    most: Mapping[str, int],
    passed: Collection[int],
    plain: int,
) -> Turned:
    """See Store.in_turn."""
    wanted = min(count, MOST_GROUPS)
    behind = await names(session, type_, turn.group, wanted, most)
    before = await names(session, type_, "", wanted - len(behind), most, turn.group) if len(behind) < wanted else []
    line = line_of(turn, behind, before, weights, most, plain, wanted)
    each = share_of(line, count, weights) + len(passed)
    places = asyncio.Semaphore(_AT_ONCE)

    async def firsts(name: str) -> Sequence[Entry]:
        async with places:
            found = session.jobs.find({"place": int(Place.READY), "type": type_, "group": name}, entry_fields(None))
            documents = await found.sort([("prio", 1), ("order", 1)]).limit(each).to_list(None)
            return [entry_of(document, None) for document in documents]

    called = [name for name in line if name]
    found = await asyncio.gather(*map(firsts, called))
    return turned(turn, line, dict(zip(called, found, strict=True)), weights, most, passed, plain, count)


async def names(
    session: Session, type_: str, after: str, count: int, most: Mapping[str, int] | None = None, upto: str | None = None
) -> list[str]:
    """Return the next groups of a type behind `after`, up to and with `upto`, but for those that may get none."""
    found_names: list[str] = []
    bound = {} if upto is None else {"$lte": upto}
    while len(found_names) < count:
        behind = {"place": int(Place.READY), "type": type_, "group": {"$gt": after, **bound}}
        found = await session.jobs.find(behind, ["group"]).sort("group", 1).limit(count).to_list(None)
        if not found:
            break
        for document in found:
            if document["group"] > after:
                after = document["group"]
                if most is None or most.get(after, 1) > 0:
                    found_names.append(after)
    return found_names[:count]
