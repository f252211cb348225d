"""From a journal record to the jobs that the store keeps. Pure but for the table of ids."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from operator import attrgetter

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from kqs.feeder.lost import LostClaims
from kqs.ids import Ids
from kqs.job import Accepted, After, Members
from kqs.journal import Kind, Record, fanned
from kqs.options import Cascade, Job, JobFields, PlainJob, unique_key
from kqs.queue.rules import accept, accept_plain
from kqs.wire.arrays import split_array
from kqs.wire.order import is_batch
from kqs.wire.qrpc import replay_calls
from kqs.wire.replayed import kept_at_seconds, replay_jobs

_encode = msgspec.json.Encoder().encode
_resource_of = attrgetter("resource")
_type_of = attrgetter("type")
_id_of = attrgetter("id")

#: as far as this from the clock, in us, an order is told as the time of acceptance: an array numbers a million jobs
ORDER_IS_TIME_US = 1_000_000
#: a record of more jobs, which only an array can be, is decoded in pieces: so many take 5 ms
PIECE_JOBS = 4000


class Intake:
    """Decides once what a job's own fields and its type's settings make of it."""

    def __init__(self, ids: Ids, cascade: Cascade) -> None:
        self._ids = ids
        self._cascade = cascade
        #: jobs that an earlier boot claimed after they were journaled
        self.lost_claims = LostClaims()
        #: some jobs that were accepted here are not run, but end at once
        self.has_fanned = False
        #: some jobs that were accepted here wait for others
        self.has_order = False
        self._batch: tuple[int, str] = (0, "")

    def accepted(self, record: Record) -> list[Accepted]:
        """Return the record's jobs in order; those that a record claimed were claimed when they were accepted.

        Raises: what a record does that cannot be taken in, with a note that names it.
        """
        try:
            if record.kind is Kind.FANNED:
                return self._fanned(record)
            accepted = self.accept(record, decoded(record) if record.jobs is None else record.jobs, record.first_order)
        except Exception as error:
            _name(record, error)
            raise
        if record.claimed:
            for one in accepted:
                _claimed(one, record.accepted_at)
        return accepted

    def ready_types(self, record: Record) -> Collection[str] | None:
        """Return the types of a record's jobs if each sets nothing but what it is, and is ready by the settings of its type.

        None: one may have to wait, for its time, for a resource or for the store; or that is long to tell.
        """
        jobs = record.jobs
        if jobs is None or not _may_go_ahead(record):
            return None
        if record.count == 1:
            job = jobs[0]
            if type(job) is not PlainJob or job.id is not None:
                return None
            types: Collection[str] = (job.type,)
        elif set(map(type, jobs)) != {PlainJob} or any(map(_id_of, jobs)):
            return None
        else:
            types = set(map(_type_of, jobs))
        for type_ in types:
            options = self._cascade.of_type[type_]
            if options.delay or options.expire is not None or options.resource is not None:
                return None
        return types

    def ready(self, record: Record) -> list[Accepted]:
        """Return the jobs, in order and not claimed, of a new record that has `ready_types`."""
        at, defaults = record.accepted_at, self._cascade.of_type
        ids = self._ids.of_each(record.first_order, record.count)
        accepted = [
            accept_plain(job, order, job_id, defaults[job.type], at)
            for order, (job, job_id) in enumerate(zip(record.jobs or (), ids, strict=True), record.first_order)
            if isinstance(job, PlainJob)  # as each is
        ]
        _keep_time(record, accepted)
        return accepted

    def claimable(self, record: Record) -> list[Accepted] | None:
        """Return the record's jobs if they may begin before the store has them, else None.

        About an id of the client's own the store must be asked first, and about a unique key or a resource; and what is decoded
        in pieces is no short work.
        Raises: as `accepted`.
        """
        if record.claimed or not _may_go_ahead(record):
            return None
        if record.jobs is None:
            accepted = self.accepted(record)
            if any(job.given_id or job.unique is not None or _is_of_others(job) for job in accepted):
                return None
        elif _is_free(record.jobs[0]) if record.count == 1 else all(map(_is_free, record.jobs)):
            accepted = self.accepted(record)
        else:
            return None
        return None if any(map(_resource_of, accepted)) else accepted

    def accept(self, record: Record, jobs: Sequence[Job], first_order: int) -> list[Accepted]:
        """Return some jobs of a record as the store takes them, with orders from `first_order` on."""
        at = record.accepted_at
        ids = self._ids.of_each(first_order, len(jobs))
        defaults = self._cascade.of_type
        accepted = [
            accept_plain(job, number, job.id or job_id, defaults[job.type], at)
            if isinstance(job, PlainJob)
            else self._accept_full(job, number, job_id, at)
            for number, (job, job_id) in enumerate(zip(jobs, ids, strict=True), first_order)
        ]
        _keep_time(record, accepted)
        if record.adopted:
            for one in accepted:
                one.adopted = True
        is_of_batch = record.kind is not Kind.CALLS and is_batch(record.payload)
        if is_of_batch or (JobFields in set(map(type, jobs)) and any(map(_is_tied, jobs))):
            self._tie(record, jobs, accepted)
        if self.lost_claims.ranges:
            for one in accepted:
                if one.order in self.lost_claims:
                    _claimed(one, at)
        return accepted

    def _tie(self, record: Record, jobs: Sequence[Job], accepted: Sequence[Accepted]) -> None:
        """Note which jobs these wait for, some jobs of a record, and of which batches they are members."""
        self.has_order = True
        first, is_then_first = accepted[0].order, is_batch(record.payload)
        by_order = {one.order: one.id for one in accepted}

        def id_at(position: int) -> str:
            order = record.first_order + position + is_then_first
            return by_order.get(order) or self._ids.of(order)

        for job, one in zip(jobs, accepted, strict=True):
            if isinstance(job, JobFields) and _is_tied(job):
                if job.after:
                    ids = tuple(parent if isinstance(parent, str) else id_at(parent) for parent in job.after)
                    one.after = After(ids, bool(job.after_any_end))
                one.batch = job.batch
                if job.members is not UNSET:
                    one.members = Members(job.members < 0, record.last_order)
                    self._batch = (one.order, one.id)
        if is_then_first:
            order, batch_id = self._batch
            if order != record.first_order:  # another piece of it was the last that was taken in
                order = record.first_order
                batch_id = replay_jobs(next(split_array(record.payload, 1)))[0].id or self._ids.of(order)
                self._batch = (order, batch_id)
            for one in accepted[first == order :]:
                one.batch, one.batch_order = batch_id, order

    def _fanned(self, record: Record) -> list[Accepted]:
        """Return the jobs as sent of a record whose types have subscribers, with their copies."""
        plan, text = fanned.unpack(record.payload)
        sent = replay_jobs(text)
        made = fanned.copies_of(sent, plan)
        accepted = self.accept(record, [*sent, *(_copy(sent[one.of], one) for one in made)], record.first_order)
        jobs = accepted[: len(sent)]
        copies: dict[int, list[Accepted]] = {}
        for one in made:
            copies.setdefault(one.of, []).append(accepted[one.place])
        for number, job in enumerate(jobs):
            if number in copies:
                job.copies = copies[number]
                job.result = _encode({"copies": {copy.type: copy.id for copy in job.copies}})
                job.due_at, job.expire_at, job.resource, job.after = 0.0, None, None, None
        self.has_fanned = True
        return jobs

    def _accept_full(self, job: JobFields, order: int, job_id: str, at: float) -> Accepted:
        at_s = kept_at_seconds(job.at) if job.at is not None else None
        return accept(job, order, job.id or job_id, self._cascade.of_type[job.type], at, at_s)


def _copy(job: Job, copy: fanned.Copy) -> Job:
    """Return what a subscriber has in the place of a job: all that it says, but what is the insert's own."""
    if isinstance(job, PlainJob):
        return PlainJob(copy.type, job.data)
    return replace(job, type=copy.type, id=copy.id, copies=None, unique=None, on_conflict=None, answer=None, wait=None)


def _may_go_ahead(record: Record) -> bool:
    """Tell whether jobs of this record may begin before the store has them, for all that its kind and length say."""
    return not record.adopted and record.kind is not Kind.FANNED and 0 < record.count <= PIECE_JOBS


def _keep_time(record: Record, accepted: Sequence[Accepted]) -> None:
    """Note when these jobs were accepted, where their orders do not tell."""
    if record.skew_us > ORDER_IS_TIME_US:
        for one in accepted:
            one.accepted_at = record.accepted_at


def _is_free(job: Job) -> bool:
    return job.id is None and (type(job) is PlainJob or (unique_key(job) is None and not _is_tied(job)))


def _is_of_others(job: Accepted) -> bool:
    return job.may_wait or job.batch is not None


def _is_tied(job: Job) -> bool:
    return isinstance(job, JobFields) and (job.after is not None or job.batch is not None or job.members is not UNSET)


def _claimed(job: Accepted, at: float) -> None:
    """Note that an earlier boot claimed a job in the journal: it had no resource then, whatever its type's settings are now."""
    job.claimed_at = at
    job.resource = None


class Opened:
    """A record whose jobs are taken some at a time. What that costs depends on how many are taken, not on how many are left."""

    def __init__(self, record: Record, intake: Intake) -> None:
        """Args: record: not a claimed one. It loses its `jobs`, so that each can go once it is taken."""
        self._record = record
        self._accept = intake.accept
        self._pieces = _pieces(record)
        self._piece: list[Job] = []  # from the last job to the next one
        self._order = record.first_order
        record.jobs = None

    @property
    def is_empty(self) -> bool:
        """Tell whether all have been taken."""
        return self._order > self._record.last_order

    def take(self, most: int) -> list[Accepted]:
        """Take up to `most` jobs, at least one. Raises: as `Intake.accepted`."""
        try:
            if not self._piece:
                self._piece = next(self._pieces)
            jobs = self._piece[-most:]
            del self._piece[-most:]
            jobs.reverse()
            accepted = self._accept(self._record, jobs, self._order)
        except Exception as error:
            _name(self._record, error)
            raise
        self._order += len(jobs)
        return accepted


def _pieces(record: Record) -> Iterator[list[Job]]:
    """Return the record's jobs in new lists, each from its last job to its first."""
    if record.jobs is not None:
        return iter((record.jobs[::-1],))
    if record.kind is Kind.JOBS and record.count > PIECE_JOBS:
        return (replay_jobs(text)[::-1] for text in split_array(record.payload, PIECE_JOBS))
    return iter((decoded(record)[::-1],))


def decoded(record: Record) -> list[Job]:
    """Return what the client asked for, from the bytes it sent."""
    return replay_calls(record.payload) if record.kind is Kind.CALLS else replay_jobs(record.payload)


def _name(record: Record, error: Exception) -> None:
    """Let the error tell which record it was."""
    error.add_note(f"in record {record.seq} of the journal: {record.count} jobs from order {record.first_order} on")
