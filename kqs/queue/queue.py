"""The queue: store and broker as one, for the feeder that brings jobs and for those who run them.

All methods are called from the loop thread. Every wait ends with the queue's `stop`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from kqs.broker.base import Broker
from kqs.clock import Clock
from kqs.config import TakingSection
from kqs.errors import StoreUnavailableError
from kqs.job import Accepted, Report, Run, Tally, entry_of, first_run, instant_of
from kqs.log import get_logger
from kqs.options import Cascade
from kqs.outcome import Ok
from kqs.queue.admission import Admission
from kqs.queue.aftermath import Aftermath
from kqs.queue.asked import Asked
from kqs.queue.basis import Basis
from kqs.queue.bounds import Bounds
from kqs.queue.changes import Changes
from kqs.queue.configuring import Configuring
from kqs.queue.dispatch import Dispatcher
from kqs.queue.drops import Drops
from kqs.queue.events import Events
from kqs.queue.groups import Groups
from kqs.queue.housekeeping import Housekeeping
from kqs.queue.limiting import Limiting
from kqs.queue.meter import Meter
from kqs.queue.multicast import Joins, Multicast
from kqs.queue.neighbours import Neighbours
from kqs.queue.orphans import Orphans
from kqs.queue.reads import Reads
from kqs.queue.reservation import Reservation
from kqs.queue.rules import Judge, Retention, whole_ms
from kqs.queue.runs import Runs
from kqs.queue.seeker import Seeker
from kqs.queue.subscriptions import Subscriptions
from kqs.queue.suspensions import Suspensions
from kqs.queue.timetable import Timetable
from kqs.queue.wishes import Wishes
from kqs.states import waiting_count
from kqs.store import base
from kqs.store.base import Known, Store, StoreInfo
from kqs.supervisor import Supervisor

log = get_logger("kqs.queue")

#: how long a stop waits for a store that refuses the last reports
SETTLE_S = 5.0


@dataclass(frozen=True)
class QueueSettings:
    """What the queue needs of the configuration.

    seek_looks: see `Seeker`; 0 when nobody else uses the store. taking: how jobs of a type are taken, where that is set.
    """

    worker: str
    retention: Retention
    keep_success_count: int
    seek_looks: int = 0
    taking: Mapping[str, TakingSection] = field(default_factory=dict)


class Queue:
    """See the module docstring."""

    def __init__(
        self,
        store: Store,
        broker: Broker,
        cascade: Cascade,
        clock: Clock,
        settings: QueueSettings,
        replayable_order: Callable[[], int],
        supervisor: Supervisor,
    ) -> None:
        """Args: replayable_order: the first order that a replay of the journal could bring back.

        Parts are given those that they rest on or have something done by, which are made before them. What the queue wants of
        the feeder, which comes later, are `wishes`; what a store tells by itself goes to `_hear`.
        """
        taking = settings.taking
        self._store = store
        self._settings = settings
        self._supervisor = supervisor
        self.clock = clock
        self.cascade = cascade
        self._tasks: list[asyncio.Task[None]] = []

        self.groups = self._broker = broker = Groups(broker, store.in_turn, taking)
        self.reads = Reads(store, supervisor)
        #: where it is told what happens to jobs
        self.events = Events(self.reads, clock, supervisor, is_shared=store.is_shared)
        self.wishes = Wishes()
        self._judge = Judge(settings.retention, random.random)
        basis = Basis(store, broker, cascade, clock, settings.retention, self._judge, self.events, self.wishes, supervisor)

        # may it run
        self.admission = Admission(broker.backlog, taking, clock.monotonic)
        dispatcher = Dispatcher(basis, self.admission)
        #: how many jobs of which types may wait
        self.bounds = Bounds(taking)
        #: of which jobs that are on their way into the store somebody waits to hear whether they are new
        self.asked = Asked(store, clock, supervisor)

        # what becomes of it
        self._timetable = Timetable(basis)
        self.meter = Meter(clock.monotonic)
        aftermath = Aftermath(basis, self._timetable, self.meter)
        #: those that are in progress here
        self.runs = Runs(basis, self.admission, self.reads, dispatcher, aftermath)
        self._reporter = self.runs.reporter
        self._saves = self.runs.saves
        self._multicast = Multicast(store, self._judge_success, settings.worker)
        self._orphans = Orphans(basis, self.runs, aftermath)
        seeker = Seeker(store, broker, self.admission, settings.seek_looks)
        self.house = Housekeeping(
            store, clock, self._timetable, seeker, self._orphans, replayable_order, settings.keep_success_count
        )

        # what owners say, here and at other servers
        self.changes = Changes(basis, self._timetable, self.runs.call_off)
        self._drops = Drops(self.bounds, store, self.changes)
        #: the limits of types
        self.limiting = Limiting(basis, self.admission, self.runs, taking)
        #: what owners have said of options
        self.configuring = Configuring(store, cascade)
        self.suspensions = Suspensions(store, self.admission, broker.wake, clock)
        fan_outs = {type_: section.fan_out for type_, section in taking.items() if section.fan_out}
        self.subscriptions = Subscriptions(store, fan_outs)
        deleted = basis.events.deleted_elsewhere
        self.neighbours = Neighbours(store, self.runs.call_off, deleted, self._look_at_settings, clock, supervisor)
        self._hear()

    def _hear(self) -> None:
        """Hear what the store tells by itself."""
        store = self._store
        store.on_called = self._timetable.called
        store.on_followed = self._timetable.followed
        if self.bounds.limits:
            store.on_waiting = self.bounds.stored
            store.watch(self.bounds.limits)

    async def start(self, info: StoreInfo) -> None:
        """Give back what the last boot left claimed, learn what waits, and begin to wake it.

        Raises: StoreUnavailableError: nothing was started; it may be tried again.
        """
        self.runs.epoch = info.epoch
        self.house.start(info.last_order)
        counts = await self._store.counts()
        waiting = {type_: waiting_count(states) for type_, states in counts.items()}
        await self._look_at_settings()
        await self._timetable.look()
        refill = partial(self._store.ready, body_bytes=self._broker.body_bytes)
        waiting = {type_: n for type_, n in waiting.items() if n}
        await self._broker.start(refill, waiting, info.store_id, await self._store.grouped_types(waiting.keys()))
        try:
            await self._orphans.recover()
        except StoreUnavailableError as error:
            log.warning("cannot give back runs yet, trying again", error=str(error))
        services = {
            "queue-reports": self._reporter.run(),
            "queue-housekeeping": self.house.run(),
            "queue-asked": self.asked.run(),
        }
        if self._store.is_shared:
            services["queue-neighbours"] = self.neighbours.run()
        services |= self._timetable.services() | self.limiting.services() | self._drops.services()
        for name, body in services.items():
            self._tasks.append(self._supervisor.spawn(body, name))

    async def _look_at_settings(self) -> None:
        """Take in what owners have said of types, here or on other servers. Raises: StoreError."""
        await self.suspensions.look()
        await self.limiting.look()
        await self.configuring.look()
        await self.subscriptions.look()

    async def stop(self) -> None:
        """Put every report into the store, then end. Consumers must have been removed before.

        A store that has not taken them within `SETTLE_S` goes without: those runs count as ghosts at the next start.
        """
        if self._tasks:
            await self.runs.settle(SETTLE_S)
        self.asked.close()
        await self.runs.stop()
        await self._supervisor.end(*self._tasks)
        self._tasks.clear()
        await self.neighbours.stop()
        await self.events.stop()
        self.limiting.rates.stop()
        await self._broker.close()

    def run_claimed(self, reservation: Reservation) -> None:
        """Deliver jobs that were claimed as they were journaled; the `accept` that stores them must follow."""
        self._reporter.keep_back(reservation.each_job)
        if self.bounds.limits:
            self.bounds.begun(reservation.jobs)
        if self.events.is_heard:
            self.events.created(reservation.jobs)
        reservation.deliver(self.runs.epoch)

    @property
    def has_too_many_ends(self) -> bool:
        """Tell whether no more jobs should begin before they are stored: the results of those that did take too much memory."""
        return self._reporter.early_bytes > base.DATA_BYTES

    async def accept(
        self, jobs: Sequence[Accepted], fed_seq: int, joins: Joins | None = None, *, has_order: bool = False
    ) -> None:
        """Store jobs that the journal holds, up to `fed_seq` (exclusive), and make them ready.

        A job with `claimed_at` that `run_claimed` did not deliver was claimed by an earlier boot: that run is lost.

        Args: jobs: none has a `result`: see `multiply`. joins: takes note of them. has_order: some may wait for others.
        Raises: StoreError: nothing of it was done.
        """
        now = self.clock.now()
        claimed = [job for job in jobs if job.claimed_at]  # in the journal; others are here
        for job in jobs:
            if job.due_at and job.due_at <= now:
                job.due_at = 0.0
        self._reporter.attach(claimed)
        may_begin = [job for job in jobs if job.after is None and job.members is None] if has_order else jobs
        untold = self._untold(jobs)
        reservation = self.admission.admit(may_begin, now)
        try:
            with self.events.inserting(untold):
                found = await self._store.insert(jobs, fed_seq, self._settings.worker, now)
                known = frozenset(found)
                parked = found.parked
                if joins is not None:
                    joins.note(jobs, found)
                if untold:
                    old = found.old
                    self.events.created([job for job in untold if job.order not in old], parked)
            reservation.deliver(self.runs.epoch, known.union(parked) if parked else known)
        finally:
            reservation.undo()
        self.runs.stored()
        ended: list[tuple[Run, Report]] | None = [] if self.events.hears_ends else None
        for job in self._reporter.let_go(claimed, known, ended):
            run = first_run(job, self.runs.epoch)
            self.runs.ending.over(run, self.runs.died(run, whole_ms(self.clock.now())))
        self._saves.look_again()
        self._tell_stored(jobs, found, known, ended)
        await self._offer(jobs, known.union(parked) if parked else known)

    async def seal_batch(self, batch_id: str) -> bool:
        """Let nobody be told any more that a batch is open. See Store.seal_batch."""
        return await self._store.seal_batch(batch_id)

    async def close_batch(self, batch_id: str) -> Tally | None:
        """Let no more jobs into a batch. See Store.close_batch."""
        return await self._store.close_batch(batch_id)

    async def multiply(self, jobs: Sequence[Accepted], joins: Joins) -> Sequence[Accepted]:
        """Store those jobs that are not run, but have copies; return all others, and these copies, for `accept`.

        Whoever has to repeat the `accept` does so with these: the jobs count as stored once. Args: joins: of the batch.
        Raises: StoreError: it may be repeated.
        """
        fanned = [job for job in jobs if job.result is not None]
        if not fanned:
            return jobs
        found, ended, multiplied = await self._multicast.store(fanned, self.runs.epoch, self.clock.now())
        joins.note(fanned, found)
        known = frozenset(found)
        if self.events.is_heard:
            new = [job for job in fanned if job.order not in known]
            self.events.created(new, {job.order for job in new})
        self._tell_stored(fanned, found, known, ended if self.events.hears_ends else None)
        rest: list[Accepted] = []
        for job in jobs:
            if job.result is None:
                rest.append(job)
            elif job.order in multiplied:
                rest += job.copies
            elif self.bounds.limits:
                self.bounds.unmade(job.copies)
        joins.heed(rest)
        return rest

    def _judge_success(self, run: Run, result: bytes) -> Report:
        return self._judge.outcome(run, self.cascade.resolve(run.type, run.options), Ok(result), whole_ms(self.clock.now()))

    def _untold(self, jobs: Sequence[Accepted]) -> list[Accepted]:
        """Return those that are to be told as created, if anybody listens: what the journal has claimed was told before."""
        is_told = self._reporter.is_unstored
        return [job for job in jobs if not is_told(job)] if self.events.is_heard else []

    def _tell_stored(
        self, jobs: Sequence[Accepted], found: Known, known: frozenset[int], ended: Sequence[tuple[Run, Report]] | None
    ) -> None:
        """Tell all who wait for it what the store has made of jobs, and of runs that have ended with them."""
        if ended:
            self.events.reported(ended, [True] * len(ended))
        if self.events.ends.waiting:
            self.events.ends.stored(jobs, known, found.joined)
        if self.asked.open:
            self.asked.stored(jobs, found)
        self.meter.stored([job for job in jobs if job.order not in known] if known else jobs)

    async def _offer(self, jobs: Sequence[Accepted], known: frozenset[int]) -> None:
        for job in jobs:
            if job.due_at or job.expire_at is not None:
                self._timetable.note_instant(job.accepted_at or instant_of(job.order))
                self._timetable.note(job.due_at, job.expire_at)
        body_bytes = self._broker.body_bytes
        entries = [entry_of(job, body_bytes) for job in jobs if not (job.due_at or job.claimed_at or job.order in known)]
        if entries:
            await self._broker.put(entries)

    async def settle(self) -> None:
        """Return when every report taken so far of a job that is stored is in the store."""
        await self._reporter.passed()

    @property
    def is_shared(self) -> bool:
        """Tell whether other servers use the store."""
        return self._store.is_shared

    async def others_caught_up(self, node: str | None) -> Mapping[str, int]:
        """See Store.others_caught_up."""
        return await self._store.others_caught_up(node)

    @property
    def next_at(self) -> float:
        """Return when time alone changes something next, as far as is known, in Unix seconds; -math.inf: now.

        What is over by its retention is none of it.
        """
        ahead = self.clock.now() - self.clock.monotonic()
        return min(self._timetable.next_at, self.runs.next_deadline + ahead, self.limiting.rates.next_at + ahead)

    async def look_again(self) -> None:
        """Look at the clock, which was set. Raises: StoreUnavailableError."""
        self.runs.look_again()
        self._timetable.look_again()
        self.limiting.rates.look_again()
        await self.house.sweep()

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        return [*self.runs.problems(), *self._broker.problems()]
