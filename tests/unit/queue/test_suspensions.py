"""Suspended types: nothing of them begins, by whichever way, and nobody else is held up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from kqs.errors import CallError, StoreUnavailableError
from kqs.job import Entry, Run
from kqs.queue import suspensions
from kqs.states import State
from tests.support.jobs import ORDER, an_accepted
from tests.support.queueing import Rig
from tests.support.remote import Hired, a_desk, still
from tests.support.turning import until


async def test_a_new_job_of_a_suspended_type_waits_until_that_is_resumed(rig: Rig) -> None:
    hand = rig.hand(2)
    assert await rig.queue.suspensions.suspend("mail")
    assert not await rig.queue.suspensions.suspend("mail")
    assert not rig.queue.admission.admit([an_accepted(1)], rig.clock.now(), in_journal=True)
    assert not rig.queue.admission.has_room("mail")
    await rig.accept(an_accepted(1))
    await still(rig)
    assert hand.runs.empty()
    assert (await rig.record(1)).attempt == 0
    assert await rig.queue.suspensions.resume("mail")
    assert not await rig.queue.suspensions.resume("mail")
    assert (await hand.take()).claim.order == ORDER + 1


async def test_jobs_of_other_types_go_on(rig: Rig) -> None:
    hand = rig.hand(1, "mail", "video")
    await rig.queue.suspensions.suspend("mail")
    await rig.accept(*(an_accepted(n) for n in range(5)), an_accepted(5, "video"), an_accepted(6, "video"))
    for order in (5, 6):
        run = await hand.take()
        assert run.claim.order == ORDER + order
        await hand.end(run)
    await rig.queue.suspensions.resume("mail")
    assert (await hand.take()).claim.order == ORDER


async def test_what_runs_goes_on_and_its_retry_waits(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    await rig.queue.suspensions.suspend("mail")
    rig.queue.runs.interrupt(hand.leases[run.claim.id])
    hand.consumer.free()
    await still(rig)
    assert hand.runs.empty()
    await rig.queue.suspensions.resume("mail")
    assert (await hand.take()).interrupted == 1


async def test_what_was_claimed_and_has_not_begun_goes_back_as_it_was(rig: Rig) -> None:
    hand = rig.hand(1)
    delivered: list[Run] = []
    hand.consumer.deliver = delivered.extend
    await rig.accept(an_accepted(1))
    (run,) = delivered
    assert rig.queue.runs.is_certain(run)
    await rig.queue.suspensions.suspend("mail")
    assert not rig.queue.runs.is_certain(run)
    assert not rig.queue.runs.may_begin(run)
    await rig.queue.settle()
    record = await rig.record(1)
    assert (record.state, record.attempt, record.runs) == (State.NEW, 0, [])
    hand.consumer.free()
    await rig.queue.suspensions.resume("mail")
    await still(rig)
    assert [run.claim.attempt for run in delivered] == [1, 2]


async def test_what_is_reserved_meanwhile_goes_back_to_the_broker(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.accept(an_accepted(1), an_accepted(2, "video"), an_accepted(3))
    reserve = rig.broker.reserve

    async def suspended_meanwhile(weights: Mapping[str, int], count: int, *more: Any) -> list[Entry]:
        entries = await reserve(weights, count, *more)
        if entries:
            rig.queue.admission.suspend({"mail": 1.0})
        return entries

    monkeypatch.setattr(rig.broker, "reserve", suspended_meanwhile)
    hand = rig.hand(3, "mail", "video")
    assert (await hand.take()).type == "video"
    await still(rig)
    assert hand.runs.empty()
    monkeypatch.undo()
    rig.queue.admission.suspend({})
    rig.broker.wake()
    assert [(await hand.take()).claim.order for _ in range(2)] == [ORDER + 1, ORDER + 3]


@pytest.mark.parametrize("types", [("mail",), ("mail", "video")])
async def test_nobody_polls_for_a_suspended_type(rig: Rig, types: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    rig.hand(3, *types)
    await rig.queue.suspensions.suspend("mail")
    await still(rig)
    reserve, asked = rig.broker.reserve, list[Mapping[str, int]]()

    async def counted(weights: Mapping[str, int], count: int, *more: Any) -> list[Entry]:
        asked.append(weights)
        return await reserve(weights, count, *more)

    monkeypatch.setattr(rig.broker, "reserve", counted)
    for n in range(20):
        await rig.accept(an_accepted(n))
    await still(rig)
    assert not asked


async def test_it_is_kept_over_a_restart(rig: Rig) -> None:
    await rig.queue.suspensions.suspend("mail")
    await rig.queue.suspensions.suspend("video")
    await rig.queue.suspensions.resume("video")
    await rig.restart()
    assert list(rig.queue.admission.suspended) == ["mail"]
    hand = rig.hand(2, "mail", "video")
    await rig.accept(an_accepted(1), an_accepted(2, "video"))
    assert (await hand.take()).type == "video"
    await still(rig)
    assert hand.runs.empty()


async def test_a_store_that_refuses_leaves_it_as_it_was(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = rig.hand(1)

    async def refuse(*_: object) -> bool:
        raise StoreUnavailableError("full")

    monkeypatch.setattr(rig.store, "suspend", refuse)
    monkeypatch.setattr(rig.store, "resume", refuse)
    with pytest.raises(StoreUnavailableError):
        await rig.queue.suspensions.suspend("mail")
    await rig.accept(an_accepted(1))
    assert await hand.end(await hand.take())
    rig.queue.admission.suspend({"mail": 1.0})
    with pytest.raises(StoreUnavailableError):
        await rig.queue.suspensions.resume("mail")
    assert rig.queue.admission.suspended == {"mail": 1.0}


async def test_there_is_a_most(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspensions, "MAX_SUSPENDED", 2)
    await rig.queue.suspensions.suspend("a")
    await rig.queue.suspensions.suspend("b")
    with pytest.raises(CallError, match="2 types are suspended") as refused:
        await rig.queue.suspensions.suspend("c")
    assert refused.value.call_code == "busy"
    assert not await rig.queue.suspensions.suspend("b")
    assert await rig.queue.suspensions.resume("a")
    assert await rig.queue.suspensions.suspend("c")


async def test_a_consumer_that_comes_later_is_given_none(rig: Rig) -> None:
    await rig.accept(an_accepted(1))
    await rig.queue.suspensions.suspend("mail")
    hand = rig.hand(1)
    await still(rig)
    assert hand.runs.empty()
    await rig.queue.suspensions.resume("mail")
    await hand.take()


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", ["reserve", "work"])
async def test_remote_workers_are_given_none(rig: Rig, kind: str, held: bool) -> None:
    hired = Hired(a_desk(rig))
    await rig.queue.suspensions.suspend("mail")
    await rig.accept(an_accepted(1))
    getattr(hired, kind)(2, held=held)
    await rig.accept(an_accepted(2))
    await still(rig)
    assert hired.numbers == []
    await rig.queue.suspensions.resume("mail")
    await hired.take(1)
    await still(rig)
    assert sorted(hired.numbers) == [1, 2]
    await hired.desk.stop()


async def test_delayed_jobs_come_due_and_wait(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.queue.suspensions.suspend("mail")
    await rig.accept(an_accepted(1, due_at=rig.clock.now() + 5))
    rig.clock.advance(6)
    await until(lambda: rig.queue.admission._backlog("mail"))
    await still(rig)
    assert hand.runs.empty()
    await rig.queue.suspensions.resume("mail")
    await hand.take()


async def test_a_suspended_job_keeps_no_resource_from_others(rig: Rig) -> None:
    hand = rig.hand(2, "mail", "video")
    first, second, third = (an_accepted(n, type_) for n, type_ in enumerate(("video", "mail", "video")))
    first.resource = second.resource = third.resource = "disk"
    await rig.accept(first)
    run = await hand.take()
    await rig.queue.suspensions.suspend("mail")
    await rig.accept(second, third)
    await hand.end(run)
    async with asyncio.timeout(10):
        while hand.runs.empty():
            rig.clock.advance(1)
            await still(rig)
    assert (await hand.take()).claim.order == third.order
