"""Jobs that were accepted once, by any version: as near to what they said as the bounds of this one allow.

What this version accepted is decoded without its checks. Of what another one did, each field is read by itself, and left out
where it says nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from kqs.errors import CallError
from kqs.options import Job, JobFields, OptionFields, allowed, field_types
from kqs.wire.clean import at_seconds
from kqs.wire.jobs import decode_unchecked
from kqs.wire.jobtext import is_array_text

_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode
_decode_any = msgspec.json.Decoder().decode


def replay_jobs(payload: bytes) -> list[Job]:
    """Decode again what was once accepted as the argument of an insert, without the checks.

    Raises: msgspec.DecodeError: it never was.
    """
    is_array = is_array_text(payload)
    try:
        return decode_unchecked(payload, is_array=is_array)
    except msgspec.ValidationError:
        return list(map(replay_job, _decode_array(payload) if is_array else [Raw(payload)]))


def replay_job(raw: Raw) -> Job:
    """Decode a job that a version with other fields or bounds accepted.

    Raises: msgspec.DecodeError: it is no object with a type.
    """
    members = _decode_object(raw).items()
    fields = {name: _READERS[name](value) for name, value in members if name in _READERS}
    if not isinstance(fields.get("type"), str):
        raise msgspec.DecodeError("a job without a type")
    return JobFields(**{name: value for name, value in fields.items() if value is not UNSET})


def kept_at_seconds(value: float | str) -> float:
    """Return the Unix seconds of an `at` that was accepted once; what this version would refuse is in the past."""
    try:
        return at_seconds(value)
    except CallError:
        return 0.0


def _option(name: str, value: Raw) -> Any:
    return allowed(name, _decode_any(value))


def _of_kind(kind: type, value: Raw) -> Any:
    found = _decode_any(value)
    return found if isinstance(found, kind) else UNSET


def _fitting(name: str, value: Raw) -> Any:
    try:
        return msgspec.convert(_decode_any(value), field_types(JobFields)[name])
    except msgspec.ValidationError:
        return UNSET


#: how each field is read; UNSET leaves it out. What is not here says how an insert is answered, which is over
_READERS: dict[str, Callable[[Raw], Any]] = {
    **{name: partial(_option, name) for name in OptionFields.__struct_fields__},
    "type": _decode_any,
    "id": _decode_any,
    "at": _decode_any,
    "data": lambda value: value,
    "unique": partial(_of_kind, str),
    "group": partial(_of_kind, str),
    "tick": partial(_of_kind, float),
    "copies": partial(_of_kind, dict),
    **{name: partial(_fitting, name) for name in ("after", "after_any_end", "batch", "members")},
}
