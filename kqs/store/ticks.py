"""What is kept of a schedule: what it says, and how far it has ticked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import msgspec

from kqs.options import CatchUp, Overlap

Origin = Literal["config", "call"]

#: with an instant behind it, the name makes an id
MAX_NAME_CHARACTERS = 100
NAME_RULE = f"1 to {MAX_NAME_CHARACTERS} of A-Z a-z 0-9 . _ -"


class Plan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a schedule says. It has a `cron` expression, or `every`.

    every: s between two ticks. tz: the zone of the expression. from_at: the instant of the first tick of `every`, in Unix
    seconds; None: so long after its creation. job: what is inserted, as JSON, without an id.
    """

    job: str
    cron: str | None = None
    every: float | None = None
    tz: str = "UTC"
    from_at: float | None = None
    catch_up: CatchUp = "one"
    overlap: Overlap = "allow"


class Schedule(msgspec.Struct, frozen=True):
    """A schedule as it is kept. Instants are Unix seconds.

    created_at: when it was given, and from when on `every` counts. since: no instant up to then is one of its ticks: when it
    was given, or resumed. revision: a number that no other schedule has, nor the one that had its name before.
    passed_at: no instant up to here is inserted any more, whoever asks. tick_at: the last one that was; 0.0: none.
    missed, skipped: how many were not. suspended_at: since when it does not tick. nodes: the servers whose config has it.
    """

    name: str
    plan: Plan
    origin: Origin
    created_at: float
    since: float
    revision: int
    passed_at: float = 0.0
    tick_at: float = 0.0
    missed: int = 0
    skipped: int = 0
    suspended_at: float | None = None
    nodes: frozenset[str] = frozenset()


class Passed(msgspec.Struct, frozen=True):
    """Instants that are decided without a job. expected: `passed_at` as the decision knew it."""

    name: str
    revision: int
    expected: float
    passed_at: float
    missed: int
    skipped: int


def tick_of(name: str, at: float) -> str:
    """Return the id of the job of a tick."""
    seconds, ms = divmod(round(at * 1000), 1000)
    second = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{name}:{second}{f'.{ms:03d}' if ms else ''}Z"


def name_of(tick_id: str) -> str:
    """Return the name of the schedule of a tick's job."""
    return tick_id.partition(":")[0]
