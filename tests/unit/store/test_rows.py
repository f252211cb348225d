from __future__ import annotations

import sqlite3

import pytest

from kqs.store.sqlite.rows import ManyRows, decode_orders, json_list

INSERT = ManyRows("insert into t (a, b)", "(?,?)", "on conflict do nothing")


@pytest.fixture
def db() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("create table t (a integer primary key, b text)")
    return db


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
