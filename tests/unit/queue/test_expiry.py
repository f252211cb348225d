"""No expired job begins to run, whichever way it comes to a lane."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kqs.job import Accepted, JobRecord
from kqs.outcome import Failed, Ok
from kqs.queue.admission import may_run
from kqs.states import State
from tests.support.feeding import Feeding, caught_up
from tests.support.jobs import NOW, an_accepted
from tests.support.queueing import Rig


def expiring(number: int, in_s: float = 1.0) -> Accepted:
    job = an_accepted(number)
    job.expire_at = NOW + in_s
    return job


def never_ran(record: JobRecord, attempt: int = 0) -> bool:
    return (record.state, record.error, record.attempt, len(record.runs)) == (State.FAIL, "expired", attempt, attempt)


def test_a_job_may_run_until_it_expires() -> None:
    assert may_run(None, NOW)
    assert may_run(NOW + 0.001, NOW)
    assert not may_run(NOW, NOW)


async def test_not_as_a_new_job_that_meets_an_idle_lane(rig: Rig) -> None:
    hand = rig.hand(2)
    rig.clock.advance(3)
    await rig.accept(expiring(1), an_accepted(2))
    assert (await hand.take()).claim.order == an_accepted(2).order
    assert never_ran(await rig.until(1, State.FAIL))


async def test_not_from_the_broker(rig: Rig) -> None:
    await rig.accept(expiring(1), an_accepted(2))
    rig.clock.advance(3)
    hand = rig.hand(2)
    assert (await hand.take()).claim.order == an_accepted(2).order
    assert never_ran(await rig.until(1, State.FAIL))


async def test_not_after_a_claim_that_took_too_long(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = rig.store.claim

    async def slow_claim(*args: Any) -> object:
        runs = await claim(*args)
        rig.clock.advance(3)
        return runs

    await rig.accept(expiring(1))
    monkeypatch.setattr(rig.store, "claim", slow_claim)
    hand = rig.hand(1)
    assert never_ran(await rig.until(1, State.FAIL))
    assert hand.runs.empty()
    assert hand.consumer.room == 1


async def test_not_as_a_run_that_waited_for_its_lane(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    insert = rig.store.insert

    async def slow_insert(*args: Any) -> object:
        known = await insert(*args)
        rig.clock.advance(3)
        return known

    monkeypatch.setattr(rig.store, "insert", slow_insert)
    hand = rig.hand(1)
    await rig.accept(expiring(1))
    assert never_ran(await rig.until(1, State.FAIL))
    assert hand.runs.empty()


async def test_not_as_a_claim_of_the_journal_and_its_record_is_there_though_it_was_not_stored_yet(rig: Rig) -> None:
    hand = rig.hand(1)
    job = expiring(1)
    reservation = rig.queue.admission.admit([job], rig.clock.now())
    rig.clock.advance(3)
    rig.queue.run_claimed(reservation)
    assert hand.runs.empty()
    await rig.accept(job)
    await rig.queue.settle()
    assert never_ran(await rig.record(1))


async def test_not_after_a_failure(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(expiring(1, 60))
    await hand.end(await hand.take(), Failed("no"))
    assert (await rig.record(1)).state is State.RETRY
    rig.clock.advance(61)
    rig.queue._timetable._due.note(0.0)
    rig.queue._timetable._expiring.note(0.0)
    assert never_ran(await rig.until(1, State.FAIL), attempt=1)
    assert hand.runs.empty()


async def test_not_as_what_a_dead_server_left_claimed(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(expiring(1))
    await hand.take()
    rig.clock.advance(3)
    await rig.restart()
    record = await rig.record(1)
    assert (record.state, record.attempt, [run.state for run in record.runs]) == (State.FAIL, 1, ["ghost"])


@pytest.mark.parametrize("text", [b'{"type":"mail","expire":1}', b"[%b]" % b",".join([b'{"type":"mail","expire":1}'] * 300)])
async def test_not_from_the_journal_of_an_earlier_boot(feeding: Feeding, text: bytes) -> None:
    feeder = await feeding.start()
    await feeder.stop()
    last = await feeding.insert(text)
    await feeding.journal.stop()
    feeding.rig.clock.advance(3)
    hand = feeding.rig.hand(1000)
    feeder = await feeding.start()
    await caught_up(feeder)
    async with asyncio.timeout(10):
        while (await feeding.rig.queue.reads.counts())["mail"].keys() != {State.FAIL}:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0)
    assert hand.runs.empty()
    record = await feeding.rig.queue.reads.job(feeding.ids.of(last))
    assert record is not None
    assert never_ran(record)


async def test_what_expires_during_its_run_may_still_succeed(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(expiring(1))
    run = await hand.take()
    rig.clock.advance(3)
    assert await hand.end(run, Ok())
    assert (await rig.record(1)).state is State.SUCCESS
