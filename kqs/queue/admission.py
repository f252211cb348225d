"""May this job run now, here? The three ways into a lane ask it here, and nowhere else is it answered.

New jobs are admitted: claimed in the journal, or stored and claimed at once, both with a reservation. Of jobs that wait in the
broker a consumer gets what it is told it may want; such jobs are not at hand before they are claimed. So what depends on more
than the type is asked once more as any run begins (`verdict`), which a job that has waited for its lane needs as well.
Invariants:

1. What is delivered and what is reserved are together never more than the consumers have room for.
2. A reservation is delivered or undone, once; a consumer's `stop` waits for that.
3. No new job is admitted while others of its type wait in the broker: it would overtake them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from kqs.config import TakingSection
from kqs.job import Accepted, Claim, Entry, Run, first_run
from kqs.queue.consumer import Consumer

_AS_OTHERS = TakingSection()


def may_run(expire_at: float | None, now: float) -> bool:
    """Tell whether a job that expires at `expire_at` (None: never) may run at `now`; both in Unix seconds."""
    return expire_at is None or now < expire_at


class Verdict(Enum):
    """Whether a claimed job may begin to run."""

    RUN = "it may"
    EXPIRED = "its time is over, and with that it ends"
    SUSPENDED = "its type was suspended since it was claimed: it waits again, as if it had not been"
    CANCELLED = "its owner has called it off"


class Wanted(NamedTuple):
    """Of which types jobs may be brought, with their shares of turns, and how many."""

    weights: Mapping[str, int]
    types: frozenset[str]
    most: int


class Reservation:
    """New jobs that are claimed for consumers with room, as attempt 1, and have not been delivered yet."""

    __slots__ = ("_jobs",)

    def __init__(self) -> None:
        self._jobs: list[tuple[Consumer, list[Accepted]]] = []

    def __bool__(self) -> bool:
        return bool(self._jobs)

    @property
    def jobs(self) -> list[Accepted]:
        """Return the jobs, by age."""
        return sorted((job for _, jobs in self._jobs for job in jobs), key=lambda job: job.order)

    @property
    def orders(self) -> list[int]:
        """Return the orders of the jobs."""
        return [job.order for _, jobs in self._jobs for job in jobs]

    def add(self, consumer: Consumer, jobs: list[Accepted], now: float) -> None:
        """Claim `jobs` for a consumer that has room for them."""
        worker = consumer.worker if consumer.is_remote else None
        for job in jobs:
            job.claimed_at = now
            job.worker = worker
            job.held = consumer.is_held
        consumer.reserve(len(jobs))
        self._jobs.append((consumer, jobs))

    def deliver(self, epoch: int, known: Collection[int] = ()) -> None:
        """Hand the runs over, in boot `epoch`, but for those of `known` orders: such a job was accepted before."""
        while self._jobs:
            consumer, jobs = self._jobs.pop()
            consumer.settle(len(jobs), [first_run(job, epoch) for job in jobs if job.order not in known])

    def withdraw(self, jobs: Collection[Accepted]) -> None:
        """Take the claims of some jobs back."""
        orders = {job.order for job in jobs}
        for consumer, claimed in self._jobs:
            gone = [job for job in claimed if job.order in orders]
            claimed[:] = [job for job in claimed if job.order not in orders]
            for job in gone:
                job.claimed_at = 0.0
            consumer.free(len(gone))

    def undo(self) -> None:
        """Take all claims back that were not delivered, and give their room back. Idempotent."""
        while self._jobs:
            consumer, jobs = self._jobs.pop()
            for job in jobs:
                job.claimed_at = 0.0
            consumer.settle(len(jobs), [])


class Admission:
    """Who takes jobs, and which job may go to whom now. Call from the loop thread."""

    def __init__(self, backlog: Callable[[str], bool], taking: Mapping[str, TakingSection]) -> None:
        """Args: backlog: tells whether jobs of a type wait in the broker. taking: how jobs are taken, where that is set."""
        self._backlog = backlog
        self._taking = taking
        self._consumers: list[Consumer] = []
        self._weights: dict[Consumer, dict[str, int]] = {}
        self._offered: dict[Consumer, tuple[Mapping[str, int], frozenset[str]]] = {}  # shares and types that it may have now
        self._suspended: dict[str, float] = {}
        #: claims that were granted, of jobs that were cancelled or deleted before their runs have begun
        self.revoked: set[Claim] = set()

    @property
    def consumers(self) -> Sequence[Consumer]:
        """Return those who take jobs now."""
        return self._consumers

    def enter(self, consumer: Consumer) -> None:
        """Let a consumer have jobs from now on."""
        self._consumers.append(consumer)
        self._weights[consumer] = {type_: self._taking.get(type_, _AS_OTHERS).weight for type_ in sorted(consumer.types)}
        self._offer(consumer)

    def limits(self, type_: str) -> dict[str, int]:
        """Return how a type is taken: its share of turns beside others, and how many jobs of a group run, if that is set."""
        taking = self._taking.get(type_, _AS_OTHERS)
        of_groups = {"group_max_running": taking.group_max_running} if taking.group_max_running else {}
        return {"weight": taking.weight} | of_groups

    def leave(self, consumer: Consumer) -> None:
        """Let a consumer have no more of them."""
        self._consumers.remove(consumer)
        del self._weights[consumer], self._offered[consumer]

    @property
    def suspended(self) -> Mapping[str, float]:
        """Return the types of which no job may begin, and since when, in Unix seconds."""
        return self._suspended

    def suspend(self, types: Mapping[str, float]) -> None:
        """Let no job of these types begin, and of all others again. Who waits for jobs must look anew."""
        self._suspended.clear()
        self._suspended.update(types)
        for consumer in self._consumers:
            self._offer(consumer)

    def _offer(self, consumer: Consumer) -> None:
        weights, types, suspended = self._weights[consumer], consumer.types, self._suspended
        if suspended and not types.isdisjoint(suspended):
            weights = {type_: weight for type_, weight in weights.items() if type_ not in suspended}
            types = types.difference(suspended)
        self._offered[consumer] = (weights, types)

    @property
    def room(self) -> int:
        """Return how many runs all consumers can take now."""
        return sum([consumer.room for consumer in self._consumers])

    @property
    def journal_room(self) -> int:
        """Return how many of them may begin before the store has their jobs."""
        return sum([consumer.room for consumer in self._consumers if not consumer.is_held])

    def has_room(self, type_: str) -> bool:
        """Tell whether a new job of this type is worth a claim of its own now, and would be admitted."""
        if type_ in self._suspended:
            return False
        for consumer in self._consumers:
            if consumer.room >= consumer.worth and type_ in consumer.types:
                return not self._backlog(type_)
        return False

    def wanted(self, consumer: Consumer) -> Wanted:
        """Return what a consumer may have from the broker now."""
        return Wanted(*self._offered[consumer], consumer.room)

    def fit(self, consumer: Consumer, entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
        """Part what was brought from the broker into what the consumer may have still, and what must go back."""
        room = max(consumer.room, 0)  # new jobs may have taken some of it meanwhile
        if self._suspended and any(entry.type in self._suspended for entry in entries):
            entries = sorted(entries, key=lambda entry: entry.type in self._suspended)
            room = min(room, sum(entry.type not in self._suspended for entry in entries))
        return entries[:room], entries[room:]

    def verdict(self, run: Run, now: float) -> Verdict:
        """Return whether a delivered run may begin. now: Unix seconds."""
        if self.revoked and run.claim in self.revoked:
            self.revoked.discard(run.claim)
            return Verdict.CANCELLED
        if not may_run(run.expire_at, now):
            return Verdict.EXPIRED
        return Verdict.SUSPENDED if run.type in self._suspended else Verdict.RUN

    def is_certain(self, run: Run) -> bool:
        """Tell whether no verdict but RUN is possible now: so it is with nearly all."""
        return run.expire_at is None and not self.revoked and run.type not in self._suspended

    def is_handled(self, type_: str) -> bool:
        """Tell whether anybody takes this type at all."""
        return any(type_ in consumer.types for consumer in self._consumers)

    def admit(self, jobs: Sequence[Accepted], now: float, *, in_journal: bool = False) -> Reservation:
        """Claim those of some new jobs that may run now: the first by priority and age, as far as there is room.

        Of several consumers each has its share, and who had none for longest comes first.
        Args: now: Unix seconds. in_journal: they may begin before the store has them.
        """
        reservation = Reservation()
        if not jobs:
            return reservation
        types = {job.type for job in jobs}
        open_types = {type_ for type_ in types if type_ not in self._suspended and not self._backlog(type_)}
        takers = [
            consumer
            for consumer in self._consumers
            if consumer.room > 0 and not (in_journal and consumer.is_held) and not consumer.types.isdisjoint(open_types)
        ]
        if len(takers) > 1 and len(jobs) > 1:
            takers.sort(key=_room_of)  # what one has no room for goes to those with more
        served: dict[Consumer, None] = {}
        count = len(jobs)
        for index, consumer in enumerate(takers):
            share = -(-count // (len(takers) - index))
            chosen = _first(jobs, open_types & consumer.types, min(consumer.room, share), now)
            if chosen:
                reservation.add(consumer, chosen, now)
                served[consumer] = None
                count -= len(chosen)
                if not count:
                    break
        if len(takers) > 1:
            self._consumers = [consumer for consumer in self._consumers if consumer not in served]
            self._consumers += served
        return reservation


def _room_of(consumer: Consumer) -> int:
    return consumer.room


def _first(jobs: Sequence[Accepted], types: Collection[str], most: int, now: float) -> list[Accepted]:
    """Return the first jobs of some types that may begin, `most` at most."""
    first: list[Accepted] = []
    for job in _by_rank(jobs):
        is_free = job.type in types and not (job.claimed_at or job.due_at)
        if is_free and (job.expire_at is None or may_run(job.expire_at, now)):
            first.append(job)
            if len(first) == most:
                break
    return first


def _by_rank(jobs: Sequence[Accepted]) -> Sequence[Accepted]:
    if len({job.prio for job in jobs}) == 1:
        return jobs
    return sorted(jobs, key=lambda job: (job.prio, job.order))
