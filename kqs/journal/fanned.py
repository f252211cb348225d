"""What stands before the jobs of a record whose types have subscribers: which copies it holds. Pure.

The line is a JSON object, {TYPE: [SUBSCRIBER, …]}, of the types in the record that had subscribers when it was accepted. The
jobs as sent follow it. Orders count these first, then the copies: of each job in turn, one for each subscriber in the
line's order. A job that was adopted says itself which copies it has, under which ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from kqs.options import Job, JobFields

#: {TYPE: its subscribers}
Plan = Mapping[str, Sequence[str]]

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder(dict[str, list[str]]).decode


class Copy(NamedTuple):
    """One copy: of which job in its record, under which type, its own place among the record's orders, and its id, if given."""

    of: int
    type: str
    place: int
    id: str | None = None


def pack(plan: Plan, payload: bytes) -> bytes:
    """Return the payload of a record of jobs as sent, with their plan."""
    return b"%b\n%b" % (_encode(plan), payload)


def unpack(payload: bytes) -> tuple[Plan, bytes]:
    """Return the plan and the jobs as sent. Raises: msgspec.DecodeError: there is none."""
    line, _, text = payload.partition(b"\n")
    return _decode(line), text


def plan_of(jobs: Sequence[Job], subscribers: Plan) -> Plan:
    """Return the plan for some jobs; empty: none of their types has subscribers."""
    return {type_: subscribers[type_] for type_ in {job.type for job in jobs} if subscribers.get(type_)}


def copies_of(jobs: Sequence[Job], plan: Plan) -> list[Copy]:
    """Return the copies that a plan makes of some jobs, by place."""
    kinds = [(index, *one) for index, job in enumerate(jobs) for one in _copies_of(job, plan)]
    return [Copy(index, type_, place, id_) for place, (index, type_, id_) in enumerate(kinds, len(jobs))]


def has_copies(job: Job) -> bool:
    """Tell whether a job says itself which copies it has."""
    return isinstance(job, JobFields) and job.copies is not None


def _copies_of(job: Job, plan: Plan) -> list[tuple[str, str | None]]:
    if isinstance(job, JobFields) and job.copies is not None:
        return [*job.copies.items()]
    return [(type_, None) for type_ in plan.get(job.type, ())]
