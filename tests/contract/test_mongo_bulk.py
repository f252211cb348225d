"""Long data and long results: files beside the documents."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from kqs.job import Run
from kqs.states import State
from kqs.store.base import DAMAGED
from kqs.store.mongo import MongoStore
from kqs.store.mongo import bulk as bulk_module
from kqs.store.mongo.bulk import ORPHAN_AGE_S
from kqs.store.mongo.client import Document
from tests.contract.store_contract import FIRST, IDS, JOURNAL, NODE, a_job, a_report, an_entry
from tests.support.mongodb import client_of, sweep_bulk

BIG = bytes(range(256)) * 40


@pytest.fixture
async def store(make_mongo_store: Callable[..., MongoStore]) -> MongoStore:
    store = make_mongo_store()
    await store.open(JOURNAL, NODE)
    return store


@pytest.fixture
def db(uri: str) -> Iterator[Any]:
    with client_of(uri) as client:
        yield client.get_default_database()


def files(db: Any) -> list[int]:
    """Return the numbers of files and of jobs' files without chunks."""
    chunks = {chunk["files_id"] for chunk in db["bulk.chunks"].find({}, ["files_id"])}
    stored = {file["_id"] for file in db["bulk.files"].find()}
    return [len(stored), len(stored ^ chunks)]


async def run_big(store: MongoStore, now: float, data: bytes = BIG) -> Run:
    await store.insert([a_job(0, data=data)], 1, "w1", now)
    (run,) = await store.claim([an_entry(0)], "w1", now)
    return run


async def test_long_data_and_results_go_with_their_job(store: MongoStore, db: Any, now: float) -> None:
    run = await run_big(store, now)
    await store.report([a_report(run.claim, at=now, drop_at=now + 5, result=BIG[::-1])])
    record = await store.job(run.claim.id)
    assert record is not None
    assert (record.data, record.result) == (BIG, BIG[::-1])
    assert files(db) == [2, 0]
    assert await store.sweep(now + 5, 9, FIRST + 1) == 1
    assert files(db) == [0, 0]


async def test_a_known_job_leaves_no_file(store: MongoStore, db: Any, now: float) -> None:
    await run_big(store, now)
    assert await store.insert([a_job(0, data=BIG)], 1, "w1", now) == [FIRST]
    assert files(db) == [1, 0]


@pytest.mark.parametrize("harm", ["altered", "missing"])
async def test_damaged_data_is_never_run(store: MongoStore, db: Any, now: float, harm: str) -> None:
    await store.insert([a_job(0, data=BIG), a_job(1)], 1, "w1", now)
    if harm == "altered":
        db["bulk.chunks"].update_one({}, {"$set": {"data": BIG[::-1]}})
    else:
        db["bulk.chunks"].delete_many({})
    runs = await store.claim([an_entry(0), an_entry(1)], "w1", now)
    assert [run.claim.order - FIRST for run in runs] == [1]
    record = await store.job(IDS.of(FIRST))
    assert record is not None
    assert (record.state, record.data, record.error) == (State.FAIL, b"null", DAMAGED)
    assert await store.counts() == {"mail": {State.FAIL: 1, State.PROCESSING: 1}}


async def test_files_are_swept_that_no_job_names_for_long(store: MongoStore, db: Any, now: float) -> None:
    await run_big(store, now)
    await store.insert([a_job(1, data=BIG)], 2, "w1", now)
    db.jobs.delete_one({"_id": IDS.of(FIRST + 1)})
    ages_s = (0, ORPHAN_AGE_S - 1, ORPHAN_AGE_S, 3 * ORPHAN_AGE_S)
    assert [await sweep_bulk(store, age_s) for age_s in ages_s] == [0, 0, 1, 0]
    assert files(db) == [1, 0]


async def test_a_file_outlives_the_sweeps_until_its_job_is_stored_whatever_any_clock_says(
    store: MongoStore, db: Any, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk = store._there.session.bulk
    put = bulk.put

    async def put_as_others_sweep(field: str, job_id: str, data: bytes) -> Document:
        named = await put(field, job_id, data)
        db["bulk.files"].update_many({}, {"$set": {"uploadDate": datetime(1980, 1, 1, tzinfo=UTC)}})
        assert await bulk.sweep(0.0) == await bulk.sweep(ORPHAN_AGE_S - 1) == 0
        return named

    monkeypatch.setattr(bulk, "put", put_as_others_sweep)
    run = await run_big(store, now)
    assert run.data == BIG
    assert await bulk.sweep(ORPHAN_AGE_S) == 0
    assert files(db) == [1, 0]


async def test_as_many_files_are_looked_at_as_there_are(store: MongoStore, db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_module, "SWEEP_FILES", 2)
    bulk = store._there.session.bulk
    for number in range(5):
        await bulk.put("data", IDS.of(FIRST + number), BIG)
    looks = [await bulk.sweep(number * ORPHAN_AGE_S) for number in range(8)]
    assert (sum(looks), max(looks)) == (5, 2)
    assert files(db) == [0, 0]


@pytest.mark.slow
async def test_a_hundred_megabytes_come_back_whole(store: MongoStore, db: Any, now: float) -> None:
    data = random.Random(1).randbytes(100_000_000)
    digest = hashlib.sha256(data).digest()
    run = await run_big(store, now, data)
    assert hashlib.sha256(run.data).digest() == digest
    await store.report([a_report(run.claim, at=now, drop_at=now)])
    assert await store.sweep(now, 9, FIRST + 1) == 1
    assert files(db) == [0, 0]
