import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

import kqs.queue.queue
from kqs.errors import StoreCorruptError, StoreError, StoreUnavailableError
from kqs.job import Entry, Report, Run, entry_of
from kqs.outcome import Again, Failed, Ok
from kqs.queue.consumer import Consumer
from kqs.queue.housekeeping import CHILDREN_S
from kqs.queue.leases import SLOT_S
from kqs.states import State
from kqs.store import base
from tests.support.jobs import NOW, ORDER, an_accepted
from tests.support.queueing import Rig


async def test_a_new_job_that_meets_an_idle_lane_is_stored_as_claimed(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1, data=b'{"a":1}'))
    run = await hand.take()
    assert (run.claim.attempt, run.data) == (1, b'{"a":1}')
    assert (await rig.record(run)).state is State.PROCESSING


async def test_a_job_that_waits_is_taken_when_there_is_room(rig: Rig) -> None:
    await rig.accept(an_accepted(1))
    assert (await rig.record(1)).state is State.NEW
    assert (await rig.hand(1).take()).claim.order == ORDER + 1


async def test_a_copy_that_comes_beside_its_job_is_deleted_and_the_other_kept_until_the_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted: list[object] = []
    reserve = rig.broker.reserve

    async def reserve_twice(weights: Mapping[str, int], count: int, most_of: Callable[[str], int] | None = None) -> list[Entry]:
        return [replace(entry, handle=number) for entry in await reserve(weights, count, most_of) for number in (1, 2)]

    async def delete(entries: Sequence[Entry]) -> None:
        deleted.extend(entry.handle for entry in entries)

    monkeypatch.setattr(rig.broker, "reserve", reserve_twice)
    monkeypatch.setattr(rig.broker, "delete", delete)
    await rig.accept(an_accepted(1))
    hand = rig.hand(2)
    run = await hand.take()
    async with asyncio.timeout(10):
        while not deleted:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
    assert (run.handle, deleted) == (1, [2])
    await hand.end(run)
    assert deleted == [2, 1]


async def test_a_finished_job_is_a_success_with_its_result(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    assert await hand.end(await hand.take(), Ok(b"[7]"))
    record = await rig.record(1)
    assert (record.state, record.result, [run.state for run in record.runs]) == (State.SUCCESS, b"[7]", ["success"])


async def test_waiting_jobs_come_by_priority_then_age(rig: Rig) -> None:
    await rig.accept(an_accepted(1), an_accepted(2, prio=8000), an_accepted(3), an_accepted(4, prio=8000))
    hand = rig.hand(4)
    orders = [(await hand.take()).claim.order - ORDER for _ in range(4)]
    assert orders == [2, 4, 1, 3]


async def test_of_new_jobs_the_most_urgent_meets_the_idle_lane(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1), an_accepted(2, prio=1))
    assert (await hand.take()).claim.order == ORDER + 2


async def test_of_several_who_take_a_new_job_each_has_its_turn(rig: Rig) -> None:
    hands = [rig.hand(10) for _ in range(3)]
    for number in range(6):
        await rig.accept(an_accepted(number))
    taken = [[hand.runs.get_nowait().claim.order - ORDER for _ in range(hand.runs.qsize())] for hand in hands]
    assert taken == [[0, 3], [1, 4], [2, 5]]


async def test_new_jobs_that_come_together_are_shared_out_as_far_as_each_has_room(rig: Rig) -> None:
    hands = [rig.hand(100), rig.hand(2), rig.hand(100), rig.hand(100, "other")]
    await rig.accept(*(an_accepted(number) for number in range(20)))
    taken = [[hand.runs.get_nowait().claim.order - ORDER for _ in range(hand.runs.qsize())] for hand in hands]
    assert [len(orders) for orders in taken] == [9, 2, 9, 0]
    assert all(orders == sorted(orders) for orders in taken)


async def test_new_jobs_of_types_that_not_all_take_find_who_takes_them(rig: Rig) -> None:
    mails, both = rig.hand(100), rig.hand(100, "mail", "resize")
    await rig.accept(*(an_accepted(number, ("mail", "resize")[number % 5 == 0]) for number in range(50)))
    async with asyncio.timeout(10):
        taken = [await hand.take() for hand, count in ((mails, 20), (both, 10)) for _ in range(count)]
        while mails.runs.qsize() + both.runs.qsize() < 50 - len(taken):  # noqa: ASYNC110 - the last come by way of the store
            await asyncio.sleep(0)


async def test_a_new_job_does_not_overtake_those_that_wait(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1), an_accepted(2))
    first = await hand.take()
    await rig.accept(an_accepted(3))
    await hand.end(first)
    assert (await hand.take()).claim.order == ORDER + 2


async def test_a_lone_type_gets_its_turn_beside_a_thousand_of_another(rig: Rig) -> None:
    await rig.accept(*(an_accepted(n) for n in range(1000)), an_accepted(1000, "lone"))
    hand = rig.hand(2, "mail", "lone")
    assert {(await hand.take()).type for _ in range(2)} == {"mail", "lone"}


async def test_the_same_job_again_changes_nothing_and_gives_the_lane_back(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    await hand.end(await hand.take())
    await rig.accept(an_accepted(1))
    assert (await rig.record(1)).state is State.SUCCESS
    await rig.accept(an_accepted(2))
    assert (await hand.take()).claim.order == ORDER + 2


async def test_a_failure_waits_and_runs_again_with_the_next_attempt(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    await hand.end(await hand.take(), Failed("no"))
    record = await rig.record(1)
    assert (record.state, record.failures, record.due_at) == (State.RETRY, 1, NOW + 30)
    rig.clock.advance(31)
    rig.queue._timetable._due.note(0.0)
    run = await hand.take()
    assert (run.claim.attempt, run.failures) == (2, 1)


async def test_a_delayed_job_is_taken_when_it_is_due(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1, due_at=NOW + 0.05))
    assert (await rig.record(1)).state is State.DELAYED
    rig.clock.advance(0.05)
    assert (await hand.take()).claim.order == ORDER + 1


async def test_again_without_a_delay_runs_again_at_once_and_costs_nothing(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    await hand.end(await hand.take(), Again())
    run = await hand.take()
    assert (run.claim.attempt, run.failures, run.ghosts) == (2, 0, 0)


async def test_a_lost_run_becomes_a_ghost_and_its_late_report_is_stale(rig: Rig) -> None:
    hand = rig.hand(2)
    await rig.accept(an_accepted(1))
    lost = await hand.take()
    rig.clock.advance(30 + 2 * SLOT_S)
    lease = hand.leases[lost.claim.id]
    rig.queue.runs.look_again()
    assert hand.lost == [lease]
    assert not rig.queue.runs.report(lease, Ok())
    again = await hand.take()
    assert (again.claim.attempt, again.ghosts) == (2, 1)
    assert await hand.end(again)
    assert [run.state for run in (await rig.record(1)).runs] == ["ghost", "success"]


async def test_a_run_whose_worker_is_gone_is_a_ghost_at_once_and_is_lost_once(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    lease = hand.leases[(await hand.take()).claim.id]
    rig.queue.runs.lose(lease, "its connection was lost")
    rig.queue.runs.lose(lease, "its connection was lost")
    assert not rig.queue.runs.report(lease, Ok())
    assert not rig.queue.runs.interrupt(lease)
    assert (rig.queue.runs.ghost_count, rig.queue.runs.stale_count, rig.queue.runs.count) == (1, 1, 0)
    record = await rig.until(1, State.GHOST)
    assert (record.ghosts, record.runs[0].error, hand.lost) == (1, "its connection was lost", [])


async def test_a_run_given_back_with_a_delay_waits_for_it_and_costs_nothing(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    lease = hand.leases[(await hand.take()).claim.id]
    assert rig.queue.runs.release(lease, 60.0)
    assert not rig.queue.runs.release(lease, 60.0)
    record = await rig.until(1, State.RETRY)
    assert (record.due_at, record.failures, record.interrupted, record.runs[0].state) == (NOW + 60, 0, 1, "interrupted")


async def test_who_reported_is_told_when_it_is_stored(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    told: list[bool] = []
    assert rig.queue.runs.report(hand.leases[run.claim.id], Ok())
    rig.queue.runs.when_stored(run, told.append)
    assert told == []
    await rig.queue.settle()
    assert told == [True]
    assert (await rig.record(run)).state is State.SUCCESS


async def test_a_run_over_its_time_limit_is_a_failure(rig: Rig) -> None:
    hand = rig.hand(1)
    job = an_accepted(1)
    job.options = b'{"time_limit":5,"retries":0}'
    await rig.accept(job)
    await hand.take()
    rig.clock.advance(6)
    rig.queue.runs.look_again()
    await rig.queue.settle()
    record = await rig.record(1)
    assert (record.state, record.error, record.ghosts) == (State.FAIL, "time_limit of 5 s reached", 0)


@pytest.mark.parametrize(
    "options",
    [
        b'{"ttr":5,"time_limit":8,"retries":0}',
        b'{"ttr":30,"time_limit":8,"retries":0}',
        b'{"ttr":8,"time_limit":8,"retries":0}',
        b'{"ttr":8,"time_limit":8.01,"retries":0}',
        b'{"ttr":1,"auto_touch":true,"time_limit":8,"retries":0}',
    ],
)
async def test_a_touched_run_over_its_time_limit_has_failed(rig: Rig, options: bytes) -> None:
    hand = rig.hand(1)
    job = an_accepted(1)
    job.options = options
    await rig.accept(job)
    run = await hand.take()
    for _ in range(7):
        rig.clock.advance(1)
        hand.leases[run.claim.id].context.touch()
        rig.queue.runs.look_again()
    assert hand.lost == []
    rig.clock.advance(1 + 2 * SLOT_S)
    rig.queue.runs.look_again()
    await rig.queue.settle()
    record = await rig.record(1)
    assert (record.state, record.failures, record.ghosts) == (State.FAIL, 1, 0)
    assert record.error is not None
    assert record.error.startswith("time_limit")


async def test_a_loop_held_up_past_ttr_and_limit_finds_a_failure(rig: Rig) -> None:
    hand = rig.hand(1)
    job = an_accepted(1)
    job.options = b'{"ttr":5,"time_limit":8,"retries":0}'
    await rig.accept(job)
    await hand.take()
    rig.clock.advance(60)
    rig.queue.runs.look_again()
    await rig.queue.settle()
    record = await rig.record(1)
    assert (record.state, record.failures, record.ghosts) == (State.FAIL, 1, 0)


@pytest.mark.parametrize("back_s", [0.0, 7200.0])
async def test_a_clock_that_goes_back_within_a_run_neither_ends_it_before_its_begin_nor_lengthens_its_retry(
    rig: Rig, back_s: float
) -> None:
    hand = rig.hand(1)
    rig.clock.jump(0.000_7)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    rig.clock.jump(-back_s)
    await hand.end(run, Failed("no"))
    record = await rig.record(1)
    assert record.due_at == pytest.approx(rig.clock.now() + 30, abs=0.001)
    assert record.runs[0].ended_at is not None
    assert record.runs[0].ended_at >= record.runs[0].started_at
    rig.clock.advance(31)
    rig.queue._timetable._due.note(0.0)
    await hand.end(await hand.take())
    assert [one.state for one in (await rig.record(1)).runs] == ["fail", "success"]


@pytest.mark.parametrize("is_seen", [True, False])
async def test_no_wait_takes_longer_than_was_asked_for_after_the_clock_was_set_back(rig: Rig, is_seen: bool) -> None:
    rig.cascade.set_handler_options("slow", {"delay": 20, "expire": 90})
    hand, ahead = rig.hand(3), 7200.0
    rig.clock.jump(ahead)
    now = rig.clock.now()
    own, types, at, expires = (an_accepted(n, type_) for n, type_ in enumerate(("mail", "slow", "mail", "cold"), 1))
    own.options, own.due_at = b'{"delay":5}', now + 5
    types.due_at, types.expire_at = now + 20, now + 90
    at.due_at = now + 60
    expires.options, expires.expire_at = b'{"expire":30}', now + 30
    for job in (own, types, at, expires):
        job.accepted_at = now
    await rig.accept(own, types, at, expires)
    for number, outcome in ((11, Failed("no")), (12, Again(7))):
        await rig.accept(an_accepted(number))
        await hand.end(await hand.take(), outcome)
    if is_seen:
        await rig.queue.house.keep()
    rig.clock.jump(-ahead)
    await rig.queue.house.keep()
    now = rig.clock.now()
    records = {n: await rig.record(n) for n in (1, 2, 3, 4, 11, 12)}
    assert {n: record.due_at - now for n, record in records.items()} == {1: 5, 2: 20, 3: ahead + 60, 4: -now, 11: 30, 12: 7}
    assert [records[n].expire_at for n in (1, 2, 4)] == [None, now + 90, now + 30]
    rig.clock.advance(5)
    rig.queue._timetable._due.note(0.0)
    assert (await hand.take()).claim.order == ORDER + 1


async def test_jobs_that_are_stored_after_the_clock_was_set_back_wait_no_longer_than_was_asked_for(rig: Rig) -> None:
    job = an_accepted(1)
    job.options, job.accepted_at = b'{"delay":5}', NOW + 7200
    job.due_at = job.accepted_at + 5
    await rig.accept(job)
    await rig.queue.house.keep()
    assert (await rig.record(1)).due_at == NOW + 5


async def test_a_retry_from_a_clock_that_was_ahead_for_a_moment_is_due_as_was_asked_for(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    rig.clock.jump(7200)
    await hand.end(run, Again(7))
    rig.clock.jump(-7200)
    await rig.queue.house.keep()
    assert (await rig.record(1)).due_at == pytest.approx(rig.clock.now() + 7, abs=0.001)


async def test_a_run_of_a_dead_server_whose_clock_was_ahead_says_nothing_of_ours(rig: Rig) -> None:
    hand = rig.hand(1)
    rig.clock.jump(30)
    await rig.accept(an_accepted(1))
    await hand.take()
    rig.clock.jump(-30)
    await rig.restart()
    assert (await rig.record(1)).state is State.GHOST
    assert rig.queue._timetable.jumps.back_s() == 0.0


async def test_a_start_shortens_what_a_clock_that_was_ahead_has_computed(rig: Rig) -> None:
    ahead = 7200.0
    job = an_accepted(int(ahead * 1e6))
    job.options, job.due_at = b'{"delay":5}', NOW + ahead + 5
    await rig.accept(job)
    await rig.restart()
    await rig.queue.house.keep()
    record = await rig.queue.reads.job(job.id)
    assert record is not None
    assert record.due_at == NOW + 5


async def test_an_interrupted_run_is_free_and_runs_again(rig: Rig) -> None:
    hand = rig.hand(2)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    rig.queue.runs.interrupt(hand.leases[run.claim.id])
    again = await hand.take()
    assert (again.interrupted, again.failures, again.ghosts) == (1, 0, 0)


async def test_what_a_dead_server_left_claimed_runs_again_at_once(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    await hand.take()
    await rig.restart()
    record = await rig.record(1)
    assert (record.state, record.ghosts, record.runs[-1].state) == (State.GHOST, 1, "ghost")
    run = await rig.hand(1).take()
    assert run.claim.attempt == 2


async def test_waiting_and_delayed_jobs_outlive_a_restart(rig: Rig) -> None:
    await rig.accept(an_accepted(1), an_accepted(2, due_at=NOW + 60))
    await rig.restart()
    hand = rig.hand(2)
    assert (await hand.take()).claim.order == ORDER + 1
    rig.clock.advance(61)
    rig.queue._timetable._due.note(0.0)
    assert (await hand.take()).claim.order == ORDER + 2


async def test_a_job_that_expires_while_it_waits_fails(rig: Rig) -> None:
    job = an_accepted(1)
    job.expire_at = NOW
    await rig.accept(job)
    record = await rig.until(1, State.FAIL)
    assert (record.error, record.drop_at) == ("expired", None)


async def test_records_go_when_their_retention_is_over_and_no_replay_could_bring_them_back(rig: Rig) -> None:
    hand = rig.hand(2)
    await rig.accept(an_accepted(1), an_accepted(2))
    for _ in range(2):
        await hand.end(await hand.take())
    rig.replayable_order = ORDER + 2
    assert await rig.queue.house.sweep() == 0
    rig.clock.advance(3601)
    assert await rig.queue.house.sweep() == 1
    rig.replayable_order = 2**62
    assert await rig.queue.house.sweep() == 1


async def test_what_is_over_stays_while_jobs_that_are_to_wait_for_it_may_be_on_their_way(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    await hand.end(await hand.take())
    rig.clock.advance(3601)
    rig.queue.house.expect_children()
    assert await rig.queue.house.sweep() == 0
    rig.clock.advance(CHILDREN_S)
    assert await rig.queue.house.sweep() == 1


async def test_hunger_is_told_when_there_is_room_and_nothing_ready(rig: Rig) -> None:
    told = asyncio.Event()
    rig.queue.wishes.more = told.set
    rig.hand(1)
    async with asyncio.timeout(10):
        await told.wait()


async def test_a_store_that_refuses_new_jobs_leaves_the_lane_free(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = rig.hand(1)

    async def refuse(*_: object) -> list[int]:
        raise StoreUnavailableError("full")

    with monkeypatch.context() as patch:
        patch.setattr(rig.store, "insert", refuse)
        with pytest.raises(StoreUnavailableError):
            await rig.accept(an_accepted(1))
    await rig.accept(an_accepted(1))
    assert (await hand.take()).claim.order == ORDER + 1


async def test_reports_wait_for_a_store_that_refuses_them(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    report, refusals = rig.store.report, [1]

    async def refuse_once(reports: Sequence[Report]) -> Sequence[bool | None]:
        if refusals.pop() > 0:
            refusals.append(0)
            raise StoreUnavailableError("full")
        return await report(reports)

    monkeypatch.setattr(rig.store, "report", refuse_once)
    await hand.end(run)
    assert (await rig.record(1)).state is State.SUCCESS
    assert rig.queue.problems() == []


async def test_claims_that_the_store_refuses_are_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.accept(an_accepted(1))
    claim, refusals = rig.store.claim, [1]

    async def refuse_once(*args: Any) -> object:
        if refusals:
            refusals.pop()
            raise StoreUnavailableError("full")
        return await claim(*args)

    monkeypatch.setattr(rig.store, "claim", refuse_once)
    assert (await rig.hand(1).take()).claim.order == ORDER + 1


async def test_a_job_that_ended_elsewhere_is_refused_by_the_fence(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    await hand.end(await hand.take())
    await rig.broker.put([entry_of(an_accepted(1), None), entry_of(an_accepted(2), None)])
    await rig.accept(an_accepted(2))
    assert (await hand.take()).claim.order == ORDER + 2


async def test_a_store_that_refuses_reports_does_not_hold_up_the_stop(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.queue.queue, "SETTLE_S", 0.01)
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()

    async def refuse(_reports: object) -> list[bool]:
        raise StoreUnavailableError("full")

    monkeypatch.setattr(rig.store, "report", refuse)
    rig.queue.runs.report(hand.leases[run.claim.id], Ok())
    await rig.queue.runs.remove_consumer(hand.consumer)
    rig.hands.clear()
    async with asyncio.timeout(4):
        await rig.queue.stop()


@pytest.mark.parametrize("fault", [StoreCorruptError("damaged"), StoreError("no such table")])
@pytest.mark.parametrize("operation", ["claim", "ready", "report"])
async def test_trouble_that_does_not_pass_ends_the_server(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, operation: str, fault: StoreError
) -> None:
    monkeypatch.setattr(kqs.queue.queue, "SETTLE_S", 0.01)
    await rig.accept(an_accepted(1))

    async def fail(*_: object) -> object:
        raise fault

    monkeypatch.setattr(rig.store, operation, fail)
    monkeypatch.setattr(rig.broker, "_refill", rig.store.ready)
    hand = rig.hand(1)
    if operation == "report":
        rig.queue.runs.report(hand.leases[(await hand.take()).claim.id], Ok())
    assert (await rig.supervisor.told())[1] is fault


async def test_damage_that_a_question_meets_ends_the_server(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail() -> None:
        raise StoreCorruptError("damaged")

    monkeypatch.setattr(rig.store, "counts", fail)
    with pytest.raises(StoreCorruptError):
        await rig.queue.reads.counts()
    assert (await rig.supervisor.told())[0] == "queue"


async def test_ready_jobs_that_another_server_stored_are_found(rig: Rig) -> None:
    rig.seek_looks = 1
    await rig.restart()
    hand = rig.hand(2)
    await rig.store.insert([an_accepted(1), an_accepted(2, type_="other")], 0, "elsewhere", NOW)
    await rig.queue.house.keep()
    assert (await hand.take()).claim.order == ORDER + 1
    await rig.queue.house.keep()
    assert hand.runs.empty()


async def test_runs_of_a_server_that_died_go_on_here(rig: Rig) -> None:
    rig.cascade.set_handler_options("mail", {"ghost_delay": 0})
    await rig.store.insert([replace(an_accepted(1), claimed_at=NOW)], 0, "elsewhere", NOW)
    await rig.store._runner.call(lambda session: session.db.execute("update jobs set epoch = 0"))
    hand = rig.hand(1)
    await rig.queue.house.keep()
    run = await hand.take()
    assert (run.claim.attempt, run.ghosts) == (2, 1)


async def test_a_run_that_another_server_gave_back_first_is_no_stale_report(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.store.insert([replace(an_accepted(1), claimed_at=NOW)], 0, "elsewhere", NOW)
    await rig.store._runner.call(lambda session: session.db.execute("update jobs set epoch = 0"))
    looks = [[], await rig.store.orphans(9)]
    await rig.queue.house.keep()

    async def orphans(_limit: int, _keep_damaged_s: float | None) -> list[Run]:
        return looks.pop()

    monkeypatch.setattr(rig.store, "orphans", orphans)
    await rig.queue.house.keep()
    assert (await rig.record(1)).ghosts == 1
    assert rig.queue.runs.stale_count == 0


async def test_a_lane_that_a_new_job_took_meanwhile_is_not_filled_twice(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.accept(an_accepted(1))
    reserve, begun, may_go_on = rig.broker.reserve, asyncio.Event(), asyncio.Event()

    async def dawdle(*args: Any) -> object:
        begun.set()
        await may_go_on.wait()
        return await reserve(*args)

    monkeypatch.setattr(rig.broker, "reserve", dawdle)
    hand = rig.hand(1, "mail", "other")
    async with asyncio.timeout(10):
        await begun.wait()
    await rig.accept(an_accepted(2, type_="other"))
    first = await hand.take()
    may_go_on.set()
    assert (first.claim.order, hand.runs.empty()) == (ORDER + 2, True)
    await hand.end(first)
    assert (await hand.take()).claim.order == ORDER + 1


async def test_what_a_claim_leaves_for_its_data_is_taken_next(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "DATA_BYTES", 1000)
    data = [b"1" * 600, b"2" * 700, b"3" * 800, b"4", b"5" * 300]
    await rig.accept(*(an_accepted(n, data=one) for n, one in enumerate(data, 1)))
    hand = rig.hand(5)
    runs = [await hand.take() for _ in data]
    assert sorted(run.data for run in runs) == data
    assert {run.claim.attempt for run in runs} == {1}
    assert hand.consumer.room == 0


async def test_no_more_is_claimed_while_much_data_waits_for_its_runs_to_begin(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "DATA_BYTES", 10_000)
    await rig.accept(*(an_accepted(n, data=b"1" * 6000) for n in range(1, 6)))
    delivered: asyncio.Queue[Run] = asyncio.Queue()

    def deliver(runs: list[Run]) -> None:
        consumer.weigh(runs)
        for run in runs:
            delivered.put_nowait(run)

    consumer = Consumer("worker", ["mail"], 9, deliver)
    rig.queue.runs.add_consumer(consumer)
    held = [await delivered.get(), await delivered.get()]
    await rig.store.counts()
    await rig.store.counts()
    assert delivered.empty()
    while held:
        consumer.begin(held.pop())
    assert len([await delivered.get() for _ in range(2)]) == 2
    await rig.queue.runs.remove_consumer(consumer)


async def test_a_consumer_that_is_removed_once_more_is_gone_as_before(rig: Rig) -> None:
    hand = rig.hand(1)
    await asyncio.gather(*(rig.queue.runs.remove_consumer(hand.consumer) for _ in range(2)))
    await rig.queue.runs.remove_consumer(hand.consumer)
    assert not rig.queue.admission.is_handled("mail")
    rig.hands.clear()
