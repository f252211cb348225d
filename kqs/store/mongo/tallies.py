"""How many jobs of each type are in each state, without ever counting them when asked.

One document a type:

    _id     the type
    n       {state: how many}
    moves   how often a job of the type came into a state or left one: it grows with every change of `n`

The numbers move by `$inc`. The changes of this server gather in memory and are written when somebody asks and with every
upkeep, so they cost no round trip per batch. What a server had not written when it was killed, and a write whose answer was
lost, leave the numbers in doubt. Then the jobs are counted:

- by a server that is alone while none of its operations is under way, so the promise for one server is: `read` is exact.
- beside other servers, which may change jobs meanwhile, or write later what they did before. All that they did until the count
  ended has been written `SETTLE_S` after it, and `moves` tells how much that was, at most. What is amiss beyond that is put
  right then, by an update that does nothing if the numbers have moved once more: so two servers that count at once, or an
  answer that is lost, correct nothing twice. The doubt stays until a count finds nothing. The promise is: `read` is exact two
  minutes after there was trouble, for a type that has a quiet half minute, and until then off by what is done in that time.

Nothing is decided by these numbers but how much is trimmed, which types a broker looks for, and whether too many jobs of a type
wait that is watched: of these, how many wait is known in memory as well. Our own changes are in that at once, those of other
servers when it is read anew.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from pymongo import UpdateOne

from kqs.states import WAITING, State
from kqs.store.mongo.client import DRIVER_ERRORS, Document, write_unless_taken
from kqs.store.mongo.collections import Collections
from kqs.store.mongo.documents import Place, state_of
from kqs.store.mongo.slices import slices

#: a count reads every job: between two of them there is at least so much time, in s
RECOUNT_S = 60.0
#: and at least so many times what the last one took
RECOUNT_SHARE = 50
#: how long a server that lives may take to write what it has done, in s: an operation that hangs holds the writing up for 20 s,
#: and whoever is held up for longer than 15 s doubts the numbers itself
SETTLE_S = 30.0

#: a job's type and its state
Kind = tuple[str, int]

_COUNT = {"$group": {"_id": {"type": "$type", "state": "$state", "place": "$place"}, "n": {"$sum": 1}}}
_ALL_ZERO: Document = {f"n.{int(state)}": {"$in": [0, None]} for state in State}


class _Told(NamedTuple):
    """What the collection says."""

    numbers: Counter[Kind]
    moves: dict[str, int]


class _Counted(NamedTuple):
    """A count beside other servers, what was told before it, and when it ended."""

    jobs: Counter[Kind]
    before: _Told
    ended: float


class Tallies:
    """The changes not written yet, and the collection they go to."""

    def __init__(self, collections: Collections, monotonic: Callable[[], float]) -> None:
        self._tallies = collections.tallies
        self._jobs = collections.jobs
        self._added: Counter[Kind] = Counter()
        self._removed: Counter[Kind] = Counter()
        self._monotonic = monotonic
        self._not_before = 0.0
        self._is_doubtful = False
        self._counted: _Counted | None = None
        self._turn = asyncio.Lock()  # between a flush and what is read after it there is no other
        self._watched: frozenset[str] = frozenset()
        self._on_waiting: Callable[[dict[str, int]], None] = lambda waiting: None
        self._waiting: Counter[str] = Counter()

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
            self._waiting = Counter(
                {tally["_id"]: sum(n for state, n in tally["n"].items() if int(state) in WAITING) for tally in found}
            )
            self._move(self._added, 1)
            self._move(self._removed, -1)

    def _move(self, kinds: Counter[Kind], sign: int) -> None:
        for (type_, state), n in kinds.items():
            if type_ in self._watched and state in WAITING:
                self._waiting[type_] += sign * n
        self._on_waiting(self.waiting)

    @property
    def waiting(self) -> dict[str, int]:
        """Return how many jobs of the watched types wait; what others did and have not written yet may leave less than none."""
        return {type_: max(0, self._waiting[type_]) for type_ in self._watched}

    @property
    def is_doubtful(self) -> bool:
        """Tell whether the numbers may be wrong, as far as is known here; who leaves then hands that on."""
        return self._is_doubtful or self._counted is not None

    @property
    def needs_recount(self) -> bool:
        """Tell whether the numbers may be wrong, and the last count is long enough ago."""
        return self._is_doubtful and self._counted is None and self._monotonic() >= self._not_before

    @property
    def may_settle(self) -> bool:
        """Tell whether all has been written that was done until the last count beside others ended."""
        return self._counted is not None and self._monotonic() >= self._counted.ended + SETTLE_S

    def add(self, kinds: Iterable[Kind]) -> None:
        """Note jobs that came into a state, one item a job."""
        came = Counter(kinds)
        self._added.update(came)
        if self._watched:
            self._move(came, 1)

    def remove(self, kinds: Iterable[Kind]) -> None:
        """Note jobs that left a state, one item a job."""
        went = Counter(kinds)
        self._removed.update(went)
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
        added, self._added = self._added, Counter()
        removed, self._removed = self._removed, Counter()
        changes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for kinds, sign in ((added, 1), (removed, -1)):
            for (type_, state), n in kinds.items():
                changes[type_].update({f"n.{int(state)}": sign * n, "moves": n})
        if changes:
            await self._write([UpdateOne({"_id": type_}, {"$inc": {**moved}}, upsert=True) for type_, moved in changes.items()])

    async def _write(self, updates: list[UpdateOne]) -> None:
        try:
            await self._tallies.bulk_write(updates, ordered=False)
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
        self._added.clear()
        self._removed.clear()
        self._counted = None
        counted = await self._count()
        numbers: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (type_, state), n in counted.items():
            numbers[type_][str(state)] = n
        try:
            await self._tallies.delete_many({"_id": {"$nin": list(numbers)}})
        except DRIVER_ERRORS:
            self.doubt()
            raise
        if numbers:
            await self._write(
                [
                    UpdateOne({"_id": type_}, {"$set": {"n": states}, "$inc": {"moves": sum(states.values())}}, upsert=True)
                    for type_, states in numbers.items()
                ]
            )

    async def verify(self) -> None:
        """Count the jobs beside others who may change them; `settle` follows."""
        await self.flush()
        before = await self._told()
        jobs = await self._count()
        self._counted = _Counted(jobs, before, self._monotonic())

    async def settle(self) -> None:
        """Put right what the last count found amiss, as far as what was done since it began cannot explain it."""
        counted, self._counted = self._counted, None
        assert counted is not None, "as `may_settle` tells"
        amiss = Counter(counted.jobs)
        amiss.subtract(counted.before.numbers)
        if not any(amiss.values()):
            return
        self.doubt()
        await self.flush()
        after = await self._told()
        wrong: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (type_, state), n in amiss.items():
            moved = after.moves.get(type_, 0) - counted.before.moves.get(type_, 0)
            if moved >= 0 and abs(n) > moved:  # a type that was forgotten meanwhile counts from 0 again
                wrong[type_][str(state)] = n - moved if n > 0 else n + moved
        await self._correct(wrong, after)

    async def _correct(self, wrong: dict[str, dict[str, int]], told: _Told) -> None:
        """Add these numbers to those that were told, of types whose numbers have not moved since."""
        made: list[Document] = []
        updates: list[UpdateOne] = []
        for type_, states in wrong.items():
            moves = sum(map(abs, states.values()))
            if type_ in told.moves:
                change = {f"n.{state}": n for state, n in states.items()} | {"moves": moves}
                updates.append(UpdateOne({"_id": type_, "moves": told.moves[type_] or None}, {"$inc": change}))
            else:
                made.append({"_id": type_, "n": states, "moves": moves})
        if made:
            await write_unless_taken(self._tallies.insert_many(made, ordered=False))
        if updates:
            await self._write(updates)

    async def _told(self) -> _Told:
        told = _Told(Counter(), {})
        async for tally in self._tallies.find():
            told.numbers.update({(tally["_id"], int(state)): n for state, n in tally["n"].items()})
            told.moves[tally["_id"]] = tally.get("moves", 0)
        return told

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
