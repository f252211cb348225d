"""Space that dropped jobs took goes back to the disk."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kqs.config import StoreSection
from kqs.job import Accepted, Claim, Report
from kqs.states import State
from kqs.store.sqlite import connection, insert, report, retention, schema, space
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.store import SqliteStore
from kqs.store.sqlite.thread import StoreThread
from tests.support.clock import FakeClock
from tests.support.supervising import StrictSupervisor

JOBS = 500
SPARE = 24


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(space, "_SPARE_PAGES", SPARE)
    monkeypatch.setattr(space, "_SHRINK_PAGES", 50)
    monkeypatch.setattr(space, "_SHRINK_S", 0.0)
    return tmp_path / "store.sqlite"


@pytest.fixture
def session(path: Path) -> Iterator[Session]:
    session = Session(path, 1 << 20, 1 << 20, lambda: 1.0)
    session.open("0" * 32, "abcdef12")
    yield session
    session.close()


def fill_and_drop(session: Session) -> None:
    fill(session)
    assert sweep(session) == JOBS


def fill(session: Session) -> None:
    session.begin(durable=False)
    jobs = [Accepted(n, "", False, "mail", 1, 0.0, None, b"x" * 4000, None, claimed_at=1.0) for n in range(1, JOBS + 1)]
    insert.insert(session, jobs, 1, "w", 1.0)
    ends = [Report(Claim(job.order, "", 1, 1), "mail", State.SUCCESS, "success", 1.0, drop_at=2.0) for job in jobs]
    report.report(session, ends)
    session.commit()


def sweep(session: Session) -> int:
    session.begin(durable=False)
    swept = retention.sweep(session, 5.0, JOBS, JOBS + 1)
    session.commit()
    return swept


def pages(session: Session, name: str = "page_count") -> int:
    return int(session.db.execute(f"pragma {name}").fetchone()[0])


def test_a_commit_that_is_not_to_copies_no_wal_however_long_that_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "WAL_PAGES", 64)
    session = Session(path, 1 << 20, 1 << 20, lambda: 1.0)
    session.open("0" * 32, "abcdef12")
    session.tidy()
    before = path.stat().st_size
    for n in range(1, 101):
        session.begin(durable=True, copies=False)
        insert.insert(session, [Accepted(n, "", False, "mail", 1, 0.0, None, b"x" * 4000, None)], n, "w", 1.0)
        session.commit()
        assert session.space.wants_copy is (n >= 8)
    assert path.stat().st_size == before
    session.begin(durable=True)
    insert.insert(session, [Accepted(101, "", False, "mail", 1, 0.0, None, b"x" * 4000, None)], 101, "w", 1.0)
    session.commit()
    assert path.stat().st_size >= before + 100 * 4000
    session.close()


def test_a_quiet_store_gives_back_what_it_does_not_use(session: Session, path: Path) -> None:
    fill_and_drop(session)
    session.tidy()
    assert path.stat().st_size > JOBS * 4000 / 2
    while session.space.is_untidy:
        session.tidy()
    assert path.stat().st_size < 56 * 4096
    assert pages(session, "freelist_count") == SPARE


def test_a_store_may_shrink_once_nothing_is_left_to_drop(session: Session) -> None:
    fill_and_drop(session)
    before = pages(session)
    assert not session.space.wants_shrink
    assert sweep(session) == 0
    assert session.space.wants_shrink
    session.shrink()
    assert pages(session) == before - 50
    assert session.space.is_untidy


def test_it_gives_back_as_much_as_its_time_allows(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "_SHRINK_S", 60.0)
    fill_and_drop(session)
    before = pages(session)
    session.shrink()
    assert pages(session, "freelist_count") == before // 4


async def test_a_busy_store_shrinks_between_its_transactions(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(path, 1 << 20, 1 << 20, lambda: 1.0)
    shrunk = threading.Event()
    monkeypatch.setattr(session, "shrink", shrunk.set)
    store = StoreThread(session, StrictSupervisor())
    await store.start(lambda session: session.open("0" * 32, "abcdef12"))
    assert await store.call(lambda session: retention.sweep(session, 5.0, JOBS, JOBS)) == 0
    await store.stop()
    assert shrunk.is_set()


def test_a_file_that_cannot_shrink_stays_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("create table old (x)")
        db.execute("drop table old")
    monkeypatch.setattr(schema, "_is_empty", lambda _db: True)
    session = Session(path, 1 << 20, 1 << 20, lambda: 1.0)
    session.open("0" * 32, "abcdef12")
    fill_and_drop(session)
    before = pages(session)
    session.tidy()
    assert (pages(session), session.space.is_untidy) == (before, False)
    session.close()


@pytest.mark.parametrize("how", ["tidy", "shrink"])
def test_a_file_that_fails_to_shrink_is_opened_anew(session: Session, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    fill_and_drop(session)

    def fail(_db: object) -> bool:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    with monkeypatch.context() as patches:
        patches.setattr(session.space, "_shrink", fail)
        getattr(session, how)()
    getattr(session, how)()
    assert sweep(session) == 0
    session.shrink()
    assert pages(session, "freelist_count") > SPARE


def test_new_files_can_shrink(tmp_path: Path) -> None:
    db = connection.connect(tmp_path / "new", 1 << 20)
    db.execute("create table t (x)")
    assert db.execute("pragma auto_vacuum").fetchone() == (2,)
    db.close()


def test_short_of_space_it_gives_back_everything_it_can_spare(
    session: Session, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "_GIVE_BACK_S", 60.0)
    fill_and_drop(session)
    session.space.wants_room = True
    session.give_back()
    assert not session.space.wants_room
    assert pages(session, "freelist_count") == 0
    assert path.with_name("store.sqlite-wal").stat().st_size == 0
    assert path.stat().st_size < (SPARE + 6) * connection.PAGE_BYTES


def test_what_cannot_be_given_back_now_is_let_be(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_and_drop(session)

    def fail(*_args: object) -> bool:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with monkeypatch.context() as patches:
        patches.setattr(session.space, "_cut", fail)
        session.give_back()
    session.close()
    session.give_back()


async def test_a_store_gives_back_when_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SqliteStore(tmp_path / "store.sqlite", StoreSection(), FakeClock(), StrictSupervisor())
    store.give_back()
    assert store.owed_bytes() == 0
    await store.open("0" * 32, "abcdef12")
    given = threading.Event()
    monkeypatch.setattr(store._session, "give_back", given.set)
    store.give_back()
    await store.sync()
    assert await asyncio.to_thread(given.wait, 10)
    assert 0 < store.owed_bytes() < (tmp_path / "store.sqlite").stat().st_size
    store._session.space.wants_room = False
    await store.close()


def test_a_full_disk_is_asked_for_fewer_deletions_at_a_time(session: Session) -> None:
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    fill(session)
    dropped = []
    for _ in range(3):
        session.begin(durable=False)
        dropped.append(retention.sweep(session, 5.0, JOBS, JOBS + 1))
        session.rollback(full)
    assert dropped == [JOBS, JOBS // 4, JOBS // 16]
    session.begin(durable=False)
    assert retention.sweep(session, 5.0, JOBS, JOBS + 1) == JOBS // 64
    session.commit()
    assert sweep(session) == 2 * (JOBS // 64)
    session.begin(durable=False)
    session.rollback(full)
    assert session.most_dropped == 4 * (JOBS // 64)


def test_a_small_disk_has_less_lie_about(session: Session, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection.fitting_bulk_bytes(path, 5000) == 5000
    assert connection.fitting_pages(path, 4000) == 4000
    monkeypatch.setattr(connection, "_disk_bytes", lambda _path: 64 << 20)
    assert connection.fitting_bulk_bytes(path, 5000) == 256
    assert connection.fitting_bulk_bytes(path, 0) == 0
    assert connection.fitting_pages(path, 4000) == 256
    assert connection.fitting_pages(path, 10) == 10
