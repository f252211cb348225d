"""How many jobs of each type are in each state, without ever counting them when asked.

One document a type; its numbers move by `$inc`. The changes of this server gather in memory and are written when somebody asks
and with every heartbeat, so they cost no round trip per batch. The promise: `read` is exact while one server uses the database
and no write's answer is lost. After such a loss, and when a server starts (the last one may have been killed), the jobs are
counted anew; what other servers change during that count may be missed until the next one. Nothing is decided by these numbers
but how much is trimmed and which types a broker looks for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from pymongo import UpdateOne

from kqs.job import State
from kqs.store.mongo.client import DRIVER_ERRORS, Document
from kqs.store.mongo.collections import Collections
from kqs.store.mongo.documents import state_of
from kqs.store.mongo.slices import slices

#: a count reads every job: between two of them there is at least so much time, in s
RECOUNT_S = 60.0

#: a job's type and its state
Kind = tuple[str, int]

_COUNT = {"$group": {"_id": {"type": "$type", "state": "$state", "place": "$place"}, "n": {"$sum": 1}}}
_ALL_ZERO: Document = {f"n.{int(state)}": {"$in": [0, None]} for state in State}


class Tallies:
    """The changes not written yet, and the collection they go to."""

    def __init__(self, collections: Collections, monotonic: Callable[[], float]) -> None:
        self._tallies = collections.tallies
        self._jobs = collections.jobs
        self._pending: Counter[Kind] = Counter()
        self._monotonic = monotonic
        self._counted_at = 0.0
        self._is_doubtful = True

    @property
    def needs_recount(self) -> bool:
        """Tell whether the numbers may be wrong, and the last count is long enough ago."""
        return self._is_doubtful and self._monotonic() - self._counted_at >= RECOUNT_S

    def add(self, kinds: Iterable[Kind]) -> None:
        """Note jobs that came into a state, one item a job."""
        self._pending.update(kinds)

    def remove(self, kinds: Iterable[Kind]) -> None:
        """Note jobs that left a state, one item a job."""
        self._pending.subtract(kinds)

    def doubt(self) -> None:
        """Note that a write may have changed something nobody knows of."""
        self._is_doubtful = True

    async def flush(self) -> None:
        """Write what is pending."""
        pending, self._pending = self._pending, Counter()
        changes: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (type_, state), n in pending.items():
            if n:
                changes[type_][f"n.{int(state)}"] = n
        if not changes:
            return
        try:
            await self._tallies.bulk_write(
                [UpdateOne({"_id": type_}, {"$inc": change}, upsert=True) for type_, change in changes.items()], ordered=False
            )
        except DRIVER_ERRORS:
            self.doubt()
            raise

    async def read(self) -> dict[str, dict[State, int]]:
        """Return {type: {state: how many}}."""
        await self.flush()
        found: dict[str, dict[State, int]] = {}
        zeros: list[str] = []
        async for tally in self._tallies.find():
            states = {State(int(state)): n for state, n in tally["n"].items() if n > 0}
            if states:
                found[tally["_id"]] = states
            elif not any(tally["n"].values()):
                zeros.append(tally["_id"])
        if zeros:  # types are the clients' to invent: one without jobs must not be remembered
            await self._tallies.delete_many({"_id": {"$in": zeros}, **_ALL_ZERO})
        return found

    async def recount(self) -> None:
        """Count the jobs. No operation of this server that changes any may be under way."""
        self._pending.clear()
        self._counted_at = self._monotonic()
        counted: defaultdict[str, Counter[str]] = defaultdict(Counter)
        async for part in slices(self._jobs):
            async for group in self._jobs.aggregate([{"$match": part}, _COUNT]):
                counted[group["_id"]["type"]][str(int(state_of(group["_id"])))] += group["n"]
        await self._tallies.delete_many({"_id": {"$nin": list(counted)}})
        if counted:
            updates = [UpdateOne({"_id": type_}, {"$set": {"n": dict(n)}}, upsert=True) for type_, n in counted.items()]
            await self._tallies.bulk_write(updates, ordered=False)
        self._is_doubtful = False
