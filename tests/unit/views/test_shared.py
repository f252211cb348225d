"""Who asks while a question is out shares the answer to the next one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kqs.views.shared import Shared


class Oracle:
    """Answers the number of the question, when it is told to."""

    def __init__(self) -> None:
        self.put = 0
        self.answers = asyncio.Semaphore(0)

    async def ask(self) -> int:
        self.put += 1
        number = self.put
        await self.answers.acquire()
        return number


@pytest.fixture
async def oracle() -> Oracle:
    return Oracle()


async def asked(shared: Shared[Any], count: int) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(shared.get()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def test_all_who_ask_while_a_question_is_out_share_the_next_one(oracle: Oracle) -> None:
    first, *others = await asked(Shared(oracle.ask), 100)
    oracle.answers.release()
    assert await first == 1
    assert not any(task.done() for task in others), "an answer is never older than the asking"
    oracle.answers.release()
    assert await asyncio.gather(*others) == [2] * 99


async def test_who_gives_up_leaves_the_question_to_the_next(oracle: Oracle) -> None:
    first, *others = await asked(Shared(oracle.ask), 3)
    first.cancel()
    oracle.answers.release()
    assert await asyncio.gather(*others) == [2, 2]


async def test_a_question_that_fails_is_put_again_for_the_next() -> None:
    answers = iter([OSError("away"), "here"])

    async def ask() -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return str(answer)

    first, second = await asked(Shared(ask), 2)
    with pytest.raises(OSError, match="away"):
        await first
    assert await second == "here"


async def test_nothing_is_kept_when_nobody_waits(oracle: Oracle) -> None:
    shared = Shared(oracle.ask)
    for number in (1, 2):
        oracle.answers.release()
        assert await shared.get() == number
    assert shared._answer is None
