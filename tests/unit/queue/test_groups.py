"""Turns between groups, over the real store, and above any broker."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from kqs.config import TakingSection
from kqs.handlers import Again, Ok
from kqs.job import Accepted, State
from kqs.store.rotation import Turned
from tests.support.jobs import ORDER, an_accepted
from tests.support.queueing import Hand, Rig


def of(group: str | None, *numbers: int, prio: int = 10_000) -> list[Accepted]:
    jobs = [an_accepted(number, prio=prio) for number in numbers]
    for job in jobs:
        job.group = group
    return jobs


async def order_of_runs(hand: Hand, count: int) -> list[int]:
    """Run so many jobs one after the other; return which."""
    seen: list[int] = []
    for _ in range(count):
        run = await hand.take()
        seen.append(run.claim.order - ORDER)
        await hand.end(run)
    return seen


async def test_groups_take_turns_and_priority_rules_within_one(rig: Rig) -> None:
    await rig.accept(*of("a", 1, 2, 3), *of("b", 4, 5), *of("a", 6, prio=5))
    assert await order_of_runs(rig.hand(1), 6) == [6, 4, 1, 5, 2, 3]


async def test_a_single_job_waits_for_one_round_behind_a_group_of_many(rig: Rig) -> None:
    await rig.accept(*of("many", *range(1, 200)))
    hand = rig.hand(1)
    await order_of_runs(hand, 5)
    await rig.accept(*of("single", 500))
    assert 500 in await order_of_runs(hand, 2)


async def test_those_without_a_group_are_one_group(rig: Rig) -> None:
    await rig.accept(*of(None, 1, 2, 3), *of("a", 4, 5, 6))
    seen = await order_of_runs(rig.hand(1), 6)
    assert sorted(seen) == [1, 2, 3, 4, 5, 6]
    assert [number > 3 for number in seen] == [True, False] * 3


async def test_types_with_groups_and_without_have_their_turns(rig: Rig) -> None:
    await rig.accept(*of("a", 1, 2), *[an_accepted(number, "other") for number in (3, 4)])
    assert sorted(await order_of_runs(rig.hand(1, "mail", "other"), 4)) == [1, 2, 3, 4]
    await rig.accept(*[an_accepted(number, "other") for number in range(10, 20)], *of("b", *range(20, 30)))
    first = await order_of_runs(rig.hands[0], 6)
    assert 2 <= sum(number < 20 for number in first) <= 4


async def test_weights_are_how_many_run_in_a_turn(rig: Rig) -> None:
    rig.taking = {"mail": TakingSection(group_weights={"a": 3})}
    await rig.restart()
    await rig.accept(*of("a", 1, 2, 3, 4), *of("b", 5, 6))
    assert await order_of_runs(rig.hand(1), 6) == [1, 2, 3, 5, 4, 6]


async def test_a_new_job_of_a_group_meets_an_idle_lane(rig: Rig) -> None:
    hand = rig.hand(2)
    await rig.accept(*of("a", 1))
    run = await hand.take()
    assert run.group == "a"
    await hand.end(run, Again())
    assert (await hand.take()).claim.attempt == 2


async def test_no_more_jobs_of_a_group_run_than_may(rig: Rig) -> None:
    rig.taking = {"mail": TakingSection(group_max_running=2)}
    await rig.restart()
    hand = rig.hand(10)
    await rig.accept(*of("a", 1, 2, 3, 4), *of("b", 5), *of(None, 6, 7, 8))
    runs = {run.claim.order - ORDER: run for run in [await hand.take() for _ in range(6)]}
    assert set(runs) == {1, 2, 5, 6, 7, 8}
    assert (rig.queue.groups.most_running("mail", "a"), rig.queue.groups.most_running("mail", "b")) == (2, 0)
    await rig.accept(*of("a", 9))
    await hand.end(runs[1])
    third = await hand.take()
    assert third.claim.order - ORDER == 3
    await hand.end(third, Ok())
    assert (await hand.take()).claim.order - ORDER == 4


@pytest.mark.parametrize("most", [0, 1])
async def test_lines_are_found_again_after_a_restart(rig: Rig, most: int) -> None:
    rig.taking = {"mail": TakingSection(group_max_running=most)}
    await rig.accept(*of("a", 1, 2), *of("b", 3))
    await rig.restart()
    assert sorted(await order_of_runs(rig.hand(1), 3)) == [1, 2, 3]
    async with asyncio.timeout(10):
        while rig.queue.groups.backlog("mail") and not most:  # noqa: ASYNC110 - until the next look finds none
            await asyncio.sleep(0)


async def test_what_is_given_back_has_its_turn_again(rig: Rig) -> None:
    await rig.accept(*of("a", 1))
    hand = rig.hand(1)
    run = await hand.take()
    await rig.queue.remove_consumer(hand.consumer)
    rig.hands.clear()
    rig.queue.interrupt(hand.leases[run.claim.id])
    await rig.until(1, State.RETRY)
    assert (await rig.hand(1).take()).claim.attempt == 2


async def test_what_runs_costs_the_next_look_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = rig.hand(3)
    await rig.accept(*of("a", 1, 2, 3))
    runs = [await hand.take() for _ in range(3)]
    await rig.accept(*of("a", 4, 5))
    passed: list[int] = []
    in_turn = rig.queue.groups._in_turn

    async def watched(*arguments: object, **named: Collection[int]) -> Turned:
        passed.append(len(named["passed"]))
        return await in_turn(*arguments, **named)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(rig.queue.groups, "_in_turn", watched)
    await hand.end(runs[0])
    assert (await hand.take()).claim.order - ORDER == 4
    assert set(passed) == {0}
