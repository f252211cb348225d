"""From a journal record to the jobs that the store keeps. Pure but for the table of ids."""

from __future__ import annotations

from kqs.ids import Ids
from kqs.job import Accepted, instant_of
from kqs.journal import Kind, Record
from kqs.options import Cascade, Job, JobFields, PlainJob
from kqs.queue.rules import accept, accept_plain
from kqs.wire.jobs import kept_at_seconds
from kqs.wire.qrpc import replay_calls, replay_jobs

#: as far as this from the clock, in s, an order is told as the time of acceptance: an array numbers a million jobs
ORDER_IS_TIME_S = 1.0


class Intake:
    """Decides once what a job's own fields and its type's settings make of it."""

    def __init__(self, ids: Ids, cascade: Cascade) -> None:
        self._ids = ids
        self._cascade = cascade

    def accepted(self, record: Record) -> list[Accepted]:
        """Return the record's jobs in order; those that a record claimed were claimed when they were accepted."""
        jobs = decoded(record) if record.jobs is None else record.jobs
        order, at, name, for_type = record.first_order, record.accepted_at, self._ids.of, self._cascade.for_type
        accepted = [
            accept_plain(job, number, job.id or name(number), for_type(job.type), at)
            if isinstance(job, PlainJob)
            else self._accept_full(job, number, at)
            for number, job in enumerate(jobs, order)
        ]
        if abs(instant_of(record.last_order) - at) > ORDER_IS_TIME_S:
            for one in accepted:
                one.accepted_at = at
        if record.adopted:
            for one in accepted:
                one.adopted = True
        if record.claimed:
            for one in accepted:
                one.claimed_at = at
        return accepted

    def _accept_full(self, job: JobFields, order: int, at: float) -> Accepted:
        at_s = kept_at_seconds(job.at) if job.at is not None else None
        return accept(job, order, job.id or self._ids.of(order), self._cascade.for_type(job.type), at, at_s)


def decoded(record: Record) -> list[Job]:
    """Return what the client asked for, from the bytes it sent."""
    return replay_calls(record.payload) if record.kind is Kind.CALLS else replay_jobs(record.payload)
