"""Two servers on one MongoDB, of which one or the other is killed again and again under load."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.collection import Collection

from kqs.states import State
from kqs.store.mongo.documents import Place
from tests.crash.torture import Plan, torture
from tests.support.beanstalkd import running_beanstalkd
from tests.support.mongodb import client_of

pytestmark = pytest.mark.slow

KILLS = 8


@pytest.fixture(params=["memory", "beanstalkd"])
def settings(request: pytest.FixtureRequest, uri: str) -> Iterator[dict[str, str]]:
    settings = {"STORE__KIND": "mongodb", "STORE__URI": uri}
    if request.param == "memory":
        yield settings
        return
    with running_beanstalkd() as beanstalkd:
        yield settings | {"BROKER__KIND": "beanstalkd", "BROKER__SERVERS": json.dumps([beanstalkd.address])}


def test_kills_of_one_of_two_servers_lose_nothing_and_end_nothing_twice(
    tmp_path: Path, uri: str, settings: dict[str, str]
) -> None:
    with client_of(uri) as client:
        jobs = client.get_default_database()["jobs"]

        def unfinished(_servers: object) -> int:
            return jobs.count_documents({"place": {"$ne": int(Place.ENDED)}})

        # the Java server takes some 200 jobs a second through their lives
        plan = Plan(KILLS, seed=20261123, servers=2, clients=4, calls=25, settings=settings, unfinished=unfinished)
        account = torture(tmp_path, plan)
        assert account.kills == KILLS
        assert len(account.acknowledged) > 10 * KILLS
        assert_each_ended_once(jobs, account.acknowledged)


def assert_each_ended_once(jobs: Collection[dict[str, Any]], acknowledged: set[str]) -> None:
    keys: Counter[str] = Counter()
    for job in jobs.find():
        assert job["state"] == State.SUCCESS, job
        assert [end["word"] for end in job["done"]].count("success") == 1, job
        keys[json.loads(job["data"])["key"]] += 1
    assert set(keys) >= acknowledged
    assert set(keys.values()) == {1}
