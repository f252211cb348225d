"""Groups over TCP, on both stores and both brokers, in lanes and elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.asking import Peer, RefusedError, eventually, peer_of
from tests.support.beanstalkd import running_beanstalkd
from tests.support.mongodb import a_database, mongodb
from tests.support.serving import serving

TYPES = {"TYPES__scan": '{"group_weights":{"big":2}}', "TYPES__narrow": '{"group_max_running":1}'}


@pytest.fixture(scope="module", params=["sqlite", "mongodb", "beanstalkd"])
def peer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    folder = tmp_path_factory.mktemp("groups")
    with ExitStack() as stack:
        settings = dict(TYPES)
        if request.param == "mongodb":
            uri = stack.enter_context(mongodb(folder))
            settings |= {"STORE__KIND": "mongodb", "STORE__URI": a_database(uri)}
        elif request.param == "beanstalkd":
            tubes = stack.enter_context(running_beanstalkd())
            settings |= {"BROKER__KIND": "beanstalkd", "BROKER__SERVERS": f'["{tubes.address}"]'}
        served = stack.enter_context(serving(folder, **settings))
        yield stack.enter_context(peer_of(served))


def insert(peer: Peer, type_: str, **groups: int) -> None:
    jobs = [{"type": type_, "id": f"{type_}-{name}{n}", "group": name} for name, count in groups.items() for n in range(count)]
    peer.call("insert", jobs)
    eventually(lambda: peer.call("jobs", {"type": type_, "limit": 1000}), lambda jobs: len(jobs) == sum(groups.values()))


def take(peer: Peer, type_: str, count: int = 1) -> list[dict[str, str]]:
    runs: list[dict[str, str]] = peer.call("reserve", {"types": [type_], "count": count, "wait": 20})
    return runs


def test_groups_take_turns_by_their_weights(peer: Peer) -> None:
    insert(peer, "scan", big=5, small=3)
    order = []
    for _ in range(8):
        (run,) = take(peer, "scan")
        order.append(run["id"].removeprefix("scan-"))
        peer.call("finish", {"run": run["run"], "report": "ok"})
    assert order == ["big0", "big1", "small0", "big2", "big3", "small1", "big4", "small2"]


def test_a_group_has_no_more_running_than_it_may(peer: Peer) -> None:
    insert(peer, "narrow", a=2, b=1)
    runs = take(peer, "narrow", 3)
    assert sorted(run["id"] for run in runs) == ["narrow-a0", "narrow-b0"]
    told = peer.call("explain", "narrow-a1")
    assert (told["reason"], told["group"], told["running"]) == ("group_full", "a", 1)
    peer.call("finish", [{"run": run["run"], "report": "ok"} for run in runs])
    (last,) = take(peer, "narrow")
    assert last["id"] == "narrow-a1"
    peer.call("finish", {"run": last["run"], "report": "ok"})


def test_a_job_tells_its_group_and_is_found_by_it(peer: Peer) -> None:
    peer.call("insert", [{"type": "told", "id": "one", "group": "näme"}, {"type": "told", "id": "two"}])
    found = eventually(lambda: peer.call("jobs", {"group": "näme"}), bool)
    assert [(job["id"], job["group"]) for job in found] == [("one", "näme")]
    assert peer.call("cancel", {"group": "näme"})["ids"] == ["one"]
    assert peer.call("purge", {"type": "told"}) == 1


@pytest.mark.parametrize("group", ["", "x" * 201, "a\u202eb", 5])
def test_a_group_that_could_be_no_name_is_refused(peer: Peer, group: object) -> None:
    with pytest.raises(RefusedError, match="group: expected 1 to 200 bytes of printable text"):
        peer.call("insert", {"type": "scan", "group": group})
