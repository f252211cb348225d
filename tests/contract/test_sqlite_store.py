from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kqs.config import StoreSection
from kqs.store.sqlite import SqliteStore
from tests.contract.store_contract import BULK_BYTES, MakeStore, StoreContract
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
