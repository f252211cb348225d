"""What one connection has: its orders and its runs, which go with it."""

from __future__ import annotations

import gc
import weakref

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from kqs.job import Accepted, Returned
from kqs.outcome import Ok
from kqs.remote import Desk, OpenRun
from kqs.remote import desk as desk_module
from kqs.states import State
from tests.support.jobs import an_accepted
from tests.support.queueing import Rig
from tests.support.remote import Hired, a_desk, assert_balanced, still
from tests.support.turning import until


async def test_a_lost_connection_makes_ghosts_of_its_runs_at_once(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    worker.work(2)
    worker.reserve(1)
    await rig.accept(*(an_accepted(number) for number in range(3)))
    await worker.take(3)
    worker.party.leave("gone")
    assert desk.runs_count == 0
    record = await rig.until(1, State.GHOST)
    assert (record.ghosts, record.runs[0].state, record.runs[0].error) == (1, "ghost", "gone")
    assert rig.queue.runs.ghost_count == 3
    assert worker.party.orders_count == 0


async def test_a_lost_connection_takes_no_job_with_it_that_it_waited_for(rig: Rig) -> None:
    desk = a_desk(rig)
    gone, there = Hired(desk), Hired(desk)
    gone.reserve(1)
    order = there.reserve(1)
    gone.party.leave("gone")
    await rig.accept(an_accepted(1))
    await there.take()
    assert gone.given == []
    assert (await rig.record(1)).attempt == 1
    assert_balanced(order.pool)


async def test_whoever_waits_is_told_of_the_end_however_it_comes(rig: Rig) -> None:
    """What it has begun on its own account, such as a timer, has to end as well."""
    desk = a_desk(rig)
    left, ended, withdrawn = Hired(desk), Hired(desk), Hired(desk)
    left.reserve()
    left.work()
    ended.work()
    order = withdrawn.work()
    left.party.leave("gone")
    ended.party.end_orders()
    assert order.withdraw()
    assert not order.withdraw()
    order.end()
    assert (left.ended, ended.ended, withdrawn.ended) == (2, 1, 0)


async def test_a_withdrawn_order_leaves_its_runs_open(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    order = worker.work(5)
    await rig.accept(an_accepted(1))
    (run,) = await worker.take()
    assert order.withdraw()
    desk.report(run, Ok(), worker.told.append)
    await until(lambda: worker.told == [True])
    await rig.accept(an_accepted(2))
    await still(rig)
    assert len(worker.given) == 1
    assert_balanced(order.pool)


async def test_orders_of_a_party_that_rests_begin_resting(rig: Rig) -> None:
    worker = Hired(a_desk(rig))
    worker.work(1)
    worker.party.pause()
    worker.reserve(1)
    await rig.accept(an_accepted(1), an_accepted(2))
    await still(rig)
    assert worker.given == []
    worker.party.resume()
    await worker.take(2)


async def test_a_run_lost_to_its_ttr_is_told_while_the_order_stands(rig: Rig) -> None:
    desk = a_desk(rig)
    worker, left = Hired(desk), Hired(desk)
    worker.work(1)
    order = left.work(1)
    await rig.accept(an_accepted(1), an_accepted(2))
    await until(lambda: desk.runs_count == 2)
    order.withdraw()
    runs = list(worker.open)
    rig.clock.advance(31)
    rig.queue.runs.look_again()
    assert (worker.lost, left.lost) == (runs, [])
    assert desk.runs_count == 0
    assert rig.queue.runs.ghost_count == 2


async def test_who_is_gone_is_forgotten_with_all_that_it_had_and_was_never_told(rig: Rig) -> None:
    desk = a_desk(rig)
    party = weakref.ref(leaver := desk.party())
    runs: list[OpenRun] = []
    order = leaver.order(frozenset({"mail"}), 3, "w", runs.extend, lambda: None, lambda run: None)
    await rig.accept(*map(an_accepted, range(1, 4)))
    await until(lambda: len(runs) == 3)
    order.withdraw()
    rig.queue.runs.call_off([runs[0].run.claim])  # which the next order would be told
    desk.report(runs[1], Ok(None), lambda ok: None)
    leaver.leave("gone")
    await still(rig)
    del leaver, order
    runs.clear()
    gc.collect()
    assert party() is None


async def test_long_data_is_kept_no_longer_than_until_it_is_given(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    worker.work(2)
    long = b'"' + b"x" * 100_000 + b'"'
    await rig.accept(an_accepted(1, data=long), an_accepted(2, data=b"7"))
    await worker.take(2)
    assert worker.data == [long, b"7"]
    assert [run.data for run in worker.open] == [b"", b""]
    assert {run.run.data for run in worker.open} == {b"", b"7"}
    assert all(run.lease.run is run.run for run in worker.open)
    desk.release(worker.open[0], Returned(), worker.told.append)
    await worker.take(3)
    assert worker.data == [long, b"7", long]


async def test_what_is_lost_with_a_connection_is_one_line_in_the_log(rig: Rig) -> None:
    worker = Hired(a_desk(rig))
    worker.work(5)
    await rig.accept(*(an_accepted(number) for number in range(5)))
    await worker.take(5)
    with capture_logs() as logs:
        worker.party.leave("gone")
        worker.party.leave("gone")
    assert [(line["event"], line["count"], line["reason"]) for line in logs] == [("runs lost", 5, "gone")]


def last_tried(number: int) -> Accepted:
    """A job that does not run again when a run of it is lost."""
    return replace(an_accepted(number), options=b'{"ghosts":0}')


async def lose(rig: Rig, desk: Desk, count: int) -> None:
    """Let the time of so many runs go by, which are all that are open."""
    rig.clock.advance(31)
    rig.queue.runs.look_again()
    assert desk.runs_count == 0
    await rig.queue.settle()
    await still(rig)


async def test_who_lost_a_run_and_says_nothing_has_one_at_a_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "TRIAL_S", 0.01)
    desk = a_desk(rig)
    worker = Hired(desk)
    order = worker.work(10)
    await rig.accept(an_accepted(1), an_accepted(2))
    await worker.take(2)
    await lose(rig, desk, 2)
    await rig.accept(*(an_accepted(number) for number in range(3, 8)))
    for taken in (3, 4):  # one, and when that is lost as well another one
        await worker.take(taken)
        worker.party.try_out()  # a trial more, while a run is open
        await still(rig)
        assert desk.runs_count == 1
        await lose(rig, desk, 1)
    assert_balanced(order.pool)


async def test_who_lost_a_run_and_is_heard_has_all_its_room(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "TRIAL_S", 60)
    desk = a_desk(rig)
    worker = Hired(desk)
    order = worker.work(3)
    await rig.accept(last_tried(1))
    await worker.take()
    await lose(rig, desk, 1)
    await rig.accept(*(an_accepted(number) for number in range(2, 7)))
    await still(rig)
    assert desk.runs_count == 0
    worker.party.trust()
    await worker.take(4)
    await still(rig)
    assert desk.runs_count == 3
    assert_balanced(order.pool)


async def test_jobs_go_to_others_meanwhile(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "TRIAL_S", 60)
    desk = a_desk(rig)
    held_up, other = Hired(desk), Hired(desk)
    held_up.work(100)
    await rig.accept(last_tried(1))
    await held_up.take()
    await lose(rig, desk, 1)
    other.work(1)
    for number in range(2, 7):
        await rig.accept(an_accepted(number))
        run = (await other.take(number - 1))[-1]
        desk.report(run, Ok(), other.told.append)
    assert len(held_up.numbers) == 1


async def test_one_that_rests_is_not_tried_out_and_has_its_room_when_it_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "TRIAL_S", 0.0)
    desk = a_desk(rig)
    worker = Hired(desk)
    order = worker.work(3)
    await rig.accept(last_tried(1))
    await worker.take()
    worker.party.pause()
    await lose(rig, desk, 1)
    await rig.accept(an_accepted(2), an_accepted(3))
    await until(lambda: not worker.party._is_on_trial)
    await still(rig)
    assert desk.runs_count == 0
    worker.party.trust()
    await still(rig)
    assert desk.runs_count == 0
    worker.party.resume()
    await worker.take(3)
    assert_balanced(order.pool)


@pytest.mark.parametrize("is_asked_before", [True, False])
async def test_another_order_tells_of_the_runs_of_one_that_was_withdrawn(rig: Rig, *, is_asked_before: bool) -> None:
    worker = Hired(a_desk(rig))
    first = worker.work(2)
    await rig.accept(an_accepted(1), an_accepted(2))
    runs = await worker.take(2)
    assert first.withdraw()
    worker.reserve(1, "fax")  # it tells of nothing
    if is_asked_before:
        worker.work(1)
    rig.queue.runs.call_off([runs[0].run.claim])
    rig.clock.advance(1000)
    await until(lambda: worker.desk.runs_count == 0)
    if not is_asked_before:
        assert worker.lost == []
        worker.work(1)
    assert worker.lost[0] is runs[0]
    assert worker.lost[-1] in runs
    assert {run.token for run in worker.lost} == {run.token for run in runs}


async def test_who_asks_for_nothing_is_no_taker_and_is_told_of_runs_of_withdrawn_orders_also_in_a_stop(rig: Rig) -> None:
    desk = a_desk(rig)
    worker, idle = Hired(desk), Hired(desk)
    taking = worker.work(2)
    listening = worker.work(0)
    idle.work(0, "fax")
    assert not rig.queue.admission.is_handled("fax")
    await rig.accept(*(an_accepted(number) for number in range(3)))
    first, second = await worker.take(2)
    taking.withdraw()
    rig.queue.runs.call_off([first.run.claim])
    await until(lambda: worker.lost == [first])
    desk.drain()
    assert not listening.is_over
    rig.queue.runs.call_off([second.run.claim])
    await until(lambda: worker.lost == [first, second])
    await still(rig)
    assert len(worker.open) == 2
    worker.party.doubt()
    worker.party.trust()
    worker.party.leave("gone")
    idle.party.leave("gone")
    assert not any(pool.orders for pool in desk.listeners.values())
    assert (worker.ended, idle.ended) == (1, 1)
    assert idle.lost == []


async def test_who_asks_for_nothing_hears_of_held_runs_without_a_party(rig: Rig) -> None:
    desk = a_desk(rig)
    gone, back = Hired(desk), Hired(desk)
    gone.work(2, held=True)
    await rig.accept(an_accepted(1), an_accepted(2))
    before, after = await gone.take(2)
    gone.party.leave("gone")
    rig.queue.runs.call_off([before.run.claim])
    await until(lambda: before.is_cancelled)
    back.work(0, held=True)
    assert back.lost == [before]
    rig.queue.runs.call_off([after.run.claim])
    await until(lambda: back.lost == [before, after])
