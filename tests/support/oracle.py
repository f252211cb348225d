"""What must become of jobs, whatever is asked of the queue: a model of the whole that knows no store, no broker and no loop.

Whoever plays with a real queue tells it what was done, and which runs have begun; it says what every record must show then.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kqs.filter import Filter
from kqs.job import JobRecord, Returned, Tally
from kqs.outcome import Again, Failed, Ok, Outcome
from kqs.states import ENDED, WAITING, State
from tests.support.oracle_order import Batch, Batches, is_done, parent_of
from tests.support.oracle_rules import Rules

SUCCESS_KEPT_S = 3600.0


@dataclass
class Job:
    """One job: what its insert said, and what its record must show. due_at: 0.0: it is; order: as its record says.

    retries, keep_s: None: as its type has it. began_with: what its type had when its run began, which that keeps.
    after, awaits: which jobs it waits for, and still does (oracle_order.py). batch: of which it is a member, until it ends.
    """

    id: str
    type: str
    prio: int
    resource: str | None
    unique: str | None
    group: str | None
    retries: int | None
    ghosts_left: int
    expire_s: float | None
    keep_s: float | None
    order: int
    due_at: float
    expire_at: float | None
    state: State
    after: tuple[str, ...] = ()
    is_any_end: bool = False
    awaits: set[str] = field(default_factory=set)
    batch: str | None = None
    waited_as: State = State.NEW
    attempt: int = 0
    failures: int = 0
    ghosts: int = 0
    interrupted: int = 0
    is_cancelled: bool = False
    began_with: dict[str, Any] | None = None
    drop_at: float | None = None
    #: it waited, and was due, the last time that all was still
    was_ready: bool = False
    #: it was the first in line for a free resource at such a time, so it is its turn, whoever comes later
    has_turn: bool = False

    @property
    def rank(self) -> tuple[int, int]:
        return (self.prio, self.order)

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    def shown(self) -> tuple[object, ...]:
        """Return what its record must show."""
        counters = (self.attempt, self.failures, self.ghosts, self.interrupted)
        is_cancelled = self.is_cancelled and self.state is State.PROCESSING
        awaits = frozenset(self.awaits - {parent_of(self.id)})
        return (self.state, self.type, self.prio, self.resource, self.unique, *counters, is_cancelled, awaits)


def shown(record: JobRecord) -> tuple[object, ...]:
    """Return what a record shows, as `Job.shown`."""
    counters = (record.attempt, record.failures, record.ghosts, record.interrupted)
    is_cancelled = record.cancel_at is not None and record.state is State.PROCESSING
    awaits = frozenset(record.awaits)
    return (record.state, record.type, record.prio, record.resource, record.unique, *counters, is_cancelled, awaits)


@dataclass
class Oracle:
    """See the module docstring. `now` is the wall clock, in Unix seconds; `ghost_delay_s` and `retry_delay_s` are the jobs'."""

    now: float
    retry_delay_s: float
    ghost_delay_s: float
    jobs: dict[str, Job] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    order: Batches = field(default_factory=Batches)
    #: by type, how many jobs have begun since all was still, or have ended in their turn, and waited before
    left: Counter[str] = field(default_factory=Counter)
    #: whose records are over, and may still be counted
    over: Counter[tuple[str, State]] = field(default_factory=Counter)
    #: that were deleted as they ran, and whose runs go on
    deleted: list[Job] = field(default_factory=list)

    def copy(self) -> Oracle:
        return copy.deepcopy(self)

    def insert(self, job: Job, copies: Sequence[Job] = (), batch: Batch | None = None) -> tuple[str, bool]:
        """Take a job; return the id of what it is now, and whether it was made.

        Args: copies: what runs in its place. batch: whose `then` it is.
        """
        if self.seen(job.id) is not None:
            return job.id, False
        if job.unique is not None:
            waiting = [other for other in self.jobs.values() if self._waits_for_key(other, job)]
            if waiting:
                return min(waiting, key=lambda other: other.order).id, False
        self.jobs[job.id] = job
        self.order.enter(job)
        if batch is not None:
            self.order.batches[job.id] = batch
        if copies:
            job.resource, job.attempt, job.after = None, 1, ()
            self._end(job, State.SUCCESS)
            self.jobs.update((copy.id, copy) for copy in copies)
        return job.id, True

    def stand(self, job_ids: Iterable[str]) -> None:
        """Let some jobs, that are all there now, wait for whom they must, or fail; in a write of its own, so they waited."""
        waiting = [self.jobs[job_id] for job_id in job_ids if job_id in self.jobs and self.jobs[job_id].waits]
        for job in [job for job in waiting if not self.order.stand(job, self.jobs)]:
            self.left[job.type] += 1
            self.fail(job)

    def close_batch(self, batch_id: str) -> None:
        self.order.batches[batch_id].is_open = False
        self.order.complete(self.jobs)

    def told_of_batch(self, job_id: str) -> bytes | None:
        """Return what the run of a job must be told of the batch whose `then` it is."""
        batch = self.order.batches.get(job_id)
        if batch is None:
            return None
        tally = batch.tally(job_id)
        return json.dumps({"id": tally.id, "count": tally.count, **batch.ended}, separators=(",", ":")).encode()

    def learn_order(self, records: Mapping[str, JobRecord]) -> None:
        """Take in whom jobs wait for, after a kill, and how batches stand: it must be what the states of jobs mean."""
        self.order = Batches()
        for job in self.jobs.values():
            record = records[job.id]
            job.after = () if record.after is None else tuple(record.after.ids)
            job.awaits = set(record.awaits)
            job.batch = record.batch if record.state not in ENDED and not _is_of_another(record, records) else None
            lost = [id_ for id_ in job.awaits if id_ not in self.jobs or self.jobs[id_].state in ENDED]
            assert not lost, f"{job} waits for {lost}, which have ended"
            if record.tally is not None:
                self._learn_batch(job, record.tally)
        for batch_id, batch in self.order.batches.items():
            batch.living = {job.id for job in self.jobs.values() if job.batch == batch_id}
            tally = records[batch_id].tally
            assert tally is not None
            assert batch.tally(batch_id).count == tally.count, f"{tally}, of which there are {batch.living} still"
        self.order.complete(self.jobs)
        for job in self.jobs.values():
            is_free = parent_of(job.id) not in job.awaits
            assert is_free or job.waits or job.state in ENDED, f"a run of {job} began before all of its batch had ended"

    def _learn_batch(self, job: Job, tally: Tally) -> None:
        ended = {name: getattr(tally, name) for name in ("success", "fail", "cancelled", "deleted")}
        self.order.batches[job.id] = Batch(tally.is_open, set(), ended)
        if job.state not in ENDED:
            job.awaits.add(parent_of(job.id))

    def _waits_for_key(self, other: Job, job: Job) -> bool:
        is_same = (other.type, other.unique) == (job.type, job.unique)
        return is_same and other.waits and (other.expire_at is None or other.expire_at > self.now)

    def seen(self, job_id: str) -> Job | None:
        """Return a job whose record is not over."""
        job = self.jobs.get(job_id)
        return job if job is not None and _is_seen(job, self.now) else None

    def running(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.state is State.PROCESSING]

    def _busy(self) -> set[str | None]:
        return {job.resource for job in [*self.running(), *self.deleted]}

    def is_ready(self, job: Job) -> bool:
        """Tell whether a job waits for nothing but its turn, and what its type and its resource allow."""
        is_alive = job.expire_at is None or self.now < job.expire_at
        return job.waits and job.due_at <= self.now and is_alive and not job.awaits

    def may_begin(self, job: Job) -> bool:
        """Tell whether a waiting job may run now, if somebody takes it, and its resource is its own."""
        return self.is_ready(job) and self.rules.holds(job.type, job.group) is None

    def begin(self, job_id: str) -> Job:
        """Let a run begin, if one may."""
        job = self.jobs.get(job_id)
        assert job is not None, f"a run began of {job_id}, which is not there"
        assert job.waits, f"a run began of what is {job.state.word}: {job}"
        assert self.is_ready(job), f"a run began before its time, or after: {job}"
        why = self.rules.holds(job.type, job.group)
        assert why is None, f"a run began though its type is held, {why}: {job}"
        if job.resource is not None:
            holders = [other for other in [*self.running(), *self.deleted] if other.resource == job.resource]
            assert not holders, f"two runs at once with one resource: {job} beside {holders}"
            passed = [other for other in self.jobs.values() if not job.has_turn and self._comes_before(other, job)]
            assert not passed, f"{job} overtook {passed}"
        job.has_turn = False
        job.waited_as, job.state = job.state, State.PROCESSING
        job.attempt += 1
        job.began_with = self.options(job)
        self.rules.begin(job.type, job.group)
        self.left[job.type] += 1
        return job

    def go_on(self, job: Job) -> None:
        """Let a run go on that another boot has begun: what it began with is not known."""
        job.waited_as, job.began_with = State.NEW, self.options(job)

    def options(self, job: Job) -> dict[str, Any]:
        """Return what a job's type has where the job says nothing itself."""
        return {"retries": -1, "retry_delay": self.retry_delay_s, "keep": None} | self.rules.options.get(job.type, {})

    def _option(self, job: Job, name: str) -> Any:
        return (job.began_with if job.began_with is not None else self.options(job))[name]

    def _comes_before(self, other: Job, job: Job) -> bool:
        line, others = (job.type, job.resource, job.group), (other.type, other.resource, other.group)
        return others == line and other.was_ready and self.may_begin(other) and other.rank < job.rank

    def finish(self, job: Job, outcome: Outcome) -> None:
        """End a run with its handler's report."""
        if isinstance(outcome, Failed):
            job.failures += 1
        if isinstance(outcome, Ok):
            self._end(job, State.SUCCESS)
        elif isinstance(outcome, Again):
            self._wait(job, State.RETRY, outcome.delay_s or 0.0)
        elif not outcome.final and _are_left(self._retries(job), job.failures) and self._lives(job):
            retry_delay_s = self._option(job, "retry_delay")
            self._wait(job, State.RETRY, retry_delay_s if outcome.delay_s is None else outcome.delay_s)
        else:
            self._end(job, State.FAIL)

    def _retries(self, job: Job) -> int:
        return self._option(job, "retries") if job.retries is None else job.retries

    def ghost(self, job: Job) -> None:
        """Let a run be lost."""
        job.ghosts += 1
        if _are_left(job.ghosts_left, job.ghosts) and self._lives(job):
            self._wait(job, State.GHOST, 0.0 if job.ghosts == 1 else self.ghost_delay_s * 2.0 ** (job.ghosts - 2))
        else:
            self._end(job, State.FAIL)

    def release(self, job: Job, end: Returned | None) -> None:
        """Give a run back; None: it never began."""
        if end is None:
            job.attempt -= 1
            self._wait(job, job.waited_as, 0.0)
            return
        job.interrupted += 1
        if not job.is_cancelled and end.prio is not None:
            job.prio = end.prio
        self._wait(job, State.RETRY, end.delay_s)

    def called_off(self, job: Job) -> None:
        """End a run at once, that can be ended."""
        assert job.is_cancelled
        self._end(job, State.CANCELLED)

    def _wait(self, job: Job, state: State, delay_s: float) -> None:
        if job.is_cancelled:
            self._end(job, State.CANCELLED)
        else:
            job.state, job.due_at = state, self.now + delay_s if delay_s > 0 else 0.0
            job.was_ready = False
            job.began_with = None
            if not self._lives(job):
                self._end(job, State.FAIL)

    def _end(self, job: Job, state: State) -> None:
        self._end_all([job], state)

    def fail(self, job: Job) -> None:
        self._end(job, State.FAIL)

    def _end_all(self, jobs: Sequence[Job], state: State) -> None:
        """End jobs together, and then those that cannot begin any more for that."""
        for job in jobs:
            self._be_ended(job, state)
        self._follow(jobs)

    def _follow(self, jobs: Sequence[Job], *, are_deleted: bool = False) -> None:
        failed = {job.id for job in self.order.ended(jobs, self.jobs, are_deleted=are_deleted)}
        for job in [job for job in self.jobs.values() if job.id in failed]:
            self.left[job.type] += 1
            self.fail(job)

    def _be_ended(self, job: Job, state: State) -> None:
        job.state = State.CANCELLED if job.is_cancelled and state is not State.SUCCESS else state
        job.is_cancelled = False
        keep_s = self._option(job, "keep") if job.keep_s is None else job.keep_s
        keep_s = SUCCESS_KEPT_S if keep_s is None and job.state is State.SUCCESS else keep_s
        job.began_with = None
        job.drop_at = None if keep_s is None else self.now + keep_s

    def _lives(self, job: Job) -> bool:
        return job.expire_at is None or self.now < job.expire_at

    def pass_to(self, now: float) -> None:
        """Let time pass: what waits may expire."""
        self.now = now
        self.expire()
        self.forget()

    def forget(self) -> None:
        """Forget what is over."""
        for job_id in [job_id for job_id in self.jobs if self.seen(job_id) is None]:
            job = self.jobs.pop(job_id)
            self.order.batches.pop(job_id, None)
            self.over[job.type, job.state] += 1

    def expire(self) -> None:
        """End what waits and has expired."""
        expired = [job for job in self.jobs.values() if job.waits and not self._lives(job)]
        self.left.update(job.type for job in expired)
        self._end_all(expired, State.FAIL)

    def _meant(self, wanted: Filter, states: Collection[State]) -> list[Job]:
        assert wanted.match is None
        assert wanted.accepted_before is None
        return [
            job
            for job in self.jobs.values()
            if self.seen(job.id) is not None
            and job.state in states
            and (wanted.ids is None or job.id in wanted.ids)
            and wanted.type in (None, job.type)
            and (wanted.states is None or job.state in wanted.states)
            and wanted.resource in (None, job.resource)
        ]

    def cancel(self, wanted: Filter) -> list[Job]:
        """Return what was changed."""
        changed = [job for job in self._meant(wanted, WAITING | {State.PROCESSING}) if not job.is_cancelled]
        for job in changed:
            job.is_cancelled = True
        self._end_all([job for job in changed if job.waits], State.CANCELLED)
        return changed

    def retry(self, wanted: Filter) -> list[Job]:
        """Return what was changed."""
        changed = self._meant(wanted, {State.FAIL, State.CANCELLED})
        for job in changed:
            job.state, job.due_at, job.drop_at = State.RETRY, 0.0, None
            job.failures = job.ghosts = job.interrupted = 0
            job.expire_at = None if job.expire_s is None else self.now + job.expire_s
            job.was_ready = job.has_turn = False
        self.stand([job.id for job in changed])
        return changed

    def delete(self, wanted: Filter, *, is_forced: bool = False) -> tuple[list[Job], list[Job]]:
        """Return what was deleted, and what was passed over."""
        running = [] if is_forced else self._meant(wanted, {State.PROCESSING})
        gone = self._meant(wanted, WAITING | ENDED | ({State.PROCESSING} if is_forced else set()))
        for job in gone:
            if job.state is State.PROCESSING:
                self.deleted.append(job)
            del self.jobs[job.id]
            self.order.batches.pop(job.id, None)
        self._follow([job for job in gone if job.state not in ENDED], are_deleted=True)
        return gone, running

    def leave(self, job: Job | None) -> None:
        """End the run of a job that was deleted."""
        self.deleted = [other for other in self.deleted if other is not job]

    def waiting(self) -> Counter[str]:
        """Return how many jobs of each type wait."""
        return Counter(job.type for job in self.jobs.values() if job.waits)

    def drop(self, records: Iterable[JobRecord]) -> None:
        """Take in which jobs had to go, since too many of their type waited; how many, no more and no fewer than that."""
        dropped = {record.id: (record.error or "").startswith("dropped:") for record in records}
        self._drop([job for job in self.jobs.values() if job.waits and dropped.get(job.id, False)])
        self._drop([job for job in self.jobs.values() if job.waits and job.id not in dropped and self._is_not_kept(job)])

    def _drop(self, new: Sequence[Job]) -> None:
        waiting = self.waiting()
        for type_, count in Counter(job.type for job in new).items():
            most = self.rules.most_waiting(type_)
            assert most is not None, f"jobs of type {type_} were dropped"
            assert count <= waiting[type_] + self.left[type_] - most, f"too many were dropped: {new}"
        self._end_all(new, State.CANCELLED)

    def _is_not_kept(self, job: Job) -> bool:
        """Tell whether nothing is left of a job that had to go."""
        keep_s = self._option(job, "keep") if job.keep_s is None else job.keep_s
        return keep_s == 0 and self.rules.most_waiting(job.type) is not None

    def end_dropped(self, job: Job) -> None:
        self._end(job, State.CANCELLED)

    def too_many(self) -> list[str]:
        """Return of which types more wait than may, of which the oldest should have gone."""
        most = {type_: self.rules.most_waiting(type_) for type_ in self.waiting()}
        return [f"{n} of {type_} wait" for type_, n in self.waiting().items() if n > (most[type_] or n)]

    def unlike(self, records: Iterable[JobRecord]) -> list[str]:
        """Return what is not as it must be."""
        by_id = {record.id: record for record in records if record.drop_at is None or record.drop_at > self.now}
        faults = [f"{job_id} is lost: {self.jobs[job_id]}" for job_id in self.jobs.keys() - by_id.keys() if self.seen(job_id)]
        faults += [f"{job_id} is there, but must not: {by_id[job_id]}" for job_id in by_id.keys() - self.jobs.keys()]
        for job_id in self.jobs.keys() & by_id.keys():
            if self.jobs[job_id].shown() != shown(by_id[job_id]):
                faults.append(f"{job_id}: {shown(by_id[job_id])}, expected {self.jobs[job_id].shown()}")
        for batch_id in self.order.batches.keys() & by_id.keys():
            if (tally := by_id[batch_id].tally) != (expected := self.order.batches[batch_id].tally(batch_id)):
                faults.append(f"{tally}, expected {expected}")
        return faults

    def take_in(self, records: Iterable[JobRecord], called: Collection[int]) -> None:
        """Learn where jobs stand in line, as all is still. called: the orders of those that may have their resource next."""
        self.forget()
        self.left.clear()
        orders = {record.id: record.order for record in records}
        for job in self.jobs.values():
            job.order = orders[job.id]
            job.was_ready = self.may_begin(job)
        busy = self._busy() | {None}
        firsts: dict[tuple[str, str | None, str | None], Job] = {}
        for job in sorted(self.jobs.values(), key=lambda job: job.rank):
            if job.was_ready and job.resource not in busy:
                firsts.setdefault((job.type, job.resource, job.group), job)
            if job.order in called:
                job.has_turn = True
        for job in firsts.values():
            job.has_turn = True

    def stuck(self, room: Sequence[frozenset[str]]) -> list[str]:
        """Return who should have begun. room: the types of each who has room for more."""
        taken = frozenset[str]().union(*room)
        busy = self._busy()
        ready = [job for job in self.jobs.values() if job.waits and job.due_at <= self.now]
        held_up = {job.resource for job in ready if job.type not in taken or self.rules.holds(job.type, job.group)}
        return [
            f"{job} does not begin"
            for job in ready
            if self.may_begin(job)
            and job.type in taken
            and (job.resource is None or (job.resource not in busy and job.resource not in held_up))
        ]


def _is_of_another(member: JobRecord, records: Mapping[str, JobRecord]) -> bool:
    """Tell whether the batch that a member names is a later one of that id: its own `then` is gone."""
    then = records.get(member.batch or "")
    return then is not None and member.accepted_at < then.accepted_at


def _is_seen(job: Job, now: float) -> bool:
    return job.drop_at is None or job.drop_at > now


def _are_left(most: int, count: int) -> bool:
    return most < 0 or count <= most


def after_a_kill(
    before: Oracle, after: Oracle, begun: Collection[str], held: Collection[str]
) -> Callable[[Collection[str]], dict[str, list[Job | None]]]:
    """Return what tells what may be of each job when a server was killed between two states, and has started again.

    It is told which runs go on; None stands for a job that is not there. It does not tell whom those wait for that wait.
    begun: of which runs had begun in between; held: which of those before it outlive a server.
    """

    def possible(going_on: Collection[str]) -> dict[str, list[Job | None]]:
        ways: dict[str, list[Job | None]] = {job_id: [] for job_id in before.jobs.keys() | after.jobs.keys()}

        def add(oracle: Oracle, job: Job) -> int:
            """Add what may become of a job alone; return how many ways are new."""
            alone = replace(oracle, jobs={}, order=Batches())
            there, new = ways[job.id], 0
            for one in _ways(alone, job, job.id in begun, job.id in held, job.id in going_on):
                way = one if _is_seen(one, oracle.now) else None
                if not any(_are_alike(way, other) for other in there):
                    there.append(way)
                    new += 1
            return new

        for job_id, found in ways.items():
            for oracle in (before, after):
                job = oracle.seen(job_id)
                if job is None:
                    found.append(None)
                else:
                    add(oracle, job)
        tied = [(oracle, job) for oracle in (before, after) for job in oracle.jobs.values() if job.waits and job.awaits]
        while sum(add(oracle, way) for oracle, job in tied for way in _ways_on(oracle, job, ways)):
            pass
        return ways

    return possible


def _are_alike(way: Job | None, other: Job | None) -> bool:
    return way is other if way is None or other is None else way.shown() == other.shown()


def _ways_on(oracle: Oracle, job: Job, ways: dict[str, list[Job | None]]) -> list[Job]:
    """Return what a job may come to that waits for others, by what may have become of these."""
    parents = [ways.get(id_, [None]) for id_ in job.awaits if id_ != parent_of(job.id)]
    found: list[Job] = []
    if all(any(way is None or is_done(job, way.state) for way in of_one) for of_one in parents):
        found.append(replace(job, awaits=set()))
    if not job.is_any_end and any(way is None or is_done(job, way.state) is None for of_one in parents for way in of_one):
        found.append(failed := replace(job, awaits=set()))
        replace(oracle, jobs={}, order=Batches()).fail(failed)
    return found


def _ways(oracle: Oracle, job: Job, has_begun: bool, is_held: bool, goes_on: bool) -> list[Job]:
    ways = _ways_of_life(oracle, job, has_begun, is_held, goes_on)
    if oracle.rules.most_waiting(job.type) is not None:
        dropped = [replace(way) for way in ways if way.waits]
        for way in dropped:
            oracle.end_dropped(way)
        ways += dropped
    return ways


def _ways_of_life(oracle: Oracle, job: Job, has_begun: bool, is_held: bool, goes_on: bool) -> list[Job]:
    if job.state is State.PROCESSING:
        if is_held:
            as_it_is = replace(job)
            oracle.go_on(as_it_is)
            return [as_it_is]
        ghost, called_off = replace(job, began_with=None), replace(job, began_with=None)  # that died with the server
        oracle.ghost(ghost)
        if not job.is_cancelled:
            return [ghost]
        oracle.called_off(called_off)
        return [ghost, called_off]
    if not oracle.is_ready(job) or job.type in oracle.rules.suspended:
        return [replace(job)]
    ran = replace(job, began_with=oracle.options(job), waited_as=job.state, state=State.PROCESSING, attempt=job.attempt + 1)
    if goes_on:
        return [replace(ran, waited_as=State.NEW)]
    oracle.ghost(ran)
    return [ran] if has_begun else [replace(job), ran]
