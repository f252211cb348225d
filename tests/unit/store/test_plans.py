"""No statement may cost more when more jobs are stored: each finds its rows by key or by the index made for it."""

from __future__ import annotations

import sqlite3

import pytest

from kqs.store.sqlite import bulk, claim, content, progress, queues, report, retention, schedule, schema

BY_KEY = [
    content._READY,
    content._RUNNING,
    content._LENGTHS,
    content._LONG,
    content._END_DAMAGED,
    claim._CLAIM,
    report._FENCES,
    report._END_ALIKE,
    report._RUNS,
    retention._KINDS,
    retention._DELETE,
    schedule._WAKE,
    bulk._GET,
    bulk._LENGTHS,
    bulk._DELETE,
    progress._RUNNING,
    progress._GET,
    progress._KNOWN,
    progress._DELETE,
]
BY_INDEX = {
    f"select * {schedule._READY_OF_PRIO}": "ready (type=? AND prio=? AND ord>?)",
    f"select * {schedule._READY_BEYOND_PRIO}": "ready (type=? AND prio>?)",
    f"select * {schedule._DUE}": "later (due_at<?)",
    schedule._NEXT_DUE: "later",
    schedule._EXPIRED: "expiring (expire_at>? AND expire_at<?)",
    schedule._NEXT_EXPIRE: "expiring",
    claim._ORPHANS: "running (epoch<?)",
    retention._DROPPED: "ended (state=? AND drop_at<?)",
    retention._TO_BE_DROPPED: "ended (state=? AND drop_at>?)",
    retention._KEPT_FOR_EVER: "ended (state=? AND drop_at=? AND rowid<?)",
}


@pytest.fixture
def db() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    schema.prepare(db, "0" * 32, "abcdef12")
    return db


def plan(db: sqlite3.Connection, statement: str) -> list[str]:
    values = [0] * statement.count("?")
    return [row[3] for row in db.execute(f"explain query plan {statement}", values) if "json_each" not in row[3]]


@pytest.mark.parametrize("statement", BY_KEY)
def test_rows_are_found_by_key(db: sqlite3.Connection, statement: str) -> None:
    (step,) = [step for step in plan(db, statement) if "LIST SUBQUERY" not in step and "CREATE BLOOM" not in step]
    assert "USING INTEGER PRIMARY KEY (rowid=?)" in step


@pytest.mark.parametrize(("statement", "index"), BY_INDEX.items())
def test_rows_are_found_by_index_and_never_sorted(db: sqlite3.Connection, statement: str, index: str) -> None:
    steps = plan(db, statement)
    assert any(f"INDEX {index}" in step for step in steps)
    assert not any("TEMP B-TREE" in step for step in steps)


@pytest.mark.parametrize("statement", [queues._BEFORE, queues._OLDEST])
def test_what_waits_is_found_by_its_index(db: sqlite3.Connection, statement: str) -> None:
    steps = [row[3] for row in db.execute(f"explain query plan {statement}", [0] * (4 if "?4" in statement else 2))]
    of_jobs = [step for step in steps if " jobs " in step]
    assert len(of_jobs) >= 2
    assert all("INDEX ready (type=?" in step or "PRIMARY KEY (rowid=?)" in step for step in of_jobs), of_jobs
