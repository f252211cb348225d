from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kqs.config import StoreSection
from kqs.store.sqlite import SqliteStore
from kqs.store.sqlite.session import Session
from tests.contract.store_contract import BULK_BYTES, FIRST, Damage, MakeStore, StoreContract
from tests.support.clock import FakeClock


class TestSqliteStore(StoreContract):
    @pytest.fixture
    async def make_store(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[MakeStore]:
        made: list[SqliteStore] = []

        def make() -> SqliteStore:
            made.append(SqliteStore(tmp_path / "store.sqlite", StoreSection(bulk_bytes=BULK_BYTES), clock))
            return made[-1]

        yield make
        for store in made:
            await store.close()

    @pytest.fixture
    def damage(self) -> Damage:
        async def damage(store: SqliteStore, n: int, *, bulk: bytes | None = None, **fields: object) -> None:
            def alter(session: Session) -> None:
                for name, value in fields.items():
                    session.db.execute(f"update jobs set {name} = ? where ord = ?", (value, FIRST + n))
                if bulk is not None:
                    session.db.execute("update bulk set data = ? where ord = ?", (bulk, FIRST + n))

            await store._thread.call(alter)

        return damage
