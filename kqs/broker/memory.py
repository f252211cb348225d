"""The in-process broker: per type the foremost ready jobs, the rest left in the store until their turn is near.

It knows only types that some `reserve` has asked for. A put of any other type is dropped, and its name remembered as `cold`:
when the type is first asked for, its entries come from the store. So neither a long backlog nor types without end take
memory: at most twice `max_entries` per type that is asked for.

A type that left entries in the store is *partial* (kqs.broker.waiting) and is refilled before it runs dry. What is put
while a refill is under way may or may not be in its answer, so it is kept aside and joined with it. At most one refill per
type. Call from the loop thread only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from kqs.broker.base import Refill
from kqs.broker.turns import Turns
from kqs.broker.waiters import Waiters
from kqs.broker.waiting import NOTHING, WHOLE, Waiting
from kqs.errors import StoreUnavailableError
from kqs.job import Entry
from kqs.log import get_logger
from kqs.supervisor import Supervisor, when_done
from kqs.trouble import Trouble

#: between two tries to refill a type from a store that refuses, in s: the first wait, which doubles, and the longest
BACKOFF_FIRST_S = 0.1
BACKOFF_LAST_S = 5.0
_MAX_COLD = 10_000  # names; beyond it every unknown type is taken to be waiting in the store
_MAX_LINES = 1_000  # types asked for, before those that nobody asks for any more are forgotten

_log = get_logger("kqs.broker")
_type_of = attrgetter("type")


class _Line:
    """A type that is asked for. aside: what was put since the refill under way began, or None when there is none."""

    __slots__ = ("aside", "asked", "backoff_s", "is_blocked", "waiting")

    def __init__(self, waiting: Waiting) -> None:
        self.waiting = waiting
        self.aside: Waiting | None = None
        self.backoff_s = BACKOFF_FIRST_S
        self.is_blocked = False  # a refill has failed, and its back-off is not over
        self.asked = True  # since the last sweep


class MemoryBroker:
    """See the module docstring."""

    body_bytes: int | None = None

    def __init__(self, supervisor: Supervisor, max_entries: int = 10_000) -> None:
        """Args: max_entries: >= 1, per type; up to twice as many are kept at times."""
        assert max_entries >= 1, max_entries
        self._supervisor = supervisor
        self._max_entries = max_entries
        self._low_count = self._refill_count = max(1, max_entries // 2)
        self._refill: Refill | None = None
        self._lines: dict[str, _Line] = {}
        self._ready: dict[str, _Line] = {}  # those of `_lines` that have an entry, or may have one in the store
        self._cold: set[str] | None = set()  # unknown types with entries in the store; None: too many to name
        self._max_lines = _MAX_LINES
        self._turns = Turns()
        self._waiters = Waiters()
        self._refills: dict[str, asyncio.Task[None]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._trouble = Trouble(_log, "cannot fetch what waits in the store, trying again", "fetches from the store again")
        self._fault: Exception | None = None

    async def start(self, refill: Refill, waiting: Mapping[str, int], store_id: str = "") -> None:
        """Begin, in O(types): nothing is fetched before it is asked for."""
        self._refill = refill
        for type_, count in waiting.items():
            if count > 0:
                self._add_cold(type_)

    async def close(self) -> None:
        """End the refills under way. Waiters stay where they are; their owners cancel them."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._supervisor.end(*self._refills.values())
        self._refill = None

    async def put(self, entries: Sequence[Entry]) -> None:
        """Offer ready jobs; those that the store would give later anyhow are dropped."""
        types = set()
        for type_, group in groupby(entries, _type_of):
            types.add(type_)
            line = self._lines.get(type_)
            if line is None:
                self._add_cold(type_)
            else:
                self._put(type_, line, list(group))
        if self._waiters:
            self._waiters.wake(types)

    async def recheck(self, types: Collection[str]) -> None:
        """Count none of these types as whole; what is held of one already is fetched anew before it runs dry."""
        for type_ in types:
            line = self._lines.get(type_)
            if line is None:
                self._add_cold(type_)
            elif line.aside is None:
                line.waiting = Waiting(self._max_entries, NOTHING)
                self._ready[type_] = line
        self._waiters.wake(types)

    async def reserve(self, weights: Mapping[str, int], count: int, most_of: Callable[[str], int] | None = None) -> list[Entry]:
        """Take up to `count` entries of the types in `weights`, in fair turns.

        When nothing is at hand but a refill is under way, it is awaited; cancelling meanwhile takes nothing.
        Raises: whatever a refill met that does not pass: damage or a bug, for the caller to die of. Nothing was taken.
        """
        while True:
            types = self._ask(weights)
            if taken := self._take(types, weights, count, most_of):
                return taken
            refills = [self._refills[type_] for type_ in types if type_ in self._refills]
            if not refills or count < 1:
                return []
            await asyncio.wait(refills, return_when=asyncio.FIRST_COMPLETED)

    async def wait_ready(self, types: frozenset[str], closed: frozenset[str] = frozenset()) -> None:
        """Return when an entry of one of `types` may have become ready. Every waiter of a type is woken by a put of it."""
        if not self._may_have(types):
            await self._waiters.wait(types, closed=closed)

    def wake(self, types: Collection[str] | None = None) -> None:
        """Have everybody return who is in `wait_ready`, for one of these types if some are named."""
        self._waiters.open(types)

    async def delete(self, entries: Sequence[Entry]) -> None:
        """Forget reserved entries: nothing to do, since taking one forgot it."""

    async def forget(self, entries: Sequence[Entry]) -> None:
        """Forget waiting entries."""
        for type_, group in groupby(sorted(entries, key=_type_of), _type_of):
            if (line := self._lines.get(type_)) is not None:
                ids = {entry.id for entry in group}
                line.waiting.drop(ids)
                if line.aside is not None:
                    line.aside.drop(ids)
                self._settle(type_, line)

    async def release(self, entries: Sequence[Entry]) -> None:
        """Give reserved entries back, in their old places."""
        await self.put(entries)

    def problems(self) -> list[str]:
        """Return nothing: a store that refuses tells of itself."""
        return []

    def backlog(self, type_: str) -> bool:
        """Tell whether an entry of this type is waiting, or may be waiting in the store."""
        return type_ in self._ready or (type_ not in self._lines and self._is_cold(type_))

    def _is_cold(self, type_: str) -> bool:
        return self._cold is None or type_ in self._cold

    def _add_cold(self, type_: str) -> None:
        if self._cold is not None:
            self._cold.add(type_)
            if len(self._cold) > _MAX_COLD:
                self._cold = None

    def _ask(self, weights: Mapping[str, int]) -> list[str]:
        """Make lines for types that are asked for the first time; return those that may have entries, refills begun."""
        if self._fault is not None:
            raise self._fault
        if not weights.keys() <= self._lines.keys():
            for type_ in weights.keys() - self._lines.keys():
                self._open_line(type_)
        types = list(weights.keys() & self._ready.keys())
        for type_ in types:
            line = self._ready[type_]
            line.asked = True
            if line.waiting.is_partial and len(line.waiting) < self._low_count:
                self._begin_refill(type_, line)
        return types

    def _open_line(self, type_: str) -> None:
        if len(self._lines) >= self._max_lines:
            self._forget_lines()
        is_cold = self._is_cold(type_)
        line = self._lines[type_] = _Line(Waiting(self._max_entries, NOTHING if is_cold else WHOLE))
        if is_cold:
            self._ready[type_] = line
            if self._cold is not None:
                self._cold.discard(type_)

    def _forget_lines(self) -> None:
        """Forget lines that nobody has asked for since the last sweep; the next one is due when their number has doubled."""
        for type_, line in list(self._lines.items()):
            if line.asked or line.aside is not None or line.is_blocked:
                line.asked = False
                continue
            del self._lines[type_]
            if self._ready.pop(type_, None) is not None:
                self._add_cold(type_)
        self._max_lines = max(_MAX_LINES, 2 * len(self._lines))

    def _put(self, type_: str, line: _Line, entries: list[Entry]) -> None:
        if line.aside is not None:
            horizon = line.waiting.horizon
            line.aside.add(entry for entry in entries if entry.rank > horizon)
        line.waiting.add(entries)
        self._ready[type_] = line

    def _take(
        self, types: list[str], weights: Mapping[str, int], count: int, most_of: Callable[[str], int] | None
    ) -> list[Entry]:
        waiting = {type_: held for type_ in types if (held := len(self._ready[type_].waiting))}
        if most_of is not None:
            waiting = {type_: most for type_, held in waiting.items() if (most := min(held, most_of(type_)))}
        if len(waiting) == 1:
            shares = {type_: min(most, count) for type_, most in waiting.items()}
        else:
            shares = self._turns.share(waiting, weights, count)
        taken: list[Entry] = []
        for type_, share in shares.items():
            line = self._ready[type_]
            taken += line.waiting.take(share)
            self._settle(type_, line)
        return taken

    def _settle(self, type_: str, line: _Line) -> None:
        """List the line as ready, or not."""
        if line.waiting or line.waiting.is_partial:
            self._ready[type_] = line
        else:
            self._ready.pop(type_, None)

    def _may_have(self, types: frozenset[str]) -> bool:
        for type_ in types & self._ready.keys():
            line = self._ready[type_]
            if line.waiting or (line.aside is None and not line.is_blocked):
                return True
        return any(self._is_cold(type_) for type_ in types - self._lines.keys())

    def _begin_refill(self, type_: str, line: _Line) -> None:
        if line.aside is None and not line.is_blocked:
            line.aside = Waiting(self._max_entries, WHOLE)
            self._refills[type_] = self._supervisor.spawn(self._run_refill(type_, line), f"refill {type_}", when_done)

    async def _run_refill(self, type_: str, line: _Line) -> None:
        after = line.waiting.horizon
        assert self._refill is not None, "not started"
        try:
            found = await self._refill(type_, None if after is NOTHING else after, self._refill_count)
        except StoreUnavailableError as fault:
            self._block(type_, line, fault)
        except Exception as fault:  # damage or a bug: it must not be tried again and again until the node has stopped
            self._fault = fault
            self._supervisor.fault(f"refill {type_}", fault)
        else:
            self._join(line, found, is_all=len(found) < self._refill_count, was=after)
            line.backoff_s = BACKOFF_FIRST_S
            self._trouble.over()
        finally:
            line.aside = None
            del self._refills[type_]
        self._settle(type_, line)
        self._waiters.wake({type_})

    def _join(self, line: _Line, found: list[Entry], *, is_all: bool, was: tuple[int, int]) -> None:
        """Take in a refill's answer and what was put beside it.

        If the horizon sank meanwhile, what was found no longer joins on to what is held: all of it stays in the store.
        The new horizon is where either of the two ends first; neither knows what lies beyond its own end.
        """
        aside = line.aside
        assert aside is not None
        if line.waiting.horizon != was:
            return
        reached = WHOLE if is_all else found[-1].rank
        line.waiting.horizon = min(reached, aside.horizon)
        line.waiting.add(found)
        known = {entry.id for entry in found}
        line.waiting.add(entry for entry in aside.take(len(aside)) if entry.id not in known)

    def _block(self, type_: str, line: _Line, fault: StoreUnavailableError) -> None:
        """Leave the type as it is, and its refill for later."""
        self._trouble.met(type=type_, error=str(fault))
        line.is_blocked = True
        self._timers[type_] = self._supervisor.call_later(line.backoff_s, "broker", self._unblock, type_, line)
        line.backoff_s = min(2 * line.backoff_s, BACKOFF_LAST_S)

    def _unblock(self, type_: str, line: _Line) -> None:
        del self._timers[type_]
        line.is_blocked = False
        self._waiters.wake({type_})
