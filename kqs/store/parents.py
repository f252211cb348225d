"""How a job that others wait for may have ended, in numbers that stores keep and in words that its children fail with. Pure."""

from __future__ import annotations

from kqs.states import State

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
