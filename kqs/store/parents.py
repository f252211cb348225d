"""What those are told who wait for others: how these have ended, in numbers that stores keep, in words to fail with. Pure."""

from __future__ import annotations

import msgspec

from kqs.job import Tally
from kqs.states import State

_encode = msgspec.json.Encoder().encode

#: beside the states in which a job ends, what may have become of one that is waited for; stored
DELETED = -1
_WORDS: dict[int, str] = {
    State.FAIL: "has failed",
    State.CANCELLED: "was cancelled",
    DELETED: "was deleted, or is not known any more",
}


def is_bad(outcome: int | None) -> bool:
    """Tell whether who waits for a success waits in vain; None: it has not ended."""
    return outcome is not None and outcome in _WORDS


def in_vain(parent: str, outcome: int) -> str:
    """Return the error of a job that waited in vain for `parent`."""
    return f"job {parent}, which it waits for, {_WORDS[outcome]}"


def told(tally: Tally) -> bytes:
    """Return what the run of a `then` is told of its batch, as JSON."""
    return _encode(
        {
            "id": tally.id,
            "count": tally.count,
            "success": tally.success,
            "fail": tally.fail,
            "cancelled": tally.cancelled,
            "deleted": tally.deleted,
        }
    )
