"""When all connections together hold too many answers: who waits, who is cut off, who goes on."""

from __future__ import annotations

import asyncio
import time

import pytest

from kqs.rpc import answers as answers_module
from kqs.rpc.answers import Answers
from tests.support.supervising import StrictSupervisor
from tests.support.turning import until


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "LOOK_S", 0)
    monkeypatch.setattr(answers_module, "STALLED_S", 0.02)


class Holding:
    """A connection that holds answers."""

    def __init__(self, answers: Answers, untaken_bytes: int) -> None:
        self._answers = answers
        self.untaken_bytes = untaken_bytes
        self.taken_bytes = 0
        self.is_aborted = False
        answers.holders.add(self)

    def abort(self) -> None:
        self.is_aborted = True
        self._answers.holders.discard(self)


async def relieved(answers: Answers) -> None:
    async with asyncio.timeout(10):
        await answers.room.wait()


async def test_what_was_taken_meanwhile_does_not_count() -> None:
    answers = Answers(1000, StrictSupervisor())
    for _ in range(100):
        answers.note(500)
        assert not answers.is_crowded
    answers.stop()


async def test_whoever_takes_nothing_is_cut_off_the_greatest_first() -> None:
    answers = Answers(1000, StrictSupervisor())
    cut_off: list[int] = []
    answers.cut_off = cut_off.append
    small, great, middle = Holding(answers, 200), Holding(answers, 700), Holding(answers, 300)
    answers.note(1200)
    assert answers.is_crowded
    assert not answers.room.is_set()
    await relieved(answers)
    assert (great.is_aborted, middle.is_aborted, small.is_aborted) == (True, True, False)
    assert sum(cut_off) == 2
    assert not answers.is_crowded


class Taking(Holding):
    """One that takes a little between any two looks."""

    @property
    def taken_bytes(self) -> int:
        self.untaken_bytes -= 10
        return 5000 - self.untaken_bytes

    @taken_bytes.setter
    def taken_bytes(self, value: int) -> None:
        pass


async def test_whoever_takes_is_never_cut_off() -> None:
    answers = Answers(1000, StrictSupervisor())
    woken: list[bool] = []
    answers.relieved = lambda: woken.append(True)
    slow = Taking(answers, 5000)
    answers.note(5000)
    await relieved(answers)
    assert not slow.is_aborted
    assert woken == [True]


async def test_whoever_took_while_the_loop_was_held_up_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "STALLED_S", 0.2)
    answers = Answers(1000, StrictSupervisor())
    holding = Holding(answers, 5000)

    def go_on() -> None:  # which is known once the transport has written on
        holding.taken_bytes, holding.untaken_bytes = 4900, 100

    answers.note(5000)
    time.sleep(0.5)  # noqa: ASYNC251 - holding the loop up is the test
    asyncio.get_running_loop().call_later(0.1, go_on)
    await until(lambda: not answers.is_crowded)
    assert not holding.is_aborted


async def test_a_stopped_one_looks_no_more() -> None:
    answers = Answers(1000, StrictSupervisor())
    holding = Holding(answers, 5000)
    answers.note(5000)
    answers.stop()
    answers.stop()
    other = Answers(1000, StrictSupervisor())  # which looks as often, and later for the first time
    Holding(other, 5000)
    other.note(5000)
    await relieved(other)
    assert not holding.is_aborted
