"""Which ready jobs are offered to the servers, and which stay in the store for now.

Invariant, per type: every ready job of rank <= `horizon` has been placed on a server and not been seen again, or is on its way
there; those beyond may be only in the store. `WHOLE` means that nothing was left out. Whatever goes wrong lowers the horizon,
to `NOTHING` if need be; a refill from the store raises it again, passing over what a server is believed to hold. What is placed
twice all the same, the store's claim refuses: after a restart, say, the servers hold jobs that we do not know of. The more of
those, the less is placed beside them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Protocol

from kqs.broker.base import Refill
from kqs.broker.waiting import NOTHING, WHOLE, Rank
from kqs.errors import StoreUnavailableError
from kqs.job import Entry
from kqs.log import get_logger
from kqs.supervisor import Supervisor, when_done
from kqs.trouble import Trouble

#: a type whose refill failed, or found no room, is left alone for so long, in s
RETRY_S = 1.0
#: at a time, so that thousands of types do not all ask the store at once
MAX_REFILLS = 8
_MAX_LINES = 10_000  # types, before those of which nothing waits are forgotten

_log = get_logger("kqs.broker")


class Place(Protocol):
    """Where jobs are put; the pool."""

    @property
    def takes_puts(self) -> bool:
        """Tell whether any job can be placed now."""
        ...

    def place(self, type_: str, entries: Sequence[Entry]) -> bool:
        """Place jobs of one type, in rank order; False when that cannot be done now."""
        ...

    def count(self, type_: str) -> int:
        """Return how many jobs of a type are placed."""
        ...

    def crowd(self, type_: str) -> int:
        """Return how many jobs of a type are there, counting those that we do not know to have placed."""
        ...

    def knows(self, type_: str, order: int) -> bool:
        """Tell whether this job is placed."""
        ...

    def forget_idle_shelves(self) -> None:
        """Let go of types of which nothing is placed."""
        ...


class _Line:
    __slots__ = ("horizon", "lowered", "not_before", "refill")

    def __init__(self, horizon: Rank) -> None:
        self.horizon = horizon
        self.lowered = WHOLE  # the least horizon asked for since the refill under way began
        self.refill: asyncio.Task[None] | None = None
        self.not_before = 0.0  # loop time


class Supply:
    """See the module docstring. Call from the loop thread. fault: what a refill met that does not pass, or None."""

    def __init__(self, pool: Place, max_entries: int, placed: Callable[[str], None], supervisor: Supervisor) -> None:
        """Args: max_entries: jobs placed per type, twice as many if urgent ones come. placed: told of types with new jobs."""
        self._pool = pool
        self._supervisor = supervisor
        self._max_entries = max_entries
        self._page = max(1, max_entries // 2)
        self._placed = placed
        self._refill: Refill | None = None
        self._lines: dict[str, _Line] = {}
        self._partial: set[str] = set()
        self._queued: OrderedDict[str, None] = OrderedDict()  # types to be looked at when a refill ends, in the order they came
        self._refill_count = 0
        self._loop = asyncio.get_running_loop()
        self._trouble = Trouble(_log, "cannot fetch what waits in the store, trying again", "fetches from the store again")
        self.fault: Exception | None = None

    def start(self, refill: Refill, waiting: Mapping[str, int]) -> None:
        """Begin with types of which the store holds ready jobs."""
        self._refill = refill
        for type_, count in waiting.items():
            if count > 0:
                self.recheck(type_)

    async def stop(self) -> None:
        """End the refills under way."""
        self._refill = None
        refills = [line.refill for line in self._lines.values() if line.refill is not None]
        await self._supervisor.end(*refills)

    def is_partial(self, type_: str) -> bool:
        """Tell whether the store may hold ready jobs of a type that are not placed."""
        return type_ in self._partial

    def offer(self, type_: str, entries: list[Entry]) -> None:
        """Place ready jobs of one type, or leave them in the store."""
        line = self._line(type_)
        entries.sort(key=attrgetter("rank"))
        if entries[-1].rank > line.horizon:
            within = [entry for entry in entries if entry.rank <= line.horizon]
            self.leave(type_, entries[len(within)])
        else:
            within = entries
        limit = self._max_entries if line.horizon is WHOLE else 2 * self._max_entries
        room = max(0, limit - self._pool.count(type_))
        if room and within and not self._place(type_, within[:room]):
            room = 0
        if room < len(within):
            self.leave(type_, within[room])

    def leave(self, type_: str, first: Entry) -> None:
        """Note that a ready job, and maybe others of its type and of later rank, are only in the store."""
        prio, order = first.rank
        self._lower(type_, self._line(type_), (prio, order - 1))

    def recheck(self, type_: str) -> None:
        """Note that any ready job of a type may be only in the store."""
        self._lower(type_, self._line(type_), NOTHING)

    def _lower(self, type_: str, line: _Line, horizon: Rank) -> None:
        line.horizon = min(line.horizon, horizon)
        line.lowered = min(line.lowered, horizon)
        self._partial.add(type_)
        self.refill(type_)

    def _line(self, type_: str) -> _Line:
        line = self._lines.get(type_)
        if line is None:
            line = self._lines[type_] = _Line(WHOLE)
        return line

    def _place(self, type_: str, entries: Sequence[Entry]) -> bool:
        if not self._pool.place(type_, entries):
            return False
        self._placed(type_)
        return True

    def refill_all(self) -> None:
        """Begin every refill that is due; forget types of which nothing waits when they are many."""
        self._queued.update(dict.fromkeys(self._partial))
        self._refill_queued()
        if len(self._lines) > _MAX_LINES:
            self._lines = {type_: self._lines[type_] for type_ in self._partial}
            self._pool.forget_idle_shelves()

    def _refill_queued(self) -> None:
        while self._queued and self._refill_count < MAX_REFILLS:
            self.refill(self._queued.popitem(last=False)[0])

    def refill(self, type_: str) -> None:
        """Begin a refill of this type if it is due, now or when one of the others ends."""
        if type_ not in self._partial:
            return
        if self._refill_count >= MAX_REFILLS:
            self._queued[type_] = None
            return
        if not self._is_due(self._lines[type_], type_):
            return
        line = self._lines[type_]
        line.lowered = WHOLE
        self._refill_count += 1
        line.refill = self._supervisor.spawn(self._run_refill(type_, line), f"refill {type_}", when_done)

    def _is_due(self, line: _Line, type_: str) -> bool:
        return (
            line.refill is None
            and self._refill is not None
            and self.fault is None
            and self._pool.takes_puts
            and line.not_before <= self._loop.time()
            and self._pool.count(type_) <= self._page
            and self._pool.crowd(type_) <= 2 * self._max_entries - self._page
        )

    async def _run_refill(self, type_: str, line: _Line) -> None:
        after = line.horizon
        refill = self._refill
        assert refill is not None, "not started"
        try:
            found = await refill(type_, None if after <= NOTHING else after, self._page)
        except StoreUnavailableError as fault:
            self._trouble.met(type=type_, error=str(fault))
            line.not_before = self._loop.time() + RETRY_S
        except Exception as fault:  # damage or a bug: it must not be tried again and again until the node has stopped
            self.fault = fault
            self._supervisor.fault(f"refill {type_}", fault)
        else:
            self._trouble.over()
            self._take_in(type_, line, found)
        finally:
            line.refill = None
            self._refill_count -= 1
        self.refill(type_)
        self._refill_queued()

    def _take_in(self, type_: str, line: _Line, found: list[Entry]) -> None:
        """Place what a refill found. What was left while it was under way may be missing from it."""
        fresh = [entry for entry in found if not self._pool.knows(type_, entry.order)]
        if self._pool.count(type_) + len(fresh) > 2 * self._max_entries:
            return  # urgent jobs have come meanwhile; what was found is found again when there is room
        if fresh and not self._place(type_, fresh):
            line.not_before = self._loop.time() + RETRY_S
            return
        reached = found[-1].rank if len(found) >= self._page else WHOLE
        line.horizon = min(reached, line.lowered)
        if line.horizon is WHOLE:
            self._partial.discard(type_)


def by_type(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    """Return the entries of each type."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.type, []).append(entry)
    return groups
