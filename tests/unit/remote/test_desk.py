"""Runs in remote hands: what becomes of each, and of the pools they came from."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kqs.job import Returned
from kqs.outcome import Again, Failed, Ok
from kqs.queue.leases import SLOT_S
from kqs.remote import Desk
from kqs.remote import desk as desk_module
from kqs.states import State
from kqs.store.base import Granted
from tests.support.jobs import NOW, an_accepted
from tests.support.queueing import Rig
from tests.support.remote import STORE_ID, Hired, a_desk, assert_balanced, still
from tests.support.turning import until


async def test_a_run_is_found_by_its_token_until_it_is_over(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    worker.reserve()
    await rig.accept(an_accepted(1))
    (run,) = await worker.take()
    assert desk.run(run.token) is run
    named = desk.named(run.token)
    assert named is not None
    assert (named.claim, named.attempt) == (run.run.claim, 1)
    desk.report(run, Ok(b"[7]"), worker.told.append)
    assert desk.run(run.token) is None
    await until(lambda: worker.told == [True])
    record = await rig.record(1)
    assert (record.state, record.result) == (State.SUCCESS, b"[7]")


@pytest.mark.parametrize(
    ("outcome", "state", "due_at"),
    [
        (Again(5.0), State.RETRY, NOW + 5),
        (Failed("no", delay_s=7.0), State.RETRY, NOW + 7),
        (Failed("no", delay_s=0.0), State.RETRY, 0.0),
        (Failed("no"), State.RETRY, NOW + 30),
        (Failed("no", final=True, delay_s=7.0), State.FAIL, 0.0),
    ],
)
async def test_a_report_is_stored_before_it_is_told(rig: Rig, outcome: Again | Failed, state: State, due_at: float) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    worker.reserve()
    await rig.accept(an_accepted(1))
    (run,) = await worker.take()
    desk.report(run, outcome, worker.told.append)
    await until(lambda: worker.told == [True])
    record = await rig.record(1)
    assert (record.state, record.due_at) == (state, due_at)


async def test_a_released_job_keeps_its_place_and_counts_no_failure(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    await rig.accept(an_accepted(1), an_accepted(2))
    worker.reserve()
    (run,) = await worker.take()
    desk.release(run, Returned(), worker.told.append)
    await until(lambda: worker.told == [True])
    await still(rig)
    worker.reserve()
    again = (await worker.take(2))[-1]
    assert again.run.claim.id == run.run.claim.id
    assert (again.run.attempt, again.run.failures, again.run.interrupted) == (2, 0, 1)


async def test_a_job_released_with_a_delay_waits_for_it(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    worker.work()
    await rig.accept(an_accepted(1))
    (run,) = await worker.take()
    desk.release(run, Returned(60.0), worker.told.append)
    await until(lambda: worker.told == [True])
    record = await rig.record(1)
    assert (record.state, record.due_at, record.runs[0].state) == (State.RETRY, NOW + 60, "interrupted")


async def test_a_touch_gives_the_ttr_anew_and_no_more_than_the_limit_leaves(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    worker.work(2)
    limited = an_accepted(2)
    limited.options = b'{"time_limit":40}'
    await rig.accept(an_accepted(1), limited)
    await worker.take(2)
    rig.clock.advance(20)
    lefts = {run.run.claim.order: desk.touch(run) for run in worker.open}
    assert sorted(lefts.values()) == [20, 30]
    rig.clock.advance(21)
    rig.queue.runs.look_again()
    assert desk.runs_count == 1
    await rig.until(2, State.RETRY)
    assert (await rig.record(2)).failures == 1


async def test_a_run_that_its_worker_touches_for_its_handler_is_lost_without(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    order = worker.work()
    job = an_accepted(1)
    job.options = b'{"auto_touch":true}'
    await rig.accept(job)
    (run,) = await worker.take()
    rig.clock.advance(30 + 2 * SLOT_S)
    rig.queue.runs.look_again()
    assert worker.lost == [run]
    assert desk.run(run.token) is None
    await until(lambda: order.room == 1)
    await rig.until(1, State.GHOST)


async def test_a_run_of_who_asked_once_is_lost_like_any_other(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    worker.reserve()
    await rig.accept(an_accepted(1))
    await worker.take()
    rig.clock.advance(30 + 2 * SLOT_S)
    rig.queue.runs.look_again()
    assert (desk.runs_count, worker.lost) == (0, [])
    assert (await rig.until(1, State.GHOST)).ghosts == 1


async def test_a_report_that_the_store_does_not_take_is_told_as_stale(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    worker.reserve()
    await rig.accept(an_accepted(1))
    (run,) = await worker.take()

    async def refuse(reports: list[object]) -> list[bool]:
        return [False] * len(reports)

    monkeypatch.setattr(rig.store, "report", refuse)
    desk.report(run, Ok(), worker.told.append)
    await until(lambda: worker.told == [False])
    assert rig.queue.runs.stale_count == 1


async def test_who_asked_before_there_is_a_store_is_served_when_there_is(rig: Rig) -> None:
    desk = Desk(rig.queue, 1.0, rig.supervisor)
    worker = Hired(desk)
    worker.reserve()
    await rig.accept(an_accepted(1))
    await still(rig)
    assert worker.given == []
    desk.start(STORE_ID)
    await worker.take()


async def test_a_desk_that_never_began_stops(rig: Rig) -> None:
    desk = Desk(rig.queue, 1.0, rig.supervisor)
    worker = Hired(desk)
    worker.reserve()
    await desk.stop()
    assert worker.ended == 1


async def test_a_pool_outlives_its_last_order_for_a_while(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "LINGER_S", 0.01)
    desk = a_desk(rig)
    worker = Hired(desk)
    first = worker.reserve()
    first.withdraw()
    assert worker.reserve().pool is first.pool
    for order in list(worker.party._orders):
        order.withdraw()
    await until(lambda: not rig.queue.admission.consumers)
    assert desk._pools == {}
    assert worker.reserve().pool is not first.pool
    await rig.accept(an_accepted(1))
    await worker.take()


async def test_a_pool_that_never_got_a_consumer_goes_as_well(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "LINGER_S", 0.0)
    desk = Desk(rig.queue, 1.0, rig.supervisor)
    Hired(desk).reserve().withdraw()
    await until(lambda: not desk._pools)


async def test_few_pools_linger_at_a_time(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    for number in range(desk_module.MOST_LINGERING + 50):
        worker.name = f"w{number}"
        worker.reserve().withdraw()
    await until(lambda: len(rig.queue.admission.consumers) == desk_module.MOST_LINGERING)
    assert len(desk._pools) == len(desk._timers) == desk_module.MOST_LINGERING
    assert ("w0" in {name for _, name, _ in desk._pools}) is False
    await desk.stop()
    assert rig.queue.admission.consumers == []


async def test_a_stop_ends_all_orders_and_waits_for_the_runs(rig: Rig) -> None:
    desk = a_desk(rig, grace_s=10)
    worker, waiting = Hired(desk), Hired(desk)
    worker.work(1)
    await rig.accept(an_accepted(1))
    (run,) = await worker.take()
    waiting.reserve()
    stopping = asyncio.ensure_future(desk.stop())
    await until(lambda: waiting.ended == worker.ended == 1)
    assert not stopping.done()
    await rig.accept(an_accepted(2))
    desk.report(run, Ok(), worker.told.append)
    await stopping
    await until(lambda: worker.told == [True])
    assert (await rig.record(2)).state is State.NEW


@pytest.mark.parametrize("grace_s", [0.0, 0.05])
async def test_what_does_not_end_within_grace_goes_back_and_costs_nothing(rig: Rig, grace_s: float) -> None:
    desk = a_desk(rig, grace_s=grace_s)
    worker = Hired(desk)
    worker.work(2)
    await rig.accept(an_accepted(1), an_accepted(2))
    await worker.take(2)
    await desk.stop()
    assert desk.runs_count == 0
    await rig.queue.settle()
    record = await rig.record(1)
    assert (record.state, record.ghosts, record.failures, record.interrupted) == (State.RETRY, 0, 0, 1)


async def test_a_stop_without_end_waits_for_ever(rig: Rig) -> None:
    desk = a_desk(rig, grace_s=-1)
    worker = Hired(desk)
    worker.reserve()
    await rig.accept(an_accepted(1))
    (run,) = await worker.take()
    stopping = asyncio.ensure_future(desk.stop())
    await still(rig)
    assert not stopping.done()
    desk.lose(run, "test")
    await stopping


async def test_what_was_being_claimed_at_a_stop_goes_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.accept(an_accepted(1))
    claim, is_claimed, go_on = rig.store.claim, asyncio.Event(), asyncio.Event()

    async def held(*args: Any) -> Granted:
        runs = await claim(*args)
        is_claimed.set()
        await go_on.wait()
        return runs

    monkeypatch.setattr(rig.store, "claim", held)
    desk = a_desk(rig)
    worker = Hired(desk)
    order = worker.work(1)
    await is_claimed.wait()
    stopping = asyncio.ensure_future(desk.stop())
    await asyncio.sleep(0)
    go_on.set()
    await stopping
    await rig.queue.settle()
    assert worker.given == []
    assert (await rig.record(1)).state is State.NEW
    assert_balanced(order.pool)
