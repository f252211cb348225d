from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from kqs.store.sqlite import rows
from kqs.store.sqlite.rows import ManyRows, decode_orders, json_list

INSERT = ManyRows("insert into t (a, b)", "(?,?)", "on conflict do nothing")


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute("create table t (a integer primary key, b text)")
        yield db


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 7, 100, 129, 255, 256, 257, 513, 1000])
def test_every_row_goes_in_once_whatever_their_number(db: sqlite3.Connection, count: int) -> None:
    values = [value for n in range(count) for value in (n, f"b{n}")]
    assert INSERT.execute(db, values) == count
    assert db.execute("select a, b from t").fetchall() == [(n, f"b{n}") for n in range(count)]


def test_rows_that_change_nothing_are_not_counted(db: sqlite3.Connection) -> None:
    INSERT.execute(db, [1, "x", 2, "x"])
    assert INSERT.execute(db, [1, "y", 2, "y", 3, "y"]) == 1


def test_orders_travel_as_json() -> None:
    assert decode_orders(json_list(iter([1, 2**62]))) == [1, 2**62]


@pytest.mark.parametrize("count", [1, 5, 9, 257, 300])
def test_filler_takes_the_place_of_a_repeated_row(db: sqlite3.Connection, count: int) -> None:
    add = ManyRows("insert into t (a, b)", "(?,?)", "on conflict do update set b = b + excluded.b")
    add.execute(db, [value for n in range(count) for value in (n, n)], filler=(count - 1, 0))
    assert db.execute("select b from t").fetchall() == [(str(n),) for n in range(count)]


@pytest.mark.parametrize("count", [1, 5, 257, 1000])
def test_what_all_rows_share_is_bound_once(db: sqlite3.Connection, count: int) -> None:
    db.execute("create table wide (a integer primary key, b text, c text, d text)")
    insert = ManyRows("insert into wide (b, c, a, d)", "(?1,?2,?,?)", "on conflict do nothing")
    values = [value for n in range(count) for value in (n, f"d{n}")]
    assert insert.execute(db, values, shared=("b", "c")) == count
    assert db.execute("select * from wide").fetchall() == [(n, "b", "c", f"d{n}") for n in range(count)]


def test_long_values_are_bound_a_few_at_a_time(db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MOST_BYTES", 100)
    bound: list[int] = []
    db.set_trace_callback(lambda statement: bound.append(statement.count("'")))
    lengths = [10, 95, 5, 200, 1, 60, 30]
    values = [value for n, length in enumerate(lengths) for value in (n, "x" * length)]
    assert INSERT.execute(db, values, lengths) == len(lengths)
    assert [quotes // 2 for quotes in bound] == [1, 2, 1, 3]


@pytest.mark.parametrize("at", [0.0, 16.1, 1_700_000_000.123456, 9_999_999_999.999999, 2.0**50 + 0.25, None])
def test_instants_travel_exactly(db: sqlite3.Connection, at: float | None) -> None:
    db.execute("create table instants (at real)")
    db.execute("insert into instants values (?)", (at,))
    (packed,) = db.execute(f"select json_array({rows.json_real('at')}) from instants").fetchone()
    assert rows.real(*json.loads(packed)) == at
