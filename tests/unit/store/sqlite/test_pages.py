"""Pages of records in SQLite: whichever way finds them, they are all that fit, in order."""

from __future__ import annotations

import random
from unittest.mock import patch

import pytest

from kqs.filter import Filter
from kqs.job import Accepted, Claim, Entry, Report
from kqs.states import ENDED, WAITING, State
from kqs.store import change as bounds
from kqs.store.base import Change, Verb
from kqs.store.sqlite import change, claim, insert, pages, records, report
from kqs.store.sqlite.session import Session
from tests.support.sqlite_sessions import NOW

JOBS = 120


def a_job(session: Session, order: int, type_: str = "mail", prio: int = 5, **fields: object) -> Accepted:
    job = Accepted(order, session.ids.of(order), False, type_, prio, 0.0, None, b"1", None)
    for name, value in fields.items():
        setattr(job, name, value)
    return job


def fill(session: Session, seed: int, *, resources: bool) -> list[int]:
    """Store jobs of all kinds, and return their orders."""
    dice = random.Random(seed)
    jobs = [a_job(session, n, dice.choice("abc"), dice.choice([1, 5, 5, 5, 9])) for n in range(1, JOBS + 1)]
    for job in jobs:
        job.due_at = dice.choice([0.0, 0.0, 0.0, NOW + 9])
        job.resource = dice.choice([None, "r", "s"]) if resources else None
    found = insert.insert(session, jobs, 1, "w", NOW)
    ready = [job for job in jobs if not job.due_at and job.order not in found.parked]
    some = dice.sample(ready, len(ready) // 2)
    runs = claim.claim(session, [Entry(job.order, job.id, job.type, job.prio) for job in some], "w", NOW)
    ends = [State.SUCCESS, State.FAIL, State.RETRY, State.CANCELLED]
    reports = [
        Report(Claim(run.claim.order, run.claim.id, run.claim.attempt, run.claim.epoch), run.type, state, state.word, NOW)
        for run in runs
        if (state := dice.choice([*ends, None])) is not None
    ]
    report.report_all(session, reports)
    return [job.order for job in jobs]


def all_pages(session: Session, wanted: Filter, limit: int, *, newest_first: bool) -> list[int]:
    found: list[int] = []
    after: int | None = None
    for _ in range(10 * JOBS):
        part = pages.page(session, wanted, after, limit, newest_first)
        assert len(part.records) <= limit
        found += [record.order for record in part.records]
        after = part.next_after
        if after is None:
            return found
    raise AssertionError("it has no end")


STATES = [
    None,
    frozenset({State.NEW}),
    frozenset({State.RETRY}),
    frozenset(WAITING),
    frozenset({State.PROCESSING, State.NEW}),
    frozenset({State.FAIL}),
    frozenset({State.DELAYED, State.SUCCESS}),
    frozenset(ENDED),
]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("resources", [False, True])
@pytest.mark.parametrize(("looked", "lines", "share"), [(5000, 32, 0.05), (40, 32, 0.0), (40, 2, 0.05), (9, 32, 0.0)])
def test_pages_have_all_that_fits(session: Session, seed: int, resources: bool, looked: int, lines: int, share: float) -> None:
    every = [records.job(session, session.ids.of(order)) for order in fill(session, seed, resources=resources)]
    with (
        patch.object(bounds, "LOOKED", looked),
        patch.object(pages, "_MOST_LINES", lines),
        patch.object(pages, "_LEAST_SHARE", share),
    ):
        for type_ in (None, "a", "none"):
            for states in STATES:
                wanted = Filter(type=type_, states=states, resource="r" if resources and seed else None)
                fitting = [
                    one.order
                    for one in every
                    if one is not None
                    and type_ in (None, one.type)
                    and (states is None or one.state in states)
                    and wanted.resource in (None, one.resource)
                ]
                assert all_pages(session, wanted, 7, newest_first=False) == fitting
                assert all_pages(session, wanted, 7, newest_first=True) == fitting[::-1]


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("states", [None, frozenset({State.NEW}), frozenset(WAITING)])
def test_waiting_jobs_of_a_type_are_found_among_many_others(
    session: Session, states: frozenset[State] | None, newest_first: bool
) -> None:
    others = [a_job(session, order, "other") for order in [*range(1, 200), *range(300, 500)]]
    insert.insert(session, [*others, a_job(session, 250), a_job(session, 251, prio=9)], 1, "w", NOW)
    with patch.object(bounds, "LOOKED", 10):
        part = pages.page(session, Filter(type="mail", states=states), None, 9, newest_first)
    assert sorted(record.order for record in part.records) == [250, 251]
    assert part.next_after is None


@pytest.mark.parametrize(
    "wanted",
    [Filter(type="none"), Filter(type="mail", states=frozenset({State.FAIL})), Filter(states=frozenset({State.SUCCESS}))],
)
def test_what_there_is_none_of_is_not_looked_for(session: Session, wanted: Filter) -> None:
    insert.insert(session, [a_job(session, order) for order in range(1, 100)], 1, "w", NOW)
    with patch.object(bounds, "LOOKED", 10):
        assert pages.page(session, wanted, None, 9, False) == pages.Page([], None)
        for verb in Verb:
            assert change.change(session, Change(verb, wanted, NOW, 2**62), None, 1000).next is None


def test_plan_of_what_is_ready_needs_no_sorting(session: Session) -> None:
    for step, direction in ((">", "asc"), ("<", "desc")):
        query = pages._READY_ORDERS.format(step=step, direction=direction)
        values = {"types": '["a"]', "lines": 9, "after": 5, "most": 3}
        steps = [row[3] for row in session.db.execute(f"explain query plan {query}", values)]
        assert any(f"INDEX ready (type=? AND prio=? AND ord{step}?)" in one for one in steps), steps
        assert not any("TEMP B-TREE" in one for one in steps), steps
