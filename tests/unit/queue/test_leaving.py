"""What a run has alone stays its own until its handler has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import kqs.queue.leaving
from kqs.filter import Filter
from kqs.job import Claim, Run
from kqs.queue.changes import Request
from kqs.queue.leases import Lease
from kqs.queue.leaving import Leaving
from kqs.states import State
from kqs.store.base import Verb
from tests.support.jobs import ORDER, an_accepted
from tests.support.queueing import Hand, Rig
from tests.support.remote import still
from tests.support.supervising import StrictSupervisor


async def two_of_a_resource(rig: Rig, **options: Any) -> tuple[Hand, Run, Lease, list[Lease]]:
    """Have one of two jobs run, by somebody who says nothing when it is lost."""
    hand, lost = rig.hand(2), list[Lease]()
    for number in (1, 2):
        job = an_accepted(number)
        job.resource = "r"
        await rig.accept(job)
    run = await hand.take()
    lease = hand.leases[run.claim.id]
    lease.on_lost = lost.append
    return hand, run, lease, lost


async def delete(rig: Rig, run: Run) -> None:
    done = await rig.queue.changes.do(Request(Verb.DELETE, Filter(ids=(run.claim.id,)), is_forced=True), rig.take_orders)
    assert done.count == 1


async def cancel(rig: Rig, run: Run) -> None:
    await rig.queue.changes.do(Request(Verb.CANCEL, Filter(ids=(run.claim.id,))), rig.take_orders)


async def be_overdue(rig: Rig, _run: Run) -> None:
    rig.clock.advance(3600)
    rig.queue.runs.look_again()


ENDS = pytest.mark.parametrize("how", [delete, cancel, be_overdue], ids=["deleted by force", "cancelled", "overdue"])


@ENDS
async def test_the_next_of_a_resource_begins_once_the_handler_of_a_lost_run_has_ended(
    rig: Rig, how: Callable[..., Any]
) -> None:
    hand, run, lease, lost = await two_of_a_resource(rig)
    await how(rig, run)
    await still(rig)
    assert (lost, hand.runs.empty(), rig.queue.runs.is_leaving(run.claim)) == ([lease], True, True)
    assert rig.queue.runs.report(lease, None) is False  # type: ignore[arg-type]  # it counts for nothing
    rig.queue.runs.left(lease)
    rig.queue.runs.left(lease)
    assert (await hand.take()).claim != run.claim
    assert not rig.queue.runs.is_leaving(run.claim)


@ENDS
async def test_a_handler_that_does_not_end_is_not_waited_for_without_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, how: Callable[..., Any]
) -> None:
    monkeypatch.setattr(kqs.queue.leaving, "LEAVE_S", 0.0)
    hand, run, _, _ = await two_of_a_resource(rig)
    await how(rig, run)
    assert (await hand.take()).claim != run.claim


async def test_an_interrupted_run_goes_back_once_its_handler_has_ended(rig: Rig) -> None:
    hand, run, lease, _ = await two_of_a_resource(rig)
    assert rig.queue.runs.interrupt(lease)
    assert not rig.queue.runs.interrupt(lease)
    await still(rig)
    assert ((await rig.record(run)).state, hand.runs.empty()) == (State.PROCESSING, True)
    rig.queue.runs.left(lease)
    assert (await hand.take()).claim.order == ORDER + 1


async def test_a_stop_takes_in_what_has_not_been_left(rig: Rig) -> None:
    _, run, lease, _ = await two_of_a_resource(rig)
    assert rig.queue.runs.interrupt(lease)
    await rig.restart()
    record = await rig.record(run)
    assert (record.state, record.interrupted, record.ghosts) == (State.RETRY, 1, 0)


async def test_a_deleted_job_that_never_began_gives_its_resource_on(rig: Rig) -> None:
    hand = rig.hand(1, can_wait=True)
    leaving: Leaving[Claim] = rig.queue.runs.ending._leaving
    job, other = an_accepted(1), an_accepted(2)
    job.resource = other.resource = "r"
    may_begin, held = rig.queue.runs.may_begin, list[Run]()

    def hold(run: Run, _consumer: Any = None) -> bool:
        held.append(run)
        return False

    rig.queue.runs.may_begin = hold  # type: ignore[method-assign]
    await rig.accept(job)
    await rig.accept(other)
    await still(rig)
    rig.queue.runs.may_begin = may_begin  # type: ignore[method-assign]
    (run,) = held
    await delete(rig, run)
    await still(rig)
    assert not may_begin(run, hand.consumer)
    assert (await hand.take()).claim.order == ORDER + 2
    assert run.claim not in leaving


async def test_each_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.queue.leaving, "LEAVE_S", 0.01)
    told: list[str] = []
    leaving = Leaving[str](StrictSupervisor(), "test")
    for run in ("left", "late", "closed"):
        leaving.add(run, lambda run=run: told.append(run))  # type: ignore[misc]  # mypy knows no default of a lambda
    assert leaving.left("left")
    assert not leaving.left("left")
    await asyncio.sleep(0.05)
    assert (told, "late" in leaving) == (["left", "late", "closed"], False)
    leaving.add("again", lambda: told.append("again"))
    leaving.close()
    assert told[3:] == ["again"]
    assert not leaving.left("again")
