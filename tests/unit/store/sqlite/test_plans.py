"""No statement may cost more when more jobs are stored: each finds its rows by key or by the index made for it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from kqs.filter import Filter
from kqs.states import WAITING
from kqs.store.sqlite import (
    batches,
    bulk,
    change,
    claim,
    content,
    follow,
    groups,
    locks,
    progress,
    queues,
    report,
    resources,
    retention,
    revive,
    schedule,
    schema,
    tables,
    walk,
)

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
    resources._SET_ASIDE,
    resources._READY,
    resources._HOLDER,
    change._CANCEL,
    change._MARK,
    revive._RUNS,
    follow._NOTE,
    follow._HOLD,
    follow._LET_GO,
    follow._AGAIN,
    batches._LEAVE,
]
BY_INDEX = {
    f"select * {schedule._READY_OF_PRIO}": "ready (type=? AND prio=? AND ord>?)",
    f"select * {schedule._READY_BEYOND_PRIO}": "ready (type=? AND prio>?)",
    f"select * {schedule._DUE}": "later (due_at<?)",
    schedule._NEXT_DUE: "later",
    schedule._EXPIRED: "expiring (expire_at>? AND expire_at<?)",
    schedule._NEXT_EXPIRE: "expiring",
    retention._DROPPED: "ended (state=? AND drop_at<?)",
    retention._TO_BE_DROPPED: "ended (state=? AND drop_at>?)",
    retention._KEPT_FOR_EVER: "ended (state=? AND drop_at=? AND rowid<?)",
    locks._HELD: "running",
}
#: by statement, the searches in the key of `parked`
PARKED = {
    resources._UNPARK: ["(resource=? AND type=? AND prio=? AND ord=?)"],
    resources._UNPARK_JOBS: ["(resource=? AND type=? AND prio=? AND ord=?)"],
    resources._WITH_PARKED: ["(resource=?)"],
    resources._PARKED_FROM: ["(resource>?)", "(resource>?)"],
    resources._FIRSTS: ["(resource=?)", "(resource=? AND type>?)", "(resource=? AND type=?)"],
}


#: by statement, the searches among those who wait, of whom one job may have any number
AWAITED = {
    follow._NOTE_PASSED: ["PRIMARY KEY (parent=?)"],
    follow._PAIRS: ["PRIMARY KEY (parent=?)"],
    follow._FOLLOWED: ["PRIMARY KEY (parent=?)"],
    follow._FORGET_PAIRS: ["COVERING INDEX awaited_child (child=?)"],
    follow._FORGET: ["COVERING INDEX awaited_child (child=?)"],
    follow._STILL: ["COVERING INDEX awaited_child (child=?)"],
}


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        schema.prepare(db, "0" * 32, "abcdef12")
        yield db


def plan(db: sqlite3.Connection, statement: str) -> list[str]:
    values = [0] * statement.count("?")
    return [row[3] for row in db.execute(f"explain query plan {statement}", values) if "json_each" not in row[3]]


@pytest.mark.parametrize("statement", BY_KEY)
def test_rows_are_found_by_key(db: sqlite3.Connection, statement: str) -> None:
    (step,) = [step for step in plan(db, statement) if "LIST SUBQUERY" not in step and "CREATE BLOOM" not in step]
    assert "USING INTEGER PRIMARY KEY (rowid=?)" in step


@pytest.mark.parametrize(("statement", "searches"), PARKED.items())
def test_parked_jobs_are_found_by_their_key(db: sqlite3.Connection, statement: str, searches: list[str]) -> None:
    steps = [step for step in plan(db, statement) if "parked" in step]
    assert steps == [f"SEARCH parked USING PRIMARY KEY {search}" for search in searches]


@pytest.mark.parametrize(("statement", "searches"), AWAITED.items())
def test_who_waits_is_found_by_its_key_and_never_among_all_who_wait(
    db: sqlite3.Connection, statement: str, searches: list[str]
) -> None:
    values = [0] * (2 if "?2" in statement else 1)
    steps = [row[3] for row in db.execute(f"explain query plan {statement}", values) if " awaited " in row[3]]
    assert steps == [f"SEARCH awaited USING {search}" for search in searches]


@pytest.mark.parametrize(("statement", "index"), BY_INDEX.items())
def test_rows_are_found_by_index_and_never_sorted(db: sqlite3.Connection, statement: str, index: str) -> None:
    steps = plan(db, statement)
    assert any(f"INDEX {index}" in step for step in steps)
    assert not any("TEMP B-TREE" in step for step in steps)


def test_runs_of_other_boots_are_not_sought_among_those_of_this_one(db: sqlite3.Connection) -> None:
    steps = [row[3] for row in db.execute(f"explain query plan {claim._ORPHANS}", [0, 0]) if " jobs " in row[3]]
    assert steps == [f"SEARCH jobs USING INDEX running (epoch{sought}?)" for sought in "<>="]


@pytest.mark.parametrize("statement", [queues._BEFORE, queues._OLDEST])
def test_what_waits_is_found_by_its_index(db: sqlite3.Connection, statement: str) -> None:
    steps = [row[3] for row in db.execute(f"explain query plan {statement}", [0] * (4 if "?4" in statement else 2))]
    of_jobs = [step for step in steps if " jobs " in step]
    assert len(of_jobs) >= 2
    assert all("INDEX ready (type=?" in step or "PRIMARY KEY (rowid=?)" in step for step in of_jobs), of_jobs


@pytest.mark.parametrize(
    "statement",
    [groups.NAMES, groups._READ_ON, groups._TYPES, queues._FOREMOST_OF_GROUPS, queues._LINES, queues._FIRST_OF_LINE],
)
def test_the_lines_of_groups_are_never_sorted(db: sqlite3.Connection, statement: str) -> None:
    values = [0] * len({*re.findall(r"\?\d?", statement)})
    steps = [row[3] for row in db.execute(f"explain query plan {statement}", values)]
    assert any("line USING PRIMARY KEY (of_type=?" in step for step in steps)
    assert not any("SCAN jobs" in step or "SCAN line" in step or "TEMP B-TREE" in step for step in steps)


def test_whoever_leaves_a_line_is_found_by_group(db: sqlite3.Connection) -> None:
    tables.follow_lines(db)
    (statement,) = [one for one in tables._LINE_FOLLOWS if "instead of" in one]
    body = re.sub(r"new\.\w+", "?", statement[statement.index("delete") : statement.rindex(";")])
    (step,) = [row[3] for row in db.execute(f"explain query plan {body}", [0] * 4)]
    assert step == "SEARCH line USING PRIMARY KEY (of_type=? AND name=? AND (rank,job)<(?,?))"


#: by leg: where it begins, goes on amid a key, and beyond it
LEGS = [
    (
        walk.Leg(walk._READY, "mail", "prio"),
        ["ready (type=?", "ready (type=? AND prio=? AND ord>?", "ready (type=? AND prio>?"],
    ),
    (
        walk.Leg(walk._OF_GROUP, "mail", "prio", "a", walk._IN_LINE),
        ["(of_type=? AND name=?", "(of_type=? AND name=? AND rank=? AND job>?", "(of_type=? AND name=? AND rank>?"],
    ),
    (walk.LATER, ["later", "later (due_at=? AND rowid>?", "later (due_at>?"]),
    (walk._DUE, ["later (due_at>?", "later (due_at=? AND rowid>?", "later (due_at>?"]),
    (walk.HELD, ["later (due_at=?", *["later (due_at=? AND rowid>? AND rowid<?"] * 2]),
    (walk.RUNNING, ["running", "running (epoch=? AND rowid>?", "running (epoch>?"]),
    (
        walk.Leg(walk._ENDED, 6, "drop_at"),
        ["ended (state=?", "ended (state=? AND drop_at=? AND rowid>?", "ended (state=? AND drop_at>?"],
    ),
    (walk._BY_ORDER, ["PRIMARY KEY (rowid<?)", "PRIMARY KEY (rowid>? AND rowid<?)", "PRIMARY KEY (rowid>? AND rowid<?)"]),
]


@pytest.mark.parametrize(("leg", "searches"), LEGS)
@pytest.mark.parametrize("edge_key", [None, 4])
@pytest.mark.parametrize("is_whole", [False, True])
def test_what_fits_is_found_along_its_index(
    db: sqlite3.Connection, leg: walk.Leg, searches: list[str], edge_key: int | None, is_whole: bool
) -> None:
    conditions = [*change._CONDITIONS.values(), "ord < :before_order"]
    wanted = walk.conditions(Filter(type="mail", states=frozenset(WAITING)), 0.0, *conditions, before_order=9, asked_at=9)
    wanted = wanted._replace(is_whole=is_whole)
    for search, at in zip(searches, [walk.At((leg,)), walk.At((leg,), 5, 7), walk.At((leg,), 5, 7, True)], strict=True):
        source, values = walk._source(leg, at)
        statement = walk._fitting(source, walk._within(leg, edge_key), wanted, leg.sorting)
        values |= {"most": 5, "edge": 3, "edge_key": edge_key, **wanted.values}
        steps = [row[3] for row in db.execute(f"explain query plan {statement}", values)]
        assert any(search in step for step in steps), steps
        assert not any("TEMP B-TREE" in step for step in steps)
