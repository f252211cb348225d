"""Which operations wait for which."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from kqs.errors import StoreUnavailableError
from kqs.store.mongo.lanes import Lane, Lanes
from tests.support.supervising import StrictSupervisor


class Script:
    """Operations that begin at once, and end when they are told to."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    def operation(self, name: str) -> Callable[[], Coroutine[Any, Any, str]]:
        self.gates[name] = asyncio.Event()

        async def run() -> str:
            self.begun.append(name)
            await self.gates[name].wait()
            return name

        return run

    async def settled(self) -> list[str]:
        """Return what has begun once nothing moves any more."""
        for _ in range(10):
            await asyncio.sleep(0)
        return self.begun


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def lanes() -> Lanes:
    return Lanes(StrictSupervisor())


def start(lanes: Lanes, script: Script, *asked: tuple[str, Lane | None]) -> list[asyncio.Future[str]]:
    return [
        asyncio.ensure_future(lanes.look(script.operation(name)) if lane is None else lanes.write(lane, script.operation(name)))
        for name, lane in asked
    ]


async def finish(script: Script, futures: list[asyncio.Future[str]]) -> None:
    for gate in script.gates.values():
        gate.set()
    await asyncio.gather(*futures)


async def test_writes_of_one_kind_queue_and_kinds_go_side_by_side(lanes: Lanes, script: Script) -> None:
    asked = start(lanes, script, ("i1", Lane.INSERT), ("i2", Lane.INSERT), ("c1", Lane.CLAIM), ("r1", Lane.REPORT))
    assert await script.settled() == ["i1", "c1", "r1"]
    script.gates["i1"].set()
    assert await script.settled() == ["i1", "c1", "r1", "i2"]
    await finish(script, asked)


async def test_who_looks_waits_for_writes_asked_before_and_holds_up_none(lanes: Lanes, script: Script) -> None:
    asked = start(lanes, script, ("i1", Lane.INSERT), ("look", None), ("c1", Lane.CLAIM))
    assert await script.settled() == ["i1", "c1"]
    script.gates["i1"].set()
    assert await script.settled() == ["i1", "c1", "look"]
    await finish(script, asked)


async def test_alone_is_alone(lanes: Lanes, script: Script) -> None:
    asked = start(lanes, script, ("i1", Lane.INSERT), ("look", None))
    asked.append(asyncio.ensure_future(lanes.alone(script.operation("alone"))))
    asked += start(lanes, script, ("c1", Lane.CLAIM), ("h1", Lane.HOUSEKEEPING))
    script.gates["i1"].set()
    assert await script.settled() == ["i1", "look"]
    script.gates["look"].set()
    assert await script.settled() == ["i1", "look", "alone"]
    await finish(script, asked)
    assert sorted(script.begun[3:]) == ["c1", "h1"]


async def test_a_failure_is_its_own_callers_only(lanes: Lanes, script: Script) -> None:
    async def fail() -> str:
        raise AutoReconnect("gone")

    failing = asyncio.ensure_future(lanes.write(Lane.INSERT, fail))
    asked = start(lanes, script, ("i2", Lane.INSERT))
    await finish(script, asked)
    with pytest.raises(StoreUnavailableError, match="gone"):
        await failing


async def test_a_failure_that_nobody_waits_for_any_more_is_not_logged(lanes: Lanes) -> None:
    gate, told = asyncio.Event(), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    async def fail() -> str:
        await gate.wait()
        raise AutoReconnect("gone")

    asked = asyncio.ensure_future(lanes.look(fail))
    await asyncio.sleep(0)
    asked.cancel()
    await asyncio.sleep(0)
    gate.set()
    await lanes.close()
    gc.collect()
    assert told == []


async def test_close_waits_for_what_was_asked_and_takes_no_more(lanes: Lanes, script: Script) -> None:
    asked = start(lanes, script, ("i1", Lane.INSERT), ("i2", Lane.INSERT))
    asked[1].cancel()
    closing = asyncio.ensure_future(lanes.close())
    await script.settled()
    script.gates["i1"].set()
    script.gates["i2"].set()
    await closing
    assert script.begun == ["i1", "i2"]
    with pytest.raises(StoreUnavailableError, match="closed"):
        lanes.look(script.operation("late"))


async def test_what_an_operation_has_returned_is_not_kept(lanes: Lanes) -> None:
    class Data:
        """What a claim has brought."""

    async def claim() -> Data:
        return Data()

    data = weakref.ref(await lanes.write(Lane.CLAIM, claim))
    await lanes.look(partial(asyncio.sleep, 0))
    gc.collect()
    assert data() is None
