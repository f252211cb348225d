"""Turns between the groups of a type, above any broker.

A ready job that has a group stands in no broker: it stays in the store, which tells whose turn it is each time somebody has
room. So neither groups nor jobs take memory here, however many there are, and a group that comes up has its turn within one
round. Those of a type that have no group are one group; the broker below has them. Invariants:

1. A type stands in `_lines` as long as ready jobs of it may wait in the store that have a group.
2. What was given out stands in `_fresh` until it is claimed, or given back: no turn gives it out again meanwhile.
3. Of a type with `group_max_running` it stands in `_out` until it is over, and no group has more jobs out than that. It is
   given out once until then, whatever looks bring that began before: who gave it last would take it for gone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from kqs.broker.base import Broker, Refill
from kqs.broker.turns import Turns
from kqs.config import TakingSection
from kqs.job import Entry, Key, Run
from kqs.store.rotation import Terms, Turn, Turned

#: jobs of one look into the store: what it takes there is bounded by that
MOST = 1000

_AS_OTHERS = TakingSection()

#: see Store.in_turn
InTurn = Callable[[str, Turn, int, Terms], Awaitable[Turned]]


@dataclass
class _Line:
    """A type. has_more: some may have come up since the last look. is_full: all that wait are of groups that have their most.

    has_passed: or they stood behind some that are given out and not claimed. lock: one look at a time.
    """

    turn: Turn
    has_more: bool = True
    is_full: bool = False
    has_passed: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Out:
    """The jobs of a type that are given out and not over, and how many of each group. most: that these may be.

    brought: those of them that a look has brought all the same.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.counts: Counter[str] = Counter()
        self.brought: set[Key] = set()
        self._groups: dict[Key, str] = {}

    def add(self, key: Key, group: str) -> None:
        """Take in that a job is given out. Idempotent."""
        if key not in self._groups:
            self._groups[key] = group
            self.counts[group] += 1

    def drop(self, key: Key) -> bool:
        """Take in that it is over, and tell whether a look has brought it meanwhile. Idempotent."""
        if (group := self._groups.pop(key, None)) is not None:
            self.counts[group] -= 1
            if not self.counts[group]:
                del self.counts[group]
        if key not in self.brought:
            return False
        self.brought.discard(key)
        return True

    def may_go(self, key: Key, group: str) -> bool:
        """Tell whether a job that a look has brought may be given out."""
        if key in self._groups:
            self.brought.add(key)
            return False
        return self.counts[group] < self.most


@dataclass(frozen=True)
class _Handle:
    """Says of an entry, or a run, that it was given out here."""

    type: str
    group: str


class Groups:
    """See the module docstring. Satisfies Broker."""

    def __init__(self, broker: Broker, in_turn: InTurn, taking: Mapping[str, TakingSection]) -> None:
        """Args: broker: has all jobs without a group. in_turn: of the store. taking: how jobs are taken, where that is set."""
        self._broker = broker
        self._in_turn = in_turn
        self._taking = taking
        self._turns = Turns()
        self._lines: dict[str, _Line] = {}
        self._fresh: dict[str, set[Key]] = {}
        self._out: dict[str, _Out] = {
            type_: _Out(most) for type_, section in taking.items() if (most := section.group_max_running)
        }
        self.body_bytes = broker.body_bytes

    async def start(
        self, refill: Refill, waiting: Mapping[str, int], store_id: str = "", grouped: Collection[str] = ()
    ) -> None:
        """Begin. grouped: the types of which jobs wait that have a group; all else as Broker.start."""
        self._lines = {type_: _Line(Turn()) for type_ in grouped}
        await self._broker.start(refill, waiting, store_id)

    async def close(self) -> None:
        """See Broker.close."""
        await self._broker.close()

    async def put(self, entries: Sequence[Entry]) -> None:
        """Take in that jobs are ready."""
        types = {entry.type for entry in entries if entry.group is not None}
        if types:
            for type_ in types:
                self._note(type_)
            entries = [entry for entry in entries if entry.group is None]
        if entries:
            await self._broker.put(entries)
        if types:
            self._broker.wake(types)

    def _note(self, type_: str) -> None:
        line = self._lines.setdefault(type_, _Line(Turn()))
        line.has_more = True
        line.is_full = False

    async def recheck(self, types: Collection[str]) -> None:
        """See Broker.recheck."""
        for type_ in types:
            self._note(type_)
        await self._broker.recheck(types)

    async def reserve(self, weights: Mapping[str, int], count: int, most_of: Callable[[str], int] | None = None) -> list[Entry]:
        """See Broker.reserve."""
        while count > 0:
            lines = {type_ for type_, line in self._lines.items() if type_ in weights and not line.is_full}
            if most_of is not None:
                lines = {type_ for type_ in lines if most_of(type_) > 0}
            if not lines:
                return await self._broker.reserve(weights, count, most_of)
            waiting = {type_: count for type_ in weights if type_ in lines or self._broker.backlog(type_)}
            if most_of is not None:
                waiting = {type_: most for type_ in waiting if (most := min(count, most_of(type_))) > 0}
            shares = self._turns.share(waiting, weights, count)
            found = {type_: await self._turns_of(type_, min(shares[type_], MOST)) for type_ in lines if type_ in shares}
            below = {type_: share for type_, share in shares.items() if type_ not in found}
            below |= {type_: plain for type_, (_, plain) in found.items() if plain}
            plain: list[Entry] = []
            if below:
                plain = await self._broker.reserve(weights, min(sum(below.values()), count), Counter(below).__getitem__)
            given = [self._given(entry) for entries, _ in found.values() for entry in entries if self._may_go(entry)]
            if given or plain:
                return plain + given
        return []

    async def _turns_of(self, type_: str, count: int) -> tuple[list[Entry], int]:
        """Return whose turn it is, and how many without a group have theirs among them: `count`, if there are so many."""
        entries: list[Entry] = []
        plain = 0
        while len(entries) + plain < count:
            turned = await self._look(type_, count - len(entries) - plain, entries)
            entries += turned.entries
            plain += turned.plain
            if not turned.entries:
                break
        return entries, plain

    async def _look(self, type_: str, count: int, chosen: Sequence[Entry]) -> Turned:
        """Ask for the next turns, beside some that are chosen already."""
        line = self._lines.get(type_)
        if line is None:
            return Turned([], 0, Turn(), True)
        taking = self._taking.get(type_, _AS_OTHERS)
        async with line.lock:
            line.has_more = False
            passed = {order for order, _ in self._fresh.get(type_, ())} | {entry.order for entry in chosen}
            most: dict[str, int] = {}
            if (out := self._out.get(type_)) is not None:
                counts = out.counts + Counter(entry.group for entry in chosen)
                most = {group: out.most - n for group, n in counts.items() if group is not None}
                passed |= {order for order, _ in out.brought}
            plain = count if self._broker.backlog(type_) else 0
            terms = Terms(taking.group_weights, most, frozenset(passed), plain)
            turned = await self._in_turn(type_, line.turn, count, terms)
            line.turn = turned.turn
        if not line.has_more and self._lines.get(type_) is line and not chosen:
            if turned.is_all and all(left > 0 for left in most.values()):
                del self._lines[type_]
            elif not (turned.entries or turned.plain):
                line.is_full = True
                line.has_passed = bool(passed)
        return turned

    def _may_go(self, entry: Entry) -> bool:
        """Tell whether a job may be given out; another look may have given it, or all its group may have, meanwhile."""
        if entry.key in self._fresh.get(entry.type, ()):
            return False
        out = self._out.get(entry.type)
        return out is None or out.may_go(entry.key, entry.group or "")

    def _given(self, entry: Entry) -> Entry:
        assert entry.group is not None, "it was in the line of one"
        self._fresh.setdefault(entry.type, set()).add(entry.key)
        if (out := self._out.get(entry.type)) is not None:
            out.add(entry.key, entry.group)
        entry.handle = _Handle(entry.type, entry.group)
        return entry

    async def wait_ready(self, types: frozenset[str], closed: frozenset[str] = frozenset()) -> None:
        """See Broker.wait_ready."""
        if not any(not line.is_full for type_, line in self._lines.items() if type_ in types):
            await self._broker.wait_ready(types, closed)

    def wake(self, types: Collection[str] | None = None) -> None:
        """See Broker.wake."""
        self._broker.wake(types)

    async def delete(self, entries: Sequence[Entry]) -> None:
        """See Broker.delete."""
        if below := self._back(entries, waits=False):
            await self._broker.delete(below)

    async def release(self, entries: Sequence[Entry]) -> None:
        """See Broker.release."""
        if below := self._back(entries, waits=True):
            await self._broker.release(below)

    def _back(self, entries: Sequence[Entry], *, waits: bool) -> list[Entry]:
        """Take in that jobs are out no more; return those of the broker below."""
        below: list[Entry] = []
        freed: set[str] = set()
        for entry in entries:
            handle = entry.handle
            if type(handle) is not _Handle:
                below.append(entry)
                continue
            self._forget_fresh(handle.type, entry.key)
            out = self._out.get(handle.type)
            was_brought = out is not None and out.drop(entry.key)
            if waits or was_brought or (out is not None and handle.type in self._lines):
                self._note(handle.type)  # also for a look that is under way
                freed.add(handle.type)
        if freed:
            self._broker.wake(freed)
        return below

    def claimed(self, entries: Sequence[Entry]) -> None:
        """Take in that what was given out has been claimed, or is not ready any more: the store gives it to nobody else."""
        if not self._fresh:
            return
        passing: set[str] = set()
        for entry in entries:
            if type(entry.handle) is _Handle:
                self._forget_fresh(entry.type, entry.key)
                line = self._lines.get(entry.type)
                if line is not None and (line.lock.locked() or (line.is_full and line.has_passed)):
                    passing.add(entry.type)  # a look that is under way may have passed them, too
        if passing:
            for type_ in passing:
                self._note(type_)
            self._broker.wake(passing)

    def _forget_fresh(self, type_: str, key: Key) -> None:
        if (fresh := self._fresh.get(type_)) is not None:
            fresh.discard(key)
            if not fresh:
                del self._fresh[type_]

    def shown(self, type_: str) -> dict[str, int]:
        """Return the limit of a type's groups as people see it; nothing, if there is none."""
        out = self._out.get(type_)
        return {} if out is None else {"group_max_running": out.most}

    def most_running(self, type_: str, group: str | None) -> int:
        """Return how many jobs of a group run here, where that is as many as may; 0: others may run."""
        out = self._out.get(type_)
        if out is None or group is None or out.counts[group] < out.most:
            return 0
        return out.counts[group]

    def found(self, run: Run) -> Run:
        """Take in that a job runs that was not given out here; return its run, by whose handle its end is known."""
        out = self._out.get(run.type)
        if run.group is None or out is None:
            return run
        out.add(run.claim.key, run.group)
        return replace(run, handle=_Handle(run.type, run.group))

    def lose(self, run: Run) -> None:
        """Take in that a run is another server's from now on."""
        claim = run.claim
        self._back([Entry(claim.order, claim.id, run.type, run.prio, run.handle)], waits=False)

    async def forget(self, entries: Sequence[Entry]) -> None:
        """See Broker.forget."""
        await self._broker.forget(entries)

    def problems(self) -> list[str]:
        """See Broker.problems."""
        return self._broker.problems()

    def backlog(self, type_: str) -> bool:
        """See Broker.backlog. Where a type's groups are limited, new jobs of it have to pass through here, all of them."""
        return type_ in self._lines or type_ in self._out or self._broker.backlog(type_)
