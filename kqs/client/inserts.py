"""What inserts are answered."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
from msgspec.structs import replace

from kqs.client.runs import error_of
from kqs.errors import CallError
from kqs.wire.inserted import Inserted, Refused

_decode = msgspec.json.Decoder(str | dict[str, str | bool]).decode
_decode_many = msgspec.json.Decoder(list[str | dict[str, str | bool]]).decode

Told = str | Inserted | CallError


def told(result: msgspec.Raw, own_ids: Collection[str]) -> Told:
    """Return what an insert was answered. own_ids: made here, for this call alone: who kept such a job has made it.

    Raises: msgspec.DecodeError: it is no such answer.
    """
    return _told(_decode(result), own_ids)


def all_told(result: msgspec.Raw, own_ids: Collection[str]) -> list[Told]:
    """Return what an insert of a list was answered. As `told`."""
    return [_told(one, own_ids) for one in _decode_many(result)]


def ids_of(answers: Sequence[Told]) -> list[str]:
    """Return the ids of all jobs. Raises: CallError: one was refused."""
    ids: list[str] = []
    for one in answers:
        if isinstance(one, CallError):
            raise one
        ids.append(one if isinstance(one, str) else one.id)
    return ids


def full(answers: Sequence[Told]) -> list[Inserted | CallError]:
    """Return full answers. Raises: TypeError: the server gives none."""
    found = [one for one in answers if not isinstance(one, str)]
    if len(found) < len(answers):
        raise TypeError("the server has answered with an id alone")
    return found


def one_of(answer: Told) -> Inserted:
    """Return what one insert was answered; an id alone is that of a new job. Raises: CallError: it was refused."""
    if isinstance(answer, CallError):
        raise answer
    return Inserted(answer, True) if isinstance(answer, str) else answer


def _told(answer: str | dict[str, str | bool], own_ids: Collection[str]) -> Told:
    if isinstance(answer, str):
        return answer
    if "code" in answer:
        return error_of(msgspec.convert(answer, Refused))
    inserted = msgspec.convert(answer, Inserted)
    # one that was sent twice is known the second time
    return replace(inserted, created=True) if inserted.id in own_ids else inserted
