"""Storing new jobs: one `insert_many`, whose refusals say which were known."""

from __future__ import annotations

from collections.abc import Sequence

from pymongo.errors import BulkWriteError

from kqs.job import Accepted
from kqs.store.mongo.client import DUPLICATE_KEY, Document
from kqs.store.mongo.documents import claimed, named, new_document, state_of
from kqs.store.mongo.session import Session


class Inserter:
    """Inserts for one server; one insert at a time. An insert that failed is repeated with the same jobs."""

    def __init__(self, session: Session, node: str) -> None:
        self._session = session
        self._node = node
        self._doubted: set[int] = set()

    async def insert(self, jobs: Sequence[Accepted], worker: str, now: float) -> list[int]:
        """Store jobs; return the orders of those that were known."""
        known, fresh = _without_repeated(jobs)
        if not fresh:
            return known
        async with self._session.marking(self._doubted.add) as mark:
            documents = [await self._document(job, mark, worker, now) for job in fresh]
            refused = await self._store(documents)
            if refused and self._doubted:
                refused = await self._recognise(documents, refused, mark)
        self._doubted.clear()
        stored = [document for index, document in enumerate(documents) if index not in refused]
        self._session.tallies.add([(document["type"], state_of(document)) for document in stored])
        await self._session.bulk.delete(documents[index] for index in refused)
        return known + [documents[index]["order"] for index in sorted(refused)]

    async def _document(self, job: Accepted, mark: int, worker: str, now: float) -> Document:
        document = new_document(job, self._node, mark, now)
        if len(job.data) > self._session.bulk_bytes:
            document |= await self._session.bulk.put("data", job.id, job.data)
        else:
            document |= named("data", job.data)
        if job.claimed_at:
            document |= claimed(self._session.epoch, mark) | {"attempt": 1, "begun": [[worker, job.claimed_at]]}
        return document

    async def _store(self, documents: list[Document]) -> set[int]:
        """Insert; return the indexes of those whose id is taken."""
        try:
            await self._session.jobs.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            details = error.details or {}
            writes = details.get("writeErrors", [])
            if details.get("writeConcernErrors") or any(write["code"] != DUPLICATE_KEY for write in writes):
                raise
            return {write["index"] for write in writes}
        return set()

    async def _recognise(self, documents: list[Document], refused: set[int], mark: int) -> set[int]:
        """Take over what an earlier attempt at these inserts stored after all; return the indexes of the others.

        A document that still has a doubted mark is as that attempt left it: nobody has heard of it. What it was claimed as is
        put right, since the attempt is made anew with other jobs claimed.
        """
        doubted = list(self._doubted)
        changes: dict[str, tuple[Document, list[str]]] = {}
        for index in refused:
            change = _as_inserted(documents[index])
            changes.setdefault(repr(change), (change, []))[1].append(documents[index]["_id"])
        for change, ids in changes.values():
            await self._session.jobs.update_many({"_id": {"$in": ids}, "mark": {"$in": doubted}}, change)
        ids = [documents[index]["_id"] for index in refused]
        ours = {(found["_id"], found["order"]) for found in await self._session.find(ids, {"mark": mark}, ["order"])}
        return {index for index in refused if (documents[index]["_id"], documents[index]["order"]) not in ours}


def _without_repeated(jobs: Sequence[Accepted]) -> tuple[list[int], list[Accepted]]:
    """Part the orders of jobs whose id stands earlier in the same batch from the other jobs."""
    seen: set[str] = set()
    known: list[int] = []
    fresh: list[Accepted] = []
    for job in jobs:
        if job.id in seen:
            known.append(job.order)
        else:
            seen.add(job.id)
            fresh.append(job)
    return known, fresh


def _as_inserted(document: Document) -> Document:
    """Return the update that makes a stored job stand where `document` says."""
    fields = ("place", "state", "attempt", "mark", "owner", "epoch", "begun", "wake_at")
    change: Document = {"$set": {name: document[name] for name in fields if name in document}}
    if absent := {name: "" for name in fields if name not in document}:
        change["$unset"] = absent
    return change
