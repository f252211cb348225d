from __future__ import annotations

import asyncio
import time

from kqs.server.slices import SLICE_S, Slices
from kqs.wire.steps import Steps


async def test_work_is_done_a_slice_a_tick_in_turn() -> None:
    slices, done = Slices(), []

    def work(name: str) -> Steps[None]:
        for _ in range(3):
            began = time.perf_counter()
            while time.perf_counter() < began + SLICE_S * 1.1:
                pass
            done.append(name)
            yield

    slices.run(work("a"))
    slices.run(work("b"))
    assert done == []
    ticks = 0
    while len(done) < 6:
        await asyncio.sleep(0)
        ticks += 1
    assert done == ["a", "b", "a", "b", "a", "b"]
    assert ticks >= 6


async def test_short_work_is_done_in_one_slice() -> None:
    slices, done = Slices(), asyncio.Event()

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
