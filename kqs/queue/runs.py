"""The runs of this server: delivered to whoever has room for them, begun, and over once. Satisfies Source.

A run is over by its report, by its loss, when it is called off or when it goes back. Whichever comes first ends its lease, and
what is said of the run after that is stale and changes nothing. What that frees, and when, is said in `ending.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from kqs.job import NO_PROGRESS, Claim, JobRecord, Key, Report, Returned, Run
from kqs.log import get_logger
from kqs.outcome import Failed, Outcome
from kqs.queue.admission import Admission, Verdict
from kqs.queue.aftermath import Aftermath
from kqs.queue.anteroom import Anteroom
from kqs.queue.basis import Basis
from kqs.queue.consumer import Consumer
from kqs.queue.dispatch import Dispatcher
from kqs.queue.ending import Ending
from kqs.queue.hurry import Hurry
from kqs.queue.leases import Lease, Leases, Leasing
from kqs.queue.reads import Reads
from kqs.queue.reports import Reporter
from kqs.queue.rules import whole_ms
from kqs.queue.saves import Saves, Told
from kqs.states import State
from kqs.store import base

log = get_logger("kqs.queue")

#: a claimed job that was cancelled has begun to run, or been given back, after so long, in s
REVOKED_S = 60.0


class Runs:
    """See the module docstring. Call from the loop thread.

    epoch: of this boot. reporter, saves: bring into the store how runs have ended, and how far they are. stale_count,
    ghost_count: reports that came too late, and runs that were lost.
    """

    def __init__(
        self,
        basis: Basis,
        admission: Admission,
        reads: Reads,
        dispatcher: Dispatcher,
        aftermath: Aftermath,
    ) -> None:
        """Args: dispatcher: brings runs from the broker. aftermath: of their ends."""
        store, supervisor, wishes = basis.store, basis.supervisor, basis.wishes
        self.clock = clock = basis.clock
        self.epoch = 0
        self.stale_count = 0
        self.ghost_count = 0
        self._broker = basis.broker
        self._cascade = basis.cascade
        self._judge = basis.judge
        self._admission = admission
        self._reads = reads
        self._events = events = basis.events
        self._supervisor = supervisor
        self._dispatcher = dispatcher
        self._aftermath = aftermath
        self._hurry = Hurry(wishes, supervisor)
        #: ends that somebody waits for and that wait for their jobs to be stored: how many came since jobs were stored last
        self._waited_ends = 0
        #: tells whether a run may begin now without asking `may_begin`
        self.is_certain = admission.is_certain
        self.reporter = Reporter(
            store,
            self._applied,
            wishes,
            self._cancelled,
            waited=events.ends.waiting.keys(),
            on_waited=self._want_end,
            reporting=events.reporting,
        )
        #: takes the report of a run that is over, in whatever way
        self.ending = Ending(self.reporter, admission, supervisor)
        self._gates = admission.limits.gates
        self._anteroom = Anteroom(admission.limits, self.give_back, clock.monotonic, supervisor)
        self.saves = Saves(store, supervisor, self.reporter.is_unstored, wishes)
        self._leasing = Leasing(clock, self.saves.note)
        self._leases = Leases(clock, self._lease_expired, supervisor)
        #: tells whether other servers may watch over runs that were held here
        self.is_shared = store.is_shared
        #: held runs whose server is gone, to be watched over by this one; and what is called with them once it is there
        self.adopted: list[Run] = []
        self.on_adopted: Callable[[list[Run]], None] = self.adopted.extend

    def add_consumer(self, consumer: Consumer) -> None:
        """Begin to deliver jobs to `consumer`."""
        self._dispatcher.add(consumer)

    async def remove_consumer(self, consumer: Consumer) -> None:
        """Deliver nothing more to `consumer`; what was being claimed for it has been delivered when this returns.

        Idempotent.
        """
        await consumer.stop()
        self._anteroom.leave(consumer)
        await self._dispatcher.remove(consumer)

    def may_begin(self, run: Run, consumer: Consumer | None = None, /) -> bool:
        """Tell whether a delivered run may begin; if not, it is over, or will be delivered to `consumer` once more."""
        verdict = self._admission.verdict(run, self.clock.now())
        if verdict is Verdict.EXPIRED:
            self.ending.over(run, self._judge.expired(run, self._cascade.resolve(run.type, run.options), self._now()))
        elif verdict is Verdict.SUSPENDED or (verdict is Verdict.LIMITED and not self._anteroom.keep(run, consumer)):
            self.give_back(run)
        elif verdict is Verdict.CANCELLED:
            options = self._cascade.resolve(run.type, run.options)
            self.ending.over(run, self._judge.called_off(run, options, self._now(), has_begun=False))
        return verdict is Verdict.RUN

    def begin(
        self,
        run: Run,
        on_lost: Callable[[Lease], None],
        now: float | None = None,
        on_cancel: Callable[[Lease], None] | None = None,
        *,
        goes_on: bool = False,
    ) -> Lease:
        """Start the clock of a run that `may_begin`, and has not ended in the step in which it began.

        `on_lost` is called if a deadline of the run passes, or its job is called off; what is said of it then is stale, but for
        `left`.
        now: when it began, if that is known. on_cancel: as Lease's. goes_on: it began at another server, or in an earlier
        life of this one, where that was told.
        """
        if self._events.is_heard and not goes_on:
            self._events.started(run)
        if self._gates:
            self._admission.limits.hold(run.type, run.claim.key, run.claim.attempt)
        options = self._cascade.resolve(run.type, run.options)
        lease = self._leasing.lease(run, options, on_lost, now, on_cancel)
        self._leases.add(lease)
        return lease

    def running(self, type_: str) -> list[tuple[Key, int]]:
        """Return the keys and attempts of the runs of a type."""
        claims = [lease.run.claim for lease in self._leases.all() if lease.run.type == type_]
        return [(claim.key, claim.attempt) for claim in claims]

    def left(self, lease: Lease) -> None:
        """Take in that the handler of a run that was lost or interrupted has ended. Idempotent."""
        self.ending.left(lease.run.claim)

    def left_by(self, claim: Claim) -> bool:
        """Take in that whoever had a run is done with it; False: it is none that has to be left."""
        return self.ending.left(claim)

    def is_leaving(self, claim: Claim) -> bool:
        """Tell whether a run is over, and its handler may still be at it."""
        return claim in self.ending

    def report(self, lease: Lease, outcome: Outcome) -> bool:
        """Take a handler's report; False if the run was lost before (the report is stale and changes nothing)."""
        if not self._leases.end(lease):
            self.stale_count += 1
            return False
        self._ended(lease, self._judge.outcome(lease.run, lease.options, outcome, self._now()))
        return True

    def _ended(self, lease: Lease, report: Report, *, is_left: bool = True) -> None:
        """Take the report of a run that has a lease, and with it what it has said of its progress.

        Args: is_left: False: its handler may still be at it.
        """
        if self.saves or lease.context.is_unsent or lease.run.progress is not None:
            self.saves.close(lease.context, report)
        over = self.ending.over if is_left else self.ending.over_left
        over(_in_line(lease.run, report), report)

    def save(self, lease: Lease, progress: bytes, told: Told) -> None:
        """Keep how far a run in progress is; `told` is called when it is kept, and with False if the run turns out to be over.

        It survives the end of this process then; that of the machine a second later, or with the next report.
        """
        self.saves.add(lease.run, progress, told)

    @property
    def has_much_to_save(self) -> bool:
        """Tell whether the store is so far behind with what runs `save` that they should not, for now."""
        return self.saves.is_full

    def end(self, run: Run, outcome: Outcome, *, has_begun: bool = False) -> None:
        """Take the report of a run that ended in the step in which it began. has_begun: it was told before that it has."""
        if self._events.is_heard and not has_begun:
            self._events.started(run)
        options = self._cascade.resolve(run.type, run.options)
        report = self._judge.outcome(run, options, outcome, whole_ms(self.clock.now()))
        if run.progress is not None and report.state is State.SUCCESS:
            report.progress = NO_PROGRESS
        self.ending.over(run, report)

    def interrupt(self, lease: Lease) -> bool:
        """Give back a run that is being ended, which costs the job nothing; `left` follows.

        Returns: False: it was lost or has ended before.
        """
        if not self._leases.end(lease):
            return False
        self._ended(lease, self._judge.interrupted(lease.run, self._now()), is_left=False)
        return True

    def release(self, lease: Lease, delay_s: float = 0.0, prio: int | None = None) -> bool:
        """As `interrupt`, of a run that nobody is at any more.

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
            self._tell_unbegun(lease.run)
            self._ended(lease, self._judge.unclaimed(lease.run, self._now()))

    def _tell_unbegun(self, run: Run) -> None:
        if self._events.is_heard:
            self._events.unbegun(run)

    def call_off(self, claims: Sequence[Claim]) -> None:
        """Have runs end, or never begin, whose jobs were cancelled or deleted; what is not here is passed over."""
        left = set(claims)
        for lease in self._leases.all():
            if lease.run.claim in left:
                left.discard(lease.run.claim)
                self._call_off(lease)
        unbegun = [claim for claim in left if claim.epoch == self.epoch]
        if unbegun:
            self._admission.revoked.update(unbegun)
            self._supervisor.call_later(REVOKED_S, "queue", self._admission.revoked.difference_update, unbegun)

    def _call_off(self, lease: Lease) -> None:
        if lease.on_cancel is not None:
            lease.on_cancel(lease)
        elif self._leases.end(lease):
            self._lost(lease, self._judge.called_off(lease.run, lease.options, self._now()))

    async def report_unwatched(self, record: JobRecord, claim: Claim, attempt: int, end: Outcome | Returned | None) -> bool:
        """Take the end of a run that another server watches over, as far as its record tells; the store knows if it is on.

        Args: attempt: which run of the job it is to people, from 1. end: None: it never began where it was to.
        """
        run = _run_of(record, claim, attempt)
        accepted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if end is None:
            self._tell_unbegun(run)
            self.give_back(run)
        elif isinstance(end, Returned):
            report = self._judge.interrupted(run, self._now(), end.delay_s, end.prio)
            self.ending.over(_in_line(run, report), report)
        else:
            self.end(run, end, has_begun=True)

        def told(ok: bool) -> None:
            if not accepted.done():
                accepted.set_result(ok)

        self.when_stored(run, told)
        return await accepted

    async def take(self, claim: Claim) -> Run | None:
        """Return a held run that another server watches over, for which this one does from now on; None: it is over."""
        return await self._reads.taken(claim)

    def lose_worker(self, worker: str | None, runs: Sequence[Run]) -> None:
        """Tell whoever listens that a worker is gone, which had these runs."""
        if self._events.is_heard:
            self._events.worker_lost(worker, runs)

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
        if self.reporter.tell(run.claim, told):
            self._hurry.want(self.reporter.told_count)

    def _want_end(self) -> None:
        """Have the end of a job stored for which somebody waits, and the job with it: as `when_stored`."""
        self._waited_ends += 1
        self._hurry.want(self._waited_ends)

    def stored(self) -> None:
        """Take in that jobs were stored."""
        self._waited_ends = 0

    def give_back(self, run: Run) -> None:
        """Give back a delivered run that never began: its record is as if it had not been claimed."""
        self.ending.over(run, self._judge.unclaimed(run, self._now()))

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
        self._lost(lease, judged)

    def _lost(self, lease: Lease, judged: Report) -> None:
        """Judge a run, and have whoever has it end it."""
        self._ended(lease, judged, is_left=False)
        lease.on_lost(lease)

    @property
    def count(self) -> int:
        """Return how many runs are in progress here."""
        return len(self._leases)

    def died(self, run: Run, now: float) -> Report:
        """Judge a run whose server died."""
        return self._judge.ghost(run, self._cascade.resolve(run.type, run.options), now, "the server died during the run")

    async def _applied(self, batch: list[tuple[Run, Report]], accepted: Sequence[bool]) -> None:
        """Take in that reports are in the store, and which were stale."""
        self.stale_count += accepted.count(False)
        self.saves.applied(batch, accepted)
        await self._aftermath.follow(batch, accepted)

    def _cancelled(self, run: Run, end: Report) -> Report:
        return self._judge.cancelled(run, self._cascade.resolve(run.type, run.options), end)

    def _now(self) -> float:
        return whole_ms(self.clock.now())

    @property
    def has_too_many_results(self) -> bool:
        """Tell whether results that wait for the store take too much memory for more that come from elsewhere."""
        return self.reporter.result_bytes > base.DATA_BYTES

    @property
    def next_deadline(self) -> float:
        """Return when the first of them is lost unless it is touched, monotonic, in s; math.inf: none is."""
        return self._leases.next_deadline

    def look_again(self) -> None:
        """Look at the clock, which was set."""
        self._leases.check()

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        refused = {"reports": self.reporter.trouble, "progress": self.saves.trouble}
        return [f"the store refuses {what}: {trouble}" for what, trouble in refused.items() if trouble]

    async def settle(self, limit_s: float) -> None:
        """Return when the store has every report and all progress, or does not within `limit_s`, which is told.

        No handler is waited for any more.
        """
        self.ending.close()
        if not await self.reporter.settle(limit_s) or self.reporter.count:
            log.error("stopping without the last reports: the store does not take them", count=self.reporter.count)
        if not await self.saves.settle(limit_s):
            log.error("stopping without the last progress: the store does not take it")

    async def stop(self) -> None:
        """Bring and watch nothing any more."""
        await self.saves.stop()
        await self._dispatcher.stop()
        self._leases.close()
        self._anteroom.close()
        self._hurry.close()


def _in_line(run: Run, report: Report) -> Run:
    """Return a run that is over as its job stands in line again."""
    return run if report.prio is None else replace(run, prio=report.prio)


def _run_of(record: JobRecord, claim: Claim, attempt: int) -> Run:
    """Return a run as far as its job's record tells; without its data. attempt: as for `report_unwatched`."""
    began = [run.started_at for run in record.runs if run.attempt == attempt]
    return Run(
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
