from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kqs.config import StoreSection
from kqs.store.base import Store
from kqs.store.sqlite import SqliteStore
from kqs.store.sqlite.session import Session
from tests.contract.change_contract import ChangeContract
from tests.contract.groups_contract import GroupsContract
from tests.contract.order_contract import OrderContract
from tests.contract.resource_contract import ResourceContract
from tests.contract.store_contract import BULK_BYTES, FIRST, Damage, MakeStore, ReadRaw, StoreContract
from tests.contract.ticks_contract import TicksContract
from tests.contract.uniques_contract import ChangedUniquesContract, UniquesContract
from tests.support.clock import FakeClock
from tests.support.supervising import StrictSupervisor


class _Engine:
    is_passing = False

    @pytest.fixture
    async def make_store(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[MakeStore]:
        made: list[SqliteStore] = []

        def make() -> SqliteStore:
            path, section = tmp_path / "store.sqlite", StoreSection(bulk_bytes=BULK_BYTES)
            made.append(SqliteStore(path, section, clock, StrictSupervisor(), is_passing=self.is_passing))
            return made[-1]

        yield make
        for store in made:
            await store.close()

    @pytest.fixture
    def damage(self) -> Damage:
        async def damage(store: Store, n: int, *, bulk: bytes | None = None, **fields: object) -> None:
            assert isinstance(store, SqliteStore)

            def alter(session: Session) -> None:
                for name, value in fields.items():
                    session.db.execute(f"update jobs set {name} = ? where ord = ?", (value, FIRST + n))
                if bulk is not None:
                    session.db.execute("update bulk set data = ? where ord = ?", (bulk, FIRST + n))

            await store._runner.call(alter)

        return damage

    @pytest.fixture
    def read_raw(self) -> ReadRaw:
        async def read_raw(store: Store, n: int) -> dict[str, object]:
            assert isinstance(store, SqliteStore)

            def read(session: Session) -> dict[str, object]:
                found = session.db.execute("select * from jobs where ord = ?", (FIRST + n,))
                row = dict(zip([column for column, *_ in found.description], found.fetchone(), strict=True))
                (in_bulk,) = session.db.execute("select count(*) from bulk where ord = ?", (FIRST + n,)).fetchone()
                own = {"ord", "id", "crc32c", *(["data"] if row["data"] == b'{"n":%d}' % n else [])}
                return {name: value for name, value in row.items() if name not in own} | {"in_bulk": in_bulk}

            return await store._runner.call(read)

        return read_raw


class TestSqliteStore(_Engine, TicksContract, UniquesContract, ChangedUniquesContract, ChangeContract, StoreContract):
    pass


class TestSqliteOrder(_Engine, OrderContract):
    """Jobs that wait for others, in SQLite."""


class TestSqliteGroups(_Engine, GroupsContract):
    """Groups, in SQLite."""


class TestSqliteResources(_Engine, ResourceContract):
    pass


class TestPassingStore(TestSqliteStore):
    """All that is done on the loop."""

    is_passing = True


class TestPassingOrder(TestSqliteOrder):
    is_passing = True


class TestPassingGroups(TestSqliteGroups):
    is_passing = True


class TestPassingResources(TestSqliteResources):
    is_passing = True
