"""What a session leaves in its file, whatever fails."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from kqs.states import State
from kqs.store.sqlite import insert, records, retention
from kqs.store.sqlite.session import Session
from tests.support.jobs import ORDER, an_accepted
from tests.support.sqlite_sessions import NOW, a_session


def opened(folder: Path) -> Session:
    session = Session(folder / "s", 1 << 20, 1000, lambda: NOW)
    session.open("0" * 32, "abcdef12")
    return session


def test_an_opening_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with a_session(tmp_path) as session:
        insert.insert(session, [an_accepted(n) for n in range(3)], 7, "w", NOW)

    def damaged(session: Session, last_order: int) -> int:
        raise sqlite3.DatabaseError("damaged")

    monkeypatch.setattr(Session, "_count_uncounted", damaged)
    failing = Session(tmp_path / "s", 1 << 20, 1000, lambda: NOW)
    with pytest.raises(sqlite3.DatabaseError):
        failing.open("0" * 32, "abcdef12")
    failing.close()
    monkeypatch.undo()
    session = opened(tmp_path)
    session.begin(durable=False)
    assert (session.fed_seq, session.last_order) == (7, ORDER + 2)
    assert records.counts(session) == {"mail": {State.NEW: 3}}
    session.commit()
    session.close()


def test_all_that_a_transaction_deletes_counts_for_a_full_disk(tmp_path: Path) -> None:
    with a_session(tmp_path) as session:
        insert.insert(session, [an_accepted(n) for n in range(8)], 1, "w", NOW)
        session.commit()
        session.begin(durable=False)
        for n in range(2):
            retention.delete(session, [ORDER + 4 * n + m for m in range(4)])
        full = sqlite3.OperationalError("full")
        full.sqlite_errorcode = sqlite3.SQLITE_FULL
        session.rollback(full)
        assert session.most_dropped == 2
        session.begin(durable=False)
