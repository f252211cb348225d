"""Claimed runs wait for a slot of their type where they may: more are claimed than begin, and nothing stays there."""

from __future__ import annotations

import pytest

from kqs.queue.consumer import LONG_BYTES
from kqs.queue.gate import STUCK_S, TUNE_EVERY
from kqs.queue.limiting import Said
from kqs.states import State
from tests.support.jobs import ORDER, an_accepted
from tests.support.queueing import Hand, Rig
from tests.support.remote import still


async def a_short_type(rig: Rig, most: int = 1) -> Hand:
    """Limit a type of which so many short runs have ended that more are claimed than may run; who runs them has none left."""
    hand = rig.hand(TUNE_EVERY, can_wait=True)
    await rig.queue.limiting.say("mail", Said(concurrency=most))
    await rig.accept(*(an_accepted(n) for n in range(1000, 1000 + TUNE_EVERY)))
    for _ in range(TUNE_EVERY):
        await hand.end(await hand.take())
    await still(rig)
    return hand


def begun(hand: Hand) -> list[int]:
    return [hand.runs.get_nowait().claim.order - ORDER for _ in range(hand.runs.qsize())]


async def states(rig: Rig, *numbers: int) -> list[State]:
    return [(await rig.record(number)).state for number in numbers]


async def test_short_runs_are_claimed_ahead_of_their_slot_and_begin_one_after_the_other(rig: Rig) -> None:
    hand = await a_short_type(rig)
    await rig.accept(*(an_accepted(n) for n in range(5)))
    await still(rig)
    assert await states(rig, *range(5)) == [State.PROCESSING] * 5
    for number in range(5):
        run = await hand.take()
        assert (run.claim.order, hand.runs.empty()) == (ORDER + number, True)
        await hand.end(run)
    assert await states(rig, *range(5)) == [State.SUCCESS] * 5
    assert hand.consumer.room == TUNE_EVERY


async def test_what_waits_too_long_waits_again_as_if_it_had_not_been_claimed(rig: Rig) -> None:
    hand = await a_short_type(rig)
    await rig.accept(*(an_accepted(n) for n in range(3)))
    await still(rig)
    run = await hand.take()
    rig.clock.advance(STUCK_S)
    record = await rig.until(2, State.NEW)
    assert (record.attempt, record.runs) == (0, [])
    assert await states(rig, 0, 1) == [State.PROCESSING, State.NEW]
    await rig.accept(an_accepted(3))
    await still(rig)
    assert await states(rig, 3) == [State.NEW]
    await hand.end(run)
    assert (await hand.take()).claim.order == ORDER + 1


async def test_what_waits_for_a_consumer_that_stops_goes_back(rig: Rig) -> None:
    hand = await a_short_type(rig)
    await rig.accept(*(an_accepted(n) for n in range(3)))
    await still(rig)
    await hand.take()
    rig.hands.remove(hand)
    await rig.queue.runs.remove_consumer(hand.consumer)
    await rig.queue.settle()
    assert await states(rig, 0, 1, 2) == [State.PROCESSING, State.NEW, State.NEW]


async def test_what_is_suspended_meanwhile_does_not_begin(rig: Rig) -> None:
    hand = await a_short_type(rig)
    await rig.accept(*(an_accepted(n) for n in range(3)))
    await still(rig)
    run = await hand.take()
    await rig.queue.suspensions.suspend("mail")
    await hand.end(run)
    await rig.until(1, State.NEW)
    await rig.until(2, State.NEW)
    assert hand.runs.empty()
    await rig.queue.suspensions.resume("mail")
    assert (await hand.take()).claim.order == ORDER + 1


@pytest.mark.parametrize("said", [Said(concurrency=None), Said(concurrency=3)])
async def test_what_waits_begins_when_more_may_run(rig: Rig, said: Said) -> None:
    hand = await a_short_type(rig)
    await rig.accept(*(an_accepted(n) for n in range(3)))
    await still(rig)
    assert begun(hand) == [0]
    await rig.queue.limiting.say("mail", said)
    assert begun(hand) == [1, 2]


async def test_what_was_claimed_when_fewer_may_run_waits_for_its_turn(rig: Rig) -> None:
    hand = await a_short_type(rig, most=3)
    await rig.accept(*(an_accepted(n) for n in range(5)))
    await still(rig)
    runs = [await hand.take() for _ in range(3)]
    await rig.queue.limiting.say("mail", Said(concurrency=1))
    for run in runs[:2]:
        await hand.end(run)
        assert hand.runs.empty()
    await hand.end(runs[2])
    assert begun(hand) == [3]


async def test_a_run_with_much_data_is_kept_by_nobody(rig: Rig) -> None:
    hand = await a_short_type(rig)
    await rig.accept(an_accepted(0), an_accepted(1, data=b'"%b"' % (b"x" * LONG_BYTES)))
    await rig.until(1, State.NEW)
    await hand.end(await hand.take())
    assert (await hand.take()).claim.order == ORDER + 1


async def test_no_more_are_claimed_than_may_run_where_somebody_else_takes_them_too(rig: Rig) -> None:
    await a_short_type(rig)
    other = rig.hand(1)
    await rig.accept(*(an_accepted(n) for n in range(3)))
    await still(rig)
    assert (await states(rig, *range(3))).count(State.PROCESSING) == 1
    rig.hands.remove(other)
    await rig.queue.runs.remove_consumer(other.consumer)
    await rig.accept(an_accepted(3))
    await still(rig)
    assert (await states(rig, *range(4))).count(State.PROCESSING) > 1
