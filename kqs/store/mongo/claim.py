"""Granting attempts: one update for all entries, and one look at what it granted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kqs.job import Entry, Run, State
from kqs.store.base import DAMAGED
from kqs.store.mongo.client import Document
from kqs.store.mongo.documents import Place, claimed, pushed, run_of
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session

#: how often a claim whose answer was lost is looked for; a write may still be on its way when its connection is gone
_LOOKS = 12


class Claimer:
    """Claims for one server."""

    def __init__(self, session: Session, servers: Servers) -> None:
        self._session = session
        self._servers = servers
        self._looks_left: dict[int, int] = {}

    async def claim(self, entries: Sequence[Entry], worker: str, now: float) -> list[Run]:
        """See Store.claim. What fails half way is undone by `take_back`."""
        session, ids = self._session, list({entry.id for entry in entries})
        if not ids:
            return []
        async with session.marking(self._doubt) as mark:
            granted = await session.jobs.update_many(
                {"_id": {"$in": ids}, "place": Place.READY, "expire_at": {"$not": {"$lte": now}}},
                {
                    "$set": claimed(session.epoch, mark),
                    "$inc": {"attempt": 1},
                    "$push": {"begun": pushed([worker, now])},
                },
            )
            if not granted.matched_count:
                return []
            documents = await session.find(ids, {"mark": mark})
            data = {document["_id"]: await session.bulk.get("data", document) for document in documents}
            damaged = [document for document in documents if data[document["_id"]] is None]
            if damaged:
                await self._end_damaged(damaged, mark, now)
        intact = [document for document in documents if data[document["_id"]] is not None]
        session.tallies.remove([(document["type"], document["state"]) for document in documents])
        session.tallies.add([(document["type"], State.PROCESSING) for document in intact])
        session.tallies.add([(document["type"], State.FAIL) for document in damaged])
        return _runs(entries, intact, data)

    async def _end_damaged(self, documents: list[Document], mark: int, now: float) -> None:
        await self._session.jobs.update_many(
            {"_id": {"$in": [document["_id"] for document in documents]}, "mark": mark},
            {
                "$set": {"place": int(Place.ENDED), "state": int(State.FAIL), "ended_at": now, "error": DAMAGED},
                "$unset": {"owner": ""},
            },
        )

    def _doubt(self, mark: int) -> None:
        self._looks_left[mark] = _LOOKS

    async def take_back(self) -> None:
        """Undo the claims that nobody was told of: their jobs are due at once."""
        if not self._looks_left:
            return
        await self._session.jobs.update_many(
            {"owner": self._session.epoch, "mark": {"$in": list(self._looks_left)}},
            {"$set": {"place": int(Place.LATER), "wake_at": 0.0}, "$unset": {"owner": ""}},
        )
        self._looks_left = {mark: left - 1 for mark, left in self._looks_left.items() if left > 1}

    async def orphans(self, limit: int) -> list[Run]:
        """See Store.orphans.

        Who is alive is asked after the runs were found: a server is registered before it claims anything.
        """
        living = await self._servers.living()
        claimed_by_others = {"owner": {"$gt": 0, "$nin": list(living)}}
        found = await self._session.jobs.find(claimed_by_others).limit(limit).to_list(None)
        if not found:
            return []
        living |= await self._servers.living()
        return [
            run_of(document, await self._session.bulk.get("data", document) or b"null")
            for document in found
            if document["owner"] not in living
        ]


def _runs(entries: Sequence[Entry], documents: list[Document], data: Mapping[str, bytes | None]) -> list[Run]:
    left: dict[str, Any] = {document["_id"]: document for document in documents}
    runs: list[Run] = []
    for entry in entries:  # an entry may be repeated; its job is granted once
        document = left.pop(entry.id, None)
        if document is not None:
            runs.append(run_of(document, data[entry.id] or b"null", entry.handle))
    return runs
