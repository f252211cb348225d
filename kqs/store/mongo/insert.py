"""Storing new jobs: one `insert_many`, whose refusals say which were known."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pymongo import ReplaceOne

from kqs.job import Accepted, room_at
from kqs.states import State
from kqs.store import keyed
from kqs.store.base import Known
from kqs.store.keyed import pair_of
from kqs.store.mongo import ticks
from kqs.store.mongo.client import Document, write_unless_taken
from kqs.store.mongo.documents import Place, a_begin, claimed, key_of, named, new_document, parked_key, state_of
from kqs.store.mongo.follow import Follower
from kqs.store.mongo.held import held_fields, member_fields
from kqs.store.mongo.report import end_new, put_result
from kqs.store.mongo.resources import Resources
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session
from kqs.store.mongo.uniques import Uniques, forget, keys_of

#: what an insert says of a job beside what was accepted, as it may have been claimed, and have ended, since an earlier attempt
_BESIDE_ACCEPTED = (
    *("place", "state", "attempt", "mark", "owner", "epoch", "begun", "due_at", "wake_at", "parked", "called"),
    *("hold", "awaits", "why", "let_due", "pends"),
    *("done", "ended_at", "drop_at", "failures", "ghosts", "interrupted", "error"),
    *("result", "result_long", "result_bulk", "result_crc32c"),
)
#: what tells a record from a later one with its id
_IDENTITY = ("_id", "order", "node", "drop_at", "place")
_OF_THE_GONE = ("gone_by", "gone_below", "past", "born")
_OF_A_RUN = ("owner", "attempt", "epoch", "prio", "returned")
_OF_A_BATCH = ("batch", "member", "members")
_REPLACED_FIELDS = [*_IDENTITY, *_OF_THE_GONE, *_OF_A_RUN, *_OF_A_BATCH, "type", "state", "unique", "data_bulk", "result_bulk"]
#: how far the clocks of two servers may be apart, in s: an insert and the deletion before it may be asked of different ones
_SKEW_S = 1.0


class Inserter:
    """Inserts for one server; one insert at a time. An insert that failed is repeated with the same jobs."""

    def __init__(self, session: Session, servers: Servers, resources: Resources, follower: Follower) -> None:
        self._session = session
        self._node = session.node
        self._follower = follower
        self._batches = follower.batches
        self._resources = resources
        self._servers = servers
        self._uniques = Uniques(session, servers)
        self._doubted: set[int] = set()
        self._stored: set[int] = set()  # orders of an insert that failed later on
        self._orders: frozenset[int] = frozenset()  # of an insert that is repeated
        self._replaced: set[int] = set()  # of those that were stored, and gave way to a later one of the insert with their id
        self._made: set[int] = set()  # see Known.made

    async def insert(self, jobs: Sequence[Accepted], worker: str, now: float) -> Known:
        """See Store.insert."""
        parked: set[int] = set()
        known: list[int] = []
        passed: set[int] = set()
        self._made.clear()
        self._replaced.clear()
        self._orders = frozenset([job.order for job in jobs] if self._doubted else [])
        if ticked := [job for job in jobs if job.tick is not None]:
            passed = await ticks.refused(self._session, self._node, ticked)
            jobs = [job for job in jobs if job.order not in passed]
        stored_before = frozenset(self._stored)
        joined: dict[int, str] = {}
        if any(job.batch is not None or job.after is not None or job.members is not None for job in jobs):
            for part in keyed.in_turn(jobs):
                joined |= await self._insert_tied(part, worker, now, known, parked)
                self._stored.update({job.order for job in part}.difference(known, joined))
        else:
            joined = await self._insert_any(jobs, worker, now, known, parked)
        self._doubted.clear()
        self._stored.clear()
        self._batches.stored(max((job.order for job in jobs), default=0))
        gave_way = stored_before & self._replaced
        orders = [*(order for order in known if order not in gave_way), *joined, *passed]
        made = self._made.intersection(orders)
        parked |= {job.order for job in jobs if job.order in made and (job.resource is not None or job.may_wait)}
        return Known(orders, parked, joined, made)

    async def _insert_tied(
        self, jobs: Sequence[Accepted], worker: str, now: float, known: list[int], parked: set[int]
    ) -> dict[int, str]:
        """As `_insert_any`, of jobs of which some may wait for others, or be members of batches."""
        thens = [job for job in jobs if job.members is not None]
        others = [job for job in jobs if job.members is None]
        joined: dict[int, str] = {}
        if thens:
            joined |= await self._insert_any(thens, worker, now, known, parked)
            self._stored.update({job.order for job in thens}.difference(known, joined))
            self._batches.decided(thens, joined)
        if named := [job for job in others if job.batch is not None]:
            _, refused = await self._batches.parted(named)
            known += [job.order for job in refused]
            orders = {job.order for job in refused}
            others = [job for job in others if job.order not in orders]
        joined |= await self._insert_any(others, worker, now, known, parked)
        children = [job for job in (*thens, *others) if job.may_wait and job.order not in joined]
        if children:
            self._stored.update({job.order for job in others}.difference(known, joined))
            aliases = keyed.aliases_of(others, joined)
            held = await self._follower.stand_new(children, aliases, known, self._doubted.add, now)
            parked.difference_update({job.order for job in children} - held)
            parked |= held
        await self._batches.reach([job for job in thens if job.order not in known], others)
        return joined

    async def _insert_any(
        self, jobs: Sequence[Accepted], worker: str, now: float, known: list[int], parked: set[int]
    ) -> dict[int, str]:
        """Store jobs of any kind, but for those of unique keys that others have.

        Args: known, parked: the orders of those whose id is known, and of those that wait for their resource, are added.
        Returns: by order, the ids of the jobs that others were joined to.
        """
        free, others = keyed.parted(jobs)
        known += await self._insert_each(free, worker, now, parked)
        if not others:
            return {}
        self._stored.update({job.order for job in free}.difference(known))
        return await self._insert_keyed(others, worker, now, known, parked)

    async def _insert_each(self, jobs: Sequence[Accepted], worker: str, now: float, parked: set[int]) -> list[int]:
        """Store jobs; return the orders of those whose id is known. Those that wait for their resource join `parked`."""
        known: list[int] = []
        while jobs:
            fresh, repeated = _without_repeated(jobs)
            refused = await self._insert(fresh, worker, now, parked)
            known += [job.order for job in refused]
            if not repeated:
                break
            self._stored.update({job.order for job in fresh}.difference(job.order for job in refused))
            again = await self._worth_trying(fresh, refused, repeated)
            known += {job.order for job in repeated}.difference(job.order for job in again)
            jobs = again
        return known

    async def _worth_trying(
        self, fresh: Sequence[Accepted], refused: Sequence[Accepted], repeated: Sequence[Accepted]
    ) -> list[Accepted]:
        """Return those of `repeated` that may be new although their id stands in `fresh` as well.

        Whose id was not known may stand in the place of the one before, if that has ended; and whose id was, in that of a
        record that was not over for the one before.
        """
        is_known = {job.id for job in refused}
        room = {job.id: job.end.drop_at for job in fresh if job.end is not None and job.end.drop_at is not None}
        free = await self._finding_room([job for job in repeated if job.id in is_known])
        return [
            job for job in repeated if (job.order in free if job.id in is_known else room.get(job.id, math.inf) <= room_at(job))
        ]

    async def _finding_room(self, jobs: Sequence[Accepted]) -> set[int]:
        """Return the orders of those of some jobs under whose id nothing stands, or what may make room for them.

        Or themselves: an attempt that failed may have stored them.
        """
        if not jobs:
            return set()
        over = await self._over(jobs)  # first, since what is over may be swept before the other is asked
        found = await self._session.find(list({job.id for job in jobs}), {}, ["order"])
        there = {document["_id"]: document["order"] for document in found}
        return {
            job.order
            for job in jobs
            if there.get(job.id, job.order) == job.order or (job.id in over and self._may_replace(job, over[job.id]))
        }

    async def _insert_keyed(
        self, jobs: Sequence[Accepted], worker: str, now: float, known: list[int], parked: set[int]
    ) -> dict[int, str]:
        """Store those of some jobs, which are decided in turn, whose key no waiting job has, nor an earlier one of them.

        Args: known: the orders of those whose id is known are added. parked: as for `_insert_each`.
        Returns: by order, the ids of the jobs that others were joined to.
        """
        joined: dict[int, str] = {}
        while jobs:
            first = keyed.first(jobs)
            recorded = await self._recorded_ids(first)
            keys = [job for job in first if job.unique is not None]
            holders = await self._uniques.take([job for job in keys if job.id not in recorded], now)
            if others := keyed.pairs_of(jobs).keys() - keyed.pairs_of(keys).keys():
                holders |= await self._uniques.waiting([job for job in jobs if job.unique and pair_of(job) in others], now)
            free = [job for job in first if job.unique is None or pair_of(job) not in holders]
            refused = set(await self._insert_each(free, worker, now, parked))
            in_vain = [job for job in keys if job.order in refused and job.id not in recorded]
            await forget(self._session, [(key_of(job), job.id, job.order) for job in in_vain])
            made = [job for job in free if job.order not in refused]
            self._stored.update(job.order for job in made)
            holders |= keyed.holders_of(made)
            known += refused
            found = keyed.decided(jobs, free, holders)
            recorded = await self._recorded_ids([*found.conflicting, *found.repeated])
            known += [job.order for job in (*found.conflicting, *found.repeated) if job.id in recorded]
            joined.update((job.order, holders[pair_of(job)]) for job in found.conflicting if job.id not in recorded)
            jobs = keyed.undecided(found, recorded)
        return joined

    async def _recorded_ids(self, jobs: Sequence[Accepted]) -> set[str]:
        """Return the ids of these jobs under which there is a record that makes no room for them, or their own."""
        by_id = {job.id: job for job in jobs}
        if not by_id:
            return set()
        found = await self._session.find(list(by_id), {}, [*_IDENTITY, *_OF_THE_GONE])
        return {old["_id"] for old in found if not self._is_over(by_id[old["_id"]], old)}

    def _is_over(self, job: Accepted, old: Document) -> bool:
        """Tell whether a record may make room for a job, as far as it tells itself."""
        if old["place"] == Place.ENDED:
            return old.get("drop_at") is not None and self._may_replace(job, old)
        return old["place"] == Place.GONE and self._may_replace(job, old)

    async def _insert(self, jobs: Sequence[Accepted], worker: str, now: float, parked: set[int]) -> list[Accepted]:
        """Store jobs, no two of one id; return those that were known. Those that wait for their resource join `parked`."""
        locked = [job for job in jobs if job.resource is not None and job.may_need_resource(now) and not job.may_wait]
        called = await self._resources.stand_new(locked) if locked else {}
        is_called = {job.order for job in called.values()}
        lines = {job.order: _in_line(job, is_called=job.order in is_called) for job in locked}
        is_doubted = bool(self._doubted)
        async with self._session.marking(self._doubted.add) as mark:
            documents = [await self._document(job, mark, worker, now, lines.get(job.order)) for job in jobs]
            refused = await self._store(documents)
            if refused and self._doubted:
                refused = await self._recognise(documents, refused, mark)
            if refused:
                refused -= await self._replace(jobs, documents, refused)
        self._doubted.add(mark)  # until all of the insert is done: what fails is repeated from the beginning
        stored = [document for index, document in enumerate(documents) if index not in refused]
        self._session.tallies.add([(document["type"], state_of(document)) for document in stored])
        await self._session.bulk.delete(documents[index] for index in refused)
        if locked:
            parked.update(document["order"] for document in stored if document["order"] in lines)
            await self._resources.joined(stored, called, is_doubted=is_doubted)
        return [jobs[index] for index in sorted(refused)]

    async def _document(self, job: Accepted, mark: int, worker: str, now: float, line: Document | None) -> Document:
        """Return a job's document. line: of one that needs its resource, how it waits for that: no claim is granted to it."""
        document = new_document(job, self._node, mark, now)
        if len(job.data) > self._session.bulk_bytes:
            document |= await self._session.bulk.put("data", job.id, job.data)
        else:
            document |= named("data", job.data)
        if job.batch is not None:
            document |= member_fields(job.batch, job.order, self._node)
        if job.may_wait:
            for name in ("due_at", "wake_at"):
                document.pop(name, None)
            return document | {"place": int(Place.LATER)} | held_fields(job, self._node)
        if line is not None:
            document.pop("wake_at", None)
            return document | {"state": int(State.NEW)} | line
        if job.claimed_at:
            document |= claimed(self._session.epoch, mark, held=job.held) | {
                "attempt": 1,
                "begun": [a_begin(job.worker or worker, job.claimed_at)],
            }
        if job.end is not None:
            end_new(document, job.end, await put_result(self._session, job.end))
        return document

    async def _store(self, documents: list[Document]) -> set[int]:
        """Insert; return the indexes of those whose id is taken."""
        return await write_unless_taken(self._session.jobs.insert_many(documents, ordered=False))

    async def _recognise(self, documents: list[Document], refused: set[int], mark: int) -> set[int]:
        """Take over what an earlier attempt at these inserts stored after all; return the indexes of the others.

        A document that still has a doubted mark is as that attempt left it: nobody has heard of it. What it was claimed and
        ended as is put right, since the attempt is made anew with other jobs claimed.
        """
        doubted = list(self._doubted)
        changes: dict[str, tuple[Document, list[int]]] = {}
        for index in refused:
            change = _as_inserted(documents[index])
            changes.setdefault(repr(change), (change, []))[1].append(index)
        for change, indexes in changes.values():
            ours_alone = {name: {"$in": [documents[index][name] for index in indexes]} for name in ("_id", "order")}
            await self._session.jobs.update_many({**ours_alone, "mark": {"$in": doubted}}, change)
        ids = [documents[index]["_id"] for index in refused]
        found = await self._session.find(ids, {"node": self._node}, ["order", "mark"])
        marks = {(one["_id"], one["order"]): one["mark"] for one in found}
        there = {one["_id"]: one["order"] for one in found}
        names = {index: (documents[index]["_id"], documents[index]["order"]) for index in refused}
        others_there = ((order, there.get(id_, order)) for id_, order in names.values())
        self._replaced.update(order for order, other in others_there if other != order and other in self._orders)
        others = {index for index, name in names.items() if marks.get(name) != mark}
        stored = [order for id_, order in map(names.__getitem__, others) if (id_, order) in marks]
        # what an earlier boot has stored is none of it, but for what that had yet to say when it was killed
        self._made.update(order for order in stored if order > self._servers.fed_order)
        return others

    async def _replace(self, jobs: Sequence[Accepted], documents: list[Document], refused: set[int]) -> set[int]:
        """Put new jobs in the place of records that were over when they were accepted; return the indexes of those jobs.

        What a replay of ours brings back is older than the record, or was accepted before that was over; no other journal can.
        """
        indexes = {jobs[index].id: index for index in refused}
        found = await self._over([jobs[index] for index in refused])
        over = [(indexes[id_], old) for id_, old in found.items() if self._may_replace(jobs[indexes[id_]], old)]
        if not over:
            return set()
        await self._follower.bury([old for _, old in over])
        await forget(self._session, keys_of([old for _, old in over]))
        for _, old in over:
            if old["place"] == Place.GONE and "owner" in old:  # who runs it has not seen yet that it is gone
                await self._servers.call_off(old)
        # what somebody has swept meanwhile is inserted; what somebody else has replaced is not
        writes = [
            ReplaceOne({name: old[name] for name in _IDENTITY}, documents[index] | self._past(old), upsert=True)
            for index, old in over
        ]
        failed = await write_unless_taken(self._session.jobs.bulk_write(writes, ordered=False))
        replaced = [one for number, one in enumerate(over) if number not in failed]
        self._session.tallies.remove([(old["type"], state_of(old)) for _, old in replaced if old["place"] != Place.GONE])
        await self._session.bulk.delete(old for _, old in replaced)
        return {index for index, _ in replaced}

    async def _over(self, jobs: Sequence[Accepted]) -> dict[str, Document]:
        """Return by id the records of these jobs' ids that may make room for the last of them: they are over, or gone."""
        ids, latest = list({job.id for job in jobs}), max(map(room_at, jobs))
        is_over = {"place": int(Place.ENDED), "drop_at": {"$lte": latest}, "$or": self._servers.replaceable}
        found = await self._session.find(ids, is_over, _REPLACED_FIELDS)
        found += await self._session.find(ids, {"place": int(Place.GONE)}, _REPLACED_FIELDS)
        return {old["_id"]: old for old in found}

    def _may_replace(self, job: Accepted, old: Document) -> bool:
        is_newer = old["node"] != self._node or _born(old) < job.order
        if old["place"] != Place.GONE:
            return is_newer and bool(old["drop_at"] <= room_at(job))
        if old["gone_by"] == self._node:  # no clock is needed to tell what we accepted first
            return not job.adopted and bool(job.order >= old["gone_below"])
        return is_newer and bool(old["drop_at"] <= room_at(job) + _SKEW_S)

    def _past(self, old: Document) -> Document:
        """Return what the record that takes this one's place must remember: what other journals may still bring back."""
        past = dict(old.get("past", {}))
        if old["place"] == Place.GONE and old["node"] != self._node:
            past[old["node"]] = max(int(past.get(old["node"], 0)), _born(old))
        return {"past": past} if past else {}


def _in_line(job: Accepted, *, is_called: bool) -> Document:
    assert job.resource is not None, "it needs one"
    if is_called:
        return {"place": int(Place.READY), "called": job.resource}
    return {"place": int(Place.LATER), "parked": parked_key(job.resource, job.prio, job.order)}


def _without_repeated(jobs: Sequence[Accepted]) -> tuple[list[Accepted], list[Accepted]]:
    """Part the first jobs of each id from those whose id stands earlier in the same batch."""
    seen: set[str] = set()
    fresh: list[Accepted] = []
    repeated: list[Accepted] = []
    for job in jobs:
        (repeated if job.id in seen else fresh).append(job)
        seen.add(job.id)
    return fresh, repeated


def _as_inserted(document: Document) -> Document:
    """Return the update that makes a stored job stand where `document` says."""
    change: Document = {"$set": {name: document[name] for name in _BESIDE_ACCEPTED if name in document}}
    if absent := {name: "" for name in _BESIDE_ACCEPTED if name not in document}:
        change["$unset"] = absent
    return change


def _born(old: Document) -> int:
    """Return the order that a record's job has in its journal."""
    born: int = old["born"] if "born" in old else old["order"]
    return born
