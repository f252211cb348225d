"""The argument of an insert -> jobs, or an error that names the job, its field, what was expected and what came.

msgspec's structs in kqs.options check names, types and ranges; here are the rules that types cannot say. What a client
sent and what is stored agree byte for byte in `data`, whatever stands in it.

msgspec only ever says whether something fits. What does not is found by looking at each field alone, which is slow, and done
for what is refused: its messages are no interface.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw

from kqs.errors import CallError
from kqs.ids import ID_PATTERN
from kqs.nearest import unknown_name
from kqs.options import (
    MAX_ID_CHARACTERS,
    MOST_AFTER,
    Job,
    JobFields,
    PlainJob,
    expected,
    field_types,
    is_type,
)
from kqs.wire import strict
from kqs.wire.members import Member, Reader, walking
from kqs.wire.scan import SHORT_BYTES, runs
from kqs.wire.steps import Steps, finish

_MAX_UNIX_S = 10**11  # the year 5138; far beyond it, microseconds no longer fit 64 bits
#: Bytes of any field but data, so that none is decoded that takes long: the most ids, each of their characters escaped.
_FIELD_BYTES = MOST_AFTER * (6 * MAX_ID_CHARACTERS + 3)
#: Members of one job, repeated ones included: far more than there are fields, and few enough to be walked at once.
_MAX_MEMBERS = 1000
_MAX_KNOWN_TYPES = 10_000  # a client may invent types without end

_ONCE = ("type", "id")
#: but for what only a schedule says
_TYPES = {name: type_ for name, type_ in field_types(JobFields).items() if name not in ("tick", "members")}
#: what a client may say of a job
JOB_FIELDS = tuple(_TYPES)
_AUTH = "auth"
_NO_AUTH = {b'"auth"': 0}
_ONE_AUTH = {b'"auth"': 1}
_AUTH_KEY = re.compile(rb'"auth"[ \t\r\n]*+:[ \t\r\n]*+')
_ID_CHARACTERS = re.compile(r"[A-Za-z0-9._:-]*\Z")
_PLAIN = frozenset(PlainJob.__struct_fields__)

_decode_plain_job = msgspec.json.Decoder(PlainJob).decode
_decode_plain_jobs = msgspec.json.Decoder(list[PlainJob]).decode
_decode_job = msgspec.json.Decoder(JobFields).decode
_decode_jobs = msgspec.json.Decoder(list[JobFields]).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode
_decode_field = {name: msgspec.json.Decoder(type_).decode for name, type_ in _TYPES.items()}
_FIELDS = Reader(*_TYPES)
_FIELDS_AND_AUTH = Reader(*_TYPES, _AUTH)

_P = TypeVar("_P")
_F = TypeVar("_F")

_known_types: set[str] = set()  # that passed `is_type`


class Told(NamedTuple):
    """What is told of a job beside an id.

    has_id: it brought its own. refused_key: its unique key, if it is refused for that.
    """

    has_id: bool
    is_full: bool
    is_keyed: bool
    refused_key: str | None


class Given(msgspec.Struct, gc=False):
    """What an insert was given. payload: its argument without any `auth`, else as sent. is_array: the answer is one, too.

    told: by their places, the jobs that are answered with more than the id that they are kept under. asked, batches: ids of
    jobs that must be known, and of batches that must be open; askers: those of the jobs that ask for them, if all of these have
    their own.
    """

    payload: bytes
    jobs: list[Job]
    is_array: bool
    told: dict[int, Told] = {}
    asked: list[str] = []
    batches: list[str] = []
    askers: list[str] = []


def decode_job(raw: bytes | Raw) -> Job:
    """Decode and check one JSON job object (without `auth`).

    Raises: CallError: bad_job, bad_json, or unsupported for a field of a later version; the message is for the peer.
    """
    text = bytes(raw)
    finish(strict.checking_json(text))
    if is_array_text(text):
        raise _no_object(text)
    return decode_jobs(text)[0]


def decode_jobs(raw: bytes | Raw) -> list[Job]:
    """Decode and check one job object, or an array of them (all or nothing), without `auth`.

    Raises: as decode_job; in an array the message begins with the job's index, from 0.
    """
    text = bytes(raw)
    finish(strict.checking_json(text))
    return finish(_decoding_run(text, 0, is_array=is_array_text(text)))


def decoding(text: bytes, max_jobs: int) -> Steps[Given]:
    """Decode and check in steps what an insert was given: as decode_jobs, but `auth` is taken out, and there is a most.

    Args: text: JSON that `strict` or its equal has checked.
    Raises: CallError: as decode_jobs; too_large: there are more than `max_jobs`.
    """
    if not is_array_text(text):
        text = yield from taking_auth_out(text)
        return Given(text, (yield from _decoding_run(text, 0, is_array=False)), is_array=False)
    jobs: list[Job] = []
    kept: list[bytes] = []
    is_changed = False
    for run in runs(text):
        yield
        if run is not None:
            _, part = run
            stripped = yield from taking_auth_out(part, len(jobs))
            is_changed = is_changed or stripped is not part
            kept.append(stripped)
            jobs += yield from _decoding_run(stripped, len(jobs), is_array=True)
            if len(jobs) > max_jobs:
                raise CallError(f"expected at most {max_jobs} jobs in one insert", "too_large")
    if is_changed:
        text = b"[%b]" % b",".join([bytes(memoryview(run)[1:-1]) for run in kept])
    return Given(text, jobs, is_array=True)


def read_fields(text: bytes) -> dict[str, Raw]:
    """Return the members of one JSON job object as they stand, their values unchecked.

    Raises: CallError: bad_json; or bad_job when it is no object, or names its type or id twice.
    """
    finish(strict.checking_json(text))
    try:
        fields: dict[str, Raw] = _decode_object(text)
    except msgspec.ValidationError:
        raise _no_object(text) from None
    finish(_refusing_repeats(text, _FIELDS, _ONCE, ""))
    return fields


def decode_unchecked(text: bytes, *, is_array: bool) -> list[Job]:
    """Decode a job, or an array of them, that are all plain or none is, within the bounds of their structs and no more.

    Raises: msgspec.DecodeError: they do not fit those.
    """
    if is_array:
        return list(_plain_first(_decode_plain_jobs, _decode_jobs, text))
    return [_plain_first(_decode_plain_job, _decode_job, text)]


def _plain_first(plain: Callable[[bytes], _P], full: Callable[[bytes], _F], text: bytes) -> _P | _F:
    try:
        return plain(text)
    except msgspec.ValidationError:
        return full(text)


#: short jobs, member by member, some 10 ms
_JOBS_A_STEP = 256


def taking_auth_out(text: bytes, first: int = 0) -> Steps[bytes]:
    """Return in steps an insert's argument without the `auth` of the job, or of each job; all other bytes stay as sent.

    Old clients send their credentials there; they must never reach the journal.

    Args: first: the index of the first job, when it is an array. What is no object is left as it is.
    Raises: CallError: bad_job; a job has `auth` twice.
    """
    if not strict.may_hold_unseen(text, _NO_AUTH):
        return text
    if len(text) <= SHORT_BYTES and (left := _without_sole_auth(text)) is not None:
        return left
    yield
    kept: list[bytes] = []
    at = 0
    for index, (start, job) in enumerate(_objects(text), first):
        end_before = None
        has_auth = False
        for member in _walking(bytes(job), _FIELDS_AND_AUTH, {}, _place(index, is_array=is_array_text(text))):
            if member is None:
                yield
            elif member.key != _AUTH:
                end_before = start + member.end
            elif has_auth:
                raise CallError(f"{_place(index, is_array=is_array_text(text))}{_AUTH}: stands twice", "bad_job")
            else:
                has_auth = True
                end = start + member.end
                is_last = text.startswith(b"}", end)
                kept.append(text[at : start + member.start if end_before is None or not is_last else end_before])
                at = end if is_last else end + 1
        if index % _JOBS_A_STEP == _JOBS_A_STEP - 1:
            yield
    return b"".join((*kept, text[at:])) if kept else text


def _without_sole_auth(text: bytes) -> bytes | None:
    """Return a short job without its `auth`, if that is beyond doubt: nothing else in the job looks like it."""
    if is_array_text(text) or strict.may_hold_unseen(text, _ONE_AUTH):
        return None
    try:
        auth = _decode_object(text).get(_AUTH)
    except msgspec.ValidationError:
        return None
    start = text.index(b'"auth"')
    key = _AUTH_KEY.match(text, start)
    if auth is None or key is None:
        return None
    behind = text[key.end() + len(auth) :].lstrip()
    if behind.startswith(b","):
        return text[:start] + behind[1:]
    before = text[:start].rstrip()
    return (before[:-1] if before.endswith(b",") else text[:start]) + behind


def _objects(text: bytes) -> Iterator[tuple[int, Raw]]:
    """Yield the object in `text`, or those in its array, and where each begins."""
    if not is_array_text(text):
        if text.lstrip().startswith(b"{"):
            yield 0, Raw(text)
        return
    at = text.index(b"[") + 1
    for element in _decode_array(text):
        at = text.index(bytes(memoryview(element)[:1]), at)
        if text.startswith(b"{", at):
            yield at, element
        at += len(element)


def at_seconds(value: float | str) -> float:
    """Return the Unix seconds of an `at`.

    Raises: CallError: bad_job; neither an RFC 3339 time with its zone nor a number in range.
    """
    seconds = value if isinstance(value, int | float) else _parse_time(value)
    if seconds is None or abs(seconds) > _MAX_UNIX_S:
        raise CallError(_mismatch("at", msgspec.json.encode(value)), "bad_job")
    return float(seconds)


def _parse_time(text: str) -> float | None:
    try:
        when: datetime = msgspec.convert(text, Annotated[datetime, Meta(tz=True)])
    except msgspec.ValidationError:
        return None
    return when.timestamp()


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


def are_waiting(jobs: Sequence[Job]) -> bool:
    """Tell whether one of some decoded jobs, which are all plain or none is, says itself how long to wait for its end."""
    return bool(jobs) and type(jobs[0]) is JobFields and any(job.wait is not None for job in jobs if type(job) is JobFields)


def is_array_text(text: bytes) -> bool:
    """Tell whether JSON is an array."""
    return text.lstrip().startswith(b"[")


def _admit_type(text: str) -> bool:
    if not is_type(text):
        return False
    if len(_known_types) >= _MAX_KNOWN_TYPES:
        _known_types.clear()
    _known_types.add(text)
    return True


def _own_fault(job: JobFields) -> str | None:
    if job.tick is not UNSET:
        return unknown_name("field", "tick", _TYPES)
    if job.members is not UNSET:
        return unknown_name("field", "members", _TYPES)
    if job.resource is not None and not is_type(job.resource):
        return _mismatch("resource", msgspec.json.encode(job.resource))
    if job.group is not None and not is_type(job.group):
        return _mismatch("group", msgspec.json.encode(job.group))
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
        return _mismatch("batch", msgspec.json.encode(job.batch))
    if job.after is None:
        return None if job.after_any_end is None else "after_any_end: expected after beside it, got none"
    if not all(isinstance(one, int) or ID_PATTERN.match(one) for one in job.after):
        return _mismatch("after", msgspec.json.encode(job.after))
    return None


def _unique_fault(job: JobFields) -> str | None:
    if job.unique is None:
        return None if job.on_conflict is None else "on_conflict: expected a unique key beside it, got none"
    return None if is_type(job.unique) else _mismatch("unique", msgspec.json.encode(job.unique))


def _fault(job: Job) -> str | None:
    if not is_type(job.type):
        return _mismatch("type", msgspec.json.encode(job.type))
    if job.id is not None and not ID_PATTERN.match(job.id):
        return _mismatch("id", msgspec.json.encode(job.id))
    return _own_fault(job) if isinstance(job, JobFields) else None


def _mismatch(field: str, got: bytes | Raw) -> str:
    return f"{field}: expected {expected(JobFields, field)}, got {strict.shown(got)}"


def _no_object(text: bytes | Raw, place: str = "") -> CallError:
    return CallError(f"{place}expected a job object, got {strict.shown(text)}", "bad_job")


def _place(index: int, *, is_array: bool) -> str:
    return f"job {index}: " if is_array else ""


def _decoding_run(text: bytes, first: int, *, is_array: bool) -> Steps[list[Job]]:
    """Decode and check the job in `text`, or those in its array, of which the first has index `first`."""
    jobs = _decode_clean(text, is_array=is_array) if len(text) <= SHORT_BYTES else None
    if jobs is None:
        jobs = []
        for index, one in enumerate(map(bytes, _decode_array(text)) if is_array else [text], first):
            jobs.append((yield from _decoding_exactly(one, _place(index, is_array=is_array))))
            yield
    return jobs


def _decode_clean(text: bytes, *, is_array: bool) -> list[Job] | None:
    """Decode jobs, if each is beyond doubt."""
    try:
        jobs = decode_unchecked(text, is_array=is_array)
    except msgspec.ValidationError:
        return None
    keys = {b'"type"': len(jobs), b'"id"': len(jobs) - [job.id for job in jobs].count(None)}
    if strict.may_hold_unseen(text, keys, [job.data for job in jobs]) or not are_clean(jobs):
        return None
    return None if is_array and are_waiting(jobs) else jobs


def _decoding_exactly(text: bytes, place: str) -> Steps[Job]:
    """Decode and check one job, field by field. Its `data` is no copy."""
    if not text.lstrip().startswith(b"{"):
        raise _no_object(text, place)
    found: dict[str, Raw] = {}
    seen: set[str] = set()
    data: memoryview | None = None
    for member in _walking(text, _FIELDS, found, place):
        if member is None:
            yield
            continue
        if member.key in _ONCE and member.key in seen:
            raise CallError(f"{place}{member.key}: stands twice", "bad_job")
        seen.add(member.key)
        if member.key == "data":
            data = memoryview(text)[member.value_start : member.value_start + len(found["data"])]
        else:
            _check_field(member.key, text[member.value_start : member.end], place)
    if "type" not in found:
        raise CallError(f"{place}type: missing, expected {expected(JobFields, 'type')}", "bad_job")
    fields: dict[str, Any] = {name: _decode_field[name](value) for name, value in found.items() if name != "data"}
    if data is not None:
        fields["data"] = Raw(data)
    job: Job = PlainJob(**fields) if seen <= _PLAIN else JobFields(**fields)
    if fault := _fault(job):
        raise CallError(place + fault, "bad_job")
    if place and are_waiting([job]):
        raise CallError(f"{place}wait: belongs to an insert of one job, not to one of an array", "bad_job")
    return job


def _walking(text: bytes, reader: Reader, found: dict[str, Raw], place: str) -> Iterator[Member | None]:
    """Walk a job's members, if there are not too many: 16 MiB of one option, again and again, take seconds to walk."""
    count = 0
    for member in walking(text, reader, found):
        count += member is not None
        if count > _MAX_MEMBERS:
            raise CallError(f"{place}expected at most {_MAX_MEMBERS} fields", "bad_job")
        yield member


def _check_field(name: str, value: bytes, place: str) -> None:
    if name not in _TYPES:
        raise CallError(place + unknown_name("field", name, _TYPES), "bad_job")
    if len(value) > _FIELD_BYTES:
        raise CallError(place + _mismatch(name, value), "bad_job")
    try:
        _decode_field[name](value)
    except msgspec.ValidationError:
        raise CallError(place + _mismatch(name, value), "bad_job") from None


def _refusing_repeats(text: bytes, reader: Reader, keys: tuple[str, ...], place: str) -> Steps[None]:
    seen = set()
    for member in walking(text, reader, {}):
        if member is None:
            yield
        elif member.key in keys and member.key in seen:
            raise CallError(f"{place}{member.key}: stands twice", "bad_job")
        else:
            seen.add(member.key)
