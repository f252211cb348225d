"""What SQLite's table of keys holds: a row as long as somebody may ask for its job, and nothing where nobody uses keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from kqs.config import StoreSection
from kqs.store.sqlite import SqliteStore, uniques
from kqs.store.sqlite.session import Session
from tests.contract.store_contract import FIRST, JOURNAL, NODE, a_job, a_report, an_entry
from tests.support.clock import FakeClock
from tests.support.supervising import StrictSupervisor

NOW = 1_800_000_000.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "store.sqlite", StoreSection(), FakeClock(), StrictSupervisor())
    await store.open(JOURNAL, NODE)
    yield store
    await store.close()


async def ask(store: SqliteStore, question: Callable[[Session], Any]) -> Any:
    return await store._runner.call(question)


async def rows(store: SqliteStore) -> list[int]:
    found = await ask(store, lambda session: session.db.execute("select ord from uniques order by ord").fetchall())
    return [order - FIRST for (order,) in found]


async def end(store: SqliteStore, *numbers: int, drop_at: float | None = None) -> None:
    for run in await store.claim([an_entry(n) for n in numbers], "w", NOW):
        assert await store.report([a_report(run.claim, at=NOW, drop_at=drop_at)]) == [True]


async def test_rows_of_ended_jobs_go_when_their_key_is_asked_for(store: SqliteStore) -> None:
    for number in range(5):
        assert await store.insert([a_job(number, unique="k")], 1, "w", NOW) == []
        await end(store, number)
        assert await rows(store) == [number]


async def test_row_goes_with_its_record(store: SqliteStore) -> None:
    await store.insert([a_job(0, unique="k"), a_job(1, unique="l")], 1, "w", NOW)
    await end(store, 0, drop_at=NOW)
    assert await store.sweep(NOW, 9, FIRST + 9) == 1
    assert await rows(store) == [1]


async def test_store_without_keys_has_no_rows_and_does_not_look(store: SqliteStore) -> None:
    await store.insert([a_job(0), a_job(1, id="mine")], 1, "w", NOW)
    assert not await ask(store, lambda session: session.has_uniques)
    await ask(store, lambda session: uniques.put_again(session, [FIRST]))
    assert await rows(store) == []
    await store.insert([a_job(2, unique="k")], 1, "w", NOW)
    assert await ask(store, lambda session: session.has_uniques)


async def test_job_that_had_ended_and_waits_again_has_its_key_again(store: SqliteStore) -> None:
    await store.insert([a_job(0, unique="k")], 1, "w", NOW)
    await end(store, 0)
    await store.insert([a_job(1, unique="k", claimed_at=NOW), a_job(2)], 1, "w", NOW)
    assert await rows(store) == [1]

    def revive(session: Session) -> None:
        session.db.execute("update jobs set place = 0, state = 3 where ord = ?", (FIRST,))
        uniques.put_again(session, [FIRST, FIRST + 2])

    await ask(store, revive)
    assert await rows(store) == [0, 1]
    assert (await store.insert([a_job(3, unique="k")], 1, "w", NOW)).joined == {FIRST + 3: a_job(0).id}
