"""How a job's record is shown: by `job` and `jobs`, and, with less of it, in `events`."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import asdict

from kqs.job import JobRecord, Report, Run, Tally, instant_of
from kqs.states import ENDED, State
from kqs.store.base import LISTED_BYTES
from kqs.wire.call import NULL

#: `State.word`, found faster
WORDS = {state: state.word for state in State}


def shown_job(record: JobRecord, options: dict[str, Any]) -> dict[str, Any]:
    """Return a record as `job` shows it. Args: options: the job's, resolved."""
    return {
        "id": record.id,
        "type": record.type,
        "state": record.state.word,
        "data": None if record.data is None else Raw(record.data),
        "options": options | {"resource": record.resource},
        "unique": record.unique,
        "group": record.group,
        **_order_of(record),
        "accepted_at": record.accepted_at,
        "due_at": record.due_at or None,
        "expire_at": record.expire_at,
        "ended_at": record.ended_at,
        "drop_at": record.drop_at,
        "cancel_at": record.cancel_at,
        "attempt": record.attempt,
        "failures": record.failures,
        "ghosts": record.ghosts,
        "interrupted": record.interrupted,
        "progress": None if record.progress is None else Raw(record.progress),
        "result": None if record.result is None else Raw(record.result),
        "error": record.error,
        "runs": record.runs,
    }


def _order_of(record: JobRecord) -> dict[str, Any]:
    """Return what is shown of the jobs that one waits for, and of batches, where there is something."""
    shown: dict[str, Any] = {}
    if record.after is not None:
        shown = {"after": record.after.ids, "after_any_end": record.after.is_any_end, "awaits": record.awaits}
    if record.batch is not None or record.tally is not None:
        shown["batch"] = record.batch if record.tally is None else shown_batch(record.tally)
    return shown


def shown_batch(tally: Tally) -> dict[str, Any]:
    """Return how a batch stands, as its `then` shows it."""
    return {("open" if name == "is_open" else name): value for name, value in asdict(tally).items()}


class JobView(msgspec.Struct, gc=False):
    """A job's record in an event: what the end of its run knows of all that `jobs` shows."""

    id: str
    type: str
    state: str
    data: Raw
    options: Raw
    group: str | None
    accepted_at: float
    due_at: float | None
    expire_at: float | None
    ended_at: float | None
    drop_at: float | None
    attempt: int
    failures: int
    ghosts: int
    interrupted: int
    progress: Raw
    result: Raw
    error: str | None


def view_of(record: JobRecord, options: Raw) -> JobView:
    """Return a record as an event shows it. Args: options: the job's, resolved."""
    return JobView(
        record.id,
        record.type,
        record.state.word,
        _short(record.data),
        options,
        record.group,
        record.accepted_at,
        record.due_at or None,
        record.expire_at,
        record.ended_at if record.state in ENDED else None,
        record.drop_at,
        record.attempt,
        record.failures,
        record.ghosts,
        record.interrupted,
        _short(record.progress),
        _short(record.result),
        record.error,
    )


def view_of_end(run: Run, report: Report, options: Raw) -> JobView:
    """Return what an event shows of a job whose run a report has ended, as kqs.queue.ends has its record."""
    return JobView(
        run.claim.id,
        run.type,
        WORDS[report.state],
        _short(run.data),
        options,
        run.group,
        instant_of(run.claim.order),
        report.due_at or None,
        run.expire_at,
        report.ended_at if report.state in ENDED else None,
        report.drop_at,
        run.attempt if report.has_begun else run.attempt - 1,
        report.failures,
        report.ghosts,
        report.interrupted,
        _short(run.progress if report.progress is None else report.progress),
        _short(report.result),
        report.error,
    )


def _short(text: bytes | None) -> Raw:
    """Return JSON as an overview shows it: null, where it is long."""
    return Raw(text) if text and len(text) <= LISTED_BYTES else NULL
