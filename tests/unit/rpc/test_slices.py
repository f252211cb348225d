from __future__ import annotations

import asyncio
import time

from kqs.rpc.slices import LIGHT_BYTES, SLICE_S, Slices
from kqs.wire.steps import Steps
from tests.support.supervising import StrictSupervisor


def long_work(name: str, done: list[str]) -> Steps[None]:
    """Three steps, of which each takes a slice."""
    for _ in range(3):
        began = time.perf_counter()
        while time.perf_counter() < began + SLICE_S * 1.1:
            pass
        done.append(name)
        yield


async def test_work_is_done_a_slice_a_tick_in_turn() -> None:
    slices, done = Slices(StrictSupervisor()), list[str]()
    slices.run(long_work("a", done))
    slices.run(long_work("b", done))
    assert done == []
    ticks = 0
    while len(done) < 6:
        await asyncio.sleep(0)
        ticks += 1
    assert done == ["a", "b", "a", "b", "a", "b"]
    assert ticks >= 6


async def test_heavy_work_is_done_one_after_the_other_and_leaves_every_second_slice_to_light_work() -> None:
    slices, done = Slices(StrictSupervisor()), list[str]()
    for name in ("A", "B"):
        slices.run(long_work(name, done), LIGHT_BYTES + 1)
    slices.run(long_work("a", done), LIGHT_BYTES)
    for _ in range(20):
        await asyncio.sleep(0)
    assert "".join(done) == "aAaAaABBB"


async def test_short_work_is_done_in_one_slice() -> None:
    slices, done = Slices(StrictSupervisor()), asyncio.Event()

    def work() -> Steps[None]:
        yield
        yield
        done.set()

    slices.run(work())
    await asyncio.sleep(0)
    assert done.is_set()
    done.clear()
    slices.run(work())
    await asyncio.wait_for(done.wait(), 10)
