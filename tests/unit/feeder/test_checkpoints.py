from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

import kqs.feeder.checkpoints
import kqs.feeder.feeder
from kqs.errors import JournalError, StoreCorruptError, StoreError, StoreUnavailableError
from kqs.feeder.checkpoints import Checkpoints
from kqs.feeder.held import Reach
from kqs.journal import Journal
from kqs.store.base import Store, StoreInfo
from tests.support.feeding import Feeding
from tests.support.supervising import StrictSupervisor


class Both:
    """A store and a journal in one; each refusal is of the one whose error it is."""

    def __init__(self) -> None:
        self.checkpoint_seq = 0
        self.fed_seq = 0
        self.refusals: list[Exception] = []

    async def sync(self) -> int:
        if self.refusals and isinstance(self.refusals[0], StoreError):
            raise self.refusals.pop(0)
        return self.fed_seq

    async def checkpoint(self, fed_seq: int) -> None:
        if self.refusals:
            raise self.refusals.pop(0)
        self.checkpoint_seq = fed_seq


@pytest.fixture
def both() -> Both:
    return Both()


@pytest.fixture
def checkpoints(both: Both, monkeypatch: pytest.MonkeyPatch) -> Checkpoints:
    monkeypatch.setattr(kqs.feeder.checkpoints, "AFTER_S", 0.0)
    checkpoints = Checkpoints(cast("Journal", both), cast("Store", both), lambda: None, StrictSupervisor())
    checkpoints.start(StoreInfo(epoch=1, fed_seq=0, last_order=0))
    return checkpoints


def feed(checkpoints: Checkpoints, both: Both) -> None:
    both.fed_seq += 1
    checkpoints.fed(Reach(both.fed_seq, both.fed_seq), 1)


async def until_due(checkpoints: Checkpoints) -> None:
    async with asyncio.timeout(10):
        while not checkpoints.is_due:  # noqa: ASYNC110 - the timer tells only the feeder
            await asyncio.sleep(0)


async def test_while_one_cannot_be_written_it_says_so_and_logs_it_once(checkpoints: Checkpoints, both: Both) -> None:
    feed(checkpoints, both)
    both.refusals = [JournalError("the disk is full")] * 3
    with capture_logs() as logs:
        for _ in range(3):
            await checkpoints.move()
            assert checkpoints.trouble == "the journal gives no space back: the disk is full"
        await checkpoints.move()
    assert (checkpoints.trouble, both.checkpoint_seq) == (None, 1)
    assert [entry["log_level"] for entry in logs] == ["warning", "info"]


async def test_a_damaged_store_is_no_passing_trouble(checkpoints: Checkpoints, both: Both) -> None:
    feed(checkpoints, both)
    both.refusals = [StoreCorruptError("page 7")]
    with pytest.raises(StoreCorruptError):
        await checkpoints.move()
    assert both.checkpoint_seq == 0


async def test_one_that_the_store_does_not_allow_is_logged_once(checkpoints: Checkpoints, both: Both) -> None:
    feed(checkpoints, both)
    both.refusals = [StoreUnavailableError("away")] * 3
    with capture_logs() as logs:
        for _ in range(4):
            await checkpoints.move()
    assert both.checkpoint_seq == 1
    assert [entry["log_level"] for entry in logs] == ["warning", "info"]


async def test_one_that_could_not_be_written_is_tried_again_soon_even_amid_work(checkpoints: Checkpoints, both: Both) -> None:
    feed(checkpoints, both)
    both.refusals = [JournalError("the disk is full")]
    await checkpoints.move()
    assert not checkpoints.is_overdue
    feed(checkpoints, both)
    await until_due(checkpoints)
    assert checkpoints.is_overdue
    await checkpoints.move()
    assert both.checkpoint_seq == 2


async def test_a_store_that_refuses_more_lets_the_journal_forget_what_it_has(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.feeder.checkpoints, "AFTER_S", 0.001)
    monkeypatch.setattr(kqs.feeder.feeder, "STORE_FIRST_S", 0.001)
    insert = feeding.rig.store.insert

    async def refuse_the_second(*args: Any) -> object:
        if feeder.fed_seq and not feeding.journal.checkpoint_seq:
            raise StoreUnavailableError("the disk is full")
        return await insert(*args)

    monkeypatch.setattr(feeding.rig.store, "insert", refuse_the_second)
    feeder = await feeding.start()
    await feeding.insert(b'{"type":"mail"}')
    await feeder.catch_up()
    await feeding.insert(b'{"type":"mail"}')
    await feeder.catch_up()
    assert feeding.journal.checkpoint_seq >= 1
