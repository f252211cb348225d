"""The values that travel between the floors: a job on its way, its claim, its run and how that ended, and its record.

This file does not know who stores or runs a job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from kqs.states import State

#: longer reasons of an end are cut, so that a handler's error text cannot swell its job's record without bound
MAX_ERROR_CHARS = 4000
#: the longest progress of a job, in bytes of JSON: it goes to the next run with its data, thousands of runs at a time, and into
#: the environment of a command, of which one variable may have 128 KiB
MAX_PROGRESS_BYTES = 16 * 1024
#: said of a job's progress: there is none, or none any more
NO_PROGRESS = b""


def instant_of(order: int) -> float:
    """Return the instant an order stands for, in Unix seconds: where the clock was right, that of acceptance."""
    return order / 1_000_000


def room_at(job: Accepted) -> float:
    """Return by when (Unix seconds) a record with this job's id must have been over, to make room for it: its acceptance.

    Where the order tells that, it is meant to a second or so. Nothing makes room for an adopted job.
    """
    return -1.0 if job.adopted else job.accepted_at or instant_of(job.order)


class After(NamedTuple):
    """Which jobs a job waits for. is_any_end: it runs however they end; else it fails as soon as one has not succeeded."""

    ids: tuple[str, ...]
    is_any_end: bool = False


class Members(NamedTuple):
    """That a job is the `then` of a batch, which its id names: it waits until its members have ended.

    is_open: more may come until the batch is closed. last_order: else, that of the last job of its own record.
    """

    is_open: bool
    last_order: int = 0


#: what tells a job from all others: its order, which jobs of other servers may have, and its id, which later jobs may
Key = tuple[int, str]


class Accepted(msgspec.Struct, gc=False):
    """A journaled job on its way into the store.

    order: microseconds since 1970, unique and growing on one server: a job's age among its server's, but no time to count from.
    given_id: the client chose `id`; otherwise `id` is `Ids.of(order)`.
    due_at: Unix seconds before which it may not run; 0.0 means at once. expire_at: Unix seconds, or None.
    options: JSON of the option fields the client sent (no type, data, id), or None when it sent none.
    claimed_at: Unix seconds at which its first run was claimed, attempt 1 (it met an idle lane); 0.0: not claimed. Of a claim
    that only the journal tells of, it is when the job was accepted.
    accepted_at: Unix seconds, by the clock of then; 0.0: the order tells it, to a second or so.
    adopted: it stands in another server's journal as well, and may be inserted again and again.
    end: how the run that `claimed_at` began has ended, if that ended the job before it was stored; the two go in together.
    worker: who has that run, where it is not the server's own worker. held: as Run's.
    resource: the key that it needs alone while it runs, None: it needs none; a later change of settings does not change it.
    unique: the key of which no second job of its type may wait. group: jobs of a type take turns by it; None: one of those that
    have none.
    tick: the instant of the schedule whose name its id begins with, in Unix seconds, if it is the job of a tick.
    result: it is not run, but ends at once as a success with this, since its type has subscribers; None: it is run.
    copies: what these have in its place, which is stored after it, unless it is known already.
    after: the jobs that it waits for; None: none. batch: the id of the batch that it is a member of.
    batch_order: the order of the `then` in the same record, which it is not stored without; 0: it names the batch itself.
    members: it is the `then` of a batch.
    """

    order: int
    id: str
    given_id: bool
    type: str
    prio: int
    due_at: float
    expire_at: float | None
    data: bytes
    options: bytes | None
    claimed_at: float = 0.0
    accepted_at: float = 0.0
    adopted: bool = False
    end: Report | None = None
    worker: str | None = None
    held: bool = False
    resource: str | None = None
    unique: str | None = None
    group: str | None = None
    tick: float | None = None
    result: bytes | None = None
    copies: Sequence[Accepted] = ()
    after: After | None = None
    batch: str | None = None
    batch_order: int = 0
    members: Members | None = None

    @property
    def may_wait(self) -> bool:
        """Tell whether it may have to wait for others."""
        return self.after is not None or self.members is not None

    def may_need_resource(self, now: float) -> bool:
        """Tell whether it needs its resource, if it has one, as it is stored: its run is not over, and it is due."""
        return self.end is None and (bool(self.claimed_at) or self.due_at <= now)

    @property
    def key(self) -> Key:
        """Return what tells the job from all others."""
        return (self.order, self.id)


class Tally(msgspec.Struct, frozen=True, gc=False):
    """How a batch stands: how many members it has, and how many of these have ended in which way, deleted ones included.

    Each member counts once, by its first end; is_open: more may come.
    """

    id: str
    count: int
    success: int
    fail: int
    cancelled: int
    deleted: int
    is_open: bool = False

    @property
    def ended(self) -> int:
        """Return how many members have ended."""
        return self.success + self.fail + self.cancelled + self.deleted


class Entry(msgspec.Struct, gc=False):
    """A ready job as the broker knows it: enough to order it, and to ask the store for its claim.

    options, data: as Accepted's, for a broker that shows them (`Broker.body_bytes`); else None, as is data that is too long.
    group: as Accepted's; one that has one stands in no broker (kqs.queue.groups).
    """

    order: int
    id: str
    type: str
    prio: int
    handle: object = None  # the broker's own, e.g. (server, beanstalkd job id)
    options: bytes | None = None
    data: bytes | None = None
    group: str | None = None

    @property
    def key(self) -> Key:
        """Return what tells the job from all others."""
        return (self.order, self.id)

    @property
    def rank(self) -> tuple[int, int]:
        """Return the key that orders ready jobs of one type: priority, then age."""
        return (self.prio, self.order)


class Claim(msgspec.Struct, gc=False, frozen=True):
    """The fence. The store granted attempt `attempt` of this job in boot `epoch`; any other report is stale.

    attempt: every claim counts, also one that is given back, so that no two claims of a job are alike. What people see is
    `Run.attempt`.
    """

    order: int
    id: str
    attempt: int
    epoch: int

    @property
    def key(self) -> Key:
        """Return what tells the job from all others."""
        return (self.order, self.id)


class Run(msgspec.Struct, gc=False, frozen=True):
    """A claimed job, with all that running it and judging its outcome needs. Handlers see it, so nothing in it can be changed.

    returned: earlier claims that were given back before their run began. waited_as: the State it had when it was claimed.
    held: it outlives the server that claimed it; whoever has it goes on under the same claim.
    progress: what earlier runs said of theirs last, as JSON; None: nothing; NO_PROGRESS: something, which is not at hand here.
    resource: the key that no other run has while this one lasts.
    is_cancelled: its job was cancelled while it ran (only `orphans` and `take` tell it). group: as Accepted's.
    batch: of the `then` of a batch, how its members have ended, as JSON: {id, count, success, fail, cancelled, deleted}.
    """

    claim: Claim
    type: str
    prio: int
    data: bytes
    options: bytes | None
    failures: int = 0
    ghosts: int = 0
    interrupted: int = 0
    started_at: float = 0.0
    expire_at: float | None = None
    handle: object = None  # as Entry.handle
    returned: int = 0
    waited_as: int = State.NEW
    held: bool = False
    progress: bytes | None = None
    resource: str | None = None
    is_cancelled: bool = False
    group: str | None = None
    batch: bytes | None = None

    @property
    def attempt(self) -> int:
        """Return which run of the job this is, from 1."""
        return self.claim.attempt - self.returned


class Report(msgspec.Struct, gc=False):
    """How one run ended, as the store records it. The queue's rules made it; the store only applies it.

    state: SUCCESS, FAIL or CANCELLED end the job (`drop_at` then says when its record may go: Unix seconds, None for
    never); RETRY and GHOST let it wait until `due_at` (0.0: at once).
    run_state: the word kept for this run in `runs` (success, again, fail, ghost, interrupted, cancelled).
    failures, ghosts, interrupted: the counters' new values. returned: as the run's.
    has_begun: False where the run never began: then there was none, and the record is as if there had been no claim; but for
    its end, if `state` is one. prio: the job's from then on, where it waits again after a run; None: what it was.
    by_watcher: it is true only if no other server watches over the run by now.
    progress: the record's from then on, NO_PROGRESS: none; None: it stays as it is.
    """

    claim: Claim
    type: str
    state: State
    run_state: str
    ended_at: float
    due_at: float = 0.0
    drop_at: float | None = None
    result: bytes | None = None
    error: str | None = None
    failures: int = 0
    ghosts: int = 0
    interrupted: int = 0
    returned: int = 0
    has_begun: bool = True
    prio: int | None = None
    by_watcher: bool = False
    progress: bytes | None = None


class Returned(NamedTuple):
    """A run is given back unfinished: its job waits for `delay_s`, with this priority from then on; None: the one it has."""

    delay_s: float = 0.0
    prio: int | None = None


class Progress(msgspec.Struct, gc=False, frozen=True):
    """What a run in progress has said last of how far it is, as JSON; NO_PROGRESS takes back what was said before."""

    claim: Claim
    value: bytes


class Rescheduled(msgspec.Struct, gc=False, frozen=True):
    """A waiting job whose times were computed by a clock that was ahead. were: (due_at, expire_at) as they stood."""

    order: int
    id: str
    were: tuple[float, float | None]
    due_at: float
    expire_at: float | None


class RunRecord(msgspec.Struct, gc=False, omit_defaults=False):
    """One run as `job` shows it."""

    attempt: int
    worker: str
    started_at: float
    ended_at: float | None = None
    state: str = "processing"
    error: str | None = None


class JobRecord(msgspec.Struct, gc=False):
    """All the store knows of one job.

    data, progress: None where a listing left them out, or there is no progress. epoch: of the claim of its last run, while that
    is in progress and when it has ended the job. unique, group: as Accepted's. cancel_at: when it was cancelled while it ran,
    which goes on. after, batch: as Accepted's. awaits: those of `after` that it waits for still. tally: of the `then` of a
    batch, how that stands.
    """

    order: int
    id: str
    type: str
    state: State
    prio: int
    due_at: float
    expire_at: float | None
    data: bytes | None
    options: bytes | None
    attempt: int
    failures: int
    ghosts: int
    interrupted: int
    accepted_at: float
    ended_at: float | None
    drop_at: float | None
    result: bytes | None
    error: str | None
    runs: list[RunRecord]
    epoch: int | None = None
    progress: bytes | None = None
    resource: str | None = None
    unique: str | None = None
    cancel_at: float | None = None
    group: str | None = None
    after: After | None = None
    awaits: Sequence[str] = ()
    batch: str | None = None
    tally: Tally | None = None


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
        held=job.held,
        resource=job.resource,
        group=job.group,
    )


def entry_of(job: Accepted, body_bytes: int | None) -> Entry:
    """Return what a broker with these `body_bytes` is told of a job."""
    if body_bytes is None or job.group is not None:
        return Entry(job.order, job.id, job.type, job.prio, group=job.group)
    return Entry(job.order, job.id, job.type, job.prio, None, job.options, _if_short(job.data, body_bytes))


def entry_again(run: Run, body_bytes: int | None) -> Entry:
    """Return what a broker with these `body_bytes` is told of a job that ran and waits again."""
    claim = run.claim
    if body_bytes is None or run.group is not None:
        return Entry(claim.order, claim.id, run.type, run.prio, group=run.group)
    return Entry(claim.order, claim.id, run.type, run.prio, None, run.options, _if_short(run.data, body_bytes))


def _if_short(data: bytes, most: int) -> bytes | None:
    return data if 0 < len(data) <= most else None  # no JSON is empty: it was long, and let go
