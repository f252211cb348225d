"""Whether a decoded job is clean: the rules of its fields that types cannot say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Raw

from kqs.errors import CallError
from kqs.ids import ID_PATTERN
from kqs.options import Job, JobFields, expected, is_type
from kqs.wire import strict
from kqs.wire.jobtext import FIELD_TYPES
from kqs.words.nearest import unknown_name

_MAX_UNIX_S = 10**11  # the year 5138; far beyond it, microseconds no longer fit 64 bits
_MAX_KNOWN_TYPES = 10_000  # a client may invent types without end
_ID_CHARACTERS = re.compile(r"[A-Za-z0-9._:-]*\Z")

_known_types: set[str] = set()  # that passed `is_type`


def is_known(type_: str) -> bool:
    """Tell whether a job of this type was found clean before."""
    return type_ in _known_types


def are_clean(jobs: Sequence[Job]) -> bool:
    """Tell whether every decoded job, which are all plain or none is, keeps the rules that its struct cannot say."""
    types = {job.type for job in jobs}
    if not types <= _known_types and not all(map(_admit_type, types)):
        return False
    if not _ID_CHARACTERS.match("".join([job.id for job in jobs if job.id is not None])):
        return False
    return not (jobs and isinstance(jobs[0], JobFields) and any(_own_fault(job) for job in jobs if isinstance(job, JobFields)))


def fault_of(job: Job) -> str | None:
    """Return what is wrong with a job, for its sender; None: nothing."""
    if not is_type(job.type):
        return mismatch("type", msgspec.json.encode(job.type))
    if job.id is not None and not ID_PATTERN.match(job.id):
        return mismatch("id", msgspec.json.encode(job.id))
    return _own_fault(job) if isinstance(job, JobFields) else None


def mismatch(field: str, got: bytes | Raw) -> str:
    """Return what to say of a field that has another value than was expected. got: JSON."""
    return f"{field}: expected {expected(JobFields, field)}, got {strict.shown(got)}"


def at_seconds(value: float | str) -> float:
    """Return the Unix seconds of an `at`.

    Raises: CallError: bad_job; neither an RFC 3339 time with its zone nor a number in range.
    """
    seconds = value if isinstance(value, int | float) else _parse_time(value)
    if seconds is None or abs(seconds) > _MAX_UNIX_S:
        raise CallError(mismatch("at", msgspec.json.encode(value)), "bad_job")
    return float(seconds)


def _parse_time(text: str) -> float | None:
    try:
        when: datetime = msgspec.convert(text, Annotated[datetime, Meta(tz=True)])
    except msgspec.ValidationError:
        return None
    return when.timestamp()


def _admit_type(text: str) -> bool:
    if not is_type(text):
        return False
    if len(_known_types) >= _MAX_KNOWN_TYPES:
        _known_types.clear()
    _known_types.add(text)
    return True


def _own_fault(job: JobFields) -> str | None:
    if job.tick is not UNSET:
        return unknown_name("field", "tick", FIELD_TYPES)
    if job.members is not UNSET:
        return unknown_name("field", "members", FIELD_TYPES)
    if job.resource is not None and not is_type(job.resource):
        return mismatch("resource", msgspec.json.encode(job.resource))
    if job.group is not None and not is_type(job.group):
        return mismatch("group", msgspec.json.encode(job.group))
    return _time_fault(job) or _unique_fault(job) or _order_fault(job)


def _time_fault(job: JobFields) -> str | None:
    if job.at is None:
        return None
    if job.delay is not None:
        return "delay and at: expected one of them, got both"
    try:
        at_seconds(job.at)
    except CallError as error:
        return str(error)
    return None


def _order_fault(job: JobFields) -> str | None:
    if job.batch is not None and not ID_PATTERN.match(job.batch):
        return mismatch("batch", msgspec.json.encode(job.batch))
    if job.after is None:
        return None if job.after_any_end is None else "after_any_end: expected after beside it, got none"
    if not all(isinstance(one, int) or ID_PATTERN.match(one) for one in job.after):
        return mismatch("after", msgspec.json.encode(job.after))
    return None


def _unique_fault(job: JobFields) -> str | None:
    if job.unique is None:
        return None if job.on_conflict is None else "on_conflict: expected a unique key beside it, got none"
    return None if is_type(job.unique) else mismatch("unique", msgspec.json.encode(job.unique))
