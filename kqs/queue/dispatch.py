"""How ready jobs reach those who run them.

A `Consumer` is whoever runs jobs: it says which types it takes, with which weights, and how many runs it has room for now.
Each consumer is served by one task, which sleeps until there is room and something ready; while a claim is being committed,
what becomes ready and free gathers for the next one. New jobs may skip the broker (`direct`): they are stored and claimed in
one commit, or claimed as they are journaled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from kqs.broker.base import Broker
from kqs.clock import Clock
from kqs.errors import BrokerError, KqsError, StoreUnavailableError
from kqs.job import Accepted, Claim, Entry, Run
from kqs.log import get_logger
from kqs.queue.admission import may_run
from kqs.queue.consumer import Consumer
from kqs.store.base import Granted, Store
from kqs.trouble import Trouble

log = get_logger("kqs.queue")

#: how long to wait before asking a store or broker that failed again, in s
RETRY_WAIT_S = 0.2
#: entries of one claim: enough that a commit of its own costs them nothing, few enough for one statement
CLAIM_ENTRIES = 4000


class Dispatcher:
    """Serves every consumer."""

    def __init__(
        self,
        store: Store,
        broker: Broker,
        clock: Clock,
        on_hungry: Callable[[], None],
        keep_damaged_s: float | None = None,
    ) -> None:
        """Args: on_hungry: called when a consumer has room and nothing is ready, so that whoever holds new jobs back lets go.

        keep_damaged_s: as for Store.claim.
        """
        self._store = store
        self._broker = broker
        self._clock = clock
        self._on_hungry = on_hungry
        self._keep_damaged_s = keep_damaged_s
        self._consumers: list[Consumer] = []

    @property
    def consumers(self) -> Sequence[Consumer]:
        """Return those who take jobs now."""
        return self._consumers

    def idle_consumer(self, type_: str) -> Consumer | None:
        """Return who has room for a new job of this type now, unless others wait before it."""
        for consumer in self._consumers:
            if consumer.room >= consumer.worth and type_ in consumer.types:
                return None if self._broker.backlog(type_) else consumer
        return None

    def is_handled(self, type_: str) -> bool:
        """Tell whether anybody takes this type at all."""
        return any(type_ in consumer.types for consumer in self._consumers)

    async def serve(self, consumer: Consumer) -> None:
        """Bring `consumer` jobs until it stops. The body of a task. Raises: StoreError: trouble that does not pass."""
        self._consumers.append(consumer)
        trouble = Trouble(log, "cannot reserve, trying again", "reserves again", self._clock.monotonic)
        try:
            while not consumer.stopped:
                await consumer.wait_room()
                try:
                    await self._bring(consumer)
                except (StoreUnavailableError, BrokerError) as error:
                    trouble.met(error=str(error))
                    await asyncio.sleep(RETRY_WAIT_S)
                else:
                    trouble.over()
        finally:
            self._consumers.remove(consumer)

    async def _bring(self, consumer: Consumer) -> None:
        room = min(consumer.room, CLAIM_ENTRIES)
        if room <= 0:
            return
        entries = await self._broker.reserve(consumer.weights, room)
        if not entries:
            await self._wait_ready(consumer)
            return
        room = max(consumer.room, 0)  # new jobs may have taken some of it meanwhile
        taken, surplus = entries[:room], entries[room:]
        try:
            await self._deliver(consumer, taken)
        finally:
            if surplus:
                await self._broker.release(surplus)

    async def _deliver(self, consumer: Consumer, entries: list[Entry]) -> None:
        consumer.reserve(len(entries))
        with consumer.claiming():
            runs = await self._claim(consumer, entries) if entries else Granted()
            if runs:
                consumer.deliver(runs)
        if len(runs) < len(entries):
            consumer.free(len(entries) - len(runs))
            await self._return(entries, runs)

    async def _wait_ready(self, consumer: Consumer) -> None:
        self._on_hungry()
        consumer.on_room = self._on_hungry
        try:
            await self._broker.wait_ready(consumer.types)
        finally:
            consumer.on_room = None

    async def _claim(self, consumer: Consumer, entries: list[Entry]) -> Granted:
        try:
            return await self._store.claim(entries, consumer.worker, self._clock.now(), self._keep_damaged_s)
        except KqsError:
            consumer.free(len(entries))
            await self._broker.release(entries)
            raise

    async def _return(self, entries: list[Entry], runs: Granted) -> None:
        """Have the broker forget what is not ready any more, and keep what was left."""
        kept = {run.claim.id for run in runs} | {entry.id for entry in runs.left}
        await self._broker.delete([entry for entry in entries if entry.id not in kept])
        if runs.left:
            await self._broker.release(list(runs.left))

    def pick_direct(self, jobs: Sequence[Accepted], now: float) -> list[tuple[Consumer, Accepted]]:
        """Choose the new jobs that meet an idle lane, mark them as claimed now and count them with their consumer.

        None is chosen of a type that has jobs waiting: a new job queues behind those, or would overtake them.
        """
        picked: list[tuple[Consumer, Accepted]] = []
        types = {job.type for job in jobs}
        behind = {type_ for type_ in types if self._broker.backlog(type_)}
        for consumer in self._consumers:
            if consumer.room <= 0 or consumer.types.isdisjoint(types):
                continue
            for job in _by_rank(jobs):
                if consumer.room <= 0:
                    break
                is_free = job.type in consumer.types and job.type not in behind and not job.claimed_at
                if is_free and not job.due_at and may_run(job.expire_at, now):
                    job.claimed_at = now
                    consumer.reserve(1)
                    picked.append((consumer, job))
        return picked

    def deliver_direct(self, picked: list[tuple[Consumer, Accepted]], known: frozenset[int], epoch: int) -> None:
        """Hand over the picked jobs that were stored; `known` are the orders that were not, being there already."""
        by_consumer: dict[int, tuple[Consumer, list[Run]]] = {}
        for consumer, job in picked:
            if job.order in known:
                consumer.free(1)
                continue
            by_consumer.setdefault(id(consumer), (consumer, []))[1].append(first_run(job, epoch))
        for consumer, runs in by_consumer.values():
            consumer.deliver(runs)

    @staticmethod
    def undo_direct(picked: list[tuple[Consumer, Accepted]]) -> None:
        """Take back `pick_direct`: the jobs could not be stored."""
        for consumer, job in picked:
            job.claimed_at = 0.0
            consumer.free(1)


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
