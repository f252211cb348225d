"""The text of an insert's argument, a job object or an array of them, as far as decoding and taking out need it alike."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Raw

from kqs.errors import CallError
from kqs.options import JobFields, field_types
from kqs.wire.members import Member, Reader, walking

#: Members of one job, repeated ones included: far more than there are fields, and few enough to be walked at once.
_MAX_MEMBERS = 1000

#: the types of a job's fields, but for what only a schedule says
FIELD_TYPES = {name: type_ for name, type_ in field_types(JobFields).items() if name not in ("tick", "members")}
#: what a client may say of a job
JOB_FIELDS = tuple(FIELD_TYPES)


def is_array_text(text: bytes) -> bool:
    """Tell whether JSON is an array."""
    return text.lstrip().startswith(b"[")


def place_of(index: int, *, is_array: bool) -> str:
    """Return how a message begins that is of the job with this index; where there is only one it says nothing of that."""
    return f"job {index}: " if is_array else ""


def walking_job(text: bytes, reader: Reader, found: dict[str, Raw], place: str) -> Iterator[Member | None]:
    """Walk a job's members, if there are not too many: 16 MiB of one option, again and again, take seconds to walk."""
    count = 0
    for member in walking(text, reader, found):
        count += member is not None
        if count > _MAX_MEMBERS:
            raise CallError(f"{place}expected at most {_MAX_MEMBERS} fields", "bad_job")
        yield member
