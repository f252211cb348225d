"""Who runs when: a slice for each in line, a share of the tick for all, and the loop's other work in between."""

from __future__ import annotations

import asyncio

from kqs.rpc.turns import SHARE_S, Turns, clock
from tests.support.supervising import StrictSupervisor
from tests.support.turning import until


class Worker:
    """Has so many slices to run, each of which takes so long."""

    def __init__(self, turns: Turns, slices: int, slice_s: float = 0.0) -> None:
        self._turns = turns
        self._slice_s = slice_s
        self.left = slices
        self.ran_in: list[int] = []
        turns.stand_in_line(self)

    def wake(self) -> None:
        end = clock() + self._slice_s
        while clock() < end:
            pass
        self._turns.spend(self._slice_s)
        self.left -= 1
        if self.left:
            self._turns.stand_in_line(self)


async def test_all_in_line_are_served_by_turns() -> None:
    turns = Turns(StrictSupervisor())
    served: list[Worker] = []

    def wake(waiting: object) -> None:
        assert isinstance(waiting, Worker)
        served.append(waiting)
        waiting.wake()

    turns.wake = wake
    one, two = Worker(turns, 3), Worker(turns, 3)
    await until(lambda: not one.left and not two.left)
    assert served == [one, two, one, two, one, two]


async def test_the_loop_goes_on_between_long_slices() -> None:
    turns = Turns(StrictSupervisor())
    workers = [Worker(turns, 1, 2 * SHARE_S) for _ in range(5)]
    ticks = 0
    while any(worker.left for worker in workers):
        left = sum(worker.left for worker in workers)
        await asyncio.sleep(0)
        ticks += 1
        assert left - sum(worker.left for worker in workers) <= 1
    assert ticks >= 5


async def test_a_tick_that_had_its_share_is_busy_until_the_next() -> None:
    turns = Turns(StrictSupervisor())
    turns.spend(SHARE_S / 2)
    assert not turns.is_busy
    turns.spend(SHARE_S)
    assert turns.is_busy
    await asyncio.sleep(0)
    assert not turns.is_busy


async def test_who_has_left_is_not_woken() -> None:
    turns = Turns(StrictSupervisor())
    worker = Worker(turns, 1)
    turns.leave(worker)
    await asyncio.sleep(0)
    assert worker.left == 1
