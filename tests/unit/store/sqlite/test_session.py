"""What a session leaves in its file, whatever fails."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from kqs.errors import StoreCorruptError
from kqs.states import State
from kqs.store.sqlite import insert, records, retention
from kqs.store.sqlite.schema import owner_of
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


def as_killed(folder: Path) -> tuple[Path, Path]:
    """Return a store's file, and the WAL that has all of it but its tables."""
    with a_session(folder) as session:
        insert.insert(session, [an_accepted(1)], 7, "w", NOW)
        session.commit()
        for name in ("s", "s-wal"):
            shutil.copy(folder / name, folder / f"kept-{name}")
        session.begin(durable=False)
    for name in ("s", "s-wal"):
        (folder / f"kept-{name}").rename(folder / name)
    return folder / "s", folder / "s-wal"


def move_away(path: Path) -> None:
    path.rename(path.with_name("away"))


def move_and_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.rename(path.parent / "elsewhere" / path.name)
    path.symlink_to(path.parent / "elsewhere" / path.name)


def empty(path: Path) -> None:
    shutil.copy(path, path.with_name("away"))
    path.write_bytes(b"")


@pytest.mark.parametrize("lose", [move_away, move_and_link, empty])
def test_a_wal_that_sqlite_would_pass_over_stays_until_its_file_is_back(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    path, wal = as_killed(tmp_path)
    content = wal.read_bytes()
    lose(path)
    with pytest.raises(StoreCorruptError, match="s-wal"):
        opened(tmp_path)
    assert wal.read_bytes() == content
    kept = tmp_path / "away" if (tmp_path / "away").exists() else tmp_path / "elsewhere" / "s"
    kept.replace(path)
    session = opened(tmp_path)
    assert session.fed_seq == 7
    session.close()


@pytest.mark.parametrize("lose", [move_away, move_and_link, empty])
def test_whoever_asks_whose_a_store_is_leaves_its_wal(tmp_path: Path, lose: Callable[[Path], None]) -> None:
    path, wal = as_killed(tmp_path)
    content = wal.read_bytes()
    lose(path)
    with pytest.raises(StoreCorruptError, match="s-wal"):
        owner_of(path)
    assert wal.read_bytes() == content


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
