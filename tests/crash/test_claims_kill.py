"""A server's core is killed at every step of a busy life, and started again on what that leaves."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from kqs.job import Run
from kqs.outcome import Again, Failed, Ok
from tests.support.feeding import caught_up
from tests.support.life import Account, AccountedHand, Life

JOB = b'{"type":"mail"}'
URGENT = b'{"type":"mail","prio":"urgent"}'
GIVEN = b'{"type":"mail","id":"mine"}'
RESIZE = b'{"type":"resize"}'


def jobs(count: int) -> bytes:
    return b"[" + b",".join([JOB] * count) + b"]"


async def busy(life: Life, hand: AccountedHand) -> None:
    """Insert jobs that meet room or none, alone and in batches, and end their runs in every way."""
    feeder = life.feeding.feeder
    assert feeder is not None

    def over(count: int) -> None:
        for number in range(count):
            if not hand.runs.empty():
                run = hand.runs.get_nowait()
                hand.over(run, outcome_of(run, number))

    await life.insert(JOB)
    await life.insert(JOB, URGENT, jobs(2))
    over(3)
    await life.insert(jobs(9))
    for _ in range(4):
        hand.over(await hand.take())
    await life.insert(GIVEN, RESIZE, JOB)
    over(2)
    await caught_up(feeder)
    await life.insert(jobs(3), GIVEN)
    over(5)
    await life.insert(JOB, RESIZE)
    await caught_up(feeder)
    await life.rig.queue.settle()


def outcome_of(run: Run, number: int) -> Ok | Failed | Again:
    if run.attempt > 1:
        return Ok()
    return (Ok(), Failed("no"), Ok(b"[7]"), Again(), Failed("no", final=True))[number % 5]


class Image(NamedTuple):
    """What a kill leaves in a folder, and the account of that moment."""

    folder: Path
    account: Account
    given: dict[int, str]


async def images(folder: Path, room: int) -> list[Image]:
    """Live once; return what a kill at each step would have left."""
    life, taken = Life(folder), list[Image]()
    await life.start()
    hand = life.hand(room, "mail")
    life.on_step = lambda: taken.append(Image(life.image(), life.account.copy(), life.given.copy()))
    await busy(life, hand)
    life.on_step = lambda: None
    await life.finish()
    await life.check()
    await life.stop()
    return taken


@pytest.mark.parametrize("room", [1, 3, 30])
async def test_a_kill_at_any_step_loses_no_job_and_repeats_none_that_had_ended(tmp_path: Path, room: int) -> None:
    taken = await images(tmp_path / "life", room)
    assert len(taken) > 10
    for image in taken:
        await assert_all_ends(image)


async def assert_all_ends(image: Image) -> None:
    """Start again on what a kill left. The account sees to it that nothing runs again without a reason."""
    life = Life(image.folder)
    life.account, life.given = image.account.copy(), image.given
    life.account.cut_off()
    await life.start()
    await life.finish()
    await life.check()
    for record in await life.records():
        runs = life.account.runs[record.order]
        if image.account.runs[record.order] and runs > image.account.runs[record.order]:
            assert record.attempt > 1, "the run before the kill is forgotten"
        if record.order in image.account.running - image.account.ended:
            assert record.ghosts >= 1, "a run that the kill cut off is none"
        assert record.attempt >= runs, "a run is forgotten"
    await life.stop()
