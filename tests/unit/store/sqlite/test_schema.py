"""A store's file: how it is laid out, and one that an older server made."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from kqs.config import StoreSection
from kqs.filter import Filter
from kqs.job import Accepted
from kqs.states import State
from kqs.store.sqlite import SqliteStore
from tests.support.clock import FakeClock
from tests.support.jobs import NOW, an_accepted, listed
from tests.support.supervising import StrictSupervisor


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path, StoreSection(), FakeClock(), StrictSupervisor())
    await store.open("ab" * 16, "0000beef")
    return store


async def test_columns_that_older_servers_went_without_are_added(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = await opened(path)
    await store.insert([an_accepted(1)], 1, "w", NOW)
    await store.close()
    db = sqlite3.connect(path)
    for column in ("returned", "accepted_at", "crc32c"):
        db.execute(f"alter table jobs drop column {column}")
    db.execute("pragma user_version = 1")
    db.commit()
    db.close()
    store = await opened(path)
    second: Accepted = an_accepted(2)
    second.accepted_at = NOW - 7200
    await store.insert([second], 2, "w", NOW)
    found = await listed(store, Filter(states=frozenset({State.NEW})))
    assert [(record.attempt, record.accepted_at) for record in found] == [(0, NOW + 0.000_001), (0, NOW - 7200)]
    await store.close()


async def test_a_passing_store_is_laid_out_as_any(tmp_path: Path) -> None:
    found = []
    for is_passing in (False, True):
        path = tmp_path / f"{is_passing}.sqlite"
        store = SqliteStore(path, StoreSection(), FakeClock(), StrictSupervisor(), is_passing=is_passing)
        await store.open("ab" * 16, "0000beef")
        await store.close()
        with closing(sqlite3.connect(path)) as db:
            words = ("page_size", "auto_vacuum", "journal_mode", "user_version", "application_id", "integrity_check")
            settings = [db.execute(f"pragma {word}").fetchone() for word in words]
            found.append((settings, db.execute("select type, name, sql from sqlite_schema order by name").fetchall()))
            assert db.execute("select epoch, journal_id, node from meta").fetchall() == [(1, "ab" * 16, "0000beef")]
    assert found[0] == found[1]
