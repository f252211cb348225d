"""What is kept of a schedule: what it says, and how far it has ticked; and by which operations of the store port."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, Protocol

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


class SchedulesPort(Protocol):
    """The part of the store port that keeps schedules, the same for all servers of the store. Raises as that says."""

    async def put_schedule(self, schedule: Schedule, node: str | None = None) -> Schedule:
        """Keep a schedule, in the place of the one that has its name; durable before it returns.

        Of that, what it has done stays: tick_at, missed and skipped, whether it is suspended; `passed_at` does too, unless
        the revision is another and it is beyond `since`: the clock was ahead then. So does `nodes`, to which `node` is added,
        if origin is config.
        Returns: the schedule as it is kept.
        """
        ...

    async def remove_schedule(self, name: str, node: str | None = None) -> bool:
        """Keep a schedule no more; durable before it returns. Jobs that it has inserted stay.

        Args: node: take this out of its `nodes`, and remove it only if none is left.
        Returns: False: there was none, or none of this node's.
        """
        ...

    async def schedules(self, names: Sequence[str] | None = None) -> list[Schedule]:
        """Return the schedules of these names, or all, in order of their names."""
        ...

    async def schedule_changes(self) -> int:
        """Return a number that is another one after any of them was put, removed, suspended or resumed."""
        ...

    async def suspend_schedule(self, name: str, at: float | None, since: float) -> Schedule | None:
        """Keep that a schedule is suspended from `at` on; None: that it is not, and ticks after `since`. Durable.

        Returns: the schedule as it is kept; it stays as it was if it was suspended, or not, already. None: there is none.
        """
        ...

    async def pass_ticks(self, passed: Sequence[Passed]) -> list[bool]:
        """Keep that instants of schedules are decided without a job. It survives as an insert does.

        Returns: per schedule, whether it was done; False: it is another one by now, or has gone on.
        """
        ...
