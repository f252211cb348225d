"""A store's file that an older server made."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from kqs.config import StoreSection
from kqs.job import Accepted, State
from kqs.store.sqlite import SqliteStore
from tests.support.clock import FakeClock
from tests.support.jobs import NOW, an_accepted
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
    found = await store.jobs(type_=None, state=State.NEW, after=None, limit=9)
    assert [(record.attempt, record.accepted_at) for record in found] == [(0, NOW + 0.000_001), (0, NOW - 7200)]
    await store.close()
