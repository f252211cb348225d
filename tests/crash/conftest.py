"""What several tests of this folder share: stores of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from kqs.config import StoreSection
from kqs.store.sqlite import SqliteStore
from tests.contract.store_contract import BULK_BYTES
from tests.support.clock import FakeClock
from tests.support.mongodb import a_database, mongodb
from tests.support.supervising import StrictSupervisor


@pytest.fixture
async def make_store(path: Path) -> AsyncIterator[Callable[[], SqliteStore]]:
    """Makes stores on the file at the `path` of the test, not yet opened."""
    made: list[SqliteStore] = []

    def make() -> SqliteStore:
        made.append(SqliteStore(path, StoreSection(bulk_bytes=BULK_BYTES), FakeClock(), StrictSupervisor()))
        return made[-1]

    yield make
    for store in made:
        await store.close()


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    """A database on a MongoDB server of the test's own."""
    (tmp_path / "mongodb").mkdir()
    with mongodb(tmp_path / "mongodb") as uri:
        yield a_database(uri)
