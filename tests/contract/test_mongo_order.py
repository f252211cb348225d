"""Jobs that wait for others, and batches, of several servers, one of which is killed between any two of its commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from unittest.mock import Mock

import pytest
from pymongo.errors import AutoReconnect

from kqs.errors import StoreError, StoreUnavailableError
from kqs.job import Accepted, Entry, JobRecord
from kqs.states import State
from kqs.store.base import Verb
from kqs.store.mongo import MongoStore
from kqs.store.mongo.noted import UNUSED_S
from kqs.store.mongo.servers import LEASE_S
from tests.contract.change_contract import FRESH, change
from tests.contract.order_contract import a_member, a_tally, a_then, after, only
from tests.contract.store_contract import (
    FIRST,
    IDS,
    JOURNAL,
    NODE,
    OTHER_JOURNAL,
    OTHER_NODE,
    a_job,
    a_report,
    an_entry,
    numbers,
)
from tests.support.clock import FakeClock
from tests.support.jobs import listed
from tests.support.mongo_proxy import MongoProxy

MakeStore = Callable[..., MongoStore]


async def run(store: MongoStore, n: int, now: float, state: State = State.SUCCESS) -> None:
    """Have job n end so."""
    (granted,) = await store.claim([an_entry(n)], "w", now)
    assert await store.report([a_report(granted.claim, state, at=now)]) == [True]


async def followed(store: MongoStore, now: float) -> list[int]:
    """Follow all ends; return the numbers of the jobs that were called meanwhile."""
    called: list[Entry] = []
    store.on_called = called.extend
    while (await store.follow(now, None)).is_more:
        pass
    return sorted(numbers(called))


Pair = tuple[MongoStore, MongoStore]


async def a_pair(make: MakeStore, proxy: MongoProxy, namespace: str) -> Pair:
    """Return the stores of two servers that nobody has used; the first is behind the proxy."""
    behind, beside = make(proxy.uri, namespace), make(namespace=namespace)
    await behind.open(JOURNAL, NODE)
    await beside.open(OTHER_JOURNAL, OTHER_NODE)
    return behind, beside


async def family(store: MongoStore, now: float) -> dict[int, State]:
    """Return how a parent, a child that needs its success and one that does not stand, and that none of them is held."""
    found = {}
    for n in range(3):
        record = await store.job(IDS.of(FIRST + n))
        assert record is not None
        assert not record.awaits, (n, record)
        found[n] = record.state
    return found


CHILDREN = [a_job(1, after=after(0)), a_job(2, after=after(0, is_any_end=True))]
ENDS = pytest.mark.parametrize("end", [State.SUCCESS, State.FAIL])


@pytest.mark.slow
@ENDS
async def test_parent_that_ends_amid_the_insert_of_its_children_leaves_none_of_them_waiting(
    proxy: MongoProxy, make_mongo_store: MakeStore, now: float, end: State
) -> None:
    ended_at, met = 0, 0
    while True:
        ours, theirs = await a_pair(make_mongo_store, proxy, f"at{ended_at}-{met}")
        await ours.insert([a_job(0)], 1, "w", now)
        proxy.meanwhile(
            (ended_at, partial(run, theirs, 0, now, end)),
            (met, partial(followed, theirs, now)),
        )
        await ours.insert(CHILDREN, 2, "w", now)
        if not proxy.is_interrupted:
            if ended_at == met:
                break
            ended_at = met = ended_at + 1
            continue
        await followed(ours, now)
        state = {State.SUCCESS: State.NEW, State.FAIL: State.FAIL}[end]
        assert await family(ours, now) == {0: end, 1: state, 2: State.NEW}, (ended_at, met)
        met += 1
    assert ended_at > 3


@pytest.mark.slow
@ENDS
async def test_children_that_come_amid_the_end_of_their_parent_are_found_by_who_ended_it(
    proxy: MongoProxy, make_mongo_store: MakeStore, now: float, end: State
) -> None:
    came_at, is_over = 0, False
    while not is_over:
        ours, theirs = await a_pair(make_mongo_store, proxy, f"at{came_at}")
        await theirs.insert([a_job(0)], 1, "w", now)
        proxy.meanwhile((came_at, partial(theirs.insert, CHILDREN, 2, "w", now)))
        await run(ours, 0, now, end)
        await followed(ours, now)
        is_over = not proxy.is_interrupted
        if is_over:
            await theirs.insert(CHILDREN, 2, "w", now)
        await ours.news()  # as it looks three times a second; the other does nothing more
        await followed(ours, now)
        state = {State.SUCCESS: State.NEW, State.FAIL: State.FAIL}[end]
        assert await family(ours, now) == {0: end, 1: state, 2: State.NEW}, came_at
        came_at += 1
    assert came_at > 3


@pytest.mark.parametrize("command", ["insert", "find", "update"])
async def test_children_whose_insert_failed_at_first_are_heard_of_all_the_same(
    proxy: MongoProxy, make_mongo_store: MakeStore, now: float, command: str
) -> None:
    ours, theirs = await a_pair(make_mongo_store, proxy, "")
    await ours.insert([a_job(0)], 1, "w", now)
    proxy.lose_answer(command)
    with pytest.raises(StoreUnavailableError):
        await ours.insert(CHILDREN, 2, "w", now)
    await theirs.news()
    await ours.insert(CHILDREN, 2, "w", now)
    await theirs.news()
    await run(theirs, 0, now)
    await followed(theirs, now)
    assert await family(theirs, now) == {0: State.SUCCESS, 1: State.NEW, 2: State.NEW}


async def test_server_that_was_not_there_when_others_heard_of_children_finds_them_by_its_upkeep(
    ours: MongoStore, make_mongo_store: MakeStore, now: float
) -> None:
    await ours.insert([a_job(3), a_job(4, after=after(3))], 1, "w", now)
    await change(ours, Verb.DELETE, now=now)
    theirs = make_mongo_store()
    await theirs.open(OTHER_JOURNAL, OTHER_NODE)
    await ours.insert([a_job(0), *CHILDREN], 2, "w", now)
    await followed(ours, now)
    await theirs.news()
    await run(theirs, 0, now)
    assert await followed(theirs, now) == []
    await theirs._there.keep_up()
    assert await followed(theirs, now) == [1, 2]


async def test_server_that_ends_a_parent_lets_anothers_child_go(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await ours.insert([a_job(0), a_job(1, after=after(0))], 1, "w", now)
    await followed(ours, now)
    await theirs.news()  # as it looks three times a second
    await run(theirs, 0, now)
    assert await followed(theirs, now) == [1]


async def test_end_before_a_server_has_heard_of_children_is_followed_when_it_has(
    ours: MongoStore, theirs: MongoStore, now: float
) -> None:
    await ours.insert([a_job(0), a_job(1, after=after(0))], 1, "w", now)
    await followed(ours, now)
    await run(theirs, 0, now)
    assert await followed(theirs, now) == []
    told: list[bool] = []
    theirs.on_followed = lambda: told.append(True)
    await theirs.news()
    assert told
    assert await followed(theirs, now) == [1]


async def test_ends_that_a_dead_server_left_are_found_by_the_eldest(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await theirs.insert([a_job(0), a_job(1, after=after(0))], 1, "w", now)
    await theirs.news()
    await run(theirs, 0, now)  # and it dies
    await ours._there.keep_up()
    assert await followed(ours, now) == [1]


async def test_children_that_a_dead_server_has_not_readied_wait_for_no_more_than_their_parents(
    ours: MongoStore, theirs: MongoStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.now()
    monkeypatch.setattr(theirs._there.follower, "stand_new", Mock(side_effect=StoreUnavailableError("killed")))
    with pytest.raises(StoreUnavailableError):
        await theirs.insert([a_job(0), a_job(1, after=after(0)), a_job(2, after=after(5))], 1, "w", now)
    await kill(theirs)
    await ours._there.keep_up()
    assert await followed(ours, now) == []
    for _ in range(4):
        clock.advance(LEASE_S / 3)
        await ours._there.say_alive()
    await ours._there.keep_up()
    assert await followed(ours, now) == []
    await run(ours, 0, now)
    assert await followed(ours, now) == [1]
    other = await ours.job(IDS.of(FIRST + 2))
    assert other is not None
    assert (other.state, list(other.awaits)) == (State.NEW, [IDS.of(FIRST + 5)])


@pytest.mark.parametrize("resource", [None, "printer"])
async def test_what_others_ran_or_deleted_while_an_insert_was_repeated_is_known_to_it(
    ours: MongoStore, theirs: MongoStore, now: float, monkeypatch: pytest.MonkeyPatch, resource: str | None
) -> None:
    jobs = [a_job(0, resource=resource), a_job(1), a_job(2, after=after(0)), a_job(3)]
    monkeypatch.setattr(ours._there.follower, "stand_new", Mock(side_effect=StoreUnavailableError("away")))
    with pytest.raises(StoreUnavailableError):
        await ours.insert(jobs, 1, "w", now)
    monkeypatch.undo()
    await run(theirs, 0, now)
    await change(theirs, Verb.DELETE, only(1), now=now)
    jobs[0].claimed_at = jobs[1].claimed_at = jobs[3].claimed_at = now
    found = await ours.insert(jobs, 1, "w", now)
    assert {*found, *found.parked} >= {FIRST, FIRST + 1}
    assert set(found.made) == {FIRST, FIRST + 1}
    assert FIRST + 3 not in found


async def test_outcome_of_a_parent_stands_though_another_server_retries_it_at_once(
    ours: MongoStore, theirs: MongoStore, now: float
) -> None:
    await ours.insert([a_job(0), a_job(1, after=after(0)), a_job(2, after=after(0, is_any_end=True))], 1, "w", now)
    await run(ours, 0, now, State.FAIL)
    await change(theirs, Verb.RETRY, only(0), now=now, first_order=FRESH)
    assert await followed(theirs, now) == [2]
    child = await ours.job(IDS.of(FIRST + 1))
    assert child is not None
    assert child.state is State.FAIL
    assert IDS.of(FIRST) in (child.error or "")


async def test_member_that_another_server_swept_away_has_counted(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await theirs.insert([a_then(0), *(a_member(n, 0, in_record=False) for n in (1, 2, 3))], 9, "w", now)
    await ours.insert([], 9, "w", now)
    for n, state in ((1, State.SUCCESS), (2, State.FAIL)):
        (granted,) = await theirs.claim([an_entry(n)], "w", now)
        await theirs.report([a_report(granted.claim, state, at=now, drop_at=now + 1)])
    await theirs.insert([], 9, "w", now)
    await theirs.sync()
    await theirs.sweep(now + 2, 9, FIRST + 9)
    await theirs.sync()
    assert await ours.sweep(now + 2, 9, 0) == 2
    record = await ours.job(IDS.of(FIRST))
    assert record is not None
    assert record.tally == a_tally(0, 3, is_open=True, success=1, fail=1)
    await run(theirs, 3, now)
    assert await theirs.close_batch(IDS.of(FIRST)) == a_tally(0, 3, success=2, fail=1)
    assert await followed(theirs, now) == [0]
    assert await theirs._there.follower.batches._ends.find_one({}) is None


async def test_jobs_that_wait_for_nothing_cost_no_question_more(
    proxy: MongoProxy, make_mongo_store: MakeStore, clock: FakeClock
) -> None:
    now = clock.now()
    store = make_mongo_store(proxy.uri)
    await store.open(JOURNAL, NODE)
    await followed(store, now)
    proxy.forget()
    await store.insert([a_job(n) for n in range(100)], 1, "w", now)
    granted = await store.claim([an_entry(n) for n in range(100)], "w", now)
    await store.report([a_report(one.claim, at=now) for one in granted])
    assert not (await store.follow(now, None)).is_more
    assert proxy.commands == {"insert": 1, "update": 2, "find": 1}


async def test_ends_are_not_noted_any_more_when_nobody_has_waited_for_long(ours: MongoStore, clock: FakeClock) -> None:
    now = clock.now()
    await ours.insert([a_job(0), a_job(1, after=after(0))], 1, "w", now)
    await run(ours, 0, now)
    assert await followed(ours, now) == [1]
    clock.advance(UNUSED_S)
    await ours._there.follower.look()
    assert not ours._there.session.noted.is_used


BAD, DELETED, THEN = 2, 13, 10
PARENTS = {3: (0,), 4: (3, 1), 5: (BAD,), 6: (5, 4), 7: (0,), THEN: (11, 12, DELETED)}


def all_jobs(now: float) -> list[Accepted]:
    return [
        *(a_job(n) for n in range(3)),
        a_job(3, after=after(0)),
        a_job(4, after=after(3, 1)),
        a_job(5, after=after(BAD)),
        a_job(6, after=after(5, 4, is_any_end=True)),
        a_job(7, after=after(0), resource="r"),
        a_then(THEN, DELETED),
        *(a_member(n, THEN) for n in (11, 12, DELETED)),
    ]


async def work(store: MongoStore, now: float) -> None:
    """Run what is ready until nothing is, delete one that must be, and follow what comes of that."""
    for _ in range(8):
        ready = await store.ready("mail", None, 20)
        entries = [one for one in ready if one.order != FIRST + DELETED]
        for granted in [*await store.claim(entries, "w", now), *await store.orphans(20)]:
            n = granted.claim.order - FIRST
            for parent in PARENTS.get(n, ()):
                record = await store.job(IDS.of(FIRST + parent))
                assert record is None or record.ended_at is not None, (n, parent)
            state = State.FAIL if n == BAD else State.SUCCESS
            assert await store.report([a_report(granted.claim, state, at=now)]) == [True]
        await change(store, Verb.DELETE, only(DELETED), now=now)
        while (await store.follow(now, None)).is_more:
            pass


async def kill(store: MongoStore) -> None:
    """Let it be as if its process were gone."""
    there, store._open = store._there, None
    await there._supervisor.end(*there._services)
    there._connection.close()


def states(records: Sequence[JobRecord]) -> dict[int, State]:
    return {record.order - FIRST: record.state for record in records}


@pytest.mark.slow
@pytest.mark.parametrize("is_last_done", [False, True])
async def test_server_killed_between_any_two_commands_leaves_nobody_waiting(
    proxy: MongoProxy, make_mongo_store: MakeStore, theirs: MongoStore, clock: FakeClock, is_last_done: bool
) -> None:
    now, commands, is_over = clock.now(), int(is_last_done), False
    while not is_over:
        dying = make_mongo_store(proxy.uri_of(1000), f"at{commands}")
        await dying.open(JOURNAL, NODE)
        proxy.die_after(commands, is_last_done=is_last_done)
        try:
            await dying.insert(all_jobs(now), 20, "w", now)
            await work(dying, now)
        except StoreError:
            assert proxy.is_dead
        else:
            is_over = True
        await kill(dying)
        proxy.die_after(10**9, is_last_done=False)
        again = make_mongo_store(namespace=f"at{commands}")
        await again.open(JOURNAL, NODE)
        await again.insert(all_jobs(now), 20, "w", now)
        await work(again, now)
        for _ in range(3):  # of resources: see resources.py, 3
            await again._there.keep_up()
        await work(again, now)
        records = await listed(again)
        ended = dict.fromkeys([0, 1, 3, 4, 6, 7, THEN, 11, 12], State.SUCCESS)
        assert states(records) == ended | {BAD: State.FAIL, 5: State.FAIL}, commands
        by_number = {record.order - FIRST: record for record in records}
        assert by_number[THEN].tally == a_tally(THEN, 3, success=2, deleted=1), commands
        assert IDS.of(FIRST + BAD) in (by_number[5].error or "")
        await again.close()
        commands += 2  # each is met by one of the two
    assert commands > 20


async def test_member_of_a_batch_that_was_not_begun_is_none_either_when_its_insert_is_repeated(
    ours: MongoStore, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ours.insert([a_job(0, unique="k")], 1, "w", now)
    assert sorted(await ours.insert([a_then(1, 3, unique="k"), a_member(2, 1)], 1, "w", now)) == [FIRST + 1, FIRST + 2]
    last = [a_member(3, 1), a_job(4)]
    monkeypatch.setattr(ours._there.inserter, "_store", Mock(side_effect=AutoReconnect("away")))
    with pytest.raises(StoreUnavailableError):
        await ours.insert(last, 2, "w", now)
    monkeypatch.undo()
    assert await ours.insert(last, 2, "w", now) == [FIRST + 3]
