"""Resources of a MongoDB that several servers share: whose a run is, and who gives on what it had."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import ANY, AsyncMock

import pytest
from pymongo.errors import AutoReconnect

from kqs.errors import StoreUnavailableError
from kqs.filter import Filter
from kqs.job import Entry, Run
from kqs.states import State
from kqs.store.base import CALL_S, Changed, Verb
from kqs.store.mongo import MongoStore
from kqs.store.mongo.servers import LEASE_S, LISTEN_S
from kqs.store.mongo.tallies import RECOUNT_S
from tests.contract.change_contract import change
from tests.contract.store_contract import FIRST, OTHER_JOURNAL, OTHER_NODE, a_claim, a_job, a_report, an_entry, numbers
from tests.support.clock import FakeClock
from tests.support.mongo_proxy import MongoProxy

MakeStore = Callable[..., MongoStore]

ROUNDS = 3  # of upkeep: what stands in a line without a holder is called at the second


async def run_of_theirs(ours: MongoStore, theirs: MongoStore, now: float, *, held: bool = False) -> Run:
    """Have them run the first of two jobs that need the same resource."""
    await ours.insert([a_job(0, id="x", resource="r"), a_job(1, resource="r")], 1, "w", now)
    (run,) = await theirs.claim([an_entry(0, id="x"), an_entry(1)], "w2", now, held=held)
    return run


async def delete(store: MongoStore, run: Run, now: float) -> None:
    await change(store, Verb.DELETE, Filter(ids=(run.claim.id,)), now=now, is_forced=True)


async def granted(store: MongoStore, now: float) -> list[int]:
    return numbers(await store.claim([an_entry(1)], "w", now))


async def outlive(ours: MongoStore, theirs: MongoStore, clock: FakeClock) -> None:
    """Kill their server, and let ours live until its runs are given up."""
    await theirs._there._supervisor.end(*theirs._there._services)
    for _ in range(int(LEASE_S / 10) + ROUNDS):
        clock.advance(10)
        await ours._there.say_alive()
        await ours._there.keep_up()


@pytest.fixture
def called(ours: MongoStore, theirs: MongoStore) -> list[Entry]:
    """Who is called, by whichever server."""
    called: list[Entry] = []
    ours.on_called = theirs.on_called = called.extend
    return called


async def test_a_run_whose_job_another_server_deletes_keeps_its_resource_until_its_own_reports_it(
    ours: MongoStore, theirs: MongoStore, called: list[Entry], now: float
) -> None:
    run = await run_of_theirs(ours, theirs, now)
    called.clear()
    await delete(ours, run, now)
    assert (await theirs.news()).claims == [run.claim]
    for store in (ours, theirs) * ROUNDS:
        await store.sweep(now, 9, FIRST + 9)
        await store._there.keep_up()
        assert (await store.news()).claims == []
    assert (await ours.holder("r"), called, await granted(ours, now)) == (("x", now), [], [])
    assert await theirs.report([a_report(run.claim, at=now)]) == [False]
    assert (numbers(called), await granted(ours, now)) == ([1], [1])


async def test_what_a_deleted_run_leaves_is_forgotten(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    run = await run_of_theirs(ours, theirs, now)
    await delete(ours, run, now)
    await theirs.report([a_report(run.claim, at=now)])
    for store in (theirs, ours) * ROUNDS:
        await store.sweep(now, 9, FIRST + 9)
    assert await ours._there.session.jobs.count_documents({"_id": "x"}) == 0


async def test_the_resource_of_a_deleted_run_is_free_when_its_server_is_dead(
    ours: MongoStore, theirs: MongoStore, called: list[Entry], clock: FakeClock, now: float
) -> None:
    run = await run_of_theirs(ours, theirs, now)
    await delete(ours, run, now)
    called.clear()
    await outlive(ours, theirs, clock)
    assert (numbers(called), await granted(ours, clock.now())) == ([1], [1])


async def test_a_new_job_with_the_id_of_a_deleted_one_waits_for_its_run_at_another_server(
    ours: MongoStore, theirs: MongoStore, called: list[Entry], now: float
) -> None:
    run = await run_of_theirs(ours, theirs, now)
    await delete(ours, run, now)
    await ours.insert([a_job(9, id="x", resource="r")], 2, "w", now + 1)
    called.clear()
    assert await ours.claim([an_entry(9, id="x")], "w", now + 1) == []
    assert (await theirs.news()).claims == [run.claim]
    assert await theirs.report([a_report(run.claim, at=now + 1)]) == [False]
    assert (numbers(called), await granted(ours, now + 1)) == ([1], [1])
    assert await theirs.report([a_report(run.claim, at=now + 1)]) == [False]
    assert await ours.holder("r") == (a_job(1).id, ANY)


async def test_a_held_run_that_moved_to_another_server_keeps_its_resource_where_it_came_from(
    ours: MongoStore, theirs: MongoStore, called: list[Entry], now: float
) -> None:
    run = await run_of_theirs(ours, theirs, now, held=True)
    assert await ours.take(run.claim) is not None
    called.clear()
    ghost = a_report(run.claim, State.GHOST, at=now, ghosts=1, by_watcher=True)
    assert await theirs.report([ghost]) == [False]
    assert (called, await granted(ours, now)) == ([], [])
    await delete(ours, run, now)
    assert await theirs.report([ghost]) == [False]
    assert (called, await granted(ours, now)) == ([], [])
    assert await ours.report([a_report(run.claim, at=now)]) == [False]
    assert numbers(called) == [1]


async def test_a_line_without_an_order_is_that_of_the_run_that_it_names(
    ours: MongoStore, theirs: MongoStore, called: list[Entry], now: float
) -> None:
    run = await run_of_theirs(ours, theirs, now)
    await ours._there.resources._locks.update_one({"_id": "r"}, {"$unset": {"order": ""}})  # as older servers wrote it
    called.clear()
    assert await theirs.report([a_report(run.claim, at=now)]) == [True]
    assert numbers(called) == [1]


async def test_a_sweep_leaves_what_a_deleted_run_has_whose_id_a_new_job_has_taken(
    ours: MongoStore, theirs: MongoStore, called: list[Entry], now: float
) -> None:
    run = await run_of_theirs(ours, theirs, now)
    await delete(ours, run, now)
    await ours.insert([a_job(9, id="x", resource="r")], 2, "w", now + 1)
    called.clear()
    for store in (ours, theirs) * ROUNDS:
        await store._there.keep_up()
        assert (await granted(ours, now), called) == ([], [])
    assert await theirs.report([a_report(run.claim, at=now)]) == [False]
    assert numbers(called) == [1]


async def test_what_a_deleted_run_has_is_its_own_however_many_later_ones_were_replaced(
    ours: MongoStore, theirs: MongoStore, called: list[Entry], clock: FakeClock, now: float
) -> None:
    run = await run_of_theirs(ours, theirs, now)
    await delete(ours, run, now)
    await ours.insert([a_job(9, id="x", resource="s")], 2, "w", now)
    later = {f"y{n}": n for n in range(100, 220)}
    await ours.insert([a_job(n, id=id_) for id_, n in later.items()], 3, "w", now)
    await theirs.claim([an_entry(n, id=id_) for id_, n in later.items()], "w2", now)
    await change(ours, Verb.DELETE, Filter(ids=tuple(later)), now=now, is_forced=True)
    await ours.insert([a_job(200 + n, id=id_, accepted_at=now) for id_, n in later.items()], 4, "w", now)
    called.clear()
    for store in (ours, theirs) * ROUNDS:
        await store._there.keep_up()
        await store.news()
        clock.advance(LISTEN_S)
        assert (await granted(ours, now), called) == ([], [])
    assert await theirs.report([a_report(run.claim, at=now)]) == [False]
    assert numbers(called) == [1]


async def test_a_sweep_frees_what_a_dead_server_had_though_a_new_job_of_that_id_runs(
    ours: MongoStore, theirs: MongoStore, called: list[Entry], clock: FakeClock, now: float
) -> None:
    run = await run_of_theirs(ours, theirs, now)
    await delete(ours, run, now)
    await ours.insert([a_job(9, id="x", resource="s")], 2, "w", now)
    (new,) = await theirs.claim([an_entry(9, id="x")], "w2", now)
    assert (new.claim.id, new.claim.attempt, new.claim.epoch) == (run.claim.id, run.claim.attempt, run.claim.epoch)
    called.clear()
    await outlive(ours, theirs, clock)
    assert (numbers(called), await granted(ours, clock.now())) == ([1], [1])


async def test_what_a_deleted_held_run_has_is_free_when_its_server_has_started_anew(
    ours: MongoStore, theirs: MongoStore, make_mongo_store: MakeStore, called: list[Entry], now: float
) -> None:
    run = await run_of_theirs(ours, theirs, now, held=True)
    await delete(ours, run, now)
    await theirs._there._supervisor.end(*theirs._there._services)
    called.clear()
    anew = make_mongo_store()
    await anew.open(OTHER_JOURNAL, OTHER_NODE)
    assert await anew.orphans(9) == []
    for store in (ours, anew) * ROUNDS:
        await store._there.keep_up()
    assert (numbers(called), await granted(ours, now)) == ([1], [1])
    assert await anew.take(run.claim) is None
    assert await anew.report([a_report(run.claim, at=now)]) == [False]
    assert await ours.holder("r") == (a_job(1).id, ANY)


@pytest.mark.parametrize("after", range(8))
async def test_what_is_cancelled_while_it_is_claimed_in_vain_ends(
    theirs: MongoStore, proxy: MongoProxy, proxied: MongoStore, clock: FakeClock, now: float, after: int
) -> None:
    await proxied.insert([a_job(0, resource="r"), a_job(1, resource="r", due_at=now + 1)], 1, "w", now)
    (run,) = await theirs.claim([an_entry(0)], "w2", now)
    assert numbers(await proxied.wake(now + 1, 9)) == [1]
    cancelled: list[Changed] = []

    async def cancel() -> None:
        cancelled.extend((await change(theirs, Verb.CANCEL, Filter(ids=(a_job(1).id,)), now=now + 1)).changed)

    proxy.meanwhile((after, cancel))
    assert await granted(proxied, now + 1) == []
    if not proxy.is_interrupted:
        await cancel()
        proxy.meanwhile()
    assert len(cancelled) == 1
    for orphan in await proxied.orphans(9):
        assert await proxied.report([a_report(orphan.claim, State.GHOST, at=now + 1)]) == [None]
        assert await proxied.report([a_report(orphan.claim, State.CANCELLED, at=now + 1)]) == [True]
    record = await proxied.job(a_job(1).id)
    assert record is not None
    assert record.state is State.CANCELLED
    assert await theirs.report([a_report(run.claim, at=now + 1)]) == [True]
    await proxied._there.keep_up()
    assert await theirs.holder("r") is None
    for store in (proxied, theirs):
        await store._there.session.tallies.flush()
    assert (await proxied.counts())["mail"] == {State.SUCCESS: 1, State.CANCELLED: 1}


async def test_who_could_not_call_others_for_a_free_resource_does_so_later(
    ours: MongoStore, clock: FakeClock, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Entry] = []
    ours.on_called = called.extend
    await ours.insert([a_job(0, resource="r"), a_job(1, type="video", resource="r")], 1, "w", now)
    assert numbers(called) == [0]
    clock.advance(CALL_S)
    hand_on = AsyncMock(side_effect=AutoReconnect("away"))
    monkeypatch.setattr(ours._there.resources.calls, "hand_on", hand_on)
    with pytest.raises(StoreUnavailableError):
        await ours.call_on(now + CALL_S)
    monkeypatch.undo()
    await ours.call_on(now + CALL_S)
    assert numbers(called) == [0, 1]


@pytest.mark.parametrize("after", range(8))
async def test_what_is_deleted_while_it_is_claimed_in_vain_is_counted_no_more(
    theirs: MongoStore, proxy: MongoProxy, proxied: MongoStore, clock: FakeClock, now: float, after: int
) -> None:
    await proxied.insert([a_job(0, resource="r"), a_job(1, resource="r", due_at=now + 1)], 1, "w", now)
    await theirs.claim([an_entry(0)], "w2", now)
    assert numbers(await proxied.wake(now + 1, 9)) == [1]
    deleted: list[Changed] = []

    async def delete() -> None:
        deleted.extend((await change(theirs, Verb.DELETE, Filter(ids=(a_job(1).id,)), now=now + 1, is_forced=True)).changed)

    proxy.meanwhile((after, delete))
    assert await granted(proxied, now + 1) == []
    if not proxy.is_interrupted:
        await delete()
        proxy.meanwhile()
    assert len(deleted) == 1
    for _ in range(2 * ROUNDS):  # two counts, and what each finds amiss is put right in the round behind
        for store in (proxied, theirs):
            await store._there.keep_up()
        clock.advance(RECOUNT_S)
    assert (await proxied.counts())["mail"] == {State.PROCESSING: 1}


async def test_nothing_is_kept_of_a_claim_that_failed_as_others_were_parked(
    ours: MongoStore, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ours.insert([a_job(0, resource="r"), a_job(1, resource="r", due_at=now + 1)], 1, "w", now)
    assert numbers(await ours.wake(now + 1, 9)) == [1]
    resources = ours._there.resources
    monkeypatch.setattr(resources, "_park", AsyncMock(side_effect=AutoReconnect("away")))
    with pytest.raises(StoreUnavailableError):
        await ours.claim([an_entry(0), an_entry(1)], "w", now)
    monkeypatch.undo()
    assert not resources.has(a_claim(0, epoch=ours._there.session.epoch))
    await ours._there.keep_up()
    await ours.wake(now + 1, 9)
    (run,) = await ours.claim([an_entry(0), an_entry(1)], "w", now)
    assert resources.has(run.claim)
