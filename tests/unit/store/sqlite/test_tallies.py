from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from kqs.states import State
from kqs.store.sqlite import schema
from kqs.store.sqlite.tallies import Tallies


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        schema.prepare(db, "0" * 32, "abcdef12")
        yield db


def test_changes_add_up_over_writes(db: sqlite3.Connection) -> None:
    tallies = Tallies()
    tallies.add([("mail", State.NEW)] * 3)
    tallies.write(db)
    tallies.remove([("mail", State.NEW)])
    tallies.add([("mail", State.PROCESSING)])
    assert sorted(tallies.read(db)) == [("mail", State.NEW, 2), ("mail", State.PROCESSING, 1)]


def test_cleared_changes_are_never_written(db: sqlite3.Connection) -> None:
    tallies = Tallies()
    tallies.add([("mail", State.NEW)])
    tallies.clear()
    assert tallies.read(db) == []


def test_what_a_commit_did_not_write_is_owed_until_one_does(db: sqlite3.Connection) -> None:
    tallies = Tallies()
    tallies.add([("mail", State.NEW)])
    tallies.settle()
    tallies.add([("mail", State.NEW)])
    tallies.write(db)
    tallies.settle()
    assert tallies.read(db) == [("mail", State.NEW, 2)]


def test_what_was_owed_before_an_undone_transaction_is_owed_after_it(db: sqlite3.Connection) -> None:
    tallies = Tallies()
    tallies.add([("mail", State.NEW)])
    tallies.settle()
    db.execute("begin")
    tallies.add([("mail", State.NEW)])
    tallies.write(db)
    db.execute("rollback")
    tallies.clear()
    assert tallies.read(db) == [("mail", State.NEW, 1)]


def test_type_without_jobs_leaves_no_row(db: sqlite3.Connection) -> None:
    tallies = Tallies()
    tallies.add([("mail", State.SUCCESS), ("other", State.NEW)])
    tallies.write(db)
    tallies.remove([("mail", State.SUCCESS)])
    tallies.forget(db, ["mail", "other"])
    assert db.execute("select type, state, n from tallies").fetchall() == [("other", State.NEW, 1)]
