"""Jobs and runs to test with."""

from __future__ import annotations

import pytest

from kqs.errors import CallError
from kqs.filter import Filter
from kqs.job import Accepted, Claim, JobRecord, Report, Run
from kqs.states import State
from kqs.store.base import Store
from kqs.wire.jobs import decode_jobs

NOW = 1_800_000_000.0
ORDER = int(NOW * 1_000_000)

#: means every job
EVERYTHING = Filter()


async def listed(store: Store, wanted: Filter = EVERYTHING) -> list[JobRecord]:
    """Return all records that fit, in order, as listings show them."""
    found: list[JobRecord] = []
    after: int | None = None
    while True:
        records, after = await store.page(wanted, after, 1000)
        found += records
        if after is None:
            return found


def an_accepted(
    number: int = 0, type_: str = "mail", prio: int = 10_000, due_at: float = 0.0, data: bytes = b"null"
) -> Accepted:
    """A job with a server-made id, the `number`th of its server."""
    order = ORDER + number
    return Accepted(order, f"{order:013x}-0000beef", False, type_, prio, due_at, None, data, None)


def a_run(
    number: int = 0,
    type_: str = "mail",
    attempt: int = 1,
    options: bytes | None = None,
    *,
    failures: int = 0,
    ghosts: int = 0,
    interrupted: int = 0,
) -> Run:
    """A claimed job."""
    order = ORDER + number
    claim = Claim(order, f"{order:013x}-0000beef", attempt, 1)
    return Run(claim, type_, 10_000, b"null", options, failures, ghosts, interrupted, started_at=NOW)


def a_report(run: Run, end: State, now: float, delay_s: float = 0.0, prio: int | None = None) -> Report:
    """How a run has ended. end: NEW: it never began, and its job waits as before. delay_s, prio: where it is to run again."""
    report = Report(run.claim, run.type, end, end.word, now, returned=run.returned)
    if end is State.NEW:
        report.state, report.has_begun = State(run.waited_as) if run.waited_as != State.PROCESSING else State.NEW, False
    elif end in (State.RETRY, State.GHOST):
        report.due_at, report.prio = now + delay_s if delay_s else 0.0, prio
    return report


def refused(text: bytes | str, code: str = "bad_job") -> str:
    """Return what is said of the jobs of an insert that is refused with this code."""
    with pytest.raises(CallError) as caught:
        decode_jobs(text if isinstance(text, bytes) else text.encode())
    assert caught.value.call_code == code
    return str(caught.value)
