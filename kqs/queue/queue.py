"""The queue: store and broker as one, for the feeder that brings jobs and for those who run them.

All methods are called from the loop thread. Every wait ends with the queue's `stop`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from msgspec.structs import replace

from kqs.broker.base import Broker
from kqs.clock import Clock
from kqs.config import TakingSection
from kqs.errors import StoreUnavailableError
from kqs.handlers import Failed, Ok, Outcome
from kqs.job import (
    NO_PROGRESS,
    WAITING,
    Accepted,
    Claim,
    Entry,
    JobRecord,
    Report,
    Returned,
    Run,
    State,
    Tally,
    entry_again,
    entry_of,
    first_run,
    instant_of,
    waiting_count,
)
from kqs.log import get_logger
from kqs.options import Cascade
from kqs.queue.admission import Admission, Reservation, Verdict
from kqs.queue.anteroom import Anteroom
from kqs.queue.asked import Asked
from kqs.queue.bounds import Bounds
from kqs.queue.changes import Changes
from kqs.queue.configuring import Configuring
from kqs.queue.consumer import Consumer
from kqs.queue.dispatch import Dispatcher
from kqs.queue.drops import Drops
from kqs.queue.events import Events
from kqs.queue.groups import Groups
from kqs.queue.housekeeping import Housekeeping
from kqs.queue.leases import Lease, Leases
from kqs.queue.limiting import Limiting
from kqs.queue.meter import Meter
from kqs.queue.multicast import Multicast
from kqs.queue.neighbours import Neighbours
from kqs.queue.reads import Reads
from kqs.queue.reports import Reporter
from kqs.queue.rules import Judge, Retention, whole_ms
from kqs.queue.saves import Saves, Told
from kqs.queue.seeker import Seeker
from kqs.queue.subscriptions import Subscriptions
from kqs.queue.suspensions import Suspensions
from kqs.queue.timetable import SLICE, Timetable
from kqs.store import base
from kqs.store.base import Store, StoreInfo
from kqs.supervisor import Supervisor, when_done

log = get_logger("kqs.queue")

#: reports of jobs that are not stored yet and whose workers wait for that: a few hurry the store at once, others gather so
#: long, in s, since each commit costs as much as a hundred jobs
FEW_TOLD = 4
TELL_S = 0.003
#: a claimed job that was cancelled has begun to run, or been given back, after so long, in s
REVOKED_S = 60.0
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
        """Args: replayable_order: the first order that a replay of the journal could bring back."""
        self._store = store
        self.groups = self._broker = broker = Groups(broker, store.in_turn, settings.taking)
        self._supervisor = supervisor
        self.clock = clock
        self._settings = settings
        self._judge = Judge(settings.retention, random.random)
        self.admission = Admission(lambda type_: bool(broker.backlog(type_)), settings.taking, clock.monotonic)
        #: tells whether a run may begin now without asking `may_begin`
        self.is_certain = self.admission.is_certain
        on_damage = partial(supervisor.fault, "queue")
        self.reads = Reads(store, on_damage)
        #: where it is told what happens to jobs
        self.events = Events(self.reads, clock, supervisor, is_shared=store.is_shared)
        self._dispatcher = Dispatcher(
            store, broker, self.admission, clock, self._hungry, self._keep_damaged_s, self.events.ends.search, broker.claimed
        )
        waited = self.events.ends.waiting
        self._reporter = Reporter(store, self._reports_applied, lambda: self.on_early(), self._cancelled, waited.keys())
        self._reporter.on_waited = self._hurry_end
        #: takes the report of a run that is over, in whatever way
        self._over: Callable[[Run, Report], None] = self._reporter.add
        #: how many jobs of which types may wait
        self.bounds = Bounds(settings.taking)
        if self.bounds.limits:
            store.on_waiting = self.bounds.stored
            store.watch(self.bounds.limits)
        self._gates = self.admission.limits.gates
        self._anteroom = Anteroom(self.admission.limits, self.give_back, clock.monotonic, supervisor)
        #: of which jobs that are on their way into the store somebody waits to hear whether they are new
        self.asked = Asked(store, clock, supervisor)
        self._saves = Saves(store, supervisor, self._reporter.is_unstored, lambda: self.on_early())
        self._leases = Leases(clock, self._lease_expired, supervisor)
        self._multicast = Multicast(store, self._judge_success, settings.worker)
        self._timetable = Timetable(store, broker, cascade, clock, settings.retention, self.events)
        store.on_called = self._timetable.called
        store.on_followed = self._timetable.followed
        seeker = Seeker(store, broker, self.admission, settings.seek_looks)
        self.house = Housekeeping(
            store, clock, self._timetable, seeker, self._recover_orphans, replayable_order, settings.keep_success_count
        )
        note = self._note_revived
        self.changes = Changes(store, broker, cascade, clock, settings.retention, note, self.events, self.call_off, on_damage)
        self._drops = Drops(self.bounds, store, self.changes)
        self.meter = Meter(clock.monotonic)
        #: the limits of types
        self.limiting = Limiting(store, self.admission, broker.wake, self._running, clock, supervisor, settings.taking)
        self.limiting.on_limited = self._limited
        #: what owners have said of options
        self.configuring = Configuring(store, cascade)
        self.suspensions = Suspensions(store, self.admission, broker.wake, clock)
        fan_outs = {type_: section.fan_out for type_, section in settings.taking.items() if section.fan_out}
        self.subscriptions = Subscriptions(store, fan_outs)
        self.neighbours = Neighbours(store, self.call_off, self._look_at_settings, clock, supervisor)
        self._telling: asyncio.TimerHandle | None = None
        self._hurried_ends = 0  # since jobs were stored last
        self._tasks: list[asyncio.Task[None]] = []
        self._consumer_tasks: dict[Consumer, asyncio.Task[None]] = {}
        self._epoch = 0
        self.cascade = cascade
        self.on_hungry: Callable[[], None] = _nobody
        #: called when a job that is not stored yet should be, soon
        self.on_early: Callable[[], None] = _nobody
        #: held runs whose server is gone, to be watched over by this one; and what is called with them once it is there
        self.adopted: list[Run] = []
        self.on_adopted: Callable[[list[Run]], None] = self.adopted.extend
        self.stale_count = 0
        self.ghost_count = 0

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self, info: StoreInfo) -> None:
        """Give back what the last boot left claimed, learn what waits, and begin to wake it.

        Raises: StoreUnavailableError: nothing was started; it may be tried again.
        """
        self._epoch = info.epoch
        self.house.start(info.last_order)
        counts = await self._store.counts()
        waiting = {type_: waiting_count(states) for type_, states in counts.items()}
        await self._look_at_settings()
        await self._timetable.look()
        refill = partial(self._store.ready, body_bytes=self._broker.body_bytes)
        waiting = {type_: n for type_, n in waiting.items() if n}
        await self._broker.start(refill, waiting, info.store_id, await self._store.grouped_types(waiting.keys()))
        try:
            await self._recover_orphans()
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
        if self._tasks and (not await self._reporter.settle(SETTLE_S) or self._reporter.count):
            log.error("stopping without the last reports: the store does not take them", count=self._reporter.count)
        if self._tasks and not await self._saves.settle(SETTLE_S):
            log.error("stopping without the last progress: the store does not take it")
        await self._saves.stop()
        self.asked.close()
        await self._supervisor.end(*self._tasks, *self._consumer_tasks.values())
        self._tasks.clear()
        await self.neighbours.stop()
        await self.events.stop()
        self._leases.close()
        self.limiting.stop()
        self._anteroom.close()
        if self._telling is not None:
            self._telling.cancel()
        await self._broker.close()

    async def _recover_orphans(self) -> None:
        while orphans := await self._store.orphans(SLICE, self._keep_damaged_s()):
            held = [run for run in orphans if run.held]
            if held:
                adopted = await self._store.adopt(held)
                self.on_adopted([self._broker.found(run) for run, is_ours in zip(held, adopted, strict=True) if is_ours])
                orphans = [run for run in orphans if not run.held]
                if not orphans:
                    continue
            now = self.clock.now()
            ends = [(run, self._died(run, now)) for run in orphans]
            accepted = await self._reporter.committed(ends, is_patient=False)
            # other servers look for orphans too: what is stale here was given back by them
            ours = [end for end, ok in zip(ends, accepted, strict=True) if ok]
            if ours:
                log.info("gave back runs of a server that died", count=len(ours))
                if self.events.is_heard:
                    self.events.worker_lost(None, [run for run, _ in ours])
            await self._reports_applied(ours, [True] * len(ours))

    # -- from the feeder ----------------------------------------------------------------------------------------------

    def run_claimed(self, reservation: Reservation) -> None:
        """Deliver jobs that were claimed as they were journaled; the `accept` that stores them must follow."""
        self._reporter.keep_back(reservation.orders)
        if self.bounds.limits:
            self.bounds.begun(reservation.jobs)
        if self.events.is_heard:
            self.events.created(reservation.jobs)
        reservation.deliver(self._epoch)

    @property
    def has_too_many_ends(self) -> bool:
        """Tell whether no more jobs should begin before they are stored: the results of those that did take too much memory."""
        return self._reporter.early_bytes > base.DATA_BYTES

    @property
    def has_too_many_results(self) -> bool:
        """Tell whether results that wait for the store take too much memory for more that come from elsewhere."""
        return self._reporter.result_bytes > base.DATA_BYTES

    async def accept(
        self, jobs: Sequence[Accepted], fed_seq: int, *, has_fanned: bool = False, has_order: bool = False
    ) -> None:
        """Store jobs that the journal holds, up to `fed_seq` (exclusive), and make them ready.

        A job with `claimed_at` that `run_claimed` did not deliver was claimed by an earlier boot: that run is lost.

        Args: has_fanned: some jobs may have a `result`. has_order: some may wait for others.
        Raises: StoreError: nothing of it was done.
        """
        now = self.clock.now()
        if has_fanned and any(job.result is not None for job in jobs):
            jobs = await self._multiply(jobs, now)
        claimed = [job for job in jobs if job.claimed_at]  # in the journal; others are here
        for job in jobs:
            if job.due_at and job.due_at <= now:
                job.due_at = 0.0
        self._reporter.attach(claimed)
        may_begin = [job for job in jobs if job.after is None and job.members is None] if has_order else jobs
        reservation = self.admission.admit(may_begin, now)
        try:
            found = await self._store.insert(jobs, fed_seq, self._settings.worker, now)
            known = frozenset(found)
            parked = found.parked
            if self.events.is_heard:
                self._tell_created(jobs, known, parked)
            reservation.deliver(self._epoch, known.union(parked) if parked else known)
        finally:
            reservation.undo()
        self._hurried_ends = 0
        ended: list[tuple[Run, Report]] | None = [] if self.events.hears_ends else None
        for job in self._reporter.let_go(claimed, known, ended):
            run = first_run(job, self._epoch)
            self._over(run, self._died(run, self._now()))
        if ended:
            self.events.reported(ended, [True] * len(ended))
        if known and self.events.ends.waiting:
            self.events.ends.search([job.id for job in jobs if job.order in known])
        self._saves.look_again()
        if self.asked.open:
            self.asked.stored(jobs, found)
        self.meter.stored([job for job in jobs if job.order not in known] if known else jobs)
        await self._offer(jobs, known.union(parked) if parked else known)

    async def close_batch(self, batch_id: str) -> Tally | None:
        """Let no more jobs into a batch. See Store.close_batch."""
        return await self._store.close_batch(batch_id)

    async def _multiply(self, jobs: Sequence[Accepted], now: float) -> list[Accepted]:
        """Store those jobs that are not run, but have copies; return all others, and these copies."""
        fanned = [job for job in jobs if job.result is not None]
        known, ends, multiplied = await self._multicast.store(fanned, self._epoch, now)
        new = [job for job in fanned if job.order not in frozenset(known)]
        if self.events.is_heard:
            self.events.created(new, {job.order for job in new})
        if ends and self.events.hears_ends:
            self.events.reported(ends, [True] * len(ends))
        if known and self.events.ends.waiting:
            self.events.ends.search([job.id for job in fanned if job.order in frozenset(known)])
        if self.asked.open:
            self.asked.stored(fanned, known)
        self.meter.stored(new)
        rest: list[Accepted] = []
        for job in jobs:
            if job.result is None:
                rest.append(job)
            elif job.order in multiplied:
                rest += job.copies
            elif self.bounds.limits:
                self.bounds.unmade(job.copies)
        return rest

    def _judge_success(self, run: Run, result: bytes) -> Report:
        return self._judge.outcome(run, self.cascade.resolve(run.type, run.options), Ok(result), self._now())

    def _tell_created(self, jobs: Sequence[Accepted], known: frozenset[int], parked: Collection[int]) -> None:
        is_told = self._reporter.is_unstored  # as it was claimed in the journal
        self.events.created([job for job in jobs if job.order not in known and not is_told(job.order)], parked)

    def _died(self, run: Run, now: float) -> Report:
        """Judge a run whose server died."""
        return self._judge.ghost(run, self.cascade.resolve(run.type, run.options), now, "the server died during the run")

    def _cancelled(self, run: Run, end: Report) -> Report:
        return self._judge.cancelled(run, self.cascade.resolve(run.type, run.options), end)

    async def _offer(self, jobs: Sequence[Accepted], known: frozenset[int]) -> None:
        entries: list[Entry] = []
        for job in jobs:
            if job.due_at or job.expire_at is not None:
                self.house.note_instant(job.accepted_at or instant_of(job.order))
                self._timetable.note(job.due_at, job.expire_at)
            if not (job.due_at or job.claimed_at or job.order in known):
                entries.append(entry_of(job, self._broker.body_bytes))
        if entries:
            await self._broker.put(entries)

    def _note_revived(self, at: float, expire_at: float) -> None:
        self.house.note_instant(at)
        self._timetable.note(0.0, expire_at)

    def _keep_damaged_s(self) -> float | None:
        return self._settings.retention.drop_at(State.FAIL, self.cascade.base.keep, 0.0)

    def _hungry(self) -> None:
        self.on_hungry()

    # -- to and from those who run jobs -------------------------------------------------------------------------------

    def add_consumer(self, consumer: Consumer) -> None:
        """Begin to deliver jobs to `consumer`."""
        self.admission.enter(consumer)
        self._consumer_tasks[consumer] = self._supervisor.spawn(
            self._dispatcher.serve(consumer), f"consumer-{consumer.worker}", lambda task: consumer.stopped and when_done(task)
        )

    async def remove_consumer(self, consumer: Consumer) -> None:
        """Deliver nothing more to `consumer`; what was being claimed for it has been delivered when this returns."""
        await consumer.stop()
        self._anteroom.leave(consumer)
        self.admission.leave(consumer)
        await self._supervisor.end(self._consumer_tasks.pop(consumer))

    def may_begin(self, run: Run, consumer: Consumer | None = None, /) -> bool:
        """Tell whether a delivered run may begin; if not, it is over, or will be delivered to `consumer` once more."""
        verdict = self.admission.verdict(run, self.clock.now())
        if verdict is Verdict.EXPIRED:
            self._over(run, self._judge.expired(run, self.cascade.resolve(run.type, run.options), self._now()))
        elif verdict is Verdict.SUSPENDED or (verdict is Verdict.LIMITED and not self._anteroom.keep(run, consumer)):
            self.give_back(run)
        elif verdict is Verdict.CANCELLED:
            options = self.cascade.resolve(run.type, run.options)
            self._over(run, self._judge.called_off(run, options, self._now(), has_begun=False))
        return verdict is Verdict.RUN

    def begin(self, run: Run, on_lost: Callable[[Lease], None], now: float | None = None, *, is_remote: bool = False) -> Lease:
        """Start the clock of a run that `may_begin`, and has not ended in the step in which it began.

        `on_lost` is called if a deadline of the run passes; it is judged by then. now: when it began, if that is known.
        is_remote: as for `Lease`.
        """
        if self.events.is_heard:
            self.events.started(run)
        if self._gates:
            self.admission.limits.hold(run.type, run.claim.order, run.claim.attempt)
        options = self.cascade.resolve(run.type, run.options)
        began_at = self.clock.monotonic() if now is None else now
        lease = Lease(run, options, self.clock, on_lost, began_at, is_remote=is_remote, on_save=self._saves.note)
        self._leases.add(lease)
        return lease

    def _running(self, type_: str) -> list[tuple[int, int]]:
        claims = [lease.run.claim for lease in self._leases.all() if lease.run.type == type_]
        return [(claim.order, claim.attempt) for claim in claims]

    def _limited(self, is_any: bool) -> None:
        """Take in whether any type has limits: then it counts when a run is over."""
        self._over = self._over_limited if is_any else self._reporter.add

    def _over_limited(self, run: Run, report: Report) -> None:
        # each commit of ends is flushed, and what the next runs wait for is a claim
        self._reporter.add(run, report, may_wait=run.type in self._gates)
        self.admission.over(run, has_begun=report.has_begun)

    def report(self, lease: Lease, outcome: Outcome) -> bool:
        """Take a handler's report; False if the run was lost before (the report is stale and changes nothing)."""
        if not self._leases.end(lease):
            self.stale_count += 1
            return False
        self._ended(lease, self._judge.outcome(lease.run, lease.options, outcome, self._now()))
        return True

    def _ended(self, lease: Lease, report: Report) -> None:
        """Take the report of a run that has a lease, and with it what it has said of its progress."""
        if self._saves or lease.context.is_unsent or lease.run.progress is not None:
            self._saves.close(lease.context, report)
        self._over(_in_line(lease.run, report), report)

    def save(self, lease: Lease, progress: bytes, told: Told) -> None:
        """Keep how far a run in progress is; `told` is called when it is kept, and with False if the run turns out to be over.

        It survives the end of this process then; that of the machine a second later, or with the next report.
        """
        self._saves.add(lease.run, progress, told)

    @property
    def has_much_to_save(self) -> bool:
        """Tell whether the store is so far behind with what runs `save` that they should not, for now."""
        return self._saves.is_full

    def end(self, run: Run, outcome: Outcome, *, has_begun: bool = False) -> None:
        """Take the report of a run that ended in the step in which it began. has_begun: it was told before that it has."""
        if self.events.is_heard and not has_begun:
            self.events.started(run)
        options = self.cascade.resolve(run.type, run.options)
        report = self._judge.outcome(run, options, outcome, whole_ms(self.clock.now()))
        if run.progress is not None and report.state is State.SUCCESS:
            report.progress = NO_PROGRESS
        self._over(run, report)

    def interrupt(self, lease: Lease, delay_s: float = 0.0, prio: int | None = None) -> bool:
        """Give back a run that is not going to end; it costs the job nothing. False: it was lost or has ended before.

        Args: prio: the job's from then on; None: as it was.
        """
        if not self._leases.end(lease):
            return False
        self._ended(lease, self._judge.interrupted(lease.run, self._now(), delay_s, prio))
        return True

    def cancel(self, lease: Lease) -> None:
        """Give back a run that has begun here, and never did where it was to: its record is as if it had not been claimed.

        What it has said of its progress all the same is kept, as that of any run that goes back.
        """
        if self._leases.end(lease):
            if self.events.is_heard:
                self.events.unbegun(lease.run)
            self._ended(lease, self._judge.unclaimed(lease.run, self._now()))

    def call_off(self, claims: Sequence[Claim]) -> None:
        """Have runs end, or never begin, whose jobs were cancelled or deleted; what is not here is passed over."""
        left = {claim.id: claim for claim in claims}
        for lease in self._leases.all():
            if left.get(lease.run.claim.id) == lease.run.claim:
                del left[lease.run.claim.id]
                self._call_off(lease)
        unbegun = [claim for claim in left.values() if claim.epoch == self._epoch]
        if unbegun:
            self.admission.revoked.update(unbegun)
            self._supervisor.call_later(REVOKED_S, "queue", self.admission.revoked.difference_update, unbegun)

    def _call_off(self, lease: Lease) -> None:
        if lease.on_cancel is not None:
            lease.on_cancel(lease)
        elif self._leases.end(lease):
            self._ended(lease, self._judge.called_off(lease.run, lease.options, self._now()))
            lease.on_lost(lease)

    async def report_unwatched(self, record: JobRecord, claim: Claim, attempt: int, end: Outcome | Returned) -> bool:
        """Take the end of a run that another server watches over, as far as its record tells; the store knows if it is on.

        Args: attempt: which run of the job it is to people, from 1.
        """
        began = [run.started_at for run in record.runs if run.attempt == attempt]
        run = Run(
            claim,
            record.type,
            record.prio,
            b"",
            record.options,
            record.failures,
            record.ghosts,
            record.interrupted,
            began[0] if began else 0.0,
            record.expire_at,
            None,
            claim.attempt - attempt,
            progress=None if record.progress is None else NO_PROGRESS,
        )
        accepted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if isinstance(end, Returned):
            report = self._judge.interrupted(run, self._now(), end.delay_s, end.prio)
            self._over(_in_line(run, report), report)
        else:
            self.end(run, end, has_begun=True)

        def told(ok: bool) -> None:
            if not accepted.done():
                accepted.set_result(ok)

        self.when_stored(run, told)
        return await accepted

    @property
    def is_shared(self) -> bool:
        """Tell whether other servers may watch over runs that were held here."""
        return self._store.is_shared

    async def others_caught_up(self, node: str | None) -> None:
        """See Store.others_caught_up."""
        await self._store.others_caught_up(node)

    async def take(self, claim: Claim) -> Run | None:
        """Return a held run that another server watches over, for which this one does from now on; None: it is over."""
        return await self.reads.taken(claim)

    def leave(self, lease: Lease) -> None:
        """Watch over a run no more, and judge it not: it goes on."""
        self._leases.end(lease)
        self._broker.lose(lease.run)

    def lose(self, lease: Lease, reason: str) -> None:
        """Take it that nobody will report this run: who ran it is gone. Whoever lost thousands logs it once."""
        if self._leases.end(lease):
            self.ghost_count += 1
            self._ended(lease, self._judge.ghost(lease.run, lease.options, self._now(), reason))

    def when_stored(self, run: Run, told: Callable[[bool], None]) -> None:
        """Have `told` called when the report of a run that was just taken is durable, with whether the store accepted it.

        Such a report does not wait until others have gathered. `told` is never called if this stops without the store.
        """
        if self._reporter.tell(run.claim.order, told) and self._telling is None:
            if self._reporter.told_count <= FEW_TOLD:
                self.on_early()
            else:
                self._telling = self._supervisor.call_later(TELL_S, "queue", self._hurry_told)

    def _hurry_end(self) -> None:
        """Have the end of a job stored for which somebody waits, and the job with it: as `when_stored`."""
        self._hurried_ends += 1
        if self._hurried_ends <= FEW_TOLD:
            self.on_early()
        elif self._telling is None:
            self._telling = self._supervisor.call_later(TELL_S, "queue", self._hurry_told)

    def _hurry_told(self) -> None:
        self._telling = None
        self.on_early()

    def give_back(self, run: Run) -> None:
        """Give back a delivered run that never began: its record is as if it had not been claimed."""
        self._over(run, self._judge.unclaimed(run, self._now()))

    @property
    def next_at(self) -> float:
        """Return when time alone changes something next, as far as is known, in Unix seconds; -math.inf: now.

        What is over by its retention is none of it.
        """
        ahead = self.clock.now() - self.clock.monotonic()
        return min(self._timetable.next_at, self._leases.next_deadline + ahead, self.limiting.next_at + ahead)

    async def look_again(self) -> None:
        """Look at the clock, which was set. Raises: StoreUnavailableError."""
        self._leases.check()
        self._timetable.look_again()
        self.limiting.look_again()
        await self.house.sweep()

    async def settle(self) -> None:
        """Return when every report taken so far of a job that is stored is in the store."""
        await self._reporter.passed()

    def _now(self) -> float:
        return whole_ms(self.clock.now())

    def _lease_expired(self, lease: Lease) -> None:
        now = self._now()
        # who is over its limit has failed, also where the loop was held up and its ttr is over as well
        if lease.is_over_limit(self.clock.monotonic()):
            reason = f"time_limit of {lease.options.time_limit:g} s reached"
            judged = self._judge.outcome(lease.run, lease.options, Failed(reason, final=False), now)
        else:
            self.ghost_count += 1
            reason = f"no report within ttr of {lease.options.ttr:g} s"
            judged = self._judge.ghost(lease.run, lease.options, now, reason)
        log.warning("run lost", id=lease.run.claim.id, attempt=lease.run.attempt, reason=reason)
        judged.by_watcher = lease.run.held
        self._ended(lease, judged)
        lease.on_lost(lease)

    async def _reports_applied(self, batch: list[tuple[Run, Report]], accepted: Sequence[bool]) -> None:
        if self.events.hears_ends:
            self.events.reported(batch, accepted)
        await self._follow(batch, accepted)

    async def _follow(self, batch: list[tuple[Run, Report]], accepted: Sequence[bool]) -> None:
        """Do what follows from reports, now that they are in the store."""
        ready: list[Entry] = []
        held: list[Entry] = []
        self.meter.reported(batch if all(accepted) else [one for one, ok in zip(batch, accepted, strict=True) if ok])
        for (run, report), ok in zip(batch, accepted, strict=True):
            if run.handle is not None:
                held.append(Entry(run.claim.order, run.claim.id, run.type, run.prio, run.handle))
            if report.progress is not None:
                self._saves.applied(run.claim.id, ok=ok)
            if not ok:
                self.stale_count += 1
            elif report.state in WAITING:
                if report.ended_at > run.started_at:  # else it is when that began, maybe by another server's clock
                    self.house.note_instant(report.ended_at)
                self._timetable.note(report.due_at, run.expire_at)
                if not report.due_at and run.resource is None:  # the store calls it when that is free
                    ready.append(entry_again(run, self._broker.body_bytes))
        if held:
            await self._broker.delete(held)
        if ready:
            await self._broker.put(ready)

    # -- how it is ----------------------------------------------------------------------------------------------------

    @property
    def running_count(self) -> int:
        """Return how many runs are in progress here."""
        return len(self._leases)

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        refused = {"reports": self._reporter.trouble, "progress": self._saves.trouble}
        troubles = [f"the store refuses {what}: {trouble}" for what, trouble in refused.items() if trouble]
        return [*troubles, *self._broker.problems()]


def _nobody() -> None:
    return None


def _in_line(run: Run, report: Report) -> Run:
    """Return a run that is over as its job stands in line again."""
    return run if report.prio is None else replace(run, prio=report.prio)
