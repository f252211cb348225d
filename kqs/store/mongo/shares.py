"""What servers share of the limits of types: one document a type.

    _id    the type
    used   slots that all servers have: the sum of `by`
    by     {eEPOCH: how many this boot has}; none is left out
    short  {eEPOCH: true} where a boot wanted more than there were
    turn   grows with each grant of tokens
    left   of a token, after the last grant

A boot changes its own number alone, under the condition that it is as it was read; so a write whose answer was lost is found
done, or not, by reading again. The slots of a dead boot are cleared when no record is left that it runs.

Tokens are granted for the time in which nobody else has granted any, as the clock of whoever asks has measured it since it saw
the last grant in the document, or sent its own. Those times do not overlap, so no more come than the rate allows; what passes
between a grant and its being seen is nobody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from motor.motor_asyncio import AsyncIOMotorCollection
from pymongo.errors import DuplicateKeyError

from kqs.store.mongo.client import Document
from kqs.store.mongo.servers import Servers
from kqs.store.mongo.session import Session
from kqs.store.sharing import Share

#: others may change a document between our look and our write
TRIES = 10
#: tokens of so many s are taken at a time: between a grant and its being seen by another server, time is lost
GATHER_S = 0.1
#: of a token, lost to rounding
_ROUNDING = 1e-6


class Shares:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, shares: AsyncIOMotorCollection[Document], session: Session, servers: Servers) -> None:
        self._shares = shares
        self._jobs = session.jobs
        self._key = _key(session.epoch)
        self._servers = servers
        self._monotonic = session.monotonic
        self._seen: dict[str, tuple[int, float]] = {}  # by type: its turn, and since when that is known to stand

    async def look(self) -> dict[str, Share]:
        """See Sharing.look."""
        documents = [document async for document in self._shares.find()]
        now = self._monotonic()
        keys = {key for document in documents for key in (*_by(document), *document.get("short", {}))}
        if self._servers.is_eldest and len(keys - {self._key}):
            await self._clear_dead(documents, keys)
        for document in documents:
            self._see(document, now)
        return {str(document["_id"]): self._share(document) for document in documents}

    def _share(self, document: Document) -> Share:
        by = _by(document)
        others = {*by, *document.get("short", {})} - {self._key}
        short = document.get("short", {})
        are_others_short = bool(short.keys() - {self._key})
        ours = int(by.get(self._key, 0))
        return Share(ours, len(others) if are_others_short else 0, self._key in short)

    async def _clear_dead(self, documents: list[Document], keys: set[str]) -> None:
        living = {_key(epoch) for epoch in await self._servers.living()}
        for key in keys - living:
            if await self._jobs.find_one({"owner": int(key[1:])}, ["_id"]) is not None:
                continue  # whoever takes its runs over counts them first
            for document in documents:
                if key in _by(document) or key in document.get("short", {}):
                    count = int(_by(document).get(key, 0))
                    await self._shares.update_one(
                        {"_id": document["_id"], f"by.{key}": count if count else {"$exists": False}},
                        {"$inc": {"used": -count}, "$unset": {f"by.{key}": "", f"short.{key}": ""}},
                    )

    async def slots(self, type_: str, wanted: int, most: int, *, is_forced: bool = False) -> int:
        """See Sharing.slots."""
        ours = 0
        for _ in range(TRIES):
            document = await self._find(type_)
            ours = int(_by(document).get(self._key, 0))
            free = max(0, most - int(document["used"]))
            target = wanted if is_forced or wanted <= ours else min(wanted, ours + free)
            await self._note_short(document, is_short=target < wanted)
            if target == ours:
                break
            more, ours_is = target - ours, f"by.{self._key}"
            condition: Document = {"_id": type_, ours_is: ours if ours else {"$exists": False}}
            if more > 0 and not is_forced:
                condition["used"] = {"$lte": most - more}
            update: Document = {"$inc": {"used": more}}
            update |= {"$set": {ours_is: target}} if target else {"$unset": {ours_is: ""}}
            if (await self._shares.update_one(condition, update)).modified_count:
                return target
        return ours

    async def _note_short(self, document: Document, *, is_short: bool) -> None:
        if is_short is not (self._key in document.get("short", {})):
            name = f"short.{self._key}"
            change: Document = {"$set": {name: True}} if is_short else {"$unset": {name: ""}}
            await self._shares.update_one({"_id": document["_id"]}, change)

    async def tokens(self, type_: str, per_second: float, burst: float) -> int:
        """See Sharing.tokens."""
        document = await self._find(type_)
        since = self._see(document, self._monotonic())
        now = self._monotonic()
        level = min(burst, float(document["left"]) + (now - since) * per_second)
        count = int(level + _ROUNDING)
        if count < max(1, int(min(burst, per_second * GATHER_S))):
            return 0
        turn = int(document["turn"])
        taken = {"$set": {"turn": turn + 1, "left": max(0.0, level - count)}}
        done = await self._shares.update_one({"_id": type_, "turn": turn}, taken)
        if not done.modified_count:
            return 0
        self._seen[type_] = (turn + 1, now)
        return count

    def _see(self, document: Document, now: float) -> float:
        """Return since when the last grant is known to have been made."""
        type_, turn = str(document["_id"]), int(document["turn"])
        seen = self._seen.get(type_)
        if seen is None or seen[0] != turn:
            seen = self._seen[type_] = (turn, now)
        return seen[1]

    async def _find(self, type_: str) -> Document:
        while (document := await self._shares.find_one({"_id": type_})) is None:
            with suppress(DuplicateKeyError):  # another server came first
                await self._shares.insert_one({"_id": type_, "used": 0, "by": {}, "short": {}, "turn": 0, "left": 0.0})
        return document


def _key(epoch: int) -> str:
    return f"e{epoch}"


def _by(document: Document) -> Mapping[str, int]:
    by: Mapping[str, int] = document.get("by", {})
    return by
