"""What is under way is waited for, and what begins meanwhile is not."""

from __future__ import annotations

import asyncio

import pytest

from kqs.underway import UnderWay


async def test_nothing_under_way_is_over_at_once() -> None:
    under_way = UnderWay()
    await under_way.over()
    with pytest.raises(ZeroDivisionError), under_way.one():
        _ = 1 // 0
    await under_way.over()


async def test_whoever_waits_goes_on_after_the_end_of_what_was_under_way_and_what_its_turn_did() -> None:
    under_way, told = UnderWay(), list[str]()
    let_go = asyncio.Event()

    async def work() -> None:
        with under_way.one():
            await let_go.wait()
        told.append("kept")

    async def wait() -> None:
        await under_way.over()
        told.append("over")

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(work())
        await asyncio.sleep(0)
        waiting = group.create_task(wait())
        await asyncio.sleep(0)
        with under_way.one():  # too late to be waited for
            let_go.set()
            await waiting
    assert told == ["kept", "over"]
