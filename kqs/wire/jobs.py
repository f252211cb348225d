"""The argument of an insert -> jobs, or an error that names the job, its field, what was expected and what came.

msgspec's structs in kqs.options check names, types and ranges; here are the rules that types cannot say. What a client
sent and what is stored agree byte for byte in `data`, whatever stands in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Raw

from kqs.errors import CallError
from kqs.ids import ID_PATTERN
from kqs.nearest import unknown_name
from kqs.options import TYPE_RULE, Job, JobFields, PlainJob, is_type
from kqs.wire import strict

_MAX_UNIX_S = 10**11  # the year 5138; far beyond it, microseconds no longer fit 64 bits
_MAX_KNOWN_TYPES = 10_000  # a client may invent types without end

_EXPECTED = {
    "type": TYPE_RULE,
    "id": "1 to 200 of A-Z a-z 0-9 . _ : -",
    "prio": '"urgent", "high", "normal", "low", "bulk" or a whole number from 0 to 4294967295',
    "delay": "a number of seconds from 0 to 10000000000",
    "at": "an RFC 3339 time with its zone, or Unix seconds",
    "ttr": "a number of seconds from 0.1 to 2147483648",
    "auto_touch": "true or false",
    "time_limit": "a number of seconds above 0",
    "retries": "a whole number from -1 to 2147483647",
    "retry_delay": "a number of seconds from 0 to 10000000000",
    "backoff": '"constant" or "exponential"',
    "max_retry_delay": "a number of seconds from 0 to 10000000000",
    "ghosts": "a whole number from -1 to 2147483647",
    "ghost_delay": "a number of seconds from 0 to 10000000000",
    "expire": "a number of seconds above 0",
    "keep": "a number of seconds, or -1 for ever",
}
_UNSUPPORTED = ("wait", "resource")
_ONCE = ("type", "id")
_FIELDS = (*_EXPECTED, "data")

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\[(\d+)\]`)?\Z", re.DOTALL)
_PATH = re.compile(r" - at `\$(?:\[(\d+)\])?(?:\.(\w+))?`\Z")
_ID_CHARACTERS = re.compile(r"[A-Za-z0-9._:-]*\Z")

_decode_plain_job = msgspec.json.Decoder(PlainJob).decode
_decode_plain_jobs = msgspec.json.Decoder(list[PlainJob]).decode
_decode_job = msgspec.json.Decoder(JobFields).decode
_decode_jobs = msgspec.json.Decoder(list[JobFields]).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode

_P = TypeVar("_P")
_F = TypeVar("_F")

_known_types: set[str] = set()  # that passed `is_type`


def decode_job(raw: bytes | Raw) -> Job:
    """Decode and check one JSON job object (without `auth`: see strip_auth).

    Raises: CallError: bad_job, bad_json, or unsupported for a field of a later version; the message is for the peer.
    """
    text = bytes(raw)
    if _is_array(text):
        raise CallError(f"expected a job object, got {strict.shown(text)}", "bad_job")
    return decode_jobs(text)[0]


def decode_jobs(raw: bytes | Raw) -> list[Job]:
    """Decode and check what an insert was given: one job object, or an array of them (all or nothing).

    Raises: as decode_job; in an array the message begins with the job's index, from 0.
    """
    text = bytes(raw)
    try:
        jobs = replay_jobs(text)
    except msgspec.ValidationError as error:
        raise _explain(text, str(error)) from None
    except (ValueError, RecursionError) as error:
        raise strict.not_json(text, error) from None
    _check(text, jobs)
    return jobs


def read_fields(text: bytes) -> dict[str, Raw]:
    """Return the members of one JSON job object as they stand, their values unchecked.

    Raises: CallError: bad_json; or bad_job when it is no object, or names its type or id twice.
    """
    try:
        fields: dict[str, Raw] = _decode_object(text)
    except msgspec.ValidationError:
        strict.check_json(text)
        raise CallError(f"expected a job object, got {strict.shown(text.strip())}", "bad_job") from None
    except (ValueError, RecursionError) as error:
        raise strict.not_json(text, error) from None
    kept = b"\n".join(fields.values())
    if strict.may_hide_key(text) or any(strict.is_repeated(f'"{key}"'.encode(), text, kept, key in fields) for key in _ONCE):
        _refuse_repeats(text, strict.members(text), _ONCE)
    return fields


def replay_jobs(payload: bytes) -> list[Job]:
    """Decode again what decode_jobs once accepted, without its checks.

    Raises: msgspec.DecodeError: it never was.
    """
    if _is_array(payload):
        return list(_plain_first(_decode_plain_jobs, _decode_jobs, payload))
    return [_plain_first(_decode_plain_job, _decode_job, payload)]


def _plain_first(plain: Callable[[bytes], _P], full: Callable[[bytes], _F], text: bytes) -> _P | _F:
    try:
        return plain(text)
    except msgspec.ValidationError:
        return full(text)


def strip_auth(raw: bytes | Raw) -> bytes:
    """Return an insert's argument without the `auth` member of the job, or of each job; all other bytes stay as sent.

    Old clients send their credentials there; they must never reach the journal. Not for JSON that no decoder has passed.
    Raises: CallError: bad_job; a job has `auth` twice.
    """
    text = bytes(raw)
    if b'"auth"' not in text and not strict.may_hide_key(text):
        return text
    found = list(strict.members(text, _level_of(text)))
    _refuse_repeats(text, found, ("auth",))
    kept, at = [], 0
    for index, member in enumerate(found):
        if member.key == "auth":
            is_last = text.startswith(b"}", member.end)
            is_first = index == 0 or found[index - 1].owner != member.owner
            kept.append(text[at : member.start if is_first or not is_last else found[index - 1].end])
            at = member.end if is_last else member.end + 1
    return b"".join((*kept, text[at:]))


def at_seconds(value: float | str) -> float:
    """Return the Unix seconds of an `at`.

    Raises: CallError: bad_job; neither an RFC 3339 time with its zone nor a number in range.
    """
    seconds = value if isinstance(value, int | float) else _parse_time(value)
    if seconds is None or abs(seconds) > _MAX_UNIX_S:
        raise CallError(f"at: expected {_EXPECTED['at']}, got {strict.shown(msgspec.json.encode(value))}", "bad_job")
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
    """Tell whether every decoded job keeps the rules that its struct cannot say."""
    types = {job.type for job in jobs}
    if not types <= _known_types and not all(map(_admit_type, types)):
        return False
    if not _ID_CHARACTERS.match("".join([job.id for job in jobs if job.id is not None])):
        return False
    return not any(_time_fault(job) for job in jobs if isinstance(job, JobFields))


def hides_or_repeats_key(text: bytes, jobs: Sequence[Job]) -> bool:
    """Tell whether `type` or `id` may stand twice in one of the jobs that were decoded from `text`."""
    data = b"\n".join([job.data for job in jobs])
    given_ids = len(jobs) - [job.id for job in jobs].count(None)
    return (
        strict.may_hide_key(text)
        or strict.is_repeated(b'"type"', text, data, len(jobs))
        or strict.is_repeated(b'"id"', text, data, given_ids)
    )


def _is_array(text: bytes) -> bool:
    return text.lstrip().startswith(b"[")


def _level_of(text: bytes) -> int:
    return 2 if _is_array(text) else 1


def _admit_type(text: str) -> bool:
    if not is_type(text):
        return False
    if len(_known_types) >= _MAX_KNOWN_TYPES:
        _known_types.clear()
    _known_types.add(text)
    return True


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


def _fault(job: Job) -> str | None:
    if not is_type(job.type):
        return _mismatch("type", job.type)
    if job.id is not None and not ID_PATTERN.match(job.id):
        return _mismatch("id", job.id)
    return _time_fault(job) if isinstance(job, JobFields) else None


def _mismatch(field: str, value: str) -> str:
    return f"{field}: expected {_EXPECTED[field]}, got {strict.shown(msgspec.json.encode(value))}"


def _place(text: bytes, index: int | str) -> str:
    return f"job {index}: " if _is_array(text) else ""


def _check(text: bytes, jobs: Sequence[Job]) -> None:
    if not strict.is_clean_text(text):
        raise strict.bad_text()
    if strict.is_any_deeper([job.data for job in jobs], strict.MAX_DEPTH - _level_of(text)):
        raise strict.too_deep()
    if hides_or_repeats_key(text, jobs):
        _refuse_repeats(text, strict.members(text, _level_of(text)), _ONCE)
    if not are_clean(jobs):
        index, fault = next((index, fault) for index, job in enumerate(jobs) if (fault := _fault(job)))
        raise CallError(_place(text, index) + fault, "bad_job")


def _refuse_repeats(text: bytes, found: Iterable[strict.Member], keys: tuple[str, ...]) -> None:
    seen = set()
    for member in found:
        if member.key in keys:
            if (member.owner, member.key) in seen:
                raise CallError(f"{_place(text, member.owner)}{member.key}: stands twice", "bad_job")
            seen.add((member.owner, member.key))


def _explain(text: bytes, problem: str) -> CallError:
    """Return what msgspec found wrong, in the words of the manual. Every path here is of one of its few forms."""
    strict.check_json(text)
    unknown = _UNKNOWN_FIELD.match(problem)
    if unknown:
        return CallError(_place(text, unknown[2] or 0) + unknown_name("field", unknown[1], _FIELDS), "bad_job")
    path = _PATH.search(problem)
    index, field = path.groups() if path else (None, None)
    job = _decode_array(text)[int(index)] if index else Raw(text)
    place = _place(text, index or 0)
    if field in _UNSUPPORTED:
        return CallError(f"{place}{field}: not supported by this version", "unsupported")
    if field:
        got = strict.shown(_decode_object(job)[field])
        return CallError(f"{place}{field}: expected {_EXPECTED[field]}, got {got}", "bad_job")
    if problem.startswith("Object missing"):
        return CallError(f"{place}type: missing, expected {_EXPECTED['type']}", "bad_job")
    return CallError(f"{place}expected a job object, got {strict.shown(job)}", "bad_job")
