"""How many jobs of each type are in each state, without ever counting them when asked.

One document a type; its numbers move by `$inc`. The changes of this server gather in memory and are written when somebody asks
and with every heartbeat, so they cost no round trip per batch. What a server had not written when it was killed, and a write
whose answer was lost, leave the numbers in doubt. Then the jobs are counted:

- by a server that is alone while none of its operations is under way, so the promise for one server is: `read` is exact.
- beside other servers, whose changes may be counted before they are written. So only what two counts find amiss is put right,
  and the doubt stays until one finds nothing. The promise is: `read` is exact some minutes after a server died, once there is
  a quiet moment, and until then off by what is done within a few seconds.

Nothing is decided by these numbers but how much is trimmed, which types a broker looks for, and whether too many jobs of a type
wait that is watched: of these, how many wait is known in memory as well. Our own changes are in that at once, those of other
servers when it is read anew.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable

from pymongo import UpdateOne

from kqs.job import WAITING, State
from kqs.store.mongo.client import DRIVER_ERRORS, Document
from kqs.store.mongo.collections import Collections
from kqs.store.mongo.documents import Place, state_of
from kqs.store.mongo.slices import slices

#: a count reads every job: between two of them there is at least so much time, in s
RECOUNT_S = 60.0
#: and at least so many times what the last one took
RECOUNT_SHARE = 50

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
        self._not_before = 0.0
        self._is_doubtful = False
        self._amiss: Counter[Kind] = Counter()
        self._turn = asyncio.Lock()  # between a flush and what is read after it there is no other
        self._watched: frozenset[str] = frozenset()
        self._on_waiting: Callable[[dict[str, int]], None] = lambda waiting: None
        #: how many jobs of the watched types wait
        self.waiting: Counter[str] = Counter()

    def watch(self, types: Collection[str], on_waiting: Callable[[dict[str, int]], None]) -> None:
        """Know in `waiting` how many jobs of these types wait, as of the last `look_at_waiting`.

        Args: on_waiting: told of every change.
        """
        self._watched = frozenset(types)
        self._on_waiting = on_waiting

    async def look_at_waiting(self) -> None:
        """Take in what others have done to what waits of the watched types."""
        if not self._watched:
            return
        async with self._turn:
            await self._flush()
            found = await self._tallies.find({"_id": {"$in": list(self._watched)}}).to_list(None)
            self.waiting = Counter(
                {tally["_id"]: sum(n for state, n in tally["n"].items() if int(state) in WAITING) for tally in found}
            )
            self._move(self._pending, 1)

    def _move(self, kinds: Counter[Kind], sign: int) -> None:
        for (type_, state), n in kinds.items():
            if type_ in self._watched and state in WAITING:
                self.waiting[type_] += sign * n
        self._on_waiting({type_: max(0, self.waiting[type_]) for type_ in self._watched})

    @property
    def needs_recount(self) -> bool:
        """Tell whether the numbers may be wrong, and the last count is long enough ago."""
        return self._is_doubtful and self._monotonic() >= self._not_before

    def add(self, kinds: Iterable[Kind]) -> None:
        """Note jobs that came into a state, one item a job."""
        came = Counter(kinds)
        self._pending.update(came)
        if self._watched:
            self._move(came, 1)

    def remove(self, kinds: Iterable[Kind]) -> None:
        """Note jobs that left a state, one item a job."""
        went = Counter(kinds)
        self._pending.subtract(went)
        if self._watched:
            self._move(went, -1)

    def doubt(self) -> None:
        """Note that a write may have changed something nobody knows of."""
        self._is_doubtful = True

    async def flush(self) -> None:
        """Write what is pending."""
        async with self._turn:
            await self._flush()

    async def _flush(self) -> None:
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
        """Count the jobs. No operation that changes any may be under way, here or elsewhere."""
        self._pending.clear()
        self._amiss.clear()
        counted = await self._count()
        numbers: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (type_, state), n in counted.items():
            numbers[type_][str(state)] = n
        try:
            await self._tallies.delete_many({"_id": {"$nin": list(numbers)}})
            if numbers:
                updates = [UpdateOne({"_id": type_}, {"$set": {"n": states}}, upsert=True) for type_, states in numbers.items()]
                await self._tallies.bulk_write(updates, ordered=False)
        except DRIVER_ERRORS:
            self.doubt()
            raise

    async def verify(self) -> None:
        """Count the jobs beside others who may change them, and put right what was as much amiss at the last count."""
        await self.flush()
        amiss = await self._count()
        async for tally in self._tallies.find():
            amiss.subtract({(tally["_id"], int(state)): n for state, n in tally["n"].items()})
        if any(amiss.values()):
            self.doubt()
        confirmed = Counter(
            {kind: min(n, self._amiss[kind], key=abs) for kind, n in amiss.items() if n * self._amiss[kind] > 0}
        )
        self._pending.update(confirmed)
        amiss.subtract(confirmed)
        self._amiss = amiss

    async def _count(self) -> Counter[Kind]:
        """Return how many jobs there are of each kind, and let go of the doubts up to now."""
        began = self._monotonic()
        self._is_doubtful = False
        counted: Counter[Kind] = Counter()
        try:
            async for part in slices(self._jobs):
                async for group in self._jobs.aggregate([{"$match": part}, _COUNT]):
                    if group["_id"]["place"] != Place.GONE:
                        counted[group["_id"]["type"], int(state_of(group["_id"]))] += group["n"]
        except DRIVER_ERRORS:
            self.doubt()
            raise
        finally:
            ended = self._monotonic()
            self._not_before = ended + max(RECOUNT_S, RECOUNT_SHARE * (ended - began))
        return counted
