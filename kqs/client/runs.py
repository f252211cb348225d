"""Runs that a worker is given, and what it says of them. Source: docs/protocol.md, "The worker's calls"."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from kqs.client.values import decoded
from kqs.errors import ERROR_CODES, CallError
from kqs.wire.inserted import Refused
from kqs.wire.runs import GivenRun


class Run(GivenRun, eq=False, gc=True, weakref=True):
    """One run of a job, given to whoever asked for it.

    is_over: it was taken away, or its connection was lost: whatever is said of it is refused as `stale`. is_held: it outlives
    its connection.
    """

    is_over: bool = False
    is_held: bool = False

    @property
    def data(self) -> Any:
        """Return the job's data. Raises: CallError: it has a number that no float can hold."""
        return decoded(self.raw)

    @property
    def batch(self) -> Any:
        """Return how the jobs of the batch have ended whose `then` it is, as an object; None: of none."""
        return None if self.raw_batch is msgspec.UNSET else decoded(self.raw_batch)

    @property
    def progress(self) -> Any:
        """Return how far earlier runs of the job said they were, last; None: they said nothing. Raises: as `data`."""
        return None if self.raw_progress is msgspec.UNSET else decoded(self.raw_progress)


class Report(msgspec.Struct, omit_defaults=True):
    """How a run ended. Which of the fields belong to which report says docs/protocol.md. run: its token."""

    run: str
    report: Literal["ok", "again", "fail"]
    result: Any = None
    reason: str | None = None
    delay: float | None = None
    final: bool = False


class _Left(msgspec.Struct):
    left: float


class _Touched(msgspec.Struct):
    cancel: bool = False


class _Cancel(msgspec.Struct):
    cancel: str


_decode_runs = msgspec.json.Decoder(list[Run]).decode
_decode_event = msgspec.json.Decoder(list[Run] | _Cancel).decode
_decode_told = msgspec.json.Decoder(list[bool | Refused]).decode
_decode_members = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_left = msgspec.json.Decoder(_Left).decode
_decode_touched = msgspec.json.Decoder(list[_Touched]).decode
_decode_refusal = msgspec.json.Decoder(Refused).decode


def given_runs(result: msgspec.Raw) -> list[Run]:
    """Return the runs of an answer of `reserve` or `work`. Raises: msgspec.DecodeError: it is no such answer."""
    return _decode_runs(result)


def heard(event: msgspec.Raw) -> list[Run] | str:
    """Return what an intermediate answer of `work` gives, or the token of the run that it takes away.

    Raises: msgspec.DecodeError: it is no such answer.
    """
    found = _decode_event(event)
    return found.cancel if isinstance(found, _Cancel) else found


def told(result: msgspec.Raw) -> list[CallError | None]:
    """Return what a list of reports was answered: None where it was taken. Raises: msgspec.DecodeError."""
    return [error_of(one) if isinstance(one, Refused) else None for one in _decode_told(result)]


def seconds_left(result: msgspec.Raw) -> list[float | CallError]:
    """Return what a list of touches was answered. Raises: msgspec.DecodeError: it is no such answer."""
    return [_left(member) for member in _decode_members(result)]


def cancelled(result: msgspec.Raw) -> list[bool]:
    """Return of which runs a list of touches was answered that they are to end; [] where it is of none, as nearly always."""
    if b"true" not in bytes(result):
        return []
    return [touched.cancel for touched in _decode_touched(result)]


def _left(member: msgspec.Raw) -> float | CallError:
    try:
        return _decode_left(member).left
    except msgspec.ValidationError:
        return error_of(_decode_refusal(member))


def error_of(refusal: Refused) -> CallError:
    """Return what the server says in the place of an answer, as what is raised for a call of its own."""
    if refusal.code in ERROR_CODES:
        return CallError(refusal.message, refusal.code)
    return CallError(f"{refusal.code}: {refusal.message}", "internal")
