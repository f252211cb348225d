"""Which fields of the records of kqs.job a test may ask for, by name, when it has one made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, TypeVar

from kqs.job import Accepted, After, Members, Report
from kqs.states import State
from kqs.store.ticks import Origin, Plan

T = TypeVar("T")


class JobChanges(TypedDict, total=False):
    """Of `Accepted`."""

    id: str | None
    given_id: bool
    type: str
    prio: int
    due_at: float
    expire_at: float | None
    data: bytes
    options: bytes | None
    claimed_at: float
    accepted_at: float
    adopted: bool
    end: Report | None
    worker: str | None
    held: bool
    resource: str | None
    unique: str | None
    group: str | None
    tick: float | None
    result: bytes | None
    copies: Sequence[Accepted]
    after: After | None
    batch: str | None
    batch_order: int
    members: Members | None


class EndedChanges(JobChanges, total=False):
    """Of `Accepted`, and of the `Report` in its `end`."""

    end_drop_at: float | None
    end_result: bytes | None
    end_error: str | None
    end_failures: int
    end_ghosts: int


class EntryChanges(TypedDict, total=False):
    """Of `Entry`."""

    id: str
    type: str
    prio: int
    handle: object
    options: bytes | None
    data: bytes | None
    group: str | None


class ReportChanges(TypedDict, total=False):
    """Of `Report`."""

    type: str
    due_at: float
    drop_at: float | None
    result: bytes | None
    error: str | None
    failures: int
    ghosts: int
    interrupted: int
    returned: int
    has_begun: bool
    prio: int | None
    by_watcher: bool
    progress: bytes | None


class EndChanges(ReportChanges, total=False):
    """Of `Report`, with how it ended."""

    state: State
    run_state: str


class ScheduleChanges(TypedDict, total=False):
    """Of `Schedule`."""

    plan: Plan
    origin: Origin
    created_at: float
    passed_at: float
    tick_at: float
    missed: int
    skipped: int
    suspended_at: float | None
    nodes: frozenset[str]


def changed(record: T, changes: Mapping[str, object]) -> T:
    """Return `record`, with these fields as they are said."""
    for name, value in changes.items():
        setattr(record, name, value)
    return record
