"""Ready jobs that have a group, by type, group, priority and order, along the index that has all ready jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

from kqs.job import Entry
from kqs.store.mongo.documents import Place, entry_fields, entry_of
from kqs.store.mongo.session import Session
from kqs.store.rotation import Terms, Turn, Turned, line_of, share_of, turned
from kqs.tasks import side_by_side

#: groups that are asked about at a time; other operations need connections too
_AT_ONCE = 8
#: jobs of one answer that cost as much as the question
_ANSWER_JOBS = 32
#: groups that have a turn in one look: each is a question at most
MOST_GROUPS = 64


async def types(session: Session, among: Collection[str]) -> list[str]:
    """See Store.grouped_types."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def has_any(type_: str) -> bool:
        async with places:
            return bool(await names(session, type_, "", 1))

    kinds = list(among)
    found = await side_by_side(map(has_any, kinds), "groups of types")
    return [type_ for type_, has in zip(kinds, found, strict=True) if has]


async def in_turn(session: Session, type_: str, turn: Turn, count: int, terms: Terms) -> Turned:
    """See Store.in_turn."""
    wanted, most, passed = min(count, MOST_GROUPS), terms.most, terms.passed
    heads = await _heads(session, type_, turn.group, wanted, most)
    behind = list(heads)
    before: list[str] = []
    if len(behind) < wanted:
        heads |= (more := await _heads(session, type_, "", wanted - len(behind), most, turn.group))
        before = list(more)
    line = line_of(turn, behind, before, terms, wanted)
    each = share_of(line, count, terms)
    waiting = {name: heads.get(name, []) for name in line.names if name}
    behind_heads = [name for name, head in waiting.items() if each > 1 or not head or head[0].order in passed]
    places = asyncio.Semaphore(_AT_ONCE)

    async def firsts(name: str) -> Sequence[Entry]:
        async with places:
            among = {"place": int(Place.READY), "type": type_, "group": name}
            found = session.jobs.find({**among, "order": {"$nin": list(passed)}} if passed else among, entry_fields(None))
            documents = await found.sort([("prio", 1), ("order", 1)]).limit(each).to_list(None)
            return [entry_of(document, None) for document in documents]

    looks = await side_by_side(map(firsts, behind_heads), "groups in turn")
    for name, found in zip(behind_heads, looks, strict=True):
        if found:  # else all that it has are passed
            waiting[name] = list(found)
    return turned(turn, line, waiting, terms, count)


async def names(session: Session, type_: str, after: str, count: int) -> list[str]:
    """Return the next groups of a type behind `after`, by name."""
    return list(await _heads(session, type_, after, count, {}))


async def _heads(
    session: Session, type_: str, after: str, count: int, most: Mapping[str, int], upto: str | None = None
) -> dict[str, list[Entry]]:
    """Return the first job of each of the next groups behind `after`, up to and with `upto`, but for those that may get none.

    Where groups have few jobs an answer has those of many; where they have many it is asked for one job at a time.
    """
    heads: dict[str, list[Entry]] = {}
    bound = {} if upto is None else {"$lte": upto}
    limit = count
    while len(heads) < count:
        behind = {"place": int(Place.READY), "type": type_, "group": {"$gt": after, **bound}}
        found = session.jobs.find(behind, entry_fields(None)).sort([("group", 1), ("prio", 1), ("order", 1)])
        documents = await found.limit(limit).to_list(None)
        if not documents:
            break
        seen = 0
        for document in documents:
            if document["group"] > after:
                seen += 1
                after = document["group"]
                if most.get(after, 1) > 0 and len(heads) < count:
                    heads[after] = [entry_of(document, None)]
        if len(documents) < limit:
            break
        if limit > 1:
            limit = min(count, max(1, _ANSWER_JOBS * seen // len(documents)))
    return heads
