"""What the tests of this folder share: a clock, a store, and a MongoDB server a process with a database a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from kqs.config import StoreSection
from kqs.job import Accepted
from kqs.store.base import Known, Store
from kqs.store.mongo import MongoStore
from kqs.store.mongo import client as connecting
from tests.contract.store_contract import BULK_BYTES, JOURNAL, NODE, OTHER_JOURNAL, OTHER_NODE, Insert, MakeStore
from tests.support.clock import FakeClock
from tests.support.mongo_commands import Watch
from tests.support.mongo_proxy import MongoProxy
from tests.support.mongodb import a_database, client_of, mongodb
from tests.support.supervising import StrictSupervisor

MakeMongoStore = Callable[[], MongoStore]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def now(clock: FakeClock) -> float:
    return clock.now()


@pytest.fixture
async def store(make_store: MakeStore) -> Store:
    """A store of the engine that the subclass tests."""
    store = make_store()
    await store.open(JOURNAL, NODE)
    return store


@pytest.fixture
def insert(store: Store, now: float) -> Insert:
    async def insert(*jobs: Accepted, fed_seq: int = 0) -> Known:
        return await store.insert(jobs, fed_seq, "w1", now)

    return insert


@pytest.fixture(scope="session")
def server_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mongodb(tmp_path_factory.mktemp("mongodb")) as uri:
        yield uri


@pytest.fixture
def uri(server_uri: str) -> Iterator[str]:
    """A database of the test's own."""
    uri = a_database(server_uri)
    yield uri
    with client_of(uri) as client:
        client.drop_database(client.get_default_database())


@pytest.fixture
async def proxy(uri: str) -> AsyncIterator[MongoProxy]:
    proxy = MongoProxy(uri)
    await proxy.start()
    yield proxy
    await proxy.cut()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Sees every command of the stores that the test makes."""
    watch = Watch()
    monkeypatch.setitem(connecting._DEFAULTS, "event_listeners", [watch])
    yield watch
    assert watch.strange == []


@pytest.fixture
async def make_mongo_store(uri: str, clock: FakeClock, watch: Watch) -> AsyncIterator[Callable[..., MongoStore]]:
    """Makes stores on the test's own database, not yet opened."""
    made: list[MongoStore] = []

    def make(at: str = uri, namespace: str = "") -> MongoStore:
        made.append(MongoStore(StoreSection(uri=at, bulk_bytes=BULK_BYTES), clock, StrictSupervisor(), namespace))
        return made[-1]

    yield make
    for store in made:
        await store.close()


@pytest.fixture
async def ours(make_mongo_store: Callable[..., MongoStore]) -> MongoStore:
    """A server's store."""
    store = make_mongo_store()
    await store.open(JOURNAL, NODE)
    return store


@pytest.fixture
async def proxied(proxy: MongoProxy, make_mongo_store: Callable[..., MongoStore]) -> MongoStore:
    """A third one, whose way to the database is `proxy`."""
    store = make_mongo_store(proxy.uri)
    await store.open("e" * 32, "00c0ffef")
    return store


@pytest.fixture
async def theirs(ours: MongoStore, make_mongo_store: Callable[..., MongoStore]) -> MongoStore:
    """Another server's, on the same database, opened after that."""
    store = make_mongo_store()
    await store.open(OTHER_JOURNAL, OTHER_NODE)
    return store
