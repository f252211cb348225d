from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kqs.store.base import Store
from kqs.store.mongo import MongoStore, ticks
from kqs.store.mongo.tallies import RECOUNT_S
from tests.contract.change_contract import ChangeContract
from tests.contract.groups_contract import GroupsContract
from tests.contract.order_contract import OrderContract
from tests.contract.resource_contract import ResourceContract
from tests.contract.store_contract import FIRST, IDS, NODE, Damage, Insert, MakeStore, ReadRaw, StoreContract, numbers
from tests.contract.ticks_contract import TicksContract, a_schedule, a_tick
from tests.contract.uniques_contract import ChangedUniquesContract, UniquesContract
from tests.support.clock import FakeClock
from tests.support.mongodb import client_of


class _Engine:
    @pytest.fixture
    def make_store(self, make_mongo_store: Callable[..., MongoStore]) -> MakeStore:
        return make_mongo_store

    @pytest.fixture
    def damage(self, uri: str) -> Iterator[Damage]:
        with client_of(uri) as client:
            db = client.get_default_database()

            async def damage(store: Store, n: int, *, bulk: bytes | None = None, **fields: object) -> None:
                job_id = IDS.of(FIRST + n)
                for name, value in fields.items():
                    db.jobs.update_one({"_id": job_id}, {"$unset" if value is None else "$set": {name: value or ""}})
                if bulk is not None:
                    file = db["bulk.files"].find_one({"metadata.job": job_id})
                    assert file is not None
                    db["bulk.chunks"].update_one({"files_id": file["_id"]}, {"$set": {"data": bulk}})

            yield damage

    @pytest.fixture
    def read_raw(self, uri: str) -> Iterator[ReadRaw]:
        with client_of(uri) as client:
            db = client.get_default_database()

            async def read_raw(store: Store, n: int) -> dict[str, object]:
                document = db.jobs.find_one({"order": FIRST + n})
                assert document is not None
                own = {"_id", "order", "mark", "crc32c", *(["data"] if document.get("data") == b'{"n":%d}' % n else [])}
                kept = {name: value for name, value in document.items() if name not in own}
                for name in ("data_bulk", "result_bulk"):
                    if name in kept:
                        file = db["bulk.files"].find_one({"_id": kept[name]})
                        assert file is not None
                        kept[name] = file["length"]
                return kept

            yield read_raw

    async def settle_totals(self, store: Store, clock: FakeClock) -> None:
        assert isinstance(store, MongoStore)
        clock.advance(RECOUNT_S)
        await store._there.keep_up()


class TestMongoStore(_Engine, TicksContract, UniquesContract, ChangedUniquesContract, ChangeContract, StoreContract):
    async def test_tick_whose_insert_was_cut_off_is_stored_when_it_is_repeated_and_no_other(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        await store.put_schedule(a_schedule(since=now))
        assert isinstance(store, MongoStore)
        session = store._there.session
        cut_off = [a_tick(0, now + 60), a_tick(1, now + 120)]
        assert await ticks.refused(session, NODE, cut_off) == set()  # and then the server was killed
        others = [a_tick(5, now + 60), a_tick(6, now + 120), a_tick(7, now + 180)]
        assert await ticks.refused(session, "ffffffff", others) == {FIRST + 5, FIRST + 6}
        assert sorted(await insert(*cut_off, a_tick(2, now + 180))) == [FIRST + 2]
        assert numbers(await store.ready("mail", None, 9)) == [0, 1]


class TestMongoGroups(_Engine, GroupsContract):
    """Groups, in MongoDB."""


class TestMongoOrder(_Engine, OrderContract):
    """Jobs that wait for others, and batches, in MongoDB."""


class TestMongoResources(_Engine, ResourceContract):
    pass
