"""Granting attempts: one update for all entries, and one look at what it granted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kqs.job import Claim, Entry, Run
from kqs.log import get_logger
from kqs.states import State
from kqs.store import base
from kqs.store.base import DAMAGED, LOGGED, Granted
from kqs.store.mongo.client import Document
from kqs.store.mongo.documents import NOBODY, Place, a_begin, claim_of, claimed, is_intact, pushed, run_of
from kqs.store.mongo.resources import Resources
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session

log = get_logger("kqs.store")

#: long data of a document that does not say its length, since an older server stored it
_UNKNOWN_BYTES = 16 * 1024 * 1024
#: how often a claim whose answer was lost is looked for; a write may still be on its way when its connection is gone
_LOOKS = 12


class Claimer:
    """Claims for one server."""

    def __init__(self, session: Session, servers: Servers, resources: Resources) -> None:
        self._session = session
        self._resources = resources
        self._servers = servers
        # by mark, of claims and of adoptions whose answers were lost
        self._looks_left: dict[int, int] = {}
        self._adoption_looks_left: dict[int, int] = {}

    async def claim(
        self,
        entries: Sequence[Entry],
        worker: str,
        now: float,
        keep_damaged_s: float | None,
        held: bool,
        most_bytes: int | None = None,
    ) -> Granted:
        """See Store.claim. What fails half way is undone by `take_back`."""
        session, ids = self._session, list(dict.fromkeys(entry.id for entry in entries))
        if not ids:
            return Granted()
        async with session.marking(self._doubt) as mark:
            change = {
                "$set": claimed(session.epoch, mark, held=held),
                "$inc": {"attempt": 1},
                "$push": {"begun": pushed(a_begin(worker, now))},
            }
            count, left = await self._mark(ids, change, base.DATA_BYTES if most_bytes is None else most_bytes)
            if not count:
                return Granted()
            documents = await session.find(ids, {"mark": mark})
            if len(documents) < count:
                session.tallies.doubt()  # another server has deleted some at once
            data = {document["_id"]: await session.bulk.get("data", document) for document in documents}
            damaged = [document for document in documents if not is_intact(document, data[document["_id"]])]
            if damaged:
                await self._end_damaged(damaged, now, keep_damaged_s)
            ended = {document["_id"] for document in damaged}
            intact = [document for document in documents if document["_id"] not in ended]
            if locked := [document for document in intact if document.get("resource") is not None]:
                parked = {document["_id"] for document in await self._resources.take(locked)}
                intact = [document for document in intact if document["_id"] not in parked]
        session.tallies.remove([(document["type"], document["state"]) for document in [*damaged, *intact]])
        session.tallies.add([(document["type"], State.PROCESSING) for document in intact])
        session.tallies.add([(document["type"], State.FAIL) for document in damaged])
        return Granted(_runs(entries, intact, data), [entry for entry in entries if entry.id in left])

    async def _mark(self, ids: list[str], change: Document, most: int) -> tuple[int, set[str]]:
        """Make the change to those that are ready, up to so much data; return how many, and whose data would be too much."""
        jobs, is_ready = self._session.jobs, {"place": int(Place.READY)}
        is_short = _is_at_most(most // len(ids))
        count = (await jobs.update_many({"_id": {"$in": ids}, **is_ready, **is_short}, change)).matched_count
        left: set[str] = set()
        if count < len(ids):
            long, left = await self._long(ids, is_ready, most)
            if long:
                count += (await jobs.update_many({"_id": {"$in": long}, **is_ready}, change)).matched_count
        return count, left

    async def _long(self, ids: list[str], is_ready: Document, most: int) -> tuple[list[str], set[str]]:
        """Return the ready jobs whose long data fits into memory together, or the first one; and the others."""
        found = await self._session.find(ids, is_ready, ["data_bytes", "data_bulk"])
        lengths = {one["_id"]: one.get("data_bytes", _UNKNOWN_BYTES) for one in found}
        taken: list[str] = []
        left: set[str] = set()
        total = 0
        for job_id in ids:
            if job_id in lengths:
                total += lengths[job_id]
                if taken and total > most:
                    left.add(job_id)
                else:
                    taken.append(job_id)
        return taken, left

    async def _end_damaged(self, documents: list[Document], now: float, keep_s: float | None) -> int:
        """End jobs that we have claimed, or whose server died; return how many."""
        ids = [document["_id"] for document in documents[:LOGGED]]
        log.error("stored jobs are damaged, they have failed", ids=ids, count=len(documents))
        fields: Document = {"place": int(Place.ENDED), "state": int(State.FAIL), "ended_at": now, "error": DAMAGED}
        if keep_s is not None:
            fields["drop_at"] = now + keep_s
        self._session.tallies.doubt()  # a type that is damaged was counted as another
        ended = 0
        for document in documents:
            is_still = {"_id": document["_id"], "mark": document["mark"], "place": int(Place.RUNNING)}
            unset = dict.fromkeys(("owner", "held", "pair", "pends", "cancel_at", "cancel_mark"), "")
            done = await self._session.jobs.update_one(is_still, {"$set": fields, "$unset": unset})
            ended += done.matched_count
        self._session.noted.note([document["_id"] for document in documents])
        await self._resources.gone(documents)
        return ended

    def _doubt(self, mark: int) -> None:
        self._looks_left[mark] = _LOOKS

    async def take_back(self) -> None:
        """Undo the claims that nobody was told of: their jobs are due at once, but what was cancelled is given to `orphans`.

        So are held runs that are this server's by an adoption of which it was not told: it does not watch over them.
        """
        if self._looks_left:
            await self._take_back_claims()
        if self._adoption_looks_left:
            marks = list(self._adoption_looks_left)
            ours = {"owner": self._session.epoch, "held": True, "mark": {"$in": marks}, "place": int(Place.RUNNING)}
            await self._session.jobs.update_many(ours, {"$set": {"owner": NOBODY}})
            self._adoption_looks_left = _after_a_look(self._adoption_looks_left)

    async def _take_back_claims(self) -> None:
        ours = {"owner": self._session.epoch, "mark": {"$in": list(self._looks_left)}, "place": int(Place.RUNNING)}
        waiting = {"$set": {"place": int(Place.LATER), "wake_at": 0.0}, "$unset": {"owner": "", "held": ""}}
        undone = await self._session.jobs.update_many({**ours, "cancel_at": None}, waiting)
        if undone.matched_count:
            self._session.tallies.doubt()  # a count may have met them while they ran
        await self._session.jobs.update_many({**ours, "cancel_at": {"$gt": 0.0}}, {"$set": {"owner": NOBODY}})
        self._looks_left = _after_a_look(self._looks_left)

    async def orphans(self, limit: int, keep_damaged_s: float | None) -> list[Run]:
        """See Store.orphans.

        Who is alive is asked after the runs were found: a server is registered before it claims anything.
        """
        while True:
            living = await self._servers.living()
            found = await self._claimed_by_others(living, limit)
            if not found:
                return []
            living |= await self._servers.living()
            # a run that ends while it is read may be found without its owner
            dead = [(document, data) for document, data in found if document.get("owner", self._session.epoch) not in living]
            self._resources.found(document for document, _ in dead)
            runs = [run_of(document, data or b"null") for document, data in dead if is_intact(document, data)]
            damaged = [document for document, data in dead if not is_intact(document, data)]
            if damaged and not await self._end_damaged(damaged, self._session.now(), keep_damaged_s):
                return runs
            if runs or not damaged:
                return runs

    async def adopt(self, runs: Sequence[Run]) -> list[bool]:
        """See Store.adopt."""
        living = await self._servers.living()
        async with self._session.marking(self._doubt_adoption) as mark:
            ids, orders = [run.claim.id for run in runs], {"$in": [run.claim.order for run in runs]}
            is_held = {"_id": {"$in": ids}, "order": orders, "place": int(Place.RUNNING), "held": True}
            update = {"$set": {"owner": self._session.epoch, "mark": mark}}
            await self._session.jobs.update_many({**is_held, "owner": {"$nin": list(living)}}, update)
            is_ours = {"owner": self._session.epoch, "held": True}
            found = await self._session.find(ids, is_ours, ["order", "attempt", "epoch"])
        ours = set(map(claim_of, found))
        self._resources.forget(run.claim for run in runs if run.claim not in ours)
        return [run.claim in ours for run in runs]

    async def take(self, claim: Claim) -> Run | None:
        """See Store.take."""
        is_it = {"order": claim.order, "attempt": claim.attempt, "epoch": claim.epoch}
        is_held = {"_id": claim.id, **is_it, "place": int(Place.RUNNING), "held": True}
        async with self._session.marking(self._doubt_adoption) as mark:
            await self._session.jobs.update_many(is_held, {"$set": {"owner": self._session.epoch, "mark": mark}})
            ours = await self._session.find([claim.id], is_it | {"owner": self._session.epoch, "held": True})
        self._resources.found(ours)
        return run_of(ours[0], b"") if ours else None

    def _doubt_adoption(self, mark: int) -> None:
        """Have the runs be orphans again, unless the adoption is repeated, as it is when their workers touch them again."""
        self._adoption_looks_left[mark] = _LOOKS

    async def _claimed_by_others(self, living: set[int], limit: int) -> list[tuple[Document, bytes | None]]:
        """Return up to `limit` such jobs with their data, until that is too much."""
        found: list[tuple[Document, bytes | None]] = []
        total = 0
        cursor = self._session.jobs.find({"owner": {"$gt": 0, "$nin": list(living)}, "place": int(Place.RUNNING)}).limit(limit)
        try:
            async for document in cursor:
                data = await self._session.bulk.get("data", document)
                found.append((document, data))
                total += len(data or b"")
                if total > base.DATA_BYTES:
                    break
        finally:
            await cursor.close()
        return found


def _after_a_look(looks_left: Mapping[int, int]) -> dict[int, int]:
    """Return for which marks is to be looked again, and how often."""
    return {mark: left - 1 for mark, left in looks_left.items() if left > 1}


def _is_at_most(length: int) -> Document:
    """Return the condition for jobs whose data is no longer than that, if it is longer than a listing shows."""
    return {"$or": [{"data_bytes": {"$lte": length}}, {"data_bytes": None, "data_long": None, "data_bulk": None}]}


def _runs(entries: Sequence[Entry], documents: list[Document], data: Mapping[str, bytes | None]) -> list[Run]:
    left: dict[str, Any] = {document["_id"]: document for document in documents}
    runs: list[Run] = []
    for entry in entries:  # an entry may be repeated; its job is granted once
        document = left.pop(entry.id, None)
        if document is not None:
            runs.append(run_of(document, data[entry.id] or b"null", entry.handle))
    return runs
