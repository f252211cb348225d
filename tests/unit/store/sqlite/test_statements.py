"""How many statements an operation takes: each hands the interpreter over, and a busy loop thread may keep it for long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kqs.job import Accepted, Claim, Entry, Report
from kqs.states import State
from kqs.store.sqlite import claim, insert, records, report, retention, schedule
from kqs.store.sqlite.session import Session
from tests.support.sqlite_sessions import NOW

JOBS = 1000
BULK = b"1" * 2000
#: few enough, whatever the operation: a statement takes up to 256 rows
FEW = 20


def jobs(count: int = JOBS, **changes: Any) -> list[Accepted]:
    made = [Accepted(n, f"{n:013x}abcdef12", False, "mail", 1, 0.0, None, b"1", None) for n in range(1, count + 1)]
    for job in made:
        for name, value in changes.items():
            setattr(job, name, value(job) if callable(value) else value)
    return made


def entries() -> list[Entry]:
    return [Entry(n, f"{n:013x}abcdef12", "mail", 1) for n in range(1, JOBS + 1)]


def ends(**changes: Any) -> list[Report]:
    made = [Report(Claim(n, "", 1, 1), "mail", State.SUCCESS, "success", NOW) for n in range(1, JOBS + 1)]
    for one in made:
        for name, value in changes.items():
            setattr(one, name, value(one) if callable(value) else value)
    return made


def counted(session: Session, run: Callable[[], Any]) -> tuple[int, Any]:
    """Return how many statements `run` took, and what it returned."""
    seen: list[str] = []
    session.db.set_trace_callback(seen.append)
    try:
        found = run()
    finally:
        session.db.set_trace_callback(None)
    return len([statement for statement in seen if not statement.startswith("--")]), found


def ended(**changes: Any) -> Callable[[Accepted], Report]:
    """The end of a job, which is a plain success but for `changes`."""

    def end(job: Accepted) -> Report:
        made = Report(Claim(job.order, job.id, 1, 1), job.type, State.SUCCESS, "success", NOW)
        for name, value in changes.items():
            setattr(made, name, value(job) if callable(value) else value)
        return made

    return end


def put(session: Session, made: list[Accepted]) -> None:
    insert.insert(session, made, 1, "w", NOW)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param({}, id="plain"),
        pytest.param({"claimed_at": NOW}, id="claimed"),
        pytest.param({"data": BULK}, id="bulk"),
        pytest.param({"given_id": True, "id": lambda job: f"mine-{job.order}"}, id="given id"),
        pytest.param({"given_id": True, "id": lambda job: f"{job.order + 5000:013x}abcdef12"}, id="given id that looks made"),
        pytest.param({"type": lambda job: f"t{job.order}"}, id="each of its own type"),
        pytest.param({"claimed_at": NOW, "end": ended()}, id="ended"),
        pytest.param({"claimed_at": NOW, "end": ended(result=b"1")}, id="ended with results"),
        pytest.param(
            {"claimed_at": NOW, "end": ended(), "options": b"{}", "data": BULK}, id="ended, with options and long data"
        ),
    ],
)
def test_an_insert_of_many_takes_few_statements(session: Session, made: dict[str, Any]) -> None:
    statements, known = counted(session, lambda: insert.insert(session, jobs(**made), 1, "w", NOW))
    assert known == []
    assert statements < FEW
    assert counted(session, session.commit)[0] < FEW
    session.begin(durable=False)


@pytest.mark.parametrize("end", [ended(), ended(ended_at=lambda job: NOW + job.order)], ids=["alike", "each at its own time"])
def test_plain_jobs_that_ended_well_cost_no_more_statements_than_new_ones(
    session: Session, end: Callable[[Accepted], Report]
) -> None:
    new, _ = counted(session, lambda: insert.insert(session, jobs(), 1, "w", NOW))
    both = [*jobs(2 * JOBS, claimed_at=NOW, end=end)][JOBS:]
    assert counted(session, lambda: insert.insert(session, both, 2, "w", NOW)) == (new, [])


@pytest.mark.parametrize("made", [{}, {"data": BULK}, {"expire_at": NOW + 1}], ids=["plain", "bulk", "expiring"])
def test_a_claim_of_many_takes_few_statements(session: Session, made: dict[str, Any]) -> None:
    put(session, jobs(**made))
    statements, runs = counted(session, lambda: claim.claim(session, entries(), "w", NOW))
    assert len(runs) == JOBS
    assert statements < FEW


@pytest.mark.parametrize(
    "ended",
    [
        pytest.param({}, id="alike"),
        pytest.param({"ended_at": lambda one: NOW + one.claim.order}, id="each at its own time"),
        pytest.param({"result": b"1"}, id="with results"),
        pytest.param({"state": State.RETRY, "due_at": NOW + 5, "error": "no"}, id="waiting"),
    ],
)
def test_a_report_of_many_takes_few_statements(session: Session, ended: dict[str, Any]) -> None:
    put(session, jobs(claimed_at=NOW))
    reports = ends(**ended)
    statements, verdicts = counted(session, lambda: report.report(session, reports))
    assert verdicts == [True] * JOBS
    assert statements < FEW


def test_a_report_costs_no_statement_for_cancelled_runs_that_it_does_not_name(session: Session) -> None:
    insert.insert(session, jobs(3), 1, "w", NOW)
    claim.claim(session, entries(), "w", NOW)
    first, _ = counted(session, lambda: report.report_all(session, ends()[:1]))
    session.cancelled.add(3)
    second, _ = counted(session, lambda: report.report_all(session, ends()[1:2]))
    assert second == first


def test_waking_many_takes_few_statements(session: Session) -> None:
    put(session, jobs(due_at=NOW + 1))
    statements, woken = counted(session, lambda: schedule.wake(session, NOW + 1, JOBS, 100))
    assert len(woken) == JOBS
    assert statements < FEW


def test_expiring_many_takes_few_statements_whatever_each_says_of_its_retention(session: Session) -> None:
    put(session, jobs(expire_at=NOW, options=lambda job: b'{"keep":%d}' % job.order))
    statements, ended = counted(session, lambda: schedule.expire(session, NOW, JOBS, None, {}))
    assert len(ended) == JOBS
    assert statements < FEW
    (drop_at,) = session.db.execute("select sum(drop_at) from jobs").fetchone()
    assert drop_at == JOBS * NOW + sum(range(1, JOBS + 1))


def test_a_sweep_of_many_types_takes_few_statements(session: Session) -> None:
    put(session, jobs(type=lambda job: f"t{job.order}", claimed_at=NOW))
    report.report(session, ends(type=lambda one: f"t{one.claim.order}", drop_at=NOW))
    statements, swept = counted(session, lambda: retention.sweep(session, NOW, JOBS, JOBS + 1))
    assert swept == JOBS
    assert statements < FEW
    assert records.counts(session) == {}
