"""Limits of types: no more of them run than may, by whichever way they came, and nobody else is held up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from kqs.broker.memory import MemoryBroker
from kqs.config import TakingSection
from kqs.errors import CallError, StoreCorruptError, StoreUnavailableError
from kqs.job import Entry, Run
from kqs.outcome import Again
from kqs.queue import limiting
from kqs.queue.gate import Limit
from kqs.queue.leases import Lease
from kqs.queue.limiting import Said
from kqs.states import State
from kqs.store.sayings import Topic
from tests.support.jobs import ORDER, an_accepted
from tests.support.queueing import Hand, Rig
from tests.support.remote import Hired, a_desk, still


async def say(rig: Rig, type_: str = "mail", **named: Any) -> bool:
    return await rig.queue.limiting.say(type_, Said(**named))


def numbers(hand: Hand) -> list[int]:
    """Which jobs a hand has been given and not taken yet."""
    return [hand.runs.get_nowait().claim.order - ORDER for _ in range(hand.runs.qsize())]


async def test_new_jobs_beyond_the_limit_wait_and_begin_as_others_end(rig: Rig) -> None:
    hand = rig.hand(10)
    assert await say(rig, concurrency=2)
    await rig.accept(*(an_accepted(n) for n in range(4)))
    await still(rig)
    first, second = await hand.take(), await hand.take()
    assert hand.runs.empty()
    assert not rig.queue.admission.has_room("mail")
    await hand.end(first)
    third = await hand.take()
    await still(rig)
    assert (third.claim.order, hand.runs.empty()) == (ORDER + 2, True)
    await hand.end(second)
    await hand.end(third)
    assert (await hand.take()).claim.order == ORDER + 3


@pytest.mark.parametrize("how", ["its job is called off", "its ttr is over"])
async def test_a_run_that_is_cancelled_has_its_slot_until_its_handler_has_ended(rig: Rig, how: str) -> None:
    hand = rig.hand(2)
    await say(rig, max_running=1)
    await rig.accept(an_accepted(1), an_accepted(2))
    run = await hand.take()
    lost: list[Lease] = []
    hand.leases[run.claim.id].on_lost = lost.append
    if how == "its ttr is over":
        rig.clock.advance(3600)
        rig.queue.runs.look_again()
    else:
        rig.queue.runs.call_off([run.claim])
    await still(rig)
    assert (lost, hand.runs.empty()) == ([hand.leases[run.claim.id]], True)
    rig.queue.runs.left(lost[0])
    assert (await hand.take()).claim != run.claim


async def test_a_job_over_its_limit_holds_no_lane(rig: Rig) -> None:
    hand = rig.hand(2, "mail", "video")
    await say(rig, max_running=1)
    await rig.accept(*(an_accepted(n) for n in range(5)), an_accepted(5, "video"))
    await still(rig)
    assert numbers(hand) == [0, 5]


async def test_jobs_that_waited_in_the_broker_are_limited(rig: Rig) -> None:
    await rig.accept(*(an_accepted(n) for n in range(6)), *(an_accepted(n, "video") for n in range(6, 9)))
    await say(rig, concurrency=2)
    hand = rig.hand(20, "mail", "video")
    await still(rig)
    assert sorted(numbers(hand)) == [0, 1, 6, 7, 8]


async def test_it_counts_over_all_consumers(rig: Rig) -> None:
    await say(rig, max_running=3)
    hands = [rig.hand(2), rig.hand(2)]
    hired = Hired(a_desk(rig))
    hired.work(2)
    await rig.accept(*(an_accepted(n) for n in range(10)))
    await still(rig)
    assert sum(hand.runs.qsize() for hand in hands) + len(hired.numbers) == 3
    await hired.desk.stop()


async def test_a_run_that_goes_back_makes_room(rig: Rig) -> None:
    hand = rig.hand(5)
    await say(rig, concurrency=1)
    await rig.accept(an_accepted(0), an_accepted(1))
    assert await hand.end(await hand.take(), Again(delay_s=60))
    run = await hand.take()
    assert run.claim.order == ORDER + 1
    rig.queue.runs.lose(hand.leases[run.claim.id], "gone")
    assert (await hand.take()).claim.order == ORDER + 1


async def test_a_job_that_the_store_knows_or_parks_takes_no_slot(rig: Rig) -> None:
    hand = rig.hand(5)
    await say(rig, concurrency=2)
    holder, parked = an_accepted(0), an_accepted(1)
    holder.resource = parked.resource = "r"
    await rig.accept(holder)
    await rig.accept(an_accepted(0), parked)
    await rig.accept(an_accepted(2))
    await still(rig)
    assert numbers(hand) == [0, 2]
    assert len(rig.queue.admission.limits.gates["mail"].places) == 2


async def test_a_claim_that_fails_gives_its_slots_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.accept(an_accepted(0), an_accepted(1))
    await say(rig, concurrency=1)
    claim = rig.store.claim
    failures = [StoreUnavailableError("busy")]

    async def failing(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return await claim(*args)

    monkeypatch.setattr(rig.store, "claim", failing)
    hand = rig.hand(5)
    assert (await hand.take()).claim.order == ORDER


async def test_a_store_that_refuses_new_jobs_leaves_no_slot_taken(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.hand(5)
    await say(rig, concurrency=1)

    async def refuse(*_: object) -> Any:
        raise StoreUnavailableError("full")

    with monkeypatch.context() as patch:
        patch.setattr(rig.store, "insert", refuse)
        with pytest.raises(StoreUnavailableError):
            await rig.accept(an_accepted(0))
    assert rig.queue.admission.limits.gates["mail"].places == {}
    assert not rig.queue.admission.limits.closed


async def test_a_job_that_is_offered_twice_costs_no_slot(rig: Rig) -> None:
    """A broker may repeat what runs: the store refuses that, and the run keeps its slot."""
    hand = rig.hand(5)
    await say(rig, concurrency=2)
    await rig.accept(an_accepted(0))
    run = await hand.take()
    await rig.broker.put([Entry(run.claim.order, run.claim.id, "mail", run.prio)])
    await still(rig)
    await rig.accept(an_accepted(1), an_accepted(2))
    await still(rig)
    assert numbers(hand) == [1]


async def test_what_is_claimed_and_has_not_begun_goes_back_when_none_may_run(rig: Rig) -> None:
    hand = rig.hand(3)
    delivered: list[Run] = []
    hand.consumer.deliver = delivered.extend
    await rig.accept(an_accepted(1))
    (run,) = delivered
    assert rig.queue.runs.is_certain(run)
    await say(rig, max_running=0)
    assert not rig.queue.runs.is_certain(run)
    assert not rig.queue.runs.may_begin(run)
    await rig.queue.settle()
    record = await rig.record(1)
    assert (record.state, record.attempt, record.runs) == (State.NEW, 0, [])
    hand.consumer.free()
    await still(rig)
    assert len(delivered) == 1
    assert await rig.queue.limiting.reset("mail")
    await still(rig)
    assert [run.claim.attempt for run in delivered] == [1, 2]


async def test_what_has_a_place_need_not_be_asked_about_while_there_is_a_slot(rig: Rig) -> None:
    hand = rig.hand(3)
    delivered: list[Run] = []
    hand.consumer.deliver = delivered.extend
    await say(rig, max_running=2)
    await rig.accept(an_accepted(1), an_accepted(2))
    assert [rig.queue.runs.is_certain(run) for run in delivered] == [True, True]
    await say(rig, max_running=1)
    assert rig.queue.runs.may_begin(delivered[0])
    assert [rig.queue.runs.is_certain(run) for run in delivered] == [True, False]
    assert not rig.queue.runs.may_begin(delivered[1])


async def test_nobody_polls_for_a_type_whose_limit_is_reached(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await say(rig, concurrency=1)
    hand = rig.hand(3, "mail", "video")
    await rig.accept(an_accepted(0))
    run = await hand.take()
    await still(rig)
    asked: list[Mapping[str, int]] = []
    reserve: Any = MemoryBroker.reserve

    async def counted(self: MemoryBroker, weights: Mapping[str, int], *more: object) -> list[Entry]:
        asked.append(weights)
        return list(await reserve(self, weights, *more))

    monkeypatch.setattr(MemoryBroker, "reserve", counted)
    for n in range(1, 20):
        await rig.accept(an_accepted(n))
    await still(rig)
    assert len(asked) <= 1
    await hand.end(run)
    assert (await hand.take()).claim.order == ORDER + 1


@pytest.mark.parametrize("held", [False, True])
async def test_held_runs_count_after_a_restart(rig: Rig, held: bool) -> None:
    await say(rig, max_running=1)
    hired = Hired(a_desk(rig))
    hired.work(1, held=held)
    await rig.accept(an_accepted(0), an_accepted(1))
    await hired.take()
    await hired.desk.stop()
    await rig.restart()
    desk = a_desk(rig)
    hand = rig.hand(5)
    await still(rig)
    if held:
        assert hand.runs.empty()
        (run,) = desk.away
        desk.lose(run, "gone")
    await hand.take()
    await still(rig)
    assert hand.runs.empty()


async def test_what_runs_counts_when_the_limit_comes(rig: Rig) -> None:
    hand = rig.hand(5)
    await rig.accept(an_accepted(0), an_accepted(1), an_accepted(2, "video"))
    runs = [await hand.take() for _ in range(2)]
    await say(rig, concurrency=2)
    await rig.accept(an_accepted(3))
    await still(rig)
    assert hand.runs.empty()
    await hand.end(runs[0])
    assert (await hand.take()).claim.order == ORDER + 3


async def test_the_configuration_is_the_ground(tmp_path: Any) -> None:
    rig = Rig(tmp_path)
    rig.taking = {"mail": TakingSection(concurrency=4, rate=10.0, per_s=60.0), "video": TakingSection(weight=2)}
    await rig.start()
    limits = rig.queue.limiting
    assert limits.of("mail") == Limit(4, None, 10, 60)
    assert set(limits.types) == {"mail"}
    assert await say(rig, max_running=7, rate=20.0)
    assert not await say(rig, max_running=7)
    assert limits.of("mail") == Limit(4, 7, 20, 60)
    assert limits.shown("mail") == {"concurrency": 4, "max_running": 7, "rate": 20, "per_s": 60, "running": 0, "by_call": True}
    await say(rig, concurrency=None, rate=None, max_running=None)
    assert limits.shown("mail") == {"by_call": True}
    assert not rig.queue.admission.limits.gates
    await rig.restart()
    limits = rig.queue.limiting
    assert limits.shown("mail") == {"by_call": True}
    assert await limits.reset("mail")
    assert not await limits.reset("mail")
    assert limits.of("mail") == Limit(4, None, 10, 60)
    await rig.stop()


async def test_the_time_of_a_rate_goes_with_one(rig: Rig) -> None:
    with pytest.raises(CallError, match="per_s goes with a rate") as refused:
        await say(rig, per_s=5.0)
    assert refused.value.call_code == "bad_call"
    await say(rig, rate=1.0)
    assert await say(rig, per_s=5.0)


async def test_there_is_a_most(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiting, "MAX_SAID", 1)
    await say(rig, "a", concurrency=1)
    with pytest.raises(CallError, match="1 types have limits") as refused:
        await say(rig, "b", concurrency=1)
    assert refused.value.call_code == "busy"
    assert await say(rig, "a", concurrency=2)


async def test_a_store_that_refuses_leaves_it_as_it_was(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await say(rig, concurrency=1)

    async def refuse(*_: object) -> bool:
        raise StoreUnavailableError("full")

    monkeypatch.setattr(rig.store, "say", refuse)
    with pytest.raises(StoreUnavailableError):
        await say(rig, concurrency=5)
    with pytest.raises(StoreUnavailableError):
        await rig.queue.limiting.reset("mail")
    assert rig.queue.limiting.of("mail") == Limit(1)


async def test_what_makes_no_sense_in_the_store_is_told(rig: Rig) -> None:
    await rig.store.say(Topic.LIMITS, "mail", b'{"concurrency": "many"}')
    with pytest.raises(StoreCorruptError, match="the limits of type 'mail'"):
        await rig.queue.limiting.look()
