"""Batches: jobs that one more, the `then`, waits for. What a batch is stands in the document of its `then` (held.py).

Nothing is written for a member as it ends: how many there are, and how they have ended, is counted from their documents once
none `pends` any more. Whoever takes such a document away, or makes another job of it, keeps its end before in `ends`:

    _id       as `member`
    batch, outcome   the batch; a state, or that it was deleted

A member that stands in both places is counted as that says. Only a count that is true is written: whoever has added a member,
or is about to take one's document away, makes `version` another one; once a batch is complete, that cannot be done any more.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Any

from pymongo import UpdateOne

from kqs.job import Accepted, Tally
from kqs.store.mongo.client import Document, write_unless_taken
from kqs.store.mongo.documents import Place
from kqs.store.mongo.held import COUNT_OF, sign_of, tally_of
from kqs.store.mongo.session import Session
from kqs.store.parents import DELETED

#: ends that are read at a time
SLICE = 1000
_FIELDS = ["order", "born", "node", "place", "members", "tally"]
_IS_BATCH = {"members.version": {"$gte": 0}, "place": {"$ne": int(Place.GONE)}}
_IS_INCOMPLETE = {**_IS_BATCH, "tally": None}
_BY_END = {"$group": {"_id": {"batch": "$batch", "place": "$place", "state": "$state"}, "n": {"$sum": 1}}}


class Batches:
    """Batches for one server."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._node = session.node
        self._jobs = session.jobs
        self._ends = session.ends
        self._refused: dict[int, int] = {}  # by the order of a `then` that was joined to another job: that of its last member

    def decided(self, thens: Iterable[Accepted], joined: Container[int]) -> None:
        """Have no members made of the batches of those `then`s that were joined to others, also of members that come later.

        Who repeats them, after a failure or a kill, has the `then` decided anew, before any of them is stored.
        """
        for job in thens:
            assert job.members is not None, "it is a then"
            self._refused.pop(job.order, None)
            if job.order in joined and not job.members.is_open:
                self._refused[job.order] = job.members.last_order

    def stored(self, last_order: int) -> None:
        """Take in that all up to this order is stored, or refused; until then it may be repeated, without its `then`."""
        self._refused = {order: last for order, last in self._refused.items() if last > last_order}

    async def parted(self, jobs: Sequence[Accepted]) -> tuple[list[Accepted], list[Accepted]]:
        """Part the members of batches from those that are not to be stored, since their `then`, of the same record, was known.

        What can be no member any more loses its batch.
        """
        found = {one["_id"]: one for one in await self._session.find(list({str(job.batch) for job in jobs}), {}, _FIELDS)}
        kept: list[Accepted] = []
        refused: list[Accepted] = []
        for job in jobs:
            then = found.get(str(job.batch), {})
            if job.batch_order in self._refused:
                refused.append(job)
                continue
            if job.batch_order and then and (then.get("born", then["order"]), then["node"]) != (job.batch_order, self._node):
                refused.append(job)
                continue
            if "members" not in then or "tally" in then or then["place"] == Place.GONE:
                job.batch = None
            kept.append(job)
        return kept, refused

    async def reach(self, thens: Iterable[Accepted], members: Sequence[Accepted]) -> None:
        """Take in that all members up to these are stored, or known; of batches that are complete by now they are none."""
        reached: dict[str, int] = {job.id: job.order for job in thens}
        for job in members:
            if job.batch is not None:
                reached[job.batch] = max(reached.get(job.batch, 0), job.order)
        if not reached:
            return
        writes = [
            UpdateOne({"_id": id_, **_IS_INCOMPLETE}, {"$inc": {"members.version": 1}, "$max": {"members.reached": order}})
            for id_, order in reached.items()
        ]
        if (await self._jobs.bulk_write(writes, ordered=False)).matched_count < len(reached):
            left = {one["_id"] for one in await self._session.find(list(reached), _IS_INCOMPLETE, ["_id"])}
            await self._leave([job for job in members if job.batch is not None and job.batch not in left])
        self._session.noted.note(map(sign_of, reached))

    async def _leave(self, members: Sequence[Accepted]) -> None:
        """Make no members of these, but of those that have ended."""
        if members:
            ids, orders = [job.id for job in members], [job.order for job in members]
            of_dead: Document = {"order": {"$in": orders}, "pends": {"$in": list({job.batch for job in members})}}
            no_more = {"$unset": dict.fromkeys(("batch", "member", "pends"), "")}
            await self._jobs.update_many({"_id": {"$in": ids}, **of_dead}, no_more)

    async def disband(self, ids: Sequence[str]) -> None:
        """Make no members of any of all that are of these batches, whose `then`s are about to be taken away."""
        await self._jobs.update_many({"batch": {"$in": list(ids)}}, {"$unset": dict.fromkeys(("batch", "member", "pends"), "")})
        await self._ends.delete_many({"batch": {"$in": list(ids)}})

    async def keep_ends(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Keep how these have ended of them that are members, before their documents tell of it no more."""
        members = [one for one in documents if "member" in one]
        if not members:
            return
        named = list({one["batch"] for one in members})
        live = {one["_id"] for one in await self._session.find(named, _IS_INCOMPLETE, ["_id"])}
        ends = [_end_of(one) for one in members if one["batch"] in live]
        if ends:
            await write_unless_taken(self._ends.insert_many(ends, ordered=False))
            another = {"$inc": {"members.version": 1}}
            writes = [UpdateOne({"_id": id_, **_IS_INCOMPLETE}, another) for id_ in {end["batch"] for end in ends}]
            await self._jobs.bulk_write(writes, ordered=False)
            self._session.noted.heard()
            self._session.noted.note(sign_of(id_) for id_ in live)

    async def complete(self, ids: Sequence[str]) -> set[str]:
        """Complete those of these batches whose members have all ended; return which are complete."""
        found = await self._session.find(list(ids), _IS_BATCH, _FIELDS)
        done = {one["_id"] for one in found if "tally" in one}
        closed = {one["_id"]: one for one in found if "tally" not in one and _is_whole(one["members"])}
        for id_ in await self._pending(closed):
            del closed[id_]
        if not closed:
            return done
        counts = await self._counts(list(closed))
        writes = [
            UpdateOne(
                {"_id": id_, **_IS_INCOMPLETE, "members.version": one["members"]["version"], "members.open": None},
                {"$set": {"tally": dict(counts[id_])}},
            )
            for id_, one in closed.items()
            if not counts[id_]["pending"]
        ]
        if not writes:
            return done
        await self._jobs.bulk_write(writes, ordered=False)
        completed = {one["_id"] for one in await self._session.find(list(closed), {"tally.count": {"$gte": 0}}, ["_id"])}
        self._session.noted.note(sign_of(id_) for id_ in closed.keys() - completed)
        await self._ends.delete_many({"batch": {"$in": list(completed)}})
        return done | completed

    async def _pending(self, ids: Collection[str]) -> set[str]:
        """Return those of these batches of which a member has not ended."""
        left, pending = set(ids), set[str]()
        while left:
            found = await self._jobs.find({"pends": {"$in": list(left)}}, ["pends"]).limit(len(left)).to_list(None)
            if not found:
                break
            pending.update(one["pends"] for one in found)
            left -= pending
        return pending

    async def _counts(self, ids: list[str]) -> dict[str, Counter[str]]:
        """Return by batch how many members there are (count), how they have ended, and how many have not (pending)."""
        counts = {id_: Counter({"count": 0}) for id_ in ids}
        for id_ in await self._with_ends(ids):
            counts[id_] = await self._counts_beside_ends(id_)
        plain = [id_ for id_ in ids if not counts[id_]["ends"]]
        if plain:
            await self._count({"batch": {"$in": plain}}, counts)
        for one in counts.values():
            del one["ends"]
        return counts

    async def _with_ends(self, ids: list[str]) -> list[str]:
        found = self._ends.aggregate([{"$match": {"batch": {"$in": ids}}}, {"$group": {"_id": "$batch"}}])
        return [one["_id"] for one in await found.to_list(None)]

    async def _count(self, match: Document, counts: Mapping[str, Counter[str]]) -> None:
        async for group in self._jobs.aggregate([{"$match": match}, _BY_END]):
            kind, n = group["_id"], group["n"]
            counts[kind["batch"]].update({"count": n, _count_of(kind): n})

    async def _counts_beside_ends(self, id_: str) -> Counter[str]:
        """Return the counts of a batch some of whose ends are kept: a stretch of names at a time, those and the others'."""
        counts = {id_: Counter({"count": 0, "ends": 1})}
        low = ""
        while True:
            part = await self._ends.find({"batch": id_, "_id": {"$gt": low}}).sort("_id", 1).limit(SLICE).to_list(None)
            for end in part:
                counts[id_].update({"count": 1, COUNT_OF.get(end["outcome"], "deleted"): 1})
            stretch: Document = {"$gt": low, "$nin": [end["_id"] for end in part]}
            if len(part) == SLICE:
                stretch["$lte"] = part[-1]["_id"]
            await self._count({"batch": id_, "member": stretch}, counts)
            if len(part) < SLICE:
                return counts[id_]
            low = part[-1]["_id"]

    async def seal(self, batch_id: str) -> bool:
        """See Store.seal_batch. `members.open` is False then: a batch that is closed has none."""
        await self._jobs.update_one({"_id": batch_id, **_IS_BATCH, "members.open": True}, {"$set": {"members.open": False}})
        return bool(await self._session.find([batch_id], _IS_BATCH, ["_id"]))

    async def close(self, batch_id: str) -> Tally | None:
        """See Store.close_batch."""
        is_open: Document = {"$in": [True, False]}
        await self._jobs.update_one({"_id": batch_id, **_IS_BATCH, "members.open": is_open}, {"$unset": {"members.open": ""}})
        await self.complete([batch_id])
        self._session.noted.note([sign_of(batch_id)])
        found = await self._session.find([batch_id], _IS_BATCH, _FIELDS)
        return (await self.tallies(found)).get(batch_id)

    async def are_open(self, ids: Sequence[str]) -> dict[str, bool]:
        """See Store.batches."""
        found = await self._session.find(list(ids), _IS_BATCH, ["members"])
        return {one["_id"]: one["members"].get("open", False) for one in found}

    async def tallies(self, documents: Iterable[Mapping[str, Any]]) -> dict[str, Tally]:
        """Return, of those of these jobs that are `then`s, how their batches stand."""
        thens = [one for one in documents if "members" in one]
        going_on = [one["_id"] for one in thens if "tally" not in one]
        counts = await self._counts(going_on) if going_on else {}
        tallies: dict[str, Tally] = {}
        for one in thens:
            if (tally := tally_of(one, counts.get(one["_id"]))) is not None:
                tallies[one["_id"]] = tally
        return tallies

    async def sweep(self, after: str) -> str:
        """Delete ends of batches that are complete, or not there; return where to go on, "" when all were looked at."""
        part = await self._ends.find({"_id": {"$gt": after}}, ["batch"]).sort("_id", 1).limit(SLICE).to_list(None)
        by_batch: defaultdict[str, list[str]] = defaultdict(list)
        for end in part:
            by_batch[end["batch"]].append(end["_id"])
        live = {one["_id"] for one in await self._session.find(list(by_batch), _IS_INCOMPLETE, ["_id"])}
        if dead := [end_id for batch, ids in by_batch.items() if batch not in live for end_id in ids]:
            await self._ends.delete_many({"_id": {"$in": dead}})
        return str(part[-1]["_id"]) if len(part) == SLICE else ""


def _is_whole(members: Mapping[str, Any]) -> bool:
    """Tell whether no member is to come."""
    return "open" not in members and bool(members["reached"] >= members["last"])


def _end_of(one: Mapping[str, Any]) -> Document:
    outcome = one["state"] if one["place"] == Place.ENDED else DELETED
    return {"_id": one["member"], "batch": one["batch"], "outcome": outcome}


def _count_of(kind: Mapping[str, Any]) -> str:
    """Return as what the members are counted that stand so."""
    if kind["place"] == Place.GONE:
        return "deleted"
    return COUNT_OF.get(kind["state"], "pending") if kind["place"] == Place.ENDED else "pending"
