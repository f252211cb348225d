"""Jobs that are claimed as they are journaled: they run before the store has them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

import kqs.feeder.claims
import kqs.feeder.feeder
import kqs.feeder.held
import kqs.store.base
from kqs.errors import JournalFailedError, StoreUnavailableError
from kqs.job import Report
from kqs.journal import Kind, Record, claimed_orders
from kqs.outcome import Failed, Ok
from kqs.queue.limiting import Said
from kqs.states import State
from tests.support.feeding import Feeding, caught_up
from tests.support.journal import all_settled

JOB = b'{"type":"mail"}'
JOBS_2 = b'[{"type":"mail"},{"type":"mail"}]'
URGENT = b'{"type":"mail","prio":"urgent"}'


class Gate:
    """A store that has new jobs wait until it is open."""

    def __init__(self, feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
        self._insert = feeding.rig.store.insert
        self._opened = asyncio.Event()
        self.asked = asyncio.Event()
        monkeypatch.setattr(feeding.rig.store, "insert", self._pass)

    def open(self) -> None:
        self._opened.set()

    async def _pass(self, *args: Any) -> object:
        self.asked.set()
        await self._opened.wait()
        return await self._insert(*args)


async def claimed(feeding: Feeding) -> list[bool]:
    """Return which records of the journal say that they are claimed."""
    return [record.claimed async for records in feeding.journal.read(0) for record in records if record.count]


async def test_an_end_somebody_waits_for_does_not_wait_for_others(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its job would else gather with later ones before it is stored."""
    gate = Gate(feeding, monkeypatch)
    await feeding.start()
    hand = feeding.rig.hand(1)
    order = await feeding.insert(JOB)
    run = await hand.take()
    told: list[bool] = []
    assert feeding.rig.queue.runs.report(hand.leases[run.claim.id], Ok(b"[7]"))
    feeding.rig.queue.runs.when_stored(run, told.append)
    async with asyncio.timeout(10):
        await gate.asked.wait()
        assert told == []
        gate.open()
        while not told:  # noqa: ASYNC110 - it is told, and no more
            await asyncio.sleep(0)
    assert told == [True]
    assert await feeding.state(order) is State.SUCCESS


async def claimed_later(feeding: Feeding) -> list[int]:
    """Return the orders of the jobs that were claimed after they were journaled."""
    found = [record async for records in feeding.journal.read(0) for record in records if record.kind is Kind.CLAIMS]
    return [order for record in found for orders in claimed_orders(record) for order in orders]


def refuse(*_: object) -> None:
    raise JournalFailedError("no")


async def test_a_lone_job_that_meets_a_waiting_lane_runs_before_it_is_stored(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, gate = feeding.rig.hand(1), Gate(feeding, monkeypatch)
    feeder = await feeding.start()
    order = await feeding.insert(JOB)
    run = hand.runs.get_nowait()
    assert (run.claim.order, run.claim.attempt, run.started_at) == (order, 1, feeding.rig.clock.now())
    assert await feeding.rig.queue.reads.job(run.claim.id) is None
    gate.open()
    await caught_up(feeder)
    assert await feeding.state(order) is State.PROCESSING
    assert await hand.end(run)
    assert await feeding.state(order) is State.SUCCESS


async def test_a_run_that_ends_before_its_job_is_stored_is_reported_after_it(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, gate = feeding.rig.hand(1), Gate(feeding, monkeypatch)
    feeder = await feeding.start()
    order = await feeding.insert(JOB)
    assert await hand.end(await hand.take(), Ok(b"[7]"))
    assert feeding.rig.queue.runs.count == 0
    gate.open()
    await caught_up(feeder)
    await feeding.rig.queue.settle()
    record = await feeding.rig.queue.reads.job(feeding.ids.of(order))
    assert record is not None
    assert (record.state, record.result, record.runs[0].started_at) == (State.SUCCESS, b"[7]", feeding.rig.clock.now())


async def test_a_failed_run_of_a_job_that_is_not_stored_yet_is_tried_again(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, gate = feeding.rig.hand(1), Gate(feeding, monkeypatch)
    await feeding.start()
    await feeding.insert(b'{"type":"mail","retry_delay":0}')
    await hand.end(await hand.take(), Failed("no"))
    gate.open()
    again = await hand.take()
    assert (again.claim.attempt, again.failures) == (2, 1)


async def test_while_one_is_not_stored_the_next_one_runs_as_well(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    hand, gate = feeding.rig.hand(2), Gate(feeding, monkeypatch)
    await feeding.start()
    await feeding.insert(JOB)
    await feeding.insert(JOB)
    assert (await claimed(feeding), hand.runs.qsize()) == ([True, True], 2)
    gate.open()


@pytest.mark.parametrize("reason", ["they are many", "the first is late", "their results are long"])
async def test_none_is_claimed_while_those_that_are_not_stored_yet_are_enough(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    hand, gate = feeding.rig.hand(4), Gate(feeding, monkeypatch)
    await feeding.start()
    await feeding.insert(JOB)
    async with asyncio.timeout(10):
        await gate.asked.wait()
    await hand.take()
    await feeding.insert(JOB)
    assert await claimed(feeding) == [True, True]
    if reason == "they are many":
        monkeypatch.setattr(kqs.feeder.claims, "MOST_CLAIMED", 1)
    elif reason == "the first is late":
        feeding.rig.clock.advance(kqs.feeder.claims.LATE_S)
    else:
        monkeypatch.setattr(kqs.store.base, "DATA_BYTES", 5)
        await hand.end(await hand.take(), Ok(b'"long"'))
    await feeding.insert(JOB)
    assert await claimed(feeding) == [True, True, False]
    gate.open()


async def test_all_jobs_of_a_batch_that_meet_room_run_before_they_are_stored(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, gate = feeding.rig.hand(5), Gate(feeding, monkeypatch)
    await feeding.start()
    last = await feeding.insert(JOB, JOBS_2, JOB, URGENT)
    assert await claimed(feeding) == [True, True, True, True]
    assert [(await hand.take()).claim.order for _ in range(5)] == [last, *range(last - 4, last)]
    gate.open()


async def test_an_end_that_came_before_its_job_was_stored_goes_in_with_it(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[object] = []
    report = feeding.rig.store.report

    async def noted(some: Sequence[Report]) -> Sequence[bool | None]:
        reports.append(some)
        return await report(some)

    monkeypatch.setattr(feeding.rig.store, "report", noted)
    hand, gate = feeding.rig.hand(3), Gate(feeding, monkeypatch)
    feeder = await feeding.start()
    orders = [await feeding.insert(JOB) for _ in range(3)]
    for outcome in (Ok(), Ok(b"[7]"), Failed("no", final=True)):
        await hand.end(await hand.take(), outcome)
    gate.open()
    await caught_up(feeder)
    records = [await feeding.rig.queue.reads.job(feeding.ids.of(order)) for order in orders]
    assert [(r and r.state, r and r.result, r and r.error) for r in records] == [
        (State.SUCCESS, None, None),
        (State.SUCCESS, b"[7]", None),
        (State.FAIL, None, "no"),
    ]
    assert reports == []


async def test_jobs_that_wait_for_lanes_are_claimed_as_those_become_free(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, gate = feeding.rig.hand(2), Gate(feeding, monkeypatch)
    feeder = await feeding.start()
    last = await feeding.insert(b"[" + b",".join([JOB] * 5) + b"]")
    first, second = await hand.take(), await hand.take()
    assert (await claimed_later(feeding), hand.runs.qsize()) == ([last - 4, last - 3], 0)
    await hand.end(first)
    third = await hand.take()
    for run in (second, third):
        await hand.end(run)
    for _ in range(2):
        await hand.end(await hand.take())
    assert sorted(await claimed_later(feeding)) == [*range(last - 4, last + 1)]
    assert await feeding.rig.queue.reads.job(feeding.ids.of(last)) is None
    gate.open()
    await caught_up(feeder)
    await feeding.rig.queue.settle()
    assert await feeding.rig.queue.reads.counts() == {"mail": {State.SUCCESS: 5}}


async def test_jobs_that_wait_for_a_slot_of_their_type_are_claimed_as_those_become_free(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane that has room for others asks all the while, and has no use for them."""
    await feeding.rig.queue.limiting.say("mail", Said(max_running=1))
    hand, gate = feeding.rig.hand(3), Gate(feeding, monkeypatch)
    await feeding.start()
    last = await feeding.insert(b"[" + b",".join([JOB] * 5) + b"]")
    for _ in range(5):
        run = await hand.take()
        feeding.rig.queue.wishes.more()
        await hand.end(run)
    assert sorted(await claimed_later(feeding)) == [*range(last - 4, last + 1)]
    assert await feeding.rig.queue.reads.job(feeding.ids.of(last)) is None
    gate.open()


async def test_what_waits_for_a_slot_for_long_is_stored_though_others_ask(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    await feeding.rig.queue.limiting.say("mail", Said(max_running=1))
    hand = feeding.rig.hand(3)
    await feeding.start()
    last = await feeding.insert(b"[" + b",".join([JOB] * 5) + b"]")
    await hand.take()
    await feeding.stored_though_asked(last)
    assert await feeding.state(last) is State.NEW


async def test_a_job_may_be_claimed_while_those_before_it_are_only_claimed(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, gate = feeding.rig.hand(1), Gate(feeding, monkeypatch)
    feeder = await feeding.start()
    orders = [await feeding.insert(JOB) for _ in range(3)]
    for order in orders:
        run = await hand.take()
        assert run.claim.order == order
        await hand.end(run)
    orders.append(await feeding.insert(JOB))
    assert (await claimed(feeding))[-1]
    gate.open()
    await caught_up(feeder)
    assert [await feeding.state(order) for order in orders] == [State.SUCCESS] * 3 + [State.PROCESSING]


async def test_none_is_claimed_while_one_before_it_is_on_its_way_into_the_store(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, gate = feeding.rig.hand(1), Gate(feeding, monkeypatch)
    await feeding.start()
    await feeding.insert(b'[{"type":"mail","id":"first"},{"type":"mail","id":"second"}]')
    async with asyncio.timeout(10):
        await gate.asked.wait()
    other = feeding.rig.hand(1)
    await feeding.insert(JOB)
    gate.open()
    assert [(await each.take()).claim.id for each in (hand, other)] == ["first", "second"]
    assert await claimed(feeding) == [False, False]


async def test_jobs_that_are_being_claimed_are_not_stored_before_that_is_flushed(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = feeding.rig.hand(2)
    feeder = await feeding.start()
    claims: asyncio.Queue[Record] = asyncio.Queue()
    with monkeypatch.context() as patches:
        patches.setattr(feeding.journal, "append", claims.put_nowait)
        order = await feeding.insert(b"[" + b",".join([JOB] * 3) + b"]")
        async with asyncio.timeout(10):
            claim = await claims.get()
    catching_up = asyncio.ensure_future(caught_up(feeder))
    for _ in range(10):
        await asyncio.sleep(0)
    assert feeder.lag_records
    feeding.journal.append(claim)
    await catching_up
    assert [(await hand.take()).claim.order for _ in range(2)] == [order - 2, order - 1]
    assert await feeding.state(order) is State.NEW
    assert feeding.faults == []


async def test_claims_that_cannot_be_flushed_are_taken_back_and_their_jobs_run_by_way_of_the_store(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = feeding.rig.hand(2)
    await feeding.start()
    monkeypatch.setattr(feeding.journal, "append", refuse)
    order = feeding.append(b"[" + b",".join([JOB] * 3) + b"]")
    await all_settled(feeding.journal)
    assert [(await hand.take()).claim.order for _ in range(2)] == [order - 2, order - 1]
    assert await feeding.state(order - 2) is State.PROCESSING


async def test_of_a_record_that_is_claimed_only_whole_no_part_begins_before_it_is_stored(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, gate = feeding.rig.hand(3), Gate(feeding, monkeypatch)
    await feeding.start()
    last = await feeding.insert(JOB, b'[{"type":"mail"},{"type":"mail","delay":60}]')
    assert await claimed(feeding) == [True, False]
    assert [hand.runs.get_nowait().claim.order for _ in range(hand.runs.qsize())] == [last - 2]
    gate.open()


@pytest.mark.parametrize(
    "first",
    [
        b'{"type":"mail","id":"mine"}',
        b'{"type":"mail","unique":"key"}',
        b'{"type":"mail","resource":"key"}',
        b'[{"type":"mail"},{"type":"mail","delay":60}]',
        b'[{"type":"mail"},{"type":"other"}]',
    ],
)
async def test_none_overtakes_a_job_of_its_batch_that_goes_by_way_of_the_store(feeding: Feeding, first: bytes) -> None:
    """There may be room for one of the two only, by a limit of the type or since all other room is for other types."""
    hand = feeding.rig.hand(3)
    await feeding.start()
    second = await feeding.insert(first, JOB)
    assert (await hand.take()).claim.order < second
    assert await claimed(feeding) == [False, False]


async def test_a_job_that_may_not_run_yet_holds_up_none_of_its_batch(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    hand, gate = feeding.rig.hand(2), Gate(feeding, monkeypatch)
    await feeding.start()
    second = await feeding.insert(b'{"type":"mail","delay":60}', JOB)
    assert (await hand.take()).claim.order == second
    assert await claimed(feeding) == [False, True]
    gate.open()


async def test_no_held_job_begins_by_a_claim_that_could_not_be_flushed(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, gate = feeding.rig.hand(2), Gate(feeding, monkeypatch)
    feeder = await feeding.start()
    orders, refused = feeding.append(b"[" + b",".join([JOB] * 3) + b"]"), asyncio.Event()
    take_back, flushed = feeder._claims.take_back_held, feeder.flushed

    def refuse_the_next(batch: list[Record]) -> None:
        flushed(batch)
        monkeypatch.setattr(feeding.journal._files, "flush", refuse)

    def tell() -> None:
        take_back()
        refused.set()

    monkeypatch.setattr(feeder, "flushed", refuse_the_next)
    monkeypatch.setattr(feeder._claims, "take_back_held", tell)
    await all_settled(feeding.journal)
    async with asyncio.timeout(10):
        await refused.wait()
    assert hand.runs.empty()
    gate.open()
    assert [(await hand.take()).claim.order for _ in range(2)] == [orders - 2, orders - 1]


async def test_nobody_waits_for_claims_of_which_the_feeder_could_not_hear(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, gate = feeding.rig.hand(2), Gate(feeding, monkeypatch)
    feeder = await feeding.start()
    flushed = feeder.flushed

    def fail_with_the_claim(batch: list[Record]) -> None:
        if any(record.kind is Kind.CLAIMS for record in batch):
            raise ValueError("a fault")
        flushed(batch)

    monkeypatch.setattr(feeder, "flushed", fail_with_the_claim)
    feeding.append(b"[" + b",".join([JOB] * 3) + b"]")
    async with asyncio.timeout(10):
        await all_settled(feeding.journal)
        while not feeding.faults:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await hand.consumer.stop()
    gate.open()


async def test_a_batch_that_cannot_be_flushed_leaves_the_lanes_to_others(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = feeding.rig.hand(1)
    await feeding.start()
    with monkeypatch.context() as patches:
        patches.setattr(feeding.journal._files, "flush", refuse)
        await feeding.insert(JOB)
    assert (hand.runs.empty(), hand.consumer.room) == (True, 1)


async def test_nothing_is_claimed_that_is_not_held_when_it_is_flushed(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.feeder.held, "MAX_BYTES", 10)
    hand, gate = feeding.rig.hand(2), Gate(feeding, monkeypatch)
    feeder = await feeding.start()
    await feeding.insert(JOB)
    order = await feeding.insert(b'{"type":"mail","ghosts":0}')
    gate.open()
    await caught_up(feeder)
    runs = [await hand.take() for _ in range(2)]
    assert [(run.claim.attempt, run.ghosts) for run in runs] == [(1, 0), (1, 0)]
    assert runs[1].claim.order == order
    assert await claimed(feeding) == [True, False]


async def test_a_claim_whose_flush_was_missed_costs_its_job_nothing(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = feeding.rig.hand(2)
    feeder = await feeding.start()
    missed = feeding.append(b'{"type":"mail","ghosts":0}')
    with monkeypatch.context() as patches:
        patches.setattr(feeder, "flushed", feeder.failed)
        await all_settled(feeding.journal)
    order = await feeding.insert(b'{"type":"mail","ghosts":0}')
    await caught_up(feeder)
    assert await claimed(feeding) == [True, True]
    runs = [await hand.take() for _ in range(2)]
    assert [(run.claim.order, run.claim.attempt, run.ghosts) for run in runs] == [(missed, 1, 0), (order, 1, 0)]


@pytest.mark.parametrize(
    "line",
    [b'{"type":"mail","id":"mine"}', b'{"type":"mail","delay":60}', b'{"type":"other"}', b'[{"type":"mail"},{"type":"other"}]'],
)
async def test_what_the_store_must_be_asked_about_is_not_claimed(feeding: Feeding, line: bytes) -> None:
    feeding.rig.hand(2)
    feeder = await feeding.start()
    await feeding.insert(line)
    await caught_up(feeder)
    assert await claimed(feeding) == [False]


async def test_a_job_does_not_overtake_those_of_its_type_that_wait(feeding: Feeding) -> None:
    hand = feeding.rig.hand(1)
    feeder = await feeding.start()
    first, second = await feeding.insert(JOB), await feeding.insert(JOB)
    await caught_up(feeder)
    run = await hand.take()
    feeding.rig.queue.runs.report(hand.leases[run.claim.id], Ok())
    hand.consumer.free()
    third = await feeding.insert(JOB)
    taken = [run.claim.order, (await hand.take()).claim.order]
    assert (taken, third > second, (await claimed(feeding))[-1]) == ([first, second], True, False)


async def test_a_full_lane_or_a_stopping_feeder_claims_nothing(feeding: Feeding) -> None:
    feeding.rig.hand(1)
    feeder = await feeding.start()
    await feeding.insert(JOB)
    await caught_up(feeder)
    await feeding.insert(JOB)
    await caught_up(feeder)
    feeding.rig.hand(1, "other")
    await feeder.stop()
    await feeding.insert(b'{"type":"other"}')
    assert await claimed(feeding) == [True, False, False]


async def lost(feeding: Feeding, monkeypatch: pytest.MonkeyPatch, line: bytes) -> int:
    """Leave a claimed job in the journal, as a kill during its run would, and start anew; return its order."""
    with monkeypatch.context() as patches:
        patches.setattr(kqs.feeder.feeder, "STOP_WAIT_S", 0.05)
        hand, _ = feeding.rig.hand(1), Gate(feeding, patches)
        feeder = await feeding.start()
        order = await feeding.insert(line)
        await hand.take()
        await feeder.stop()
        await feeding.journal.stop()
    await feeding.rig.restart()
    await caught_up(await feeding.start())
    return order


async def test_of_the_jobs_that_a_kill_met_in_the_journal_only_those_that_were_claimed_are_ghosts(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = await lost(feeding, monkeypatch, b"[" + b",".join([JOB] * 5) + b"]")
    hand = feeding.rig.hand(5)
    runs = sorted([await hand.take() for _ in range(5)], key=lambda run: run.claim.order)
    assert [(run.claim.order - last, run.ghosts) for run in runs] == [(-4, 1), (-3, 0), (-2, 0), (-1, 0), (0, 0)]


async def test_a_run_that_a_kill_cut_off_before_its_job_was_stored_counts_as_a_ghost(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await lost(feeding, monkeypatch, JOB)
    again = await feeding.rig.hand(1).take()
    assert (again.claim.order, again.claim.attempt, again.ghosts) == (order, 2, 1)
    record = await feeding.rig.queue.reads.job(again.claim.id)
    assert record is not None
    assert [(run.state, run.error) for run in record.runs] == [
        ("ghost", "the server died during the run"),
        ("processing", None),
    ]


async def test_of_a_claimed_record_with_several_jobs_each_is_a_ghost_that_the_store_does_not_have(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    feeder = await feeding.start()
    await feeder.stop()

    def claim(batch: list[Record]) -> None:
        batch[0].claimed = True

    monkeypatch.setattr(feeder, "before_flush", claim)
    feeding.append(b'[{"type":"mail"},{"type":"mail"}]', JOB)
    await all_settled(feeding.journal)
    await feeding.journal.stop()
    await feeding.rig.restart()
    await caught_up(await feeding.start())
    hand = feeding.rig.hand(3)
    runs = sorted([await hand.take() for _ in range(3)], key=lambda run: run.claim.order)
    assert [(run.claim.attempt, run.ghosts) for run in runs] == [(2, 1), (2, 1), (1, 0)]


async def test_a_job_that_may_not_be_a_ghost_fails_when_its_run_was_cut_off(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = await lost(feeding, monkeypatch, b'{"type":"mail","ghosts":0}')
    await feeding.rig.queue.settle()
    assert await feeding.state(order) is State.FAIL


async def test_a_claimed_job_that_the_store_has_is_left_as_it_is(feeding: Feeding) -> None:
    hand = feeding.rig.hand(1)
    feeder = await feeding.start()
    order = await feeding.insert(JOB)
    await hand.end(await hand.take())
    await feeder.stop()
    await feeding.journal.stop()
    await feeding.rig.restart()
    await caught_up(await feeding.start())
    await feeding.rig.queue.settle()
    record = await feeding.rig.queue.reads.job(feeding.ids.of(order))
    assert record is not None
    assert (record.state, record.attempt, record.ghosts) == (State.SUCCESS, 1, 0)


async def test_a_stop_stores_what_ended_before_its_job_was_stored(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    hand, gate = feeding.rig.hand(1), Gate(feeding, monkeypatch)
    feeder = await feeding.start()
    order = await feeding.insert(JOB)
    await hand.end(await hand.take())
    stopping = asyncio.ensure_future(feeder.stop())
    await asyncio.sleep(0)
    gate.open()
    await stopping
    await feeding.rig.restart()
    record = await feeding.rig.queue.reads.job(feeding.ids.of(order))
    assert record is not None
    assert (record.state, record.ghosts) == (State.SUCCESS, 0)


async def test_a_stop_amid_a_checkpoint_stores_what_was_claimed_meanwhile(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = feeding.rig.hand(1)
    feeder = await feeding.start()
    await feeding.insert(JOB)
    await hand.end(await hand.take())
    await caught_up(feeder)
    sync, begun, may_go_on = feeding.rig.store.sync, asyncio.Event(), asyncio.Event()

    async def dawdle() -> int:
        begun.set()
        await may_go_on.wait()
        return await sync()

    monkeypatch.setattr(feeding.rig.store, "sync", dawdle)
    feeder._checkpoints._ring()
    async with asyncio.timeout(10):
        await begun.wait()
    order = await feeding.insert(JOB)
    await hand.end(await hand.take())
    stopping = asyncio.ensure_future(feeder.stop())
    await asyncio.sleep(0)
    may_go_on.set()
    await stopping
    await feeding.rig.queue.settle()
    assert await feeding.state(order) is State.SUCCESS


async def test_while_the_store_refuses_jobs_none_is_claimed(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse_jobs(*_: object) -> object:
        refused.set()
        raise StoreUnavailableError("database is full")

    refused = asyncio.Event()
    feeding.rig.hand(2)
    feeder = await feeding.start()
    with monkeypatch.context() as patches:
        patches.setattr(feeding.rig.store, "insert", refuse_jobs)
        await feeding.insert(JOB)
        async with asyncio.timeout(10):
            await refused.wait()
            while not feeder.problems():  # noqa: ASYNC110 - it has no event that a test could await
                await asyncio.sleep(0)
        await feeding.insert(JOB)
    await caught_up(feeder)
    assert await claimed(feeding) == [True, False]


async def test_a_store_that_never_takes_the_job_ends_the_stop_all_the_same(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.feeder.feeder, "STOP_WAIT_S", 0.05)
    hand, _ = feeding.rig.hand(1), Gate(feeding, monkeypatch)
    feeder = await feeding.start()
    await feeding.insert(JOB)
    await hand.end(await hand.take())
    async with asyncio.timeout(10):
        await feeder.stop()
        await feeding.rig.queue.stop()


async def test_a_consumer_that_fails_loses_no_job_and_stops_all(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_runs: object) -> None:
        raise RuntimeError("a bug")

    feeding.rig.hand(1).consumer.deliver = fail
    feeder = await feeding.start()
    order = await feeding.insert(JOB)
    await caught_up(feeder)
    assert [str(error) for error in feeding.faults] == ["a bug"]
    assert await feeding.state(order) is State.PROCESSING


async def test_a_record_that_was_missed_is_read_back(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    feeder = await feeding.start()
    missed = feeding.append(JOB)
    with monkeypatch.context() as missing:
        missing.setattr(feeder, "flushed", lambda _records: None)
        await all_settled(feeding.journal)
    order = await feeding.insert(JOB)
    await caught_up(feeder)
    assert [await feeding.state(one) for one in (missed, order)] == [State.NEW, State.NEW]
