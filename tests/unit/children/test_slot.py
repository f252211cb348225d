from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import structlog.testing

from kqs.children import slot as slots
from kqs.children.child import End
from kqs.children.slot import Slot
from tests.support.supervising import StrictSupervisor
from tests.support.turning import idle, until

END = End("exit code 0", 0, is_sound=True)
DEAD = End("killed by SIGKILL", 2, is_sound=False)


class FakeChild:
    """A child that does as the test says."""

    why_unfit = ""

    def __init__(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        self.number, self.pid, self.lived_s = number, 0, 0.0
        self.ready: asyncio.Future[None] = loop.create_future()
        self.leaving: asyncio.Future[str] = loop.create_future()
        self.over: asyncio.Future[End] = loop.create_future()
        self.troubles: list[str] = []

    @property
    def is_ready(self) -> bool:
        return self.ready.done()

    def problems(self) -> list[str]:
        return self.troubles

    def begin(self) -> None:
        self.pid = 100
        self.ready.set_result(None)

    async def run(self) -> End:
        return await self.over


class Rig:
    """A slot, those who were in it, and how long it waited before each next one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.supervisor = StrictSupervisor()
        self.made: asyncio.Queue[FakeChild] = asyncio.Queue()
        self.waits: list[float] = []
        self.gone: list[tuple[Any, Any]] = []
        self.room = asyncio.Event()
        self.room.set()
        others: Any = SimpleNamespace(
            starting=asyncio.Semaphore(1), room=self.room.wait, add=lambda *one: self.gone.append(one)
        )
        self.slot = Slot(1, self._make, others, self.supervisor)
        monkeypatch.setattr(slots, "pause", self._pause)
        self.task = self.supervisor.spawn(self.slot.keep(), "children")

    def _make(self, number: int) -> Any:
        child = FakeChild(number)
        self.made.put_nowait(child)
        return child

    async def _pause(self, wait_s: float) -> None:
        self.waits.append(wait_s)

    async def next(self) -> FakeChild:
        async with asyncio.timeout(5):
            return await self.made.get()


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    rig = Rig(monkeypatch)
    yield rig
    await rig.supervisor.end(rig.task, rig.slot.ended, *[ended for _, ended in rig.gone])


async def test_who_dies_is_followed_after_a_wait_that_doubles_to_a_bound(rig: Rig) -> None:
    for _ in range(10):
        child = await rig.next()
        child.begin()
        child.over.set_result(DEAD)
    await rig.next()
    assert rig.waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
    assert rig.slot.restarts_count == 10


async def test_after_one_who_lived_long_the_wait_is_short_again(rig: Rig) -> None:
    for lived_s in (0.0, 0.0, 60.0, 0.0):
        child = await rig.next()
        child.lived_s = lived_s
        child.over.set_result(DEAD)
    await rig.next()
    assert rig.waits == [0.1, 0.2, 0.1, 0.2]


async def test_who_leaves_is_followed_at_once_and_seen_off_by_others(rig: Rig) -> None:
    child = await rig.next()
    child.begin()
    child.leaving.set_result("max_jobs")
    await rig.next()
    assert [one for one, _ in rig.gone] == [child]
    assert (rig.waits, rig.slot.restarts_count, rig.slot.recycled_count) == ([0.0], 0, 1)
    child.over.set_result(DEAD)  # the others' business


async def test_who_leaves_waits_for_room(rig: Rig) -> None:
    child = await rig.next()
    child.begin()
    rig.room.clear()
    child.leaving.set_result("max_jobs")
    await idle()
    assert rig.slot.recycled_count == 1
    assert rig.made.empty()
    rig.room.set()
    await rig.next()
    child.over.set_result(DEAD)


async def test_who_takes_too_much_memory_from_the_first_is_followed_with_more_and_more_patience(rig: Rig) -> None:
    for _ in range(3):
        child = await rig.next()
        child.begin()
        child.leaving.set_result("max_rss_bytes")
        child.over.set_result(END)
    last = await rig.next()
    assert rig.waits == [0.1, 0.2, 0.4]
    last.begin()
    (problem,) = rig.slot.problems()
    assert "3 times in a row, the last time: it takes more memory than max_rss_bytes soon after its start" in problem


async def test_problems_tell_of_a_place_that_is_empty_and_of_one_that_often_was(rig: Rig) -> None:
    assert rig.slot.problems() == []
    first = await rig.next()
    first.over.set_result(DEAD)
    second = await rig.next()
    assert rig.slot.problems() == ["child 1 has ended 1 time in a row, the last time: killed by SIGKILL"]
    second.begin()
    assert rig.slot.problems() == []  # once is no row
    second.over.set_result(DEAD)
    third = await rig.next()
    third.begin()
    assert rig.slot.problems() == ["child 1 has ended 2 times in a row, the last time: killed by SIGKILL"]
    third.lived_s = 11.0
    third.troubles = ["all threads are held"]
    assert rig.slot.problems() == ["child 1: all threads are held"]


async def test_who_dies_again_and_again_after_a_while_is_told_of(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for _ in range(3):
        child = await rig.next()
        child.begin()
        child.lived_s = 11.0
        told.append(rig.slot.problems())
        child.over.set_result(DEAD)
    (await rig.next()).over.set_result(End("exit code 7", 0, is_sound=False))  # soon: that is another matter
    last = await rig.next()
    last.begin()
    assert told == [[], [], []]
    assert rig.slot.problems() == ["child 1 has ended 2 times in a row, the last time: exit code 7"]
    last.lived_s = 11.0
    assert rig.slot.problems() == ["child 1 has died 3 times in 10 minutes, the last time: killed by SIGKILL"]
    monkeypatch.setattr(slots, "LATELY_S", 0.0)
    assert rig.slot.problems() == []


async def test_one_that_does_not_start_is_told_of_and_lets_others_start(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "STARTING_S", 0.01)
    (await rig.next()).over.set_result(END)
    child = await rig.next()
    async with asyncio.timeout(5), rig.slot._others.starting:
        pass
    child.lived_s = 31.0
    rig.slot._falls = 0
    assert rig.slot.problems() == ["child 1 has been starting for 31 s"]


async def test_who_cannot_start_for_long_is_told_of_once_and_when_that_is_over(rig: Rig) -> None:
    with structlog.testing.capture_logs() as said:
        for _ in range(5):
            child = await rig.next()
            child.why_unfit = "no module"
            child.over.set_result(End("no module", 0, is_sound=False))
        child = await rig.next()
        child.begin()
        await until(lambda: len(said) == 2)
    begun, over = said
    assert (begun["event"], begun["error"], over["times"]) == ("a child process cannot start, trying again", "no module", 5)


async def test_an_empty_place_tells_why(rig: Rig) -> None:
    child = await rig.next()
    rig.room.clear()
    child.why_unfit = "no module"
    child.over.set_result(End("no module", 0, is_sound=False))
    await until(lambda: rig.slot.child is None)
    assert rig.slot.problems() == ["child 1 does not run, and will be started again: no module"]
    assert rig.slot.pid == 0
