"""Held runs outlive the party that asked for them, and the server that gave them."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from kqs.job import Returned
from kqs.outcome import Ok
from kqs.queue.leases import SLOT_S
from kqs.states import State
from tests.support.jobs import an_accepted
from tests.support.queueing import Rig
from tests.support.remote import Hired, a_desk, assert_balanced, still
from tests.support.turning import until


async def test_it_goes_on_when_its_party_is_lost_and_anybody_may_report_it(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    order = worker.work(3, held=True)
    await rig.accept(an_accepted(1))
    (run,) = await worker.take()
    with capture_logs() as logs:
        worker.party.leave("lost")
    assert logs == []
    await still(rig)
    assert desk.run(run.token) is run
    assert_balanced(order.pool)
    desk.report(run, Ok(), worker.told.append)
    await until(lambda: worker.told == [True])
    assert (await rig.record(1)).state is State.SUCCESS


async def test_its_ttr_counts_anew_from_the_loss(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    worker.reserve(held=True)
    await rig.accept(an_accepted(1))
    (run,) = await worker.take()
    rig.clock.advance(20)
    worker.party.leave("lost")
    rig.clock.advance(29)
    rig.queue.runs.look_again()
    assert desk.run(run.token) is run
    rig.clock.advance(1 + 2 * SLOT_S)
    rig.queue.runs.look_again()
    assert desk.run(run.token) is None
    record = await rig.until(1, State.GHOST)
    assert record.ghosts == 1


async def test_it_may_be_touched_by_whoever_has_its_token(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    worker.reserve(held=True)
    await rig.accept(an_accepted(1))
    (run,) = await worker.take()
    worker.party.leave("lost")
    for _ in range(5):
        rig.clock.advance(20)
        assert desk.touch(run) == 30
        rig.queue.runs.look_again()
    assert desk.run(run.token) is run


async def test_no_stop_waits_for_it_and_the_next_boot_watches_over_it(rig: Rig) -> None:
    desk = a_desk(rig, grace_s=-1)
    worker = Hired(desk)
    worker.work(5, held=True)
    await rig.accept(an_accepted(1), an_accepted(2))
    runs = await worker.take(2)
    await desk.stop()
    assert desk.runs_count == 0
    await rig.restart()
    again = a_desk(rig)
    assert again.runs_count == 2
    taken = again.run(runs[0].token)
    assert taken is not None
    again.report(taken, Ok(), worker.told.append)
    await until(lambda: worker.told == [True])
    record = await rig.record(1)
    assert (record.state, record.attempt, record.ghosts, record.interrupted) == (State.SUCCESS, 1, 0, 0)
    rig.clock.advance(30 + 2 * SLOT_S)
    rig.queue.runs.look_again()
    assert (await rig.until(2, State.GHOST)).attempt == 1


async def test_it_is_the_stores_before_it_begins(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    worker.work(5, held=True)
    jobs = [an_accepted(1), an_accepted(2)]
    assert not rig.queue.admission.admit(jobs, rig.clock.now(), in_journal=True)
    assert rig.queue.admission.journal_room == 0
    await rig.accept(*jobs)
    await worker.take(2)
    assert (await rig.record(1)).state is State.PROCESSING


@pytest.mark.parametrize("is_back_before", [True, False])
@pytest.mark.parametrize("is_known", [True, False], ids=["the same server", "a server started again"])
async def test_its_worker_is_told_that_it_is_cancelled_when_it_is_back(
    rig: Rig, *, is_back_before: bool, is_known: bool
) -> None:
    desk = a_desk(rig)
    worker, back, other, holds_none = Hired(desk), Hired(desk), Hired(desk, "other"), Hired(desk)
    worker.work(held=True)
    await rig.accept(an_accepted(1))
    (run,) = await worker.take()
    worker.party.leave("lost")
    if not is_known:
        run.worker = None
    other.work(held=True)
    holds_none.work()
    if is_back_before:
        back.work(held=True)
    rig.queue.runs.call_off([run.run.claim])
    if not is_back_before:
        back.work(held=True)
    assert back.lost == [run]
    assert other.lost == ([] if is_known else [run])
    assert worker.lost == holds_none.lost == []
    desk.release(run, Returned(), back.told.append)
    assert desk.called_off("w") == []
