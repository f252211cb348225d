"""Who gets which job: in the order of asking, in turns, and never more than there is room for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from kqs.config import TakingSection
from kqs.job import Entry, Returned
from kqs.remote.pool import Pool
from kqs.states import State
from kqs.store.base import Granted
from tests.support.jobs import NOW, an_accepted
from tests.support.queueing import Rig
from tests.support.remote import Hired, a_desk, assert_balanced, still
from tests.support.turning import until


class Held:
    """Holds the claims of a store until `let_go`."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        self._go = asyncio.Event()
        self.count = 0
        claim = rig.store.claim

        async def held(entries: Sequence[Entry], *args: Any) -> Granted:
            runs = await claim(entries, *args)
            self.count += 1
            await self._go.wait()
            return runs

        monkeypatch.setattr(rig.store, "claim", held)

    def let_go(self) -> None:
        self._go.set()


@pytest.fixture
def held(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(rig, monkeypatch)


async def test_who_asked_first_is_served_first(rig: Rig) -> None:
    desk = a_desk(rig)
    workers = [Hired(desk) for _ in range(3)]
    for worker in workers:
        worker.reserve()
    for number in range(3):
        await rig.accept(an_accepted(number))
        await until(lambda: desk.runs_count == number + 1)  # noqa: B023
    assert [worker.numbers for worker in workers] == [[0], [1], [2]]


async def test_a_reserve_takes_as_many_as_it_asked_for_and_leaves_the_others_to_the_next(rig: Rig) -> None:
    await rig.accept(*(an_accepted(number) for number in range(7)))
    desk = a_desk(rig)
    first, second = Hired(desk), Hired(desk)
    first.reserve(5)
    order = second.reserve(5)
    await until(lambda: desk.runs_count == 7)
    assert (first.numbers, second.numbers) == ([0, 1, 2, 3, 4], [5, 6])
    assert order.is_over
    assert_balanced(order.pool)
    assert order.pool.consumer.room == 0


async def test_one_job_wakes_one_of_ten_thousand_who_wait(rig: Rig) -> None:
    desk = a_desk(rig)
    workers = [Hired(desk) for _ in range(10_000)]
    pools = {worker.reserve().pool for worker in workers}
    (pool,) = pools
    await rig.accept(an_accepted(1))
    await workers[0].take()
    await still(rig)
    assert [index for index, worker in enumerate(workers) if worker.given] == [0]
    assert pool.consumer.room == 9999
    assert rig.queue.admission.consumers == [pool.consumer]


async def test_standing_orders_take_turns(rig: Rig) -> None:
    desk = a_desk(rig)
    workers = [Hired(desk) for _ in range(3)]
    for worker in workers:
        worker.work(10)
    await rig.accept(*(an_accepted(number) for number in range(9)))
    await until(lambda: desk.runs_count == 9)
    assert [len(worker.numbers) for worker in workers] == [3, 3, 3]


async def test_one_after_the_other_has_its_turn_when_jobs_come_singly(rig: Rig) -> None:
    desk = a_desk(rig)
    workers = [Hired(desk) for _ in range(2)]
    for worker in workers:
        worker.work(10)
    for number in range(4):
        await rig.accept(an_accepted(number))
        await until(lambda: desk.runs_count == number + 1)  # noqa: B023
    assert [worker.numbers for worker in workers] == [[0, 2], [1, 3]]


async def test_what_one_has_no_room_for_another_gets(rig: Rig) -> None:
    await rig.accept(*(an_accepted(number) for number in range(12)))
    desk = a_desk(rig)
    small, large = Hired(desk), Hired(desk)
    small.work(2)
    order = large.work(100)
    await until(lambda: desk.runs_count == 12)
    assert (len(small.numbers), len(large.numbers)) == (2, 10)
    await until(lambda: not order.pool.consumer._claims)
    assert_balanced(order.pool)


async def test_nobody_has_more_than_its_room_and_every_end_makes_room_for_one(rig: Rig) -> None:
    await rig.accept(*(an_accepted(number) for number in range(10)))
    desk = a_desk(rig)
    worker = Hired(desk)
    order = worker.work(3)
    for given in range(3, 11):
        await worker.take(given)
        await still(rig)
        assert desk.runs_count == 3
        desk.lose(worker.open.pop(0), "test") if given % 2 else desk.release(
            worker.open.pop(0), Returned(60.0), worker.told.append
        )
    assert_balanced(order.pool)


async def test_types_get_their_turns_by_weight(rig: Rig) -> None:
    rig.taking["a"] = TakingSection(weight=3)
    await rig.accept(*(an_accepted(n, "ab"[n % 2]) for n in range(80)))
    desk = a_desk(rig)
    worker = Hired(desk)
    worker.work(40, "a", "b")
    await worker.take(40)
    assert Counter(run.run.type for run in worker.open) == {"a": 30, "b": 10}


async def test_within_a_type_priority_comes_first_and_then_age(rig: Rig) -> None:
    await rig.accept(an_accepted(1), an_accepted(2, prio=8000), an_accepted(3), an_accepted(4, prio=8000))
    worker = Hired(a_desk(rig))
    worker.reserve(4)
    await worker.take(4)
    assert worker.numbers == [2, 4, 1, 3]


async def test_who_rests_gets_nothing_and_goes_on_with_all_its_room(rig: Rig) -> None:
    desk = a_desk(rig)
    resting, awake = Hired(desk), Hired(desk)
    order = resting.work(2)
    order.pause()
    assert order.pool.consumer.room == 0
    awake.work(1)
    await rig.accept(*(an_accepted(number) for number in range(3)))
    await awake.take()
    await still(rig)
    assert resting.given == []
    order.resume()
    await resting.take(2)
    assert_balanced(order.pool)


async def test_room_that_is_made_while_one_rests_counts_when_it_goes_on(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    order = worker.work(2)
    await rig.accept(an_accepted(1), an_accepted(2))
    await worker.take(2)
    order.pause()
    desk.lose(worker.open[0], "test")
    await asyncio.sleep(0)
    assert order.pool.consumer.room == 0
    order.resume()
    assert order.pool.consumer.room == 1
    order.resume()
    assert_balanced(order.pool)


async def test_what_was_claimed_for_one_who_left_goes_back_and_costs_nothing(rig: Rig, held: Held) -> None:
    await rig.accept(*(an_accepted(number) for number in range(3)))
    desk = a_desk(rig)
    worker = Hired(desk)
    order = worker.reserve(3)
    await until(lambda: held.count == 1)
    assert order.withdraw()
    held.let_go()
    await until(lambda: not order.pool.consumer._claims)
    await still(rig)
    assert worker.given == []
    assert desk.runs_count == 0
    record = await rig.record(1)
    assert (record.state, record.attempt, record.runs) == (State.NEW, 0, [])
    assert_balanced(order.pool)
    worker.reserve(3)
    await worker.take(3)


async def test_what_was_claimed_for_one_who_left_goes_to_who_waits(rig: Rig, held: Held) -> None:
    await rig.accept(*(an_accepted(number) for number in range(5)))
    desk = a_desk(rig)
    gone, there = Hired(desk), Hired(desk)
    order = gone.work(5)
    await until(lambda: held.count == 1)
    left = there.reserve(2)
    order.withdraw()
    held.let_go()
    await there.take(2)
    await still(rig)
    assert there.numbers == [0, 1]
    assert gone.given == []
    assert desk.runs_count == 2
    assert_balanced(left.pool)
    assert (await rig.record(3)).state is State.NEW


async def test_what_was_claimed_for_one_who_rests_goes_back(rig: Rig, held: Held) -> None:
    await rig.accept(an_accepted(1))
    worker = Hired(a_desk(rig))
    order = worker.work(1)
    await until(lambda: held.count == 1)
    order.pause()
    held.let_go()
    await until(lambda: not order.pool.consumer._claims)
    assert worker.given == []
    assert_balanced(order.pool)
    order.resume()
    await worker.take()


async def test_a_job_that_expires_on_the_way_is_given_to_nobody(rig: Rig, held: Held) -> None:
    late = an_accepted(1)
    late.expire_at = NOW + 5
    await rig.accept(late, an_accepted(2))
    worker = Hired(a_desk(rig))
    order = worker.work(2)
    await until(lambda: held.count == 1)
    rig.clock.advance(6)
    held.let_go()
    await worker.take()
    await rig.until(1, State.FAIL)
    assert worker.numbers == [2]
    assert order.room == 1
    assert_balanced(order.pool)


async def test_a_new_job_that_meets_somebody_waiting_is_stored_under_its_name(rig: Rig) -> None:
    worker = Hired(a_desk(rig), "shell-7")
    worker.reserve()
    await rig.accept(an_accepted(1))
    await worker.take()
    assert [run.worker for run in (await rig.record(1)).runs] == ["shell-7"]


async def test_a_waiting_job_is_claimed_under_the_name_of_who_takes_it(rig: Rig) -> None:
    await rig.accept(an_accepted(1))
    worker = Hired(a_desk(rig), "shell-7")
    worker.reserve()
    await worker.take()
    assert [run.worker for run in (await rig.record(1)).runs] == ["shell-7"]


async def test_a_pool_of_nobody_has_no_room(rig: Rig) -> None:
    pool = Pool(rig.queue.runs, "w", ["mail"])
    assert pool.consumer.room == 0
    assert_balanced(pool)
