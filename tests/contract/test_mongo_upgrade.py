"""A database of the version before opens, runs what it holds, and can be set back as docs/operations.md says.

tests/golden/mongo/version-1.json was written by version 1, whose server was killed: jobs 0 to 14 of the contract's `a_job`, as
told below.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import json_util
from pymongo.database import Database
from pymongo.monitoring import CommandListener, CommandStartedEvent

from kqs.errors import StoreError, StoreUnavailableError
from kqs.states import State
from kqs.store.mongo import MongoStore, schema
from kqs.store.mongo import client as connecting
from kqs.store.mongo.servers import LEASE_S
from tests.contract.store_contract import BULK_BYTES, FIRST, IDS, JOURNAL, NODE, a_job, a_report, an_entry, numbers
from tests.support.clock import FakeClock
from tests.support.jobs import listed
from tests.support.mongodb import client_of

ROOT = Path(__file__).parents[2]
NOW = FakeClock().now()
STATES = [
    State.NEW,  # 0
    State.NEW,  # 1: id mine, expires in 1000.123456 s, options {"ttr":5}
    State.DELAYED,  # 2: by 50 s
    State.NEW,  # 3: 2002 bytes, in bulk
    State.PROCESSING,  # 4
    State.SUCCESS,  # 5: {"r":1}
    State.FAIL,  # 6: "no"
    State.RETRY,  # 7: failed once, progress {"done":3}
    State.NEW,  # 8
    State.PROCESSING,  # 9: held
    State.GHOST,  # 10: by 30 s
    State.PROCESSING,  # 11: its third run
    State.NEW,  # 12: given back before its run began
    State.SUCCESS,  # 13: 1502 bytes of result, in bulk
    State.SUCCESS,  # 14: stored with its end
]

MakeStore = Callable[..., MongoStore]
Db = Database[dict[str, Any]]


@pytest.fixture
def db(uri: str) -> Iterator[Db]:
    """The database of version 1."""
    with client_of(uri) as client:
        db = client.get_default_database()
        for line in (ROOT / "tests/golden/mongo/version-1.json").read_text().splitlines():
            one = json_util.loads(line)
            db[one["in"]].insert_one(one["document"])
        yield db


@pytest.fixture
async def store(db: Db, make_mongo_store: MakeStore) -> MongoStore:
    store = make_mongo_store()
    info = await store.open(JOURNAL, NODE)
    assert (info.epoch, info.fed_seq, info.last_order) == (3, 2, FIRST + 14)
    return store


def is_nested(value: Any) -> bool:
    """Tell whether an array stands directly in an array."""
    if isinstance(value, list):
        return any(isinstance(item, list) or is_nested(item) for item in value)
    return isinstance(value, dict) and any(map(is_nested, value.values()))


async def test_all_of_it_is_there_and_runs(db: Db, store: MongoStore) -> None:
    assert (db.meta.find_one() or {})["schema"] == schema.SCHEMA_VERSION
    records = {record.order - FIRST: record for record in await listed(store)}
    assert [records[n].state for n in range(15)] == STATES
    orphans = {run.claim.order - FIRST: run for run in await store.orphans(9)}
    assert (sorted(orphans), orphans[9].held, orphans[11].started_at) == ([4, 9, 11], True, NOW + 3)
    await store.wake(NOW + 50, 9)
    entries = [an_entry(n) for n in range(15)]
    entries[1].id = "mine"
    runs = await store.claim(entries, "w2", NOW + 60)
    assert numbers(runs) == [0, 1, 2, 3, 7, 8, 10, 12]
    assert (runs[1].options, runs[1].expire_at) == (b'{"ttr":5}', NOW + 1000.123456)
    assert runs[3].data == b'"' + b"b" * 2000 + b'"'
    assert (runs[4].attempt, runs[4].failures, runs[4].progress, runs[4].started_at) == (2, 1, b'{"done":3}', NOW + 60)
    ended = [*runs, *orphans.values()]
    assert await store.report([a_report(run.claim, at=NOW + 70, returned=run.returned) for run in ended]) == [True] * 11
    assert await store.counts() == {"mail": {State.SUCCESS: 14, State.FAIL: 1}}


async def test_runs_of_before_and_since_are_told_of_one_job(db: Db, store: MongoStore) -> None:
    (run,) = [run for run in await store.orphans(9) if run.claim.order == FIRST + 11]
    await store.report([a_report(run.claim, State.RETRY, "ghost", at=NOW + 5, error="died")])
    (run,) = await store.claim([an_entry(11)], "w3", NOW + 6)
    record = await store.job(IDS.of(FIRST + 11))
    assert record is not None
    assert [(one.attempt, one.worker, one.started_at, one.ended_at, one.state, one.error) for one in record.runs] == [
        (1, "w1", NOW, NOW + 0.5, "again", None),
        (2, "w1", NOW + 1, NOW + 1.5, "again", None),
        (3, "w2", NOW + 3, NOW + 5, "ghost", "died"),
        (4, "w3", NOW + 6, None, "processing", None),
    ]


async def test_no_array_stands_in_an_array(uri: str, make_mongo_store: MakeStore) -> None:
    store = make_mongo_store()
    await store.open(JOURNAL, NODE)
    await store.insert([a_job(0), a_job(1, claimed_at=NOW)], 1, "w", NOW)
    (run,) = await store.claim([an_entry(0)], "w", NOW)
    await store.report([a_report(run.claim, State.RETRY, "fail", at=NOW, error="oops")])
    await store.counts()
    with client_of(uri) as client:
        db = client.get_default_database()
        documents = [document for name in db.list_collection_names() for document in db[name].find()]
    assert not any(map(is_nested, documents))
    assert any("done" in document for document in documents)


async def test_servers_of_the_version_before_are_not_worked_beside(
    db: Db, make_mongo_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_WATCH_EVERY_S", LEASE_S / 3)
    beats = iter([1, 2, 2, 2, 2, 2])

    async def pass_time(_seconds: float) -> None:
        db.servers.update_one({"_id": "f" * 32}, {"$set": {"beat": next(beats)}})

    monkeypatch.setattr(schema, "sleep", pass_time)
    other = {"node": "00c0ffee", "epoch": 2, "is_open": True, "beat": 1, "fed_seq": 0, "last_order": 0, "journal_order": 0}
    db.servers.insert_one({"_id": "f" * 32, **other})
    db.meta.update_one({}, {"$set": {"epoch": 2}})
    with pytest.raises(StoreUnavailableError, match="00c0ffee"):
        await make_mongo_store().open(JOURNAL, NODE)
    assert (db.meta.find_one() or {})["schema"] == 1
    assert (await make_mongo_store().open(JOURNAL, NODE)).epoch == 4
    # who was taken for dead finds that it is no boot of its journal any more
    assert (db.servers.find_one({"_id": "f" * 32}) or {})["epoch"] == 0


async def test_server_of_the_version_before_that_just_starts_is_waited_for(
    db: Db, make_mongo_store: MakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pass_time(_seconds: float) -> None:
        db.meta.update_one({}, {"$inc": {"epoch": 1}})

    monkeypatch.setattr(schema, "sleep", pass_time)
    db.meta.update_one({}, {"$inc": {"epoch": 1}})
    with pytest.raises(StoreUnavailableError, match="earlier version"):
        await make_mongo_store().open(JOURNAL, NODE)


def set_back(text: str) -> None:
    subprocess.run([sys.executable, "-c", text], check=True, timeout=60)


async def test_it_can_be_set_back_and_forth(uri: str, db: Db, store: MongoStore, make_mongo_store: MakeStore) -> None:
    before = {document["_id"]: document for document in db.jobs.find()}
    runs = await store.claim([an_entry(0), an_entry(7)], "w2", NOW)
    await store.report([a_report(run.claim, State.RETRY, "fail", at=NOW, error="oops") for run in runs])
    await store.close()
    command = re.search(r"^```python\n(from pymongo import.*?)^```$", (ROOT / "docs/operations.md").read_text(), re.M | re.S)
    assert command is not None
    text = command[1].replace("mongodb://db1/kqs", uri)
    set_back(text)
    assert (db.meta.find_one() or {})["schema"] == 1
    after = {document["_id"]: document for document in db.jobs.find()}
    assert after[IDS.of(FIRST)]["begun"] == [["w2", NOW]]
    assert after[IDS.of(FIRST + 7)]["done"] == [*before[IDS.of(FIRST + 7)]["done"], [2, NOW, "fail", "oops"]]
    assert after[IDS.of(FIRST + 11)] == before[IDS.of(FIRST + 11)]
    again = make_mongo_store()
    await again.open(JOURNAL, NODE)
    assert numbers(await again.claim([an_entry(0), an_entry(7)], "w", NOW)) == [0, 7]


class Commands(CommandListener):
    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.names.append(event.command_name)

    def succeeded(self, event: object) -> None:
        pass

    def failed(self, event: object) -> None:
        pass


@pytest.fixture
def commands(make_mongo_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands()
    monkeypatch.setitem(connecting._DEFAULTS, "event_listeners", [commands])
    return commands


async def test_start_on_a_complete_database_creates_nothing(make_mongo_store: MakeStore, commands: Commands) -> None:
    first = make_mongo_store()
    await first.open(JOURNAL, NODE)
    await first.close()
    assert "createIndexes" in commands.names
    commands.names.clear()
    again = make_mongo_store()
    await again.open(JOURNAL, NODE)
    await again.insert([a_job(0, data=b'"' + b"b" * BULK_BYTES + b'"')], 1, "w", NOW)
    await again.close()
    assert "listIndexes" in commands.names
    assert not {"create", "createIndexes"}.intersection(commands.names)


async def test_index_that_is_missing_is_created_alone(uri: str, make_mongo_store: MakeStore, commands: Commands) -> None:
    first = make_mongo_store()
    await first.open(JOURNAL, NODE)
    await first.close()
    with client_of(uri) as client:
        db = client.get_default_database()
        db.jobs.drop_index("later")
        db.jobs.drop_index("ended")
        db.jobs.create_index([("state", 1), ("drop_at", 1), ("order", 1)], name="made by hand")
        commands.names.clear()
        await make_mongo_store().open(JOURNAL, NODE)
        assert commands.names.count("createIndexes") == 1
        assert {"later", "made by hand"} <= set(db.jobs.index_information())
        assert "ended" not in db.jobs.index_information()


@pytest.mark.parametrize(
    ("name", "key", "options"), [("nodes", [("node", 1)], {}), ("nodes", [("epoch", 1)], {"unique": True})]
)
async def test_index_in_another_form_is_told_and_left_alone(
    uri: str, make_mongo_store: MakeStore, name: str, key: list[tuple[str, int]], options: dict[str, Any]
) -> None:
    with client_of(uri) as client:
        db = client.get_default_database()
        first = make_mongo_store()
        await first.open(JOURNAL, NODE)
        await first.close()
        db.servers.drop_index("nodes")
        db.servers.create_index(key, name=name, **options)
        before = json.dumps(db.servers.index_information(), default=str)
        with pytest.raises(StoreError, match="the index 'nodes' of the collection 'servers'"):
            await make_mongo_store().open(JOURNAL, NODE)
        assert json.dumps(db.servers.index_information(), default=str) == before
