import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import kqs.queue.alarm
from kqs.queue.alarm import Alarm
from kqs.queue.housekeeping import HOUSEKEEPING_S
from tests.support.clock import FakeClock


class Rig:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.served = asyncio.Event()
        self.count = 0
        self.following: float | None = None
        self.alarm = Alarm(self.clock, self.serve)

    async def serve(self) -> float | None:
        self.count += 1
        self.served.set()
        return self.following


@asynccontextmanager
async def running(rig: Rig) -> AsyncIterator[None]:
    task = asyncio.create_task(rig.alarm.run())
    try:
        async with asyncio.timeout(10):
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_instant_that_has_come_is_served_at_once() -> None:
    rig = Rig()
    rig.alarm.note(rig.clock.now())
    async with running(rig):
        await rig.served.wait()


async def test_an_earlier_instant_brings_the_wake_up_forward() -> None:
    rig = Rig()
    rig.alarm.note(rig.clock.now() + 10**6)
    async with running(rig):
        await asyncio.sleep(0)
        rig.alarm.note(rig.clock.now())
        await rig.served.wait()


async def test_what_serve_returns_is_the_next_instant() -> None:
    rig = Rig()
    rig.following = rig.clock.now() + 10**6
    rig.alarm.note(rig.clock.now())
    async with running(rig):
        await rig.served.wait()
        await asyncio.sleep(0)
        assert rig.count == 1
        rig.served.clear()
        rig.alarm.note(rig.clock.now())
        await rig.served.wait()
        assert rig.count == 2


async def test_a_jump_of_the_wall_clock_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.queue.alarm, "MAX_SLEEP_S", 0.01)
    rig = Rig()
    rig.alarm.note(rig.clock.now() + 3600)
    async with running(rig):
        await asyncio.sleep(0)
        rig.clock.jump(3601)
        await rig.served.wait()


def test_a_clock_that_was_put_on_is_noticed_as_soon_as_one_that_was_set_back() -> None:
    assert kqs.queue.alarm.MAX_SLEEP_S <= HOUSEKEEPING_S
