"""What workers elsewhere say of how far they are, from the desk to the job's record and its next run."""

from __future__ import annotations

import pytest

from kqs.job import NO_PROGRESS, Returned
from kqs.outcome import Failed, Ok
from kqs.queue.leases import SLOT_S
from kqs.remote.runs import OpenRun
from kqs.states import State
from tests.support.jobs import an_accepted
from tests.support.queueing import Rig
from tests.support.remote import Hired, a_desk
from tests.support.turning import until


async def a_run_of(rig: Rig, worker: Hired, number: int = 1, *, held: bool = False) -> OpenRun:
    worker.reserve(held=held)
    await rig.accept(an_accepted(number))
    (run,) = await worker.take()
    return run


async def test_it_is_in_the_record_when_that_is_told(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    run = await a_run_of(rig, worker)
    desk.save(run, b"[7]", worker.told.append)
    await until(lambda: worker.told == [True])
    assert (await rig.record(1)).progress == b"[7]"


async def test_it_counts_as_a_touch(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    run = await a_run_of(rig, worker)
    rig.clock.advance(20)
    desk.save(run, b"1", worker.told.append)
    rig.clock.advance(20)
    rig.queue.runs.look_again()
    assert desk.run(run.token) is run
    assert desk.left_s(run) == 10


@pytest.mark.parametrize("end", ["fail", "release", "lose", "expire"])
async def test_the_next_run_is_given_what_was_said_just_before_the_end(
    rig: Rig, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.cascade = type(rig.cascade)({"retry_delay": 0.0, "ghost_delay": 0.0}, {})
    await rig.restart()
    desk = a_desk(rig)
    worker = Hired(desk)
    run = await a_run_of(rig, worker)
    assert run.progress is None
    desk.save(run, b'"last"', worker.told.append)
    if end == "fail":
        desk.report(run, Failed("no"), lambda ok: None)
    elif end == "release":
        desk.release(run, Returned(), lambda ok: None)
    elif end == "lose":
        worker.party.leave("gone")
    else:
        rig.clock.advance(30 + 2 * SLOT_S)
        rig.queue.runs.look_again()
    await until(lambda: worker.told == [True])
    other = Hired(desk)
    seen: list[bytes | None] = []
    given = other._given

    def note(runs: list[OpenRun]) -> None:
        seen.extend(run.progress for run in runs)
        given(runs)

    monkeypatch.setattr(other, "_given", note)
    other.reserve()
    (again,) = await other.take()
    assert seen == [b'"last"']
    assert (again.progress, again.run.progress) == (None, NO_PROGRESS)  # it is not in memory while the run is open
    desk.report(again, Ok(), other.told.append)
    await until(lambda: other.told == [True])
    assert (await rig.record(1)).progress is None


async def test_a_success_in_the_first_step_leaves_none(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    run = await a_run_of(rig, worker)
    desk.save(run, b"1", worker.told.append)
    desk.release(run, Returned(), lambda ok: None)
    hand = rig.hand(1)
    begun = await hand.take()
    assert begun.progress == b"1"
    rig.queue.runs._leases.end(hand.leases[begun.claim.id])
    rig.queue.runs.end(begun, Ok())
    assert (await rig.until(1, State.SUCCESS)).progress is None


async def test_the_report_of_a_run_that_nobody_watches_leaves_none(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    run = await a_run_of(rig, worker, held=True)
    desk.save(run, b"1", worker.told.append)
    await until(lambda: worker.told == [True])
    record = await rig.record(1)
    rig.queue.runs.leave(run.lease)
    assert await rig.queue.runs.report_unwatched(record, run.run.claim, 1, Ok())
    assert (await rig.record(1)).progress is None


async def test_a_stop_writes_what_a_held_run_has_said(rig: Rig) -> None:
    desk = a_desk(rig)
    worker = Hired(desk)
    run = await a_run_of(rig, worker, held=True)
    for value in (b"1", b"2"):
        desk.save(run, value, worker.told.append)
    await desk.stop()
    await rig.restart()
    assert worker.told == [True, True]
    assert (await rig.record(1)).progress == b"2"
    again = a_desk(rig).run(run.token)
    assert again is not None
    assert (again.progress, again.run.progress) == (None, NO_PROGRESS)
