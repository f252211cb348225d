"""May this job run now, here? The three ways into a lane ask it here, and nowhere else is it answered.

New jobs are admitted: claimed in the journal, or stored and claimed at once, both with a reservation. Of jobs that wait in the
broker a consumer gets what it is told it may want; such jobs are not at hand before they are claimed. So what depends on more
than the type is asked once more as any run begins (`verdict`), which a job that has waited for its lane needs as well.
Invariants:

1. What is delivered and what is reserved are together never more than the consumers have room for, but for runs that have
   waited for a slot of their type (kqs.queue.anteroom), whose room others may have got meanwhile.
2. A reservation is delivered or undone, once; a consumer's `stop` waits for that.
3. No new job is admitted while others of its type wait in the broker: it would overtake them.
4. What is delivered or reserved of a type with limits has a place of it (kqs.queue.limits), from before the claim on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from operator import attrgetter
from typing import NamedTuple

from kqs.config import TakingSection
from kqs.job import Accepted, Claim, Entry, Key, Run
from kqs.queue.consumer import Consumer
from kqs.queue.gate import Limit
from kqs.queue.limits import Limits
from kqs.queue.reservation import FIRST_ATTEMPT, Reservation

_AS_OTHERS = TakingSection()
_type_of = attrgetter("type")
_prio_of = attrgetter("prio")


def may_run(expire_at: float | None, now: float) -> bool:
    """Tell whether a job that expires at `expire_at` (None: never) may run at `now`; both in Unix seconds."""
    return expire_at is None or now < expire_at


class Verdict(Enum):
    """Whether a claimed job may begin to run."""

    RUN = "it may"
    EXPIRED = "its time is over, and with that it ends"
    SUSPENDED = "its type was suspended since it was claimed: it waits again, as if it had not been"
    LIMITED = "as many of its type run as may: it waits for a slot, or again, as if it had not been claimed"
    CANCELLED = "its owner has called it off"


class Wanted(NamedTuple):
    """Of which types jobs may be brought, with their shares of turns, and how many.

    closed: those that it takes besides, of which none may begin now. most_of: returns how many of a type; None: there are no
    limits.
    """

    weights: Mapping[str, int]
    types: frozenset[str]
    most: int
    closed: frozenset[str] = frozenset()
    most_of: Callable[[str], int] | None = None


class Admission:
    """Who takes jobs, and which job may go to whom now. Call from the loop thread."""

    def __init__(
        self, backlog: Callable[[str], bool], taking: Mapping[str, TakingSection], monotonic: Callable[[], float]
    ) -> None:
        """Args: backlog: tells whether jobs of a type wait in the broker. taking: how jobs are taken, where that is set."""
        self._backlog = backlog
        self._taking = taking
        #: how many of each type may begin, where that is limited
        self.limits = Limits(monotonic)
        self._consumers: list[Consumer] = []
        self._weights: dict[Consumer, dict[str, int]] = {}
        self._offered: dict[Consumer, tuple[Mapping[str, int], frozenset[str]]] = {}  # shares and types that it may have now
        self._open: dict[Consumer, tuple[frozenset[str], Mapping[str, int], frozenset[str]]] = {}  # without those closed types
        self._suspended: dict[str, float] = {}
        self._asked: set[str] = set()  # of these types each run is asked about as it begins
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
        if not consumer.can_wait:
            self.limits.take_elsewhere(consumer.types, 1)

    def shown(self, type_: str) -> dict[str, int]:
        """Return how a type is taken: its share of turns beside others."""
        return {"weight": self._taking.get(type_, _AS_OTHERS).weight}

    def leave(self, consumer: Consumer) -> None:
        """Let a consumer have no more of them."""
        self._consumers.remove(consumer)
        del self._weights[consumer], self._offered[consumer]
        self._open.pop(consumer, None)
        if not consumer.can_wait:
            self.limits.take_elsewhere(consumer.types, -1)

    @property
    def suspended(self) -> Mapping[str, float]:
        """Return the types of which no job may begin, and since when, in Unix seconds."""
        return self._suspended

    def suspend(self, types: Mapping[str, float]) -> None:
        """Let no job of these types begin, and of all others again. Who waits for jobs must look anew."""
        self._suspended.clear()
        self._suspended.update(types)
        self._ask()
        for consumer in self._consumers:
            self._offer(consumer)

    def limit(
        self, limits: Mapping[str, Limit], running: Callable[[str], Iterable[tuple[Key, int]]], *, is_shared: bool = False
    ) -> None:
        """Have these limits of types, and no others: see `Limits.set`."""
        self.limits.set(limits, running, is_shared=is_shared)
        self._ask()

    def _ask(self) -> None:
        self._asked.clear()
        self._asked.update(self._suspended, self.limits.gates)

    def _offer(self, consumer: Consumer) -> None:
        weights, types, suspended = self._weights[consumer], consumer.types, self._suspended
        if suspended and not types.isdisjoint(suspended):
            weights = {type_: weight for type_, weight in weights.items() if type_ not in suspended}
            types = types.difference(suspended)
        self._offered[consumer] = (weights, types)
        self._open.pop(consumer, None)

    @property
    def room(self) -> int:
        """Return how many runs all consumers can take now."""
        return sum([consumer.room for consumer in self._consumers])

    @property
    def journal_room(self) -> int:
        """Return how many of them may begin before the store has their jobs."""
        room = 0
        for consumer in self._consumers:
            if not consumer.is_held:
                room += consumer.room
        return room

    def has_room(self, type_: str) -> bool:
        """Tell whether a new job of this type is worth a claim of its own now, and would be admitted."""
        if type_ in self._suspended:
            return False
        if type_ in self.limits.closed:
            self.limits.on_missed(type_)
            return False
        for consumer in self._consumers:
            if consumer.room >= consumer.worth and type_ in consumer.types:
                return not self._backlog(type_)
        return False

    def wanted(self, consumer: Consumer) -> Wanted:
        """Return what a consumer may have from the broker now. The same `types` as before: that is as it was."""
        weights, types = self._offered[consumer]
        if not self.limits.gates:
            return Wanted(weights, types, consumer.room)
        closed = types & self.limits.closed
        if not closed:
            return Wanted(weights, types, consumer.room, closed, self.limits.left)
        opened = self._open.get(consumer)
        if opened is None or opened[0] != closed:
            weights = {type_: weight for type_, weight in weights.items() if type_ not in closed}
            opened = self._open[consumer] = (closed, weights, types - closed)
        return Wanted(opened[1], opened[2], consumer.room, closed, self.limits.left)

    def fit(self, consumer: Consumer, entries: list[Entry]) -> tuple[list[Entry], list[Entry]]:
        """Part what was brought from the broker into what the consumer may have still, and what must go back.

        What it may have is about to be claimed: `settle` must follow, with the same list.
        """
        room = max(consumer.room, 0)  # new jobs may have taken some of it meanwhile
        suspended, limits = self._suspended, self.limits
        if not suspended and not limits.gates:
            return entries[:room], entries[room:]
        taken: list[Entry] = []
        surplus: list[Entry] = []
        by = id(taken)
        for entry in entries:
            if len(taken) < room and entry.type not in suspended and self._takes(entry, by):
                taken.append(entry)
            else:
                surplus.append(entry)
        return taken, surplus

    def _takes(self, entry: Entry, by: int) -> bool:
        """Give an entry a place. One that runs or is being claimed already is none that waits, which the store will tell."""
        return self.limits.take(entry.type, entry.key, -by) or self.limits.has(entry.type, entry.key)

    def settle(self, entries: list[Entry], runs: Iterable[Run]) -> None:
        """Take in what came of the claim of entries that did `fit`."""
        limits = self.limits
        if not limits.gates:
            return
        for run in runs:
            limits.claim(run.type, run.claim.key, run.claim.attempt)
        by = id(entries)
        for entry in entries:
            limits.free(entry.type, entry.key, -by, is_unused=True)

    def over(self, run: Run, *, has_begun: bool) -> None:
        """Take in that a run is over."""
        self.limits.free(run.type, run.claim.key, run.claim.attempt, is_unused=not has_begun)

    def verdict(self, run: Run, now: float) -> Verdict:
        """Return whether a delivered run may begin. now: Unix seconds."""
        if self.revoked and run.claim in self.revoked:
            self.revoked.discard(run.claim)
            return Verdict.CANCELLED
        if not may_run(run.expire_at, now):
            return Verdict.EXPIRED
        if run.type in self._suspended:
            return Verdict.SUSPENDED
        if self.limits.gates and not self.limits.may_begin(run.type, run.claim.key, run.claim.attempt):
            return Verdict.LIMITED
        return Verdict.RUN

    def is_certain(self, run: Run) -> bool:
        """Tell whether no verdict but RUN is possible now: so it is with nearly all."""
        if run.expire_at is not None or self.revoked:
            return False
        return run.type not in self._asked or (
            run.type not in self._suspended and self.limits.is_kept(run.type, run.claim.key, run.claim.attempt)
        )

    def has_backlog(self, type_: str) -> bool:
        """Tell whether jobs of a type wait in the broker for somebody who takes it here."""
        return self._backlog(type_) and self.is_handled(type_)

    def is_served(self, type_: str) -> bool:
        """Tell whether a new job of this type would give nobody a job now: no more may begin, or others wait before it."""
        return type_ in self.limits.closed or self._backlog(type_)

    def is_handled(self, type_: str) -> bool:
        """Tell whether anybody takes this type at all."""
        return any(type_ in consumer.types for consumer in self._consumers)

    def taker_of_all(self, types: Collection[str], count: int) -> Consumer | None:
        """Return who would get each of `count` new jobs of these types from `admit` in the journal; none is delayed or expires.

        None: more than one would, or not all of them would be claimed.
        """
        for type_ in types:
            if type_ in self._asked or self._backlog(type_):
                return None
        taker = None
        for consumer in self._consumers:
            if consumer.room > 0 and not consumer.is_held and not consumer.types.isdisjoint(types):
                if taker is not None or consumer.room < count or not consumer.types.issuperset(types):
                    return None
                taker = consumer
        return taker

    def claim(self, consumer: Consumer, jobs: list[Accepted], now: float) -> Reservation:
        """Claim new jobs for who is the `taker_of_all`. now: Unix seconds."""
        reservation = Reservation(self.limits)
        reservation.add(consumer, jobs, now)
        return reservation

    def admit(self, jobs: Sequence[Accepted], now: float, *, in_journal: bool = False) -> Reservation:
        """Claim those of some new jobs that may run now: the first by priority and age, as far as there is room.

        Of several consumers each has its share, and who had none for longest comes first.
        Args: jobs: those that are claimed already count for nothing. now: Unix seconds. in_journal: they may begin before the
            store has them.
        """
        limits = self.limits
        reservation = Reservation(limits)
        jobs = [job for job in jobs if not job.claimed_at]
        if not jobs:
            return reservation
        open_types = self._open_of(set(map(_type_of, jobs)))
        takes = None if open_types.isdisjoint(limits.gates) else limits.take
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
            chosen = _first(jobs, open_types & consumer.types, min(consumer.room, share), now, takes)
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

    def _open_of(self, types: set[str]) -> set[str]:
        """Return those of some types of which a new job may begin now, and tell the limits of those that they hold back."""
        limits = self.limits
        if limits.closed and (missed := types & limits.closed):
            types -= missed
            for type_ in missed:
                limits.on_missed(type_)
        opened = set()
        for type_ in types:
            if type_ not in self._suspended and not self._backlog(type_):
                opened.add(type_)
        return opened


def _room_of(consumer: Consumer) -> int:
    return consumer.room


def _first(
    jobs: Sequence[Accepted],
    types: Collection[str],
    most: int,
    now: float,
    takes: Callable[[str, Key, object], bool] | None,
) -> list[Accepted]:
    """Return the first jobs of some types that may begin, `most` at most.

    takes: gives one its place, where there are limits.
    """
    first: list[Accepted] = []
    for job in _by_rank(jobs):
        is_free = job.type in types and not (job.due_at or job.claimed_at)  # claimed: for one before
        if is_free and (job.expire_at is None or may_run(job.expire_at, now)):
            if takes is not None and not takes(job.type, job.key, FIRST_ATTEMPT):
                continue
            first.append(job)
            if len(first) == most:
                break
    return first


def _by_rank(jobs: Sequence[Accepted]) -> Sequence[Accepted]:
    if len(set(map(_prio_of, jobs))) == 1:
        return jobs
    return sorted(jobs, key=lambda job: (job.prio, job.order))
