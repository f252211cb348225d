"""The argument of an insert -> jobs, or an error that names the job, its field, what was expected and what came.

msgspec's structs in kqs.options check names, types and ranges, and kqs.wire.clean has the rules that types cannot say. What a
client sent and what is stored agree byte for byte in `data`, whatever stands in it.

msgspec only ever says whether something fits. What does not is found by looking at each field alone, which is slow, and done
for what is refused: its messages are no interface.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Raw

from kqs.errors import CallError
from kqs.options import MAX_ID_CHARACTERS, MOST_AFTER, Job, JobFields, PlainJob, expected
from kqs.wire import strict
from kqs.wire.clean import are_clean, fault_of, mismatch
from kqs.wire.credentials import taking_auth_out
from kqs.wire.jobtext import FIELD_TYPES, JOB_FIELDS, is_array_text, place_of, walking_job
from kqs.wire.members import Reader, walking
from kqs.wire.scan import SHORT_BYTES, runs
from kqs.wire.steps import Steps, finish
from kqs.words.nearest import unknown_name

#: jobs in one array, unless `[server]` says else. In memory a job takes some 200 bytes beside its data, and as long as it is
#: answered, its id
DEFAULT_INSERT_JOBS = 100_000
#: Bytes of any field but data, so that none is decoded that takes long: the most ids, each of their characters escaped.
_FIELD_BYTES = MOST_AFTER * (6 * MAX_ID_CHARACTERS + 3)

_ONCE = ("type", "id")
_PLAIN = frozenset(PlainJob.__struct_fields__)

_decode_plain_job = msgspec.json.Decoder(PlainJob).decode
_decode_plain_jobs = msgspec.json.Decoder(list[PlainJob]).decode
_decode_job = msgspec.json.Decoder(JobFields).decode
_decode_jobs = msgspec.json.Decoder(list[JobFields]).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode
_decode_field = {name: msgspec.json.Decoder(type_).decode for name, type_ in FIELD_TYPES.items()}
_FIELDS = Reader(*JOB_FIELDS)

_P = TypeVar("_P")
_F = TypeVar("_F")


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


def are_waiting(jobs: Sequence[Job]) -> bool:
    """Tell whether one of some decoded jobs, which are all plain or none is, says itself how long to wait for its end."""
    return bool(jobs) and type(jobs[0]) is JobFields and any(job.wait is not None for job in jobs if type(job) is JobFields)


def _no_object(text: bytes | Raw, place: str = "") -> CallError:
    return CallError(f"{place}expected a job object, got {strict.shown(text)}", "bad_job")


def _decoding_run(text: bytes, first: int, *, is_array: bool) -> Steps[list[Job]]:
    """Decode and check the job in `text`, or those in its array, of which the first has index `first`."""
    jobs = _decode_clean(text, is_array=is_array) if len(text) <= SHORT_BYTES else None
    if jobs is None:
        jobs = []
        for index, one in enumerate(map(bytes, _decode_array(text)) if is_array else [text], first):
            jobs.append((yield from _decoding_exactly(one, place_of(index, is_array=is_array))))
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
    for member in walking_job(text, _FIELDS, found, place):
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
    if fault := fault_of(job):
        raise CallError(place + fault, "bad_job")
    if place and are_waiting([job]):
        raise CallError(f"{place}wait: belongs to an insert of one job, not to one of an array", "bad_job")
    return job


def _check_field(name: str, value: bytes, place: str) -> None:
    if name not in FIELD_TYPES:
        raise CallError(place + unknown_name("field", name, FIELD_TYPES), "bad_job")
    if len(value) > _FIELD_BYTES:
        raise CallError(place + mismatch(name, value), "bad_job")
    try:
        _decode_field[name](value)
    except msgspec.ValidationError:
        raise CallError(place + mismatch(name, value), "bad_job") from None


def _refusing_repeats(text: bytes, reader: Reader, keys: tuple[str, ...], place: str) -> Steps[None]:
    seen = set()
    for member in walking(text, reader, {}):
        if member is None:
            yield
        elif member.key in keys and member.key in seen:
            raise CallError(f"{place}{member.key}: stands twice", "bad_job")
        else:
            seen.add(member.key)
