"""What an owner asks about jobs, types and workers, put together from the parts that know it. Call from the loop thread.

However many types or workers there are, the loop is not held: what is long is made a few rows at a time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from heapq import merge, nsmallest
from itertools import groupby, islice
from typing import Any, TypeVar

from kqs.errors import CallError, StoreUnavailableError
from kqs.job import JobRecord
from kqs.parts import Parts
from kqs.remote import Party
from kqs.rpc.parameters import TypesQuery
from kqs.states import State, waiting_count
from kqs.store.base import Holder
from kqs.views import explain
from kqs.views.counted import Counted
from kqs.views.explain import Turn
from kqs.views.shared import Shared

#: `types` looks at so many priorities of a type for its oldest job
OLDEST_PRIOS = 16
#: types of which the store is asked for the oldest at a time: 4 ms, if each has jobs at so many priorities
TYPES_AT_ONCE = 100
#: names or types that one row shows; it counts them all
MOST_NAMES = 20
#: who asks how all is does not wait longer than this for the store
ANSWERS_WITHIN_S = 2.0
#: rows of `workers`
MOST_WORKERS = 1000
#: rows that are made in one turn of the loop
ROWS_AT_ONCE = 20
#: names that are looked through in one turn of the loop
NAMES_AT_ONCE = 2000

T = TypeVar("T")


async def soon(answer: Awaitable[T]) -> T:
    """Return what the store answers. Raises: StoreUnavailableError: also if it takes too long."""
    try:
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            return await answer
    except TimeoutError:
        raise StoreUnavailableError(f"the store has not answered for {ANSWERS_WITHIN_S:g} s") from None


class Views:
    """See the module docstring. Raises: StoreUnavailableError, from whatever asks the store."""

    def __init__(self, parts: Parts, find: Callable[[str], Awaitable[JobRecord | None]]) -> None:
        """Args: find: returns a job's record, also of one that the store has yet to take; raises CallError: nobody knows."""
        self._feeder = parts.feeder
        self._queue = parts.queue
        self._worker = parts.worker
        self._desk = parts.desk
        self._inserter = parts.inserter
        self._children = parts.children
        self._find = find
        self._since = parts.queue.clock.now()
        self._counted = Shared(self._count)

    def is_handled(self, type_: str) -> bool:
        """Tell whether somebody takes jobs of this type here, or does as soon as it has been started."""
        return type_ in self._children.types or self._queue.admission.is_handled(type_)

    async def counted(self) -> Counted:
        """Return what the store holds, now or later. Raises: as `soon`."""
        return await soon(self._counted.get())

    async def _count(self) -> Counted:
        return await Counted.summed(await self._queue.reads.counts(), self.is_handled)

    async def explain(self, job_id: str) -> dict[str, Any] | None:
        """Return why a job is where it is; None: nobody knows it."""
        try:
            record = await self._find(job_id)
        except CallError:
            if not self._is_journaled(job_id):
                raise
            return explain.journaled(job_id)
        if record is None:
            return None
        now = self._queue.clock.now()
        suspended_at = self._queue.admission.suspended.get(record.type)
        is_handled, before, holder, group_most, turn = self.is_handled(record.type), 0, None, 0, None
        if suspended_at is None and explain.is_ready(record, now):
            holder = await self._holder(record)
            if holder is None and is_handled:
                turn = await self._turn(record)
                before = await self._queue.reads.before(record, explain.MOST_BEFORE + 1)
                group_most = self._queue.groups.most_running(record.type, record.group)
        reached = self._queue.limiting.reached(record.type)
        return explain.explained(explain.Seen(record, now, suspended_at, is_handled, before, holder, group_most, reached, turn))

    async def _holder(self, record: JobRecord) -> Holder | None:
        """Return which other job has the resource that a waiting one needs."""
        holder = None if record.resource is None else await self._queue.reads.holder(record.resource)
        return None if holder is None or holder.id == record.id else holder

    async def _turn(self, record: JobRecord) -> Turn | None:
        """Return which other job is to have the resource that a waiting one needs."""
        first = None if record.resource is None else await self._queue.reads.turn(record)
        if first is None:
            return None
        is_suspended = first.type in self._queue.admission.suspended
        return Turn(first.id, first.type, is_suspended, self.is_handled(first.type))

    def _is_journaled(self, job_id: str) -> bool:
        """Tell whether an id is of a job that this server has accepted, and may not have stored."""
        order = self._inserter.ids.order_of(job_id)
        return order is not None and self._feeder.checkpointed_order <= order <= self._inserter.ids.last_order

    async def types(self, query: TypesQuery) -> list[dict[str, Any]]:
        """Return up to `query.limit` types by name, beginning after the type `query.after`."""
        counts = await self._page(query)
        names = list(counts)
        waiting = [name for name in names if waiting_count(counts[name])]
        oldest: dict[str, float] = {}
        for start in range(0, len(waiting), TYPES_AT_ONCE):
            oldest |= await self._queue.reads.oldest(waiting[start : start + TYPES_AT_ONCE], OLDEST_PRIOS)
        workers = self._takers(set(names))
        rows: list[dict[str, Any]] = []
        for name in names:
            if rows and not len(rows) % ROWS_AT_ONCE:
                await asyncio.sleep(0)
            rows.append(self._type(name, counts[name], oldest.get(name), workers.get(name, [])))
        return rows

    async def _page(self, query: TypesQuery) -> dict[str, dict[State, int]]:
        """Return by name, for the first types after `query.after` that are known here or there, what is stored of them."""
        others = self._others()
        if query.type is not None:
            counts = (await self.counted()).counts
            return {query.type: counts.get(query.type, {})} if query.type in counts or query.type in others else {}
        after, first, rest = query.after or "", list[str](), iter(others)
        while some := list(islice(rest, NAMES_AT_ONCE)):
            first = nsmallest(query.limit, [*first, *(name for name in some if name > after)])
            await asyncio.sleep(0)
        counted = await self.counted()
        names = (name for name, _ in groupby(merge(first, counted.after(after))))
        return {name: counted.counts.get(name, {}) for name in islice(names, query.limit)}

    def _others(self) -> set[str]:
        """Return the types that are known here, whether or not there are jobs of them."""
        queue = self._queue
        taken = [consumer.types for consumer in queue.admission.consumers]
        known = {*queue.admission.suspended, *queue.limiting.types, *queue.meter.types, *self._inserter.subscribers}
        return known.union(*taken, self._children.types)

    def _takers(self, names: set[str]) -> dict[str, list[str]]:
        """Return by type the names of those who take it here."""
        takers: defaultdict[str, list[str]] = defaultdict(list)
        for consumer in self._queue.admission.consumers:
            for type_ in consumer.types & names:
                takers[type_].append(consumer.worker)
        return takers

    def _type(self, name: str, counts: dict[State, int], oldest_at: float | None, workers: list[str]) -> dict[str, Any]:
        queue = self._queue
        return {
            "type": name,
            "counts": {state.word: counts[state] for state in State if counts.get(state)},
            "oldest_s": None if oldest_at is None else round(max(0.0, queue.clock.now() - oldest_at), 3),
            **queue.meter.shown(name),
            "suspended_at": queue.admission.suspended.get(name),
            "limits": self._limits(name),
            **self._fan_out(name),
            "workers": sorted(set(workers))[:MOST_NAMES],
            "workers_count": len(workers),
        }

    def _limits(self, name: str) -> dict[str, Any]:
        """Return what each part that bounds a type says of that."""
        queue = self._queue
        having = (queue.admission, queue.groups, queue.limiting, queue.bounds)
        return {word: value for part in having for word, value in part.shown(name).items()}

    def _fan_out(self, name: str) -> dict[str, Any]:
        subscribers = self._inserter.subscribers.get(name)
        return {"fan_out": sorted(subscribers)} if subscribers else {}

    async def workers(self) -> list[dict[str, Any]]:
        """Return who runs jobs of this server: itself, its children, workers elsewhere, and those that are away with some."""
        rows = [self._own()] if self._worker.lanes_count else []
        parties = sorted(self._desk.parties, key=lambda party: (not party.is_child, party.worker, party.since))
        for party in parties[:MOST_WORKERS]:
            if rows and not len(rows) % ROWS_AT_ONCE:
                await asyncio.sleep(0)
            if party.worker and not party.is_gone:
                rows.append(_party(party))
        return (rows + self._away())[:MOST_WORKERS]

    def _own(self) -> dict[str, Any]:
        worker = self._worker
        open_count = worker.busy_count
        return {
            "name": worker.name,
            "kind": "server",
            "address": None,
            **_some_types(worker.types),
            "room": max(0, worker.lanes_count - open_count),
            "open": open_count,
            "since": self._since,
            "done": worker.done_count,
            "failed": worker.failed_count,
        }

    def _away(self) -> list[dict[str, Any]]:
        by_worker: defaultdict[str | None, list[str]] = defaultdict(list)
        for run in self._desk.away:
            by_worker[run.worker].append(run.run.type)
        gone = {"kind": "away", "address": None}
        return [
            {"name": name, **gone, **_some_types(set(types)), "room": 0, "open": len(types), "since": None}
            | {"done": None, "failed": None}
            for name, types in sorted(by_worker.items(), key=lambda row: row[0] or "")
        ]


def _party(party: Party) -> dict[str, Any]:
    types: set[str] = set()
    return {
        "name": party.worker,
        "kind": "child" if party.is_child else "remote",
        "address": None if party.is_child else party.address,
        **_some_types(types.union(*[order.pool.consumer.types for order in party.orders])),
        "room": sum(max(0, order.room) for order in party.orders),
        "open": party.runs_count,
        "since": party.since,
        "done": party.done_count,
        "failed": party.failed_count,
    }


def _some_types(types: set[str] | frozenset[str]) -> dict[str, Any]:
    return {"types": nsmallest(MOST_NAMES, types), "types_count": len(types)}
