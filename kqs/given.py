"""A run that was given over the wire, as handlers and lanes know it; and how its end is told there."""

from __future__ import annotations

import math

import msgspec

from kqs.errors import PASSING_CODES
from kqs.job import MAX_ERROR_CHARS, Claim, Run
from kqs.options import PRIORITIES
from kqs.outcome import Failed
from kqs.wire.runs import GivenRun

#: the server hears of a run once in this share of its ttr
TOUCH_SHARE = 3
#: codes of refusals after which the same is said again, so much later, in s: of a fault, which may be over by then, it must be
#: as well
PASSING = PASSING_CODES | {"internal"}
AGAIN_S = 1.0
_NORMAL = PRIORITIES["normal"]


def run_of(given: GivenRun, now: float) -> Run:
    """Return a run as handlers know it, which begins at `now`, monotonic. Its handle is its token.

    Its expiry is the server's business; it has one that never comes, so that it is asked as it begins whether it is still ours.
    """
    return Run(
        Claim(0, given.id, given.attempt, 0),
        given.type,
        _NORMAL,
        bytes(given.raw),
        None,
        given.failures,
        given.ghosts,
        started_at=now,
        expire_at=math.inf,
        handle=given.token,
        batch=None if given.raw_batch is msgspec.UNSET else bytes(given.raw_batch),
        progress=None if given.raw_progress is msgspec.UNSET else bytes(given.raw_progress),
        resource=given.resource,
    )


def reason_of(outcome: Failed) -> str:
    """Return the reason of a failure as it may be told: Unicode, and no longer than the server would keep it."""
    return outcome.reason[:MAX_ERROR_CHARS].encode(errors="replace").decode()
