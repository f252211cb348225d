"""Storing new jobs: one `insert_many`, whose refusals say which were known."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Sequence

from pymongo import ReplaceOne
from pymongo.errors import BulkWriteError

from kqs.job import Accepted, room_at
from kqs.store.mongo.client import DUPLICATE_KEY, Document
from kqs.store.mongo.documents import Place, a_begin, claimed, named, new_document, state_of
from kqs.store.mongo.report import end_new, put_result
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session

#: what an insert says of a job beside what was accepted, as it may have been claimed, and have ended, since an earlier attempt
_STANDING = (
    *("place", "state", "attempt", "mark", "owner", "epoch", "begun", "wake_at"),
    *("done", "ended_at", "drop_at", "failures", "ghosts", "interrupted", "error"),
    *("result", "result_long", "result_bulk", "result_crc32c"),
)
#: what tells a record from a later one with its id
_IDENTITY = ("_id", "order", "node", "drop_at", "place")
_OF_THE_GONE = ("gone_by", "gone_below", "past", "born")
_REPLACED_FIELDS = [*_IDENTITY, *_OF_THE_GONE, "type", "state", "data_bulk", "result_bulk"]
#: how far the clocks of two servers may be apart, in s: an insert and the deletion before it may be asked of different ones
_SKEW_S = 1.0


class Inserter:
    """Inserts for one server; one insert at a time. An insert that failed is repeated with the same jobs."""

    def __init__(self, session: Session, servers: Servers, node: str) -> None:
        self._session = session
        self._servers = servers
        self._node = node
        self._doubted: set[int] = set()
        self._stored: set[int] = set()  # orders of an insert that failed later on; the next of an id may have replaced them

    async def insert(self, jobs: Sequence[Accepted], worker: str, now: float) -> list[int]:
        """Store jobs; return the orders of those that were known."""
        known: list[int] = []
        stored_before = frozenset(self._stored)
        while jobs:
            fresh, repeated = _without_repeated(jobs)
            refused = await self._insert(fresh, worker, now)
            known += [job.order for job in refused if job.order not in stored_before]
            if not repeated:
                break
            self._stored.update({job.order for job in fresh}.difference(job.order for job in refused))
            again = _worth_trying(fresh, refused, repeated)
            known += {job.order for job in repeated}.difference(job.order for job in again)
            jobs = again
        self._doubted.clear()
        self._stored.clear()
        return known

    async def _insert(self, jobs: Sequence[Accepted], worker: str, now: float) -> list[Accepted]:
        """Store jobs, no two of one id; return those that were known."""
        async with self._session.marking(self._doubted.add) as mark:
            documents = [await self._document(job, mark, worker, now) for job in jobs]
            refused = await self._store(documents)
            if refused and self._doubted:
                refused = await self._recognise(documents, refused, mark)
            if refused:
                refused -= await self._replace(jobs, documents, refused)
        self._doubted.add(mark)  # until all of the insert is done: what fails is repeated from the beginning
        stored = [document for index, document in enumerate(documents) if index not in refused]
        self._session.tallies.add([(document["type"], state_of(document)) for document in stored])
        await self._session.bulk.delete(documents[index] for index in refused)
        return [jobs[index] for index in sorted(refused)]

    async def _document(self, job: Accepted, mark: int, worker: str, now: float) -> Document:
        document = new_document(job, self._node, mark, now)
        if len(job.data) > self._session.bulk_bytes:
            document |= await self._session.bulk.put("data", job.id, job.data)
        else:
            document |= named("data", job.data)
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
        return await _write_unless_taken(self._session.jobs.insert_many(documents, ordered=False))

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
        ours = {(found["_id"], found["order"]) for found in await self._session.find(ids, {"mark": mark}, ["order"])}
        return {index for index in refused if (documents[index]["_id"], documents[index]["order"]) not in ours}

    async def _replace(self, jobs: Sequence[Accepted], documents: list[Document], refused: set[int]) -> set[int]:
        """Put new jobs in the place of records that were over when they were accepted; return the indexes of those jobs.

        What a replay of ours brings back is older than the record, or was accepted before that was over; no other journal can.
        """
        indexes = {jobs[index].id: index for index in refused}
        latest = max(room_at(jobs[index]) for index in refused)
        is_over = {"place": int(Place.ENDED), "drop_at": {"$lte": latest}, "$or": self._servers.replaceable}
        found = await self._session.find(list(indexes), is_over, _REPLACED_FIELDS)
        found += await self._session.find(list(indexes), {"place": int(Place.GONE)}, _REPLACED_FIELDS)
        over = [(indexes[old["_id"]], old) for old in found if self._may_replace(jobs[indexes[old["_id"]]], old)]
        if not over:
            return set()
        # what somebody has swept meanwhile is inserted; what somebody else has replaced is not
        writes = [
            ReplaceOne({name: old[name] for name in _IDENTITY}, documents[index] | self._past(old), upsert=True)
            for index, old in over
        ]
        failed = await _write_unless_taken(self._session.jobs.bulk_write(writes, ordered=False))
        replaced = [one for number, one in enumerate(over) if number not in failed]
        self._session.tallies.remove([(old["type"], state_of(old)) for _, old in replaced if old["place"] != Place.GONE])
        await self._session.bulk.delete(old for _, old in replaced)
        return {index for index, _ in replaced}

    def _may_replace(self, job: Accepted, old: Document) -> bool:
        born: int = old["born"] if "born" in old else old["order"]
        is_newer = old["node"] != self._node or born < job.order
        if old["place"] != Place.GONE:
            return is_newer and bool(old["drop_at"] <= room_at(job))
        if old["gone_by"] == self._node:  # no clock is needed to tell what we accepted first
            return not job.adopted and bool(job.order >= old["gone_below"])
        return is_newer and bool(old["drop_at"] <= room_at(job) + _SKEW_S)

    def _past(self, old: Document) -> Document:
        """Return what the record that takes this one's place must remember: what other journals may still bring back."""
        past = dict(old.get("past", {}))
        if old["place"] == Place.GONE and old["node"] != self._node:
            past[old["node"]] = max(int(past.get(old["node"], 0)), int(old["order"]))
        return {"past": past} if past else {}


async def _write_unless_taken(writing: Awaitable[object]) -> set[int]:
    """Return the indexes of the writes that were refused since their id is taken."""
    try:
        await writing
    except BulkWriteError as error:
        details = error.details or {}
        writes = details.get("writeErrors", [])
        if details.get("writeConcernErrors") or any(write["code"] != DUPLICATE_KEY for write in writes):
            raise
        return {write["index"] for write in writes}
    return set()


def _without_repeated(jobs: Sequence[Accepted]) -> tuple[list[Accepted], list[Accepted]]:
    """Part the first jobs of each id from those whose id stands earlier in the same batch."""
    seen: set[str] = set()
    fresh: list[Accepted] = []
    repeated: list[Accepted] = []
    for job in jobs:
        (repeated if job.id in seen else fresh).append(job)
        seen.add(job.id)
    return fresh, repeated


def _worth_trying(fresh: Sequence[Accepted], refused: Sequence[Accepted], repeated: Sequence[Accepted]) -> list[Accepted]:
    """Return those of `repeated` that may be new although their id stands in `fresh` as well.

    Whose id was known already may stand in the place of a record that was not over for the one before; and whose id was not, in
    that of the one before, if that has ended.
    """
    room: dict[str, float] = {job.id: job.end.drop_at for job in fresh if job.end is not None and job.end.drop_at is not None}
    room.update((job.id, -math.inf) for job in refused)
    return [job for job in repeated if room.get(job.id, math.inf) <= room_at(job)]


def _as_inserted(document: Document) -> Document:
    """Return the update that makes a stored job stand where `document` says."""
    change: Document = {"$set": {name: document[name] for name in _STANDING if name in document}}
    if absent := {name: "" for name in _STANDING if name not in document}:
        change["$unset"] = absent
    return change
