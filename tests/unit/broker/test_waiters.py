from __future__ import annotations

import asyncio

import pytest

from kqs.broker.waiters import Waiters


@pytest.fixture
def waiters() -> Waiters:
    return Waiters()


async def waiting(waiters: Waiters, *types: str) -> asyncio.Task[None]:
    task = asyncio.ensure_future(waiters.wait(frozenset(types)))
    await asyncio.sleep(0)
    return task


async def woken(*tasks: asyncio.Task[None]) -> list[bool]:
    for _ in range(3):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def test_all_who_wait_for_a_type_are_woken_and_nobody_else(waiters: Waiters) -> None:
    both, mail, video = [await waiting(waiters, *types) for types in (("mail", "video"), ("mail",), ("video",))]
    assert (len(waiters), waiters.types) == (3, {"mail", "video"})
    waiters.wake(["mail"])
    waiters.wake(["mail"])
    assert await woken(both, mail, video) == [True, True, False]
    assert waiters.types == {"video"}
    video.cancel()


async def test_those_are_woken_for_whose_types_something_is_due(waiters: Waiters) -> None:
    mail, video = await waiting(waiters, "mail"), await waiting(waiters, "video")
    waiters.wake_where(lambda types: "video" in types)
    assert await woken(mail, video) == [False, True]
    waiters.wake_all()
    assert await woken(mail) == [True]


async def test_who_gives_up_is_forgotten(waiters: Waiters) -> None:
    task = await waiting(waiters, "mail")
    task.cancel()
    await woken(task)
    assert len(waiters) == 0


async def test_something_else_may_end_the_wait_and_is_left_as_it_is(waiters: Waiters) -> None:
    first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
    task = asyncio.ensure_future(waiters.wait(frozenset({"mail"}), first, second))
    await asyncio.sleep(0)
    first.set_result(None)
    assert await woken(task) == [True]
    assert not second.done()
    assert len(waiters) == 0
