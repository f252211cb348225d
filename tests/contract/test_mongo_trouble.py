"""MongoDB away, and answers that are lost on their way: behind a proxy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

import kqs.store.mongo.opened
from kqs.errors import StoreCorruptError, StoreError, StoreUnavailableError
from kqs.job import Accepted, Run
from kqs.states import State
from kqs.store.base import Verb
from kqs.store.mongo import MongoStore
from kqs.store.mongo.insert import Inserter
from kqs.store.mongo.lanes import Lane
from kqs.store.mongo.tallies import RECOUNT_S
from tests.contract.change_contract import change
from tests.contract.order_contract import only
from tests.contract.store_contract import (
    FIRST,
    IDS,
    JOURNAL,
    NODE,
    a_claim,
    a_job,
    a_report,
    an_ended,
    an_entry,
    numbers,
    some_jobs,
    without_end,
)
from tests.support.clock import FakeClock
from tests.support.mongo_proxy import MongoProxy
from tests.support.mongodb import sweep_all_bulk
from tests.support.supervising import StrictSupervisor

MakeStore = Callable[..., MongoStore]
#: when every file without a job is old
FAR_AHEAD = 5e9


@pytest.fixture
async def store(make_mongo_store: MakeStore, proxy: MongoProxy) -> AsyncIterator[MongoStore]:
    store = make_mongo_store(proxy.uri)
    await store.open(JOURNAL, NODE)
    yield store
    await store.close()


async def claim_one(store: MongoStore, now: float) -> Run:
    await store.insert([a_job(0)], 1, "w1", now)
    (run,) = await store.claim([an_entry(0)], "w1", now)
    return run


async def state_of(store: MongoStore, n: int = 0) -> tuple[State, int]:
    record = await store.job(IDS.of(FIRST + n))
    assert record is not None
    return record.state, record.attempt


async def test_what_is_asked_of_a_server_that_is_away_is_refused_and_done_once_it_is_back(
    store: MongoStore, proxy: MongoProxy, now: float
) -> None:
    run = await claim_one(store, now)
    await proxy.cut()
    asked = [store.insert([a_job(1)], 2, "w1", now), store.report([a_report(run.claim, at=now)]), store.counts(), store.sync()]
    refusals = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(refusal) for refusal in refusals} == {StoreUnavailableError}
    await proxy.start()
    assert await store.report([a_report(run.claim, at=now)]) == [True]
    assert await store.insert([a_job(1)], 2, "w1", now) == []
    assert numbers(await store.ready("mail", None, 9)) == [1]


async def test_never_there_is_unavailable_and_nothing_is_left_open(make_mongo_store: MakeStore, proxy: MongoProxy) -> None:
    await proxy.cut()
    with pytest.raises(StoreUnavailableError, match="away"):
        await make_mongo_store(proxy.uri).open(JOURNAL, NODE)


async def test_a_stop_without_mongodb_is_bounded(store: MongoStore, proxy: MongoProxy) -> None:
    await proxy.cut()
    began = time.monotonic()
    await store.close()
    assert time.monotonic() - began < 10  # of its time-outs, only that for finding a server was met


@pytest.mark.parametrize("uri", ["nonsense", "mongodb://", "mongodb://h/?w=no:such&journal=perhaps"])
async def test_a_wrong_uri_is_a_clear_error(make_mongo_store: MakeStore, uri: str) -> None:
    with pytest.raises(StoreError, match="no MongoDB URI"):
        await make_mongo_store(uri).open(JOURNAL, NODE)


async def test_an_insert_whose_answer_was_lost_knows_itself_again(store: MongoStore, proxy: MongoProxy, now: float) -> None:
    proxy.lose_answer("insert")
    with pytest.raises(StoreUnavailableError):
        await store.insert(some_jobs(3), 1, "w1", now)
    assert await store.insert(some_jobs(3), 1, "w1", now) == []
    assert numbers(await store.ready("mail", None, 9)) == [0, 1, 2]
    assert await store.insert(some_jobs(3), 1, "w1", now) == [FIRST, FIRST + 1, FIRST + 2]


async def test_a_report_whose_answer_was_lost_knows_itself_again_though_others_came_between(
    store: MongoStore, proxy: MongoProxy, now: float
) -> None:
    await store.insert([a_job(0), a_job(1)], 1, "w1", now)
    ours, orphan = [a_report(run.claim, State.RETRY, at=now) for run in await store.claim([an_entry(0), an_entry(1)], "w", now)]
    proxy.lose_answer("update")
    with pytest.raises(StoreUnavailableError):
        await store.report([ours])
    assert await store.report([orphan]) == [True]
    assert await store.report([ours]) == [True]
    assert await store.report([ours, orphan]) == [False, False]
    assert (await store.counts())["mail"] == {State.RETRY: 2}


async def test_a_job_that_runs_though_its_insert_failed_is_new_all_the_same(
    store: MongoStore, proxy: MongoProxy, now: float
) -> None:
    await store.insert([a_job(0, id="theirs")], 1, "w1", now)
    jobs = [a_job(1), a_job(2), a_job(3, id="theirs"), a_job(4, resource="printer")]
    proxy.lose_answer("insert")
    with pytest.raises(StoreUnavailableError):
        await store.insert(jobs, 2, "w1", now)
    await store.claim([an_entry(1)], "w1", now)
    await change(store, Verb.CANCEL, only(4), now=now)
    found = await store.insert(jobs, 2, "w1", now)
    assert sorted(found) == [FIRST + 1, FIRST + 3, FIRST + 4]
    assert sorted(found.made) == [FIRST + 1, FIRST + 4]
    assert sorted(found.old) == [FIRST + 3]
    assert sorted(found.parked) == [FIRST + 4]
    assert (await store.insert(jobs, 2, "w1", now)).made == set()


async def test_a_repeated_insert_may_claim_other_jobs(store: MongoStore, proxy: MongoProxy, now: float) -> None:
    due_at = now + 9
    proxy.lose_answer("insert")
    with pytest.raises(StoreUnavailableError):
        await store.insert([a_job(0, claimed_at=now), a_job(1), a_job(2, due_at=due_at)], 1, "w1", now)
    assert await store.insert([a_job(0), a_job(1, claimed_at=now), a_job(2, due_at=due_at)], 1, "w2", now) == []
    assert [await state_of(store, n) for n in range(3)] == [(State.NEW, 0), (State.PROCESSING, 1), (State.DELAYED, 0)]
    assert await store.report([a_report(a_claim(n), at=now) for n in (0, 1)]) == [False, True]


@pytest.mark.parametrize("end", [{}, {"end_result": b"9" * 5000, "end_drop_at": 5e9}, {"state": State.FAIL, "end_error": "no"}])
@pytest.mark.parametrize("before", ["new", "claimed", "ended", "ended otherwise"])
async def test_a_repeated_insert_may_know_the_end_of_a_job(
    store: MongoStore, proxy: MongoProxy, clock: FakeClock, now: float, before: str, end: dict[str, Any]
) -> None:
    ended = an_ended(0, at=now, data=b"1" * 3000, **end)
    assert ended.end is not None
    first = {
        "new": a_job(0, data=ended.data),
        "claimed": without_end(ended),
        "ended": ended,
        "ended otherwise": an_ended(
            0, State.FAIL, at=now, data=ended.data, end_result=b"8" * 3000, end_error="!", end_ghosts=2
        ),
    }
    proxy.lose_answer("insert")
    with pytest.raises(StoreUnavailableError):
        await store.insert([first[before]], 1, "w1", now)
    assert await store.insert([ended], 1, "w1", now) == []
    record = await store.job(ended.id)
    assert record is not None
    found = (record.state, record.data, record.result, record.error, record.drop_at, record.ghosts, record.attempt)
    assert found == (ended.end.state, ended.data, ended.end.result, ended.end.error, ended.end.drop_at, 0, 1)
    assert [(run.worker, run.state, run.error) for run in record.runs] == [("w1", ended.end.run_state, ended.end.error)]
    assert await store.report([ended.end]) == [True]
    await store._there.session.tallies.recount()
    assert await store.counts() == {"mail": {ended.end.state: 1}}
    await sweep_all_bulk(store, clock.monotonic())
    named = 1 + (ended.end.result is not None)
    assert await store._there.session.bulk._files.count_documents({}) == named


async def test_a_repeated_insert_may_not_know_the_end_of_a_job_that_it_stored_as_ended(
    store: MongoStore, proxy: MongoProxy, now: float
) -> None:
    ended = an_ended(0, State.FAIL, at=now, end_drop_at=now, end_result=b"9" * 5000, end_error="no", end_failures=3)
    proxy.lose_answer("insert")
    with pytest.raises(StoreUnavailableError):
        await store.insert([ended], 1, "w1", now)
    assert await store.insert([without_end(ended)], 1, "w1", now) == []
    record = await store.job(ended.id)
    assert record is not None
    assert (record.state, record.result, record.error, record.drop_at, record.failures) == (
        State.PROCESSING,
        None,
        None,
        None,
        0,
    )
    assert [(run.attempt, run.state) for run in record.runs] == [(1, "processing")]
    assert await store.report([a_report(a_claim(0), at=now)]) == [True]


async def test_a_repeated_insert_knows_again_the_ended_job_whose_room_another_of_the_batch_took(
    store: MongoStore, proxy: MongoProxy, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [an_ended(0, at=now, id="mine", end_drop_at=now + 1), a_job(1, id="mine", accepted_at=now + 1), a_job(2, id="mine")]
    replace = Inserter._replace

    async def lose_the_answer(inserter: Inserter, *args: Any) -> set[int]:
        monkeypatch.setattr(Inserter, "_replace", replace)
        proxy.lose_answer("update")
        return await replace(inserter, *args)

    monkeypatch.setattr(Inserter, "_replace", lose_the_answer)
    with pytest.raises(StoreUnavailableError):
        await store.insert(batch, 1, "w1", now)
    assert await store.insert(batch, 1, "w1", now) == [FIRST + 2]
    assert sorted(await store.insert(batch, 1, "w1", now)) == [FIRST, FIRST + 1, FIRST + 2]
    record = await store.job("mine")
    assert record is not None
    assert (record.order, record.state) == (FIRST + 1, State.NEW)


async def test_a_repeated_insert_knows_again_the_job_that_took_the_room_of_a_record_that_was_not_over_for_the_one_before(
    store: MongoStore, proxy: MongoProxy, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.insert([an_ended(0, at=now, id="mine", end_drop_at=now + 1)], 1, "w1", now)
    batch = [a_job(n, id="mine", accepted_at=now + n - 1) for n in (1, 2, 3)]
    replace = Inserter._replace

    async def lose_the_answer(inserter: Inserter, jobs: Sequence[Accepted], *args: Any) -> set[int]:
        if jobs[0] is batch[1]:
            monkeypatch.setattr(Inserter, "_replace", replace)
            proxy.lose_answer("update")
        return await replace(inserter, jobs, *args)

    monkeypatch.setattr(Inserter, "_replace", lose_the_answer)
    with pytest.raises(StoreUnavailableError):
        await store.insert(batch, 2, "w1", now)
    assert sorted(await store.insert(batch, 2, "w1", now)) == [FIRST + 1, FIRST + 3]
    record = await store.job("mine")
    assert record is not None
    assert (record.order, record.state) == (FIRST + 2, State.NEW)


async def test_a_repeated_insert_leaves_alone_what_others_run_by_now(
    store: MongoStore, make_mongo_store: MakeStore, proxy: MongoProxy, now: float
) -> None:
    other = make_mongo_store()
    await other.open("f" * 32, "00c0ffee")
    proxy.lose_answer("insert")
    with pytest.raises(StoreUnavailableError):
        await store.insert([a_job(0)], 1, "w1", now)
    assert numbers(await other.claim([an_entry(0)], "w2", now)) == [0]
    assert await store.insert([a_job(0, claimed_at=now)], 1, "w1", now) == [FIRST]


@pytest.mark.parametrize(("state", "due_in"), [(State.SUCCESS, 0), (State.RETRY, 0), (State.RETRY, 9)])
async def test_a_report_whose_answer_was_lost_is_accepted_when_repeated(
    store: MongoStore, proxy: MongoProxy, now: float, state: State, due_in: int
) -> None:
    run = await claim_one(store, now)
    report = a_report(run.claim, state, at=now, due_at=now + due_in if due_in else 0.0)
    proxy.lose_answer("update")
    with pytest.raises(StoreUnavailableError):
        await store.report([report])
    assert await store.report([report]) == [True]
    assert await state_of(store) == (state, 1)


@pytest.mark.parametrize("command", ["update", "find"])
async def test_a_claim_whose_answer_was_lost_is_due_again(
    store: MongoStore, proxy: MongoProxy, now: float, command: str
) -> None:
    await store.insert([a_job(0)], 1, "w1", now)
    proxy.lose_answer(command)
    with pytest.raises(StoreUnavailableError):
        await store.claim([an_entry(0)], "w1", now)
    await store._there.say_alive()
    await store._there.keep_up()
    assert await store.next_due_at() == 0.0
    assert numbers(await store.wake(now, 9)) == [0]
    (run,) = await store.claim([an_entry(0)], "w2", now)
    assert await store.report([a_report(run.claim, at=now)]) == [True]
    record = await store.job(run.claim.id)
    assert record is not None
    assert [(one.worker, one.state) for one in record.runs] == [("w2", "success")]


async def test_counts_are_right_again_after_lost_answers(
    store: MongoStore, proxy: MongoProxy, clock: FakeClock, now: float
) -> None:
    proxy.lose_answer("insert")
    with pytest.raises(StoreUnavailableError):
        await store.insert(some_jobs(3), 1, "w1", now)
    clock.advance(RECOUNT_S)
    await store._there.say_alive()
    await store._there.keep_up()
    assert await store.counts() == {"mail": {State.NEW: 3}}


async def test_counts_are_right_again_after_a_sweep_whose_answer_was_lost(
    store: MongoStore, proxy: MongoProxy, clock: FakeClock, now: float
) -> None:
    await store.insert([an_ended(0, at=now, end_drop_at=now), a_job(1)], 1, "w1", now)
    proxy.lose_answer("delete")
    with pytest.raises(StoreUnavailableError):
        await store.sweep(now, 9, FIRST + 9)
    clock.advance(RECOUNT_S)
    await store._there.keep_up()
    assert await store.counts() == {"mail": {State.NEW: 1}}


async def test_counts_are_right_again_after_an_insert_that_failed_when_its_jobs_were_stored(
    store: MongoStore, clock: FakeClock, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_args: object, **_options: object) -> None:
        raise AutoReconnect("away")

    jobs = [a_job(0, resource="r"), a_job(1, resource="r")]
    monkeypatch.setattr(store._there.resources.calls, "wait_for", away)
    with pytest.raises(StoreUnavailableError):
        await store.insert(jobs, 1, "w1", now)
    monkeypatch.undo()
    assert await store.insert(jobs, 1, "w1", now) == []
    clock.advance(RECOUNT_S)
    await store._there.keep_up()
    assert await store.counts() == {"mail": {State.NEW: 2}}


async def test_a_batch_costs_one_round_trip_to_store_two_to_claim_and_one_to_report(
    store: MongoStore, proxy: MongoProxy, now: float
) -> None:
    for n in (1, 100):
        jobs = [a_job(1000 * n + i) for i in range(n)]
        proxy.forget()
        await store.insert(jobs, n, "w1", now)
        runs = await store.claim([an_entry(1000 * n + i) for i in range(n)], "w1", now)
        await store.report([a_report(run.claim, at=now) for run in runs])
        assert dict(proxy.commands) == {"insert": 1, "update": 2, "find": 1}
        assert (proxy.sent_bytes + proxy.answered_bytes) / n < (2500 if n == 1 else 600)


@pytest.mark.parametrize("drop_at", [None, FAR_AHEAD])
async def test_a_known_id_costs_no_more_where_a_batch_has_it_many_times(
    store: MongoStore, proxy: MongoProxy, now: float, drop_at: float | None
) -> None:
    await store.insert([a_job(0, id="waits"), an_ended(1, at=now, id="ended", end_drop_at=drop_at)], 1, "w1", now)
    costs = []
    for count in (2, 200):
        jobs = [a_job(1000 * count + n, id="ended" if n % 2 else "waits") for n in range(2 * count)]
        proxy.forget()
        assert len(await store.insert(jobs, count, "w1", now)) == 2 * count
        costs.append(proxy.commands.total())
    assert costs[0] == costs[1]


async def test_jobs_that_meet_an_idle_lane_cost_two_round_trips(store: MongoStore, proxy: MongoProxy, now: float) -> None:
    proxy.forget()
    await store.insert(some_jobs(100, claimed_at=now), 1, "w1", now)
    assert await store.report([a_report(a_claim(n), at=now) for n in range(100)]) == [True] * 100
    assert dict(proxy.commands) == {"insert": 1, "update": 1}


async def test_jobs_that_are_stored_with_their_ends_cost_one_round_trip(
    store: MongoStore, proxy: MongoProxy, now: float
) -> None:
    proxy.forget()
    batch = [an_ended(n, at=now, end_result=b"1" if n % 2 else None, id=f"mine{n}" if n % 3 else None) for n in range(100)]
    assert await store.insert([*batch, a_job(100), a_job(101, claimed_at=now)], 1, "w1", now) == []
    assert dict(proxy.commands) == {"insert": 1}


async def test_a_write_that_hangs_holds_up_the_upkeep_but_no_heartbeat(store: MongoStore, proxy: MongoProxy) -> None:
    there, release = store._there, asyncio.Event()
    writing = asyncio.ensure_future(there.write(Lane.INSERT, release.wait))
    upkeep = asyncio.ensure_future(there.keep_up())
    proxy.forget()
    for _ in range(2):
        await there.say_alive()
    assert (dict(proxy.commands), upkeep.done()) == ({"update": 2, "find": 2}, False)
    release.set()
    await asyncio.gather(writing, upkeep)


@pytest.mark.parametrize(("what", "task"), [("say_alive", "store heartbeat"), ("keep_up", "store upkeep")])
async def test_an_unforeseen_end_of_the_upkeep_stops_the_node(
    what: str, task: str, make_mongo_store: MakeStore, proxy: MongoProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def faulty(_: object) -> None:
        raise KeyError("unforeseen")

    monkeypatch.setattr(kqs.store.mongo.opened, "BEAT_S", 0)
    monkeypatch.setattr(kqs.store.mongo.opened.Opened, what, faulty)
    store = make_mongo_store(proxy.uri)
    await store.open(JOURNAL, NODE)
    name, error = await StrictSupervisor.made[-1].told()
    assert (name, type(error)) == (task, KeyError)
    await store.close()


async def test_a_boot_that_is_not_its_journals_newest_stores_nothing_more_and_stops(
    make_mongo_store: MakeStore, proxy: MongoProxy, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.store.mongo.opened, "BEAT_S", 0)
    store = make_mongo_store(proxy.uri)
    supervisor = StrictSupervisor.made[-1]
    await store.open(JOURNAL, NODE)
    await make_mongo_store(proxy.uri).open(JOURNAL, NODE)
    name, error = await supervisor.told()
    assert (name, type(error)) == ("store heartbeat", StoreCorruptError)
    with pytest.raises(StoreCorruptError, match="copy of journal"):
        await store.insert([a_job(0)], 1, "w1", now)


@pytest.mark.parametrize("nth", range(1, 4))
@pytest.mark.parametrize("command", ["insert", "find", "update"])
async def test_insert_of_keys_whose_answer_was_lost_at_any_step_knows_itself_again(
    store: MongoStore, proxy: MongoProxy, now: float, command: str, nth: int
) -> None:
    for n in range(2):  # keys that others have taken, and do not have any more
        await store.insert([a_job(n, unique=f"k{n}", claimed_at=now)], 1, "w1", now)
    assert await store.insert([a_job(2, unique="k2")], 1, "w1", now) == []
    jobs = [a_job(10 + n, unique=f"k{n % 5}") for n in range(10)]
    for _ in range(nth):
        proxy.lose_answer(command)
        try:
            found = await store.insert(jobs, 2, "w1", now)
        except StoreUnavailableError:
            found = None
        proxy.lose_answer(None)
    if found is None:
        found = await store.insert(jobs, 2, "w1", now)
    made = [0, 1, 3, 4]
    joined = {n: IDS.of(FIRST + (2 if n % 5 == 2 else 10 + n % 5)) for n in range(10) if n not in made}
    if nth == 1 or command != "find":
        assert {order - FIRST - 10: job_id for order, job_id in found.joined.items()} == joined
    assert numbers(await store.ready("mail", None, 20)) == [2, *(10 + n for n in made)]


async def test_sync_that_fails_is_told(store: MongoStore, proxy: MongoProxy, now: float) -> None:
    await store.insert([a_job(0, unique="k")], 1, "w1", now)
    await proxy.cut()
    with pytest.raises(StoreUnavailableError):
        await store.sync()
    await proxy.start()
    assert await store.sync() == 1
