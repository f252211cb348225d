"""A server's core is killed at every step while jobs of a few keys are inserted and run: what was answered stays true."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

import msgspec

from kqs.inserter import Answer, Inserter
from kqs.outcome import Failed
from kqs.states import State
from kqs.wire.inserted import Inserted
from kqs.wire.steps import finish
from tests.support.feeding import caught_up
from tests.support.journal import all_settled
from tests.support.life import AccountedHand, Life


class Asking:
    """Inserts jobs of keys, each under an id of its own, and notes what is kept and what each was answered."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._inserter = Inserter(life.feeding.journal, life.feeding.ids, life.clock.now, life.rig.queue.asked)
        self.kept: dict[str, str] = {}  # ids to keys
        self.answers: dict[str, Inserted] = {}

    def insert(self, own_id: str, key: str) -> None:
        text = msgspec.json.encode({"type": "mail", "id": own_id, "unique": key, "answer": "full"})

        def told(answers: list[Answer] | Exception) -> None:
            assert isinstance(answers, list), answers
            (answer,) = answers
            assert isinstance(answer, Inserted)
            self.answers[own_id] = answer
            self._life.step()

        def flushed(_record: object) -> None:
            self.kept[own_id] = key
            self._life.step()

        self._inserter.keep_told(finish(self._inserter.checking(text, 1)), told, flushed)

    async def all_told(self) -> None:
        async with asyncio.timeout(10):
            while self.answers.keys() != self.kept.keys():  # noqa: ASYNC110 (each is told at a time of its own)
                await asyncio.sleep(0)


class Image(NamedTuple):
    folder: Path
    kept: dict[str, str]
    answers: dict[str, Inserted]


def images_of(life: Life, asking: Asking) -> list[Image]:
    taken: list[Image] = []
    life.on_step = lambda: taken.append(Image(life.image(), asking.kept.copy(), asking.answers.copy()))
    return taken


async def states(life: Life) -> dict[str, State]:
    assert life.feeding.feeder is not None
    await caught_up(life.feeding.feeder)
    return {record.id: record.state for record in await life.records()}


async def test_of_what_a_kill_leaves_undecided_one_job_waits(tmp_path: Path) -> None:
    life = Life(tmp_path / "life")
    await life.start()
    asking = Asking(life)
    taken = images_of(life, asking)
    for number in range(4):
        asking.insert(f"a{number}", "k")
        asking.insert(f"b{number}", "l")
        if number % 2:
            await all_settled(life.feeding.journal)
            await asking.all_told()
    life.on_step = lambda: None
    await life.stop()
    assert len(taken) > 8
    assert any(image.answers.keys() < image.kept.keys() for image in taken)
    for image in taken:
        life = Life(image.folder)
        await life.start()
        found = await states(life)
        for key in set(image.kept.values()):
            assert len([job_id for job_id in found if job_id[0] == ("a" if key == "k" else "b")]) == 1
        for own_id, answer in image.answers.items():
            assert answer.id in found
            assert (own_id in found) == answer.created
        await life.stop()


async def busy(life: Life, hand: AccountedHand, asking: Asking) -> None:
    async def insert(*own_ids: str) -> None:
        for own_id in own_ids:
            asking.insert(own_id, "k")
        await all_settled(life.feeding.journal)
        await asking.all_told()

    await insert("j0", "j1")
    first = await hand.take()
    await insert("j2", "j3")
    hand.over(first, Failed("no"))
    await life.rig.queue.settle()
    await insert("j4")
    hand.over(await hand.take())
    await life.rig.queue.settle()
    await insert("j5", "j6")
    while not hand.runs.empty():
        hand.over(hand.runs.get_nowait())
    await insert("j7")
    await life.rig.queue.settle()


async def test_what_was_answered_stays_true_over_a_kill_at_any_step(tmp_path: Path) -> None:
    life = Life(tmp_path / "life")
    await life.start()
    asking = Asking(life)
    hand = life.hand(1, "mail")
    taken = images_of(life, asking)
    await busy(life, hand, asking)
    life.on_step = lambda: None
    await life.finish()
    await life.stop()
    assert {answer.created for answer in asking.answers.values()} == {True, False}
    assert len(taken) > 20
    for image in taken:
        life = Life(image.folder)
        await life.start()
        life.account.acknowledged = set()
        again = life.hand(100, "mail")
        async with asyncio.timeout(10):
            while any(state not in (State.SUCCESS, State.FAIL) for state in (await states(life)).values()):
                while not again.runs.empty():
                    again.over(again.runs.get_nowait())
                await life.rig.queue.settle()
                life.clock.advance(0.01)
                await life.rig.queue.house.keep()
        found = await states(life)
        for own_id, answer in image.answers.items():
            assert answer.id in found
            assert (own_id in found) == answer.created, f"{own_id} was answered {answer}"
        await life.stop()
