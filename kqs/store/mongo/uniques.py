"""Which job may wait under a unique key: one document a type and key, by which servers that insert at once are told apart.

    _id       the type, a null character, the key
    job, order, node   of the job that took it last
    epoch     of the boot that took it

A key is taken before its job is stored, so of two servers only one goes on; the other waits until the job is there, or its
server dead. Whether a job still waits is asked of its own document: nothing is written here as it is claimed or ends. So a key
whose job does not wait any more stands until it is taken anew, or the record goes. All waiting jobs of a key, also those whose
run ended while another was made, are found by `pair` in their documents (documents.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pymongo import UpdateOne

from kqs.errors import StoreUnavailableError
from kqs.job import Accepted
from kqs.store.keyed import Pair, pair_of
from kqs.store.mongo.client import Document, write_unless_taken
from kqs.store.mongo.documents import Place, key_of, pair_named, waits
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session

#: between two looks at keys that another server has taken and whose jobs it has not stored yet, in s
_LOOK_AGAIN_S = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
_HOLDER_FIELDS = ["order", "node", "place", "expire_at"]

#: jobs by what `key_of` says of them
Keyed = dict[str, Accepted]


class Uniques:
    """Keys for one server; one insert at a time."""

    def __init__(self, session: Session, servers: Servers) -> None:
        self._session = session
        self._node = session.node
        self._uniques = session.uniques
        self._servers = servers

    async def take(self, jobs: Sequence[Accepted], now: float) -> dict[Pair, str]:
        """Take the keys of jobs that are not stored, no two of which share one.

        Returns: by pair, the ids of the waiting jobs that have the others.
        Raises: StoreUnavailableError: another server is about to store jobs with some of them, and does not.
        """
        pairs = {key_of(job): pair_of(job) for job in jobs}
        left = {key_of(job): job for job in jobs}
        holders: dict[Pair, str] = {}
        for wait_s in _LOOK_AGAIN_S:
            if not left:
                return holders
            await asyncio.sleep(wait_s)
            found = await self._waiting(left, now)
            left = {pair: job for pair, job in left.items() if pair not in found}
            left = await self._take(left, now, found)
            holders |= {pairs[key]: job_id for key, job_id in found.items()}
        if left:
            raise StoreUnavailableError(f"another server is storing jobs of {len(left)} unique keys that jobs here have too")
        return holders

    async def waiting(self, jobs: Iterable[Accepted], now: float) -> dict[Pair, str]:
        """Return by pair the ids of the jobs that wait with the keys of some jobs."""
        pairs = {key_of(job): pair_of(job) for job in jobs}
        found = await self._waiting(pairs, now)
        return {pairs[key]: job_id for key, job_id in found.items()}

    async def _waiting(self, wanted: Iterable[str], now: float) -> dict[str, str]:
        """Return by pair the oldest job that waits."""
        places = {"$in": [int(Place.READY), int(Place.LATER)]}
        found = self._session.jobs.find({"pair": {"$in": list(wanted)}, "place": places}, ["order", "pair", "expire_at"])
        holders: dict[str, str] = {}
        async for document in found.sort("order", 1):
            if not _is_expired(document, now):
                holders.setdefault(document["pair"], document["_id"])
        return holders

    async def _take(self, wanted: Keyed, now: float, holders: dict[str, str]) -> Keyed:
        """Take what nobody has, or nobody who waits; add to `holders` who waits, and return what must be looked at again."""
        if not wanted:
            return {}
        found = await self._find(wanted)
        if free := [self._taken(pair, job) for pair, job in wanted.items() if pair not in found]:
            await write_unless_taken(self._uniques.insert_many(free, ordered=False))
        theirs = {pair: one for pair, one in found.items() if not self._is_ours(one, wanted[pair])}
        storing, stored = await self._look_at(theirs)
        again = {pair: wanted[pair] for pair in storing}
        writes: list[UpdateOne] = []
        for pair, one in theirs.items():
            document = stored.get(pair)
            if document is not None and waits(document) and not _is_expired(document, now):
                holders[pair] = one["job"]
            elif pair not in storing:
                writes.append(UpdateOne(one, {"$set": self._taken(pair, wanted[pair])}))
        if writes:
            await self._uniques.bulk_write(writes, ordered=False)
        if free or writes:
            asked = {pair: job for pair, job in wanted.items() if pair not in holders and pair not in again}
            found = await self._find(asked)
            again |= {pair: job for pair, job in asked.items() if not self._is_ours(found.get(pair), job)}
        return again

    async def _look_at(self, taken: Mapping[str, Document]) -> tuple[set[str], dict[str, Document]]:
        """Return whose jobs others may be about to store, and the documents of those that are stored; by pair."""
        stored = await self._stored(taken)
        storing: set[str] = set()
        done: dict[str, Document] = {}
        for pair, one in taken.items():
            if pair not in stored:
                if await self._servers.may_be_storing(one["node"], one["epoch"], one["order"]):
                    storing.add(pair)
                else:
                    done[pair] = one
        # it may have been stored since we looked for it: only what is missing after its server has gone on is not to come
        return storing, stored | await self._stored(done)

    async def _stored(self, taken: Mapping[str, Document]) -> dict[str, Document]:
        """Return by pair the documents of the jobs that took them; a record that one of them is to replace is none."""
        if not taken:
            return {}
        found = await self._session.find([one["job"] for one in taken.values()], {}, _HOLDER_FIELDS)
        documents = {document["_id"]: document for document in found}
        return {
            pair: documents[one["job"]]
            for pair, one in taken.items()
            if one["job"] in documents and _is_of(documents[one["job"]], one)
        }

    async def _find(self, wanted: Keyed) -> dict[str, Document]:
        found = self._uniques.find({"_id": {"$in": list(wanted)}})
        return {one["_id"]: one async for one in found}

    def _taken(self, pair: str, job: Accepted) -> Document:
        return {"_id": pair, "job": job.id, "order": job.order, "node": self._node, "epoch": self._session.epoch}

    def _is_ours(self, one: Document | None, job: Accepted) -> bool:
        """Tell whether this boot has taken it for the job. What an earlier one took is anybody's: it has to be taken anew."""
        return one == self._taken(key_of(job), job)


async def forget(session: Session, jobs: Iterable[tuple[str, str, int]]) -> None:
    """Give up the keys that these jobs (pair, id, order) have taken, unless others have taken them since."""
    gone = list(jobs)
    if gone:
        pairs, ids, orders = ([one[part] for one in gone] for part in range(3))
        await session.uniques.delete_many({"_id": {"$in": pairs}, "job": {"$in": ids}, "order": {"$in": orders}})


def keys_of(documents: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    """Return what `forget` takes of jobs' documents, where they have a key."""
    return [
        (pair_named(one["type"], one["unique"]), one["_id"], one["order"]) for one in documents if one.get("unique") is not None
    ]


def _is_of(document: Mapping[str, Any], one: Mapping[str, Any]) -> bool:
    return (document["order"], document["node"]) == (one["order"], one["node"])


def _is_expired(document: Mapping[str, Any], now: float) -> bool:
    expire_at = document.get("expire_at")
    return expire_at is not None and bool(expire_at <= now)
