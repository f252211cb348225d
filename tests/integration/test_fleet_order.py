"""Jobs that wait for others, and batches, over several servers, of which one is killed amid them."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.support.asking import Peer, RefusedError, eventually, peer_of, until
from tests.support.beanstalkd import running_beanstalkd
from tests.support.fleet import Fleet, Record, await_calm, await_state, every_record, some
from tests.support.mongodb import a_database

pytestmark = pytest.mark.slow

NOTHING = {"fail": 0, "cancelled": 0, "deleted": 0, "open": False}


@pytest.fixture(params=[0, 2], ids=["brokers of their own", "two beanstalkds"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path, server_uri: str) -> Iterator[Fleet]:
    with ExitStack() as stack:
        beanstalkds = [stack.enter_context(running_beanstalkd()) for _ in range(request.param)]
        yield Fleet(tmp_path, a_database(server_uri), beanstalkds)


def a_chain(peer: Peer, name: str, after: Sequence[str] = ()) -> list[str]:
    """Insert three jobs, each of which waits for the one before, the first for `after`; return their ids."""
    first, second, third = some("work", [f"{name}-{n}" for n in range(3)])
    ids: list[str] = peer.call("insert", [first | {"after": list(after)} if after else first, second | {"after": [0]}])
    return [*ids, peer.call("insert", third | {"after": [ids[-1]]})]


def a_batch(peer: Peer, name: str, count: int) -> str:
    jobs = some("work", [f"{name}-{n}" for n in range(count)])
    batch: str = peer.call("batch", {"jobs": jobs, "then": {"type": "work", "data": f"{name}-then"}})
    return batch


def check_order(records: Mapping[str, Record]) -> None:
    """See that no job began before all had ended that it waits for, and that each has succeeded just once."""
    for one in records.values():
        assert [run["state"] for run in one["runs"]].count("success") == 1 == (one["state"] == "success"), one
        for parent in one.get("after", ()):
            assert records[parent]["ended_at"] <= one["runs"][0]["started_at"], (one, records[parent])


def check_then(records: Mapping[str, Record], batch: str, count: int) -> None:
    then = records[batch]
    assert then["batch"] == {"id": batch, "count": count, "success": count, **NOTHING}
    members = [one for one in records.values() if one.get("batch") == batch]
    assert len(members) == count
    assert max(one["ended_at"] for one in members) <= then["runs"][0]["started_at"]


def test_children_and_batches_of_one_server_go_on_where_the_work_is_done(fleet: Fleet) -> None:
    with fleet.serving("a", WORKER__CONCURRENCY="0") as a, fleet.serving("b") as b, peer_of(a) as at_a, peer_of(b) as at_b:
        chain = a_chain(at_a, "one")
        longer = a_chain(at_b, "two", chain[-1:])
        batch = a_batch(at_a, "all", 5)
        opened = at_a.call("batch", {"open": True, "then": {"type": "work", "data": "late"}})
        at_b.call("insert", some("work", range(3), batch=opened))
        assert at_b.call("batch", {"id": opened, "close": True})["count"] == 3
        for job_id in (longer[-1], batch, opened):
            await_state(a, job_id, "success")
        records = every_record(b)
        check_order(records)
        check_then(records, batch, 5)
        check_then(records, opened, 3)


@pytest.mark.parametrize("is_back", [True, False], ids=["back", "gone"])
def test_one_killed_amid_parents_and_batches_leaves_nobody_waiting(fleet: Fleet, is_back: bool) -> None:
    with ExitStack() as stack:
        lives = stack.enter_context(fleet.serving("lives"))
        at_lives = stack.enter_context(peer_of(lives))
        batches: dict[str, int] = {}
        for round_ in range(3):
            with ExitStack() as life:
                dies = life.enter_context(fleet.serving("dies"))
                with peer_of(dies) as at_dies:
                    opened = at_dies.call("batch", {"open": True, "then": {"type": "work", "data": f"open-{round_}"}})
                    for n in range(4):
                        ids = a_chain(at_dies, f"d{round_}{n}")
                        a_chain(at_lives, f"l{round_}{n}", ids[:2])
                        batches[a_batch(at_dies, f"db{round_}{n}", 6)] = 6
                        batches[a_batch(at_lives, f"lb{round_}{n}", 6)] = 6
                        at_lives.call("insert", some("work", [f"m{round_}{n}"], batch=opened))
                    until(dies, journal_unfed_records=0)  # what it has not stored all of would wait for it
                dies.stop(signal.SIGKILL)
            eventually(partial(closed, at_lives, opened), bool, within_s=120)
            batches[opened] = 4
        if is_back:
            stack.enter_context(fleet.serving("dies"))
        await_calm([lives])
        records = every_record(lives)
        check_order(records)
        for batch, count in batches.items():
            check_then(records, batch, count)


def closed(peer: Peer, batch: str) -> bool:
    """Close a batch; False: a server that has just died may have jobs of it, for all that others know."""
    try:
        peer.call("batch", {"id": batch, "close": True})
    except RefusedError as error:
        if error.code != "busy":
            raise
        return False
    return True


def test_a_batch_that_is_closed_at_once_has_the_jobs_that_another_server_has_accepted(fleet: Fleet) -> None:
    with fleet.serving("a") as a, fleet.serving("b") as b, peer_of(a) as at_a, peer_of(b) as at_b:
        for _ in range(6):
            opened = at_a.call("batch", {"open": True, "then": {"type": "work"}})
            at_b.call("insert", some("work", range(20), batch=opened))
            assert at_a.call("batch", {"id": opened, "close": True})["count"] == 20
