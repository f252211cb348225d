"""How ready jobs reach those who run them.

A `Taker` is whoever runs jobs: it says which types it takes, with which weights, and how many runs it has room for now.
Each taker is served by one task, which sleeps until there is room and something ready; while a claim is being committed,
what becomes ready and free gathers for the next one. New jobs may skip the broker (`direct`): they are stored and claimed in
one commit, or claimed as they are journaled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from kqs.broker.base import Broker
from kqs.clock import Clock
from kqs.errors import BrokerError, KqsError, StoreUnavailableError
from kqs.job import Accepted, Claim, Entry, Run
from kqs.log import get_logger
from kqs.queue.admission import may_run
from kqs.store import base
from kqs.store.base import Granted, Store
from kqs.trouble import Trouble

log = get_logger("kqs.queue")

#: how long to wait before asking a store or broker that failed again, in s
RETRY_WAIT_S = 0.2
#: entries of one claim: enough that a commit of its own costs them nothing, few enough for one statement
CLAIM_ENTRIES = 4000
#: shorter data is not counted: all that room is ever claimed for takes a few MiB of it
LONG_BYTES = 4096


class Taker:
    """Somebody who runs jobs. `deliver` is called with claimed runs, never more than `room` in all."""

    def __init__(self, worker: str, weights: Mapping[str, int], room: int, deliver: Callable[[list[Run]], None]) -> None:
        self.worker = worker
        self.weights = weights
        self.types = frozenset(weights)
        self.deliver = deliver
        self._room = room
        self._has_room = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._is_light = asyncio.Event()
        self._is_light.set()
        #: data of long runs that were delivered and have not begun; while it is 0, `begin` need not be called
        self.unbegun_bytes = 0
        self.stopped = False
        #: how much room is worth a commit of its own: 1, unless runs are so short that more will be free at once
        self.worth = 1
        #: called when room is made while nothing is ready for it
        self.on_room: Callable[[], None] | None = None
        if room:
            self._has_room.set()

    @property
    def room(self) -> int:
        """Return how many more runs it can take now."""
        return 0 if self.stopped else self._room

    def take(self, count: int) -> None:
        """Count `count` runs as on their way."""
        self._room -= count
        if self._room <= 0:
            self._has_room.clear()

    def free(self, count: int = 1) -> None:
        """Make room again: `count` runs ended, or were not granted."""
        room = self._room
        self._room = room + count
        if room <= 0 < room + count:
            self._has_room.set()
        if room < self.worth <= room + count and self.on_room is not None:
            self.on_room()

    async def wait_room(self) -> None:
        """Return when there is room, and not too much data waits for its run to begin."""
        await self._is_light.wait()
        await self._has_room.wait()

    def weigh(self, runs: Sequence[Run]) -> None:
        """Note that the data of delivered runs is in memory until they `begin`."""
        self.unbegun_bytes += sum([len(run.data) for run in runs if len(run.data) > LONG_BYTES])
        if self.unbegun_bytes > base.DATA_BYTES:
            self._is_light.clear()

    def begin(self, run: Run) -> None:
        """Note that a delivered run begins, or was given back."""
        if len(run.data) > LONG_BYTES:
            self.unbegun_bytes -= len(run.data)
            if self.unbegun_bytes <= base.DATA_BYTES:
                self._is_light.set()

    async def stop(self) -> None:
        """Take no more; return when the claims under way have been delivered."""
        self.stopped = True
        await self._settled.wait()

    @contextmanager
    def claiming(self) -> Iterator[None]:
        """Mark the time in which a claim may be granted that must still be delivered."""
        self._settled.clear()
        try:
            yield
        finally:
            self._settled.set()


class Dispatcher:
    """Serves every taker."""

    def __init__(
        self,
        store: Store,
        broker: Broker,
        clock: Clock,
        on_hungry: Callable[[], None],
        keep_damaged_s: float | None = None,
    ) -> None:
        """Args: on_hungry: called when a taker has room and nothing is ready, so that whoever holds new jobs back lets go.

        keep_damaged_s: as for Store.claim.
        """
        self._store = store
        self._broker = broker
        self._clock = clock
        self._on_hungry = on_hungry
        self._keep_damaged_s = keep_damaged_s
        self._takers: list[Taker] = []

    @property
    def takers(self) -> Sequence[Taker]:
        """Return those who take jobs now."""
        return self._takers

    def idle_taker(self, type_: str) -> Taker | None:
        """Return who has room for a new job of this type now, unless others wait before it."""
        for taker in self._takers:
            if taker.room >= taker.worth and type_ in taker.types:
                return None if self._broker.backlog(type_) else taker
        return None

    def is_handled(self, type_: str) -> bool:
        """Tell whether anybody takes this type at all."""
        return any(type_ in taker.types for taker in self._takers)

    async def serve(self, taker: Taker) -> None:
        """Bring `taker` jobs until it stops. The body of a task. Raises: StoreError: trouble that does not pass."""
        self._takers.append(taker)
        trouble = Trouble(log, "cannot reserve, trying again", "reserves again", self._clock.monotonic)
        try:
            while not taker.stopped:
                await taker.wait_room()
                try:
                    await self._bring(taker)
                except (StoreUnavailableError, BrokerError) as error:
                    trouble.met(error=str(error))
                    await asyncio.sleep(RETRY_WAIT_S)
                else:
                    trouble.over()
        finally:
            self._takers.remove(taker)

    async def _bring(self, taker: Taker) -> None:
        room = min(taker.room, CLAIM_ENTRIES)
        if room <= 0:
            return
        entries = await self._broker.reserve(taker.weights, room)
        if not entries:
            await self._wait_ready(taker)
            return
        room = max(taker.room, 0)  # new jobs may have taken some of it meanwhile
        taken, surplus = entries[:room], entries[room:]
        try:
            await self._deliver(taker, taken)
        finally:
            if surplus:
                await self._broker.release(surplus)

    async def _deliver(self, taker: Taker, entries: list[Entry]) -> None:
        taker.take(len(entries))
        with taker.claiming():
            runs = await self._claim(taker, entries) if entries else Granted()
            if runs:
                taker.deliver(runs)
        if len(runs) < len(entries):
            taker.free(len(entries) - len(runs))
            await self._return(entries, runs)

    async def _wait_ready(self, taker: Taker) -> None:
        self._on_hungry()
        taker.on_room = self._on_hungry
        try:
            await self._broker.wait_ready(taker.types)
        finally:
            taker.on_room = None

    async def _claim(self, taker: Taker, entries: list[Entry]) -> Granted:
        try:
            return await self._store.claim(entries, taker.worker, self._clock.now(), self._keep_damaged_s)
        except KqsError:
            taker.free(len(entries))
            await self._broker.release(entries)
            raise

    async def _return(self, entries: list[Entry], runs: Granted) -> None:
        """Have the broker forget what is not ready any more, and keep what was left."""
        kept = {run.claim.id for run in runs} | {entry.id for entry in runs.left}
        await self._broker.delete([entry for entry in entries if entry.id not in kept])
        if runs.left:
            await self._broker.release(list(runs.left))

    def pick_direct(self, jobs: Sequence[Accepted], now: float) -> list[tuple[Taker, Accepted]]:
        """Choose the new jobs that meet an idle lane, mark them as claimed now and count them with their taker.

        None is chosen of a type that has jobs waiting: a new job queues behind those, or would overtake them.
        """
        picked: list[tuple[Taker, Accepted]] = []
        types = {job.type for job in jobs}
        behind = {type_ for type_ in types if self._broker.backlog(type_)}
        for taker in self._takers:
            if taker.room <= 0 or taker.types.isdisjoint(types):
                continue
            for job in _by_rank(jobs):
                if taker.room <= 0:
                    break
                is_free = job.type in taker.types and job.type not in behind and not job.claimed_at
                if is_free and not job.due_at and may_run(job.expire_at, now):
                    job.claimed_at = now
                    taker.take(1)
                    picked.append((taker, job))
        return picked

    def deliver_direct(self, picked: list[tuple[Taker, Accepted]], known: frozenset[int], epoch: int) -> None:
        """Hand over the picked jobs that were stored; `known` are the orders that were not, being there already."""
        by_taker: dict[int, tuple[Taker, list[Run]]] = {}
        for taker, job in picked:
            if job.order in known:
                taker.free(1)
                continue
            by_taker.setdefault(id(taker), (taker, []))[1].append(first_run(job, epoch))
        for taker, runs in by_taker.values():
            taker.deliver(runs)

    @staticmethod
    def undo_direct(picked: list[tuple[Taker, Accepted]]) -> None:
        """Take back `pick_direct`: the jobs could not be stored."""
        for taker, job in picked:
            job.claimed_at = 0.0
            taker.free(1)


def _by_rank(jobs: Sequence[Accepted]) -> Sequence[Accepted]:
    first = jobs[0].prio
    if all(job.prio == first for job in jobs):
        return jobs
    return sorted(jobs, key=lambda job: (job.prio, job.order))


def first_run(job: Accepted, epoch: int) -> Run:
    """Return the run of a new job that was claimed in boot `epoch`."""
    return Run(
        Claim(job.order, job.id, 1, epoch),
        job.type,
        job.prio,
        job.data,
        job.options,
        started_at=job.claimed_at,
        expire_at=job.expire_at,
    )


def entry_of(job: Accepted, body_bytes: int | None) -> Entry:
    """Return what a broker with these `body_bytes` is told of a job."""
    if body_bytes is None:
        return Entry(job.order, job.id, job.type, job.prio)
    return Entry(job.order, job.id, job.type, job.prio, None, job.options, _if_short(job.data, body_bytes))


def entry_again(run: Run, body_bytes: int | None) -> Entry:
    """Return what a broker with these `body_bytes` is told of a job that ran and waits again."""
    claim = run.claim
    if body_bytes is None:
        return Entry(claim.order, claim.id, run.type, run.prio)
    return Entry(claim.order, claim.id, run.type, run.prio, None, run.options, _if_short(run.data, body_bytes))


def _if_short(data: bytes, most: int) -> bytes | None:
    return data if len(data) <= most else None
