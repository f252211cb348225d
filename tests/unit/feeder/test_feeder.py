from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import kqs.feeder.checkpoints
import kqs.feeder.feeder
import kqs.feeder.held
import kqs.feeder.pace
from kqs.config import TakingSection
from kqs.errors import JournalCorruptError, JournalError, StoreUnavailableError
from kqs.feeder import Feeder
from kqs.filter import Filter
from kqs.inserter import Inserter
from kqs.journal import Journal, Kind, Record
from kqs.queue.limiting import Said
from kqs.states import State
from kqs.store.base import StoreInfo
from kqs.wire.jobs import decode_jobs
from tests.support.feeding import Feeding, caught_up
from tests.support.jobs import listed
from tests.support.journal import all_settled, appended
from tests.support.queueing import Rig
from tests.support.turning import until


async def test_a_journaled_job_reaches_the_store(feeding: Feeding) -> None:
    feeder = await feeding.start()
    order = await feeding.insert(b'{"type":"mail","data":[1,  2]}')
    await caught_up(feeder)
    record = await feeding.rig.queue.reads.job(feeding.ids.of(order))
    assert record is not None
    assert (record.data, record.accepted_at) == (b"[1,  2]", order / 1e6)
    assert feeder.lag_records == 0


@pytest.mark.parametrize("ahead_s", [7200.0, 73 * 365 * 86400.0, 10.0**12])
@pytest.mark.parametrize("is_replayed", [False, True])
async def test_times_count_from_the_clock_though_it_was_ahead_once(feeding: Feeding, ahead_s: float, is_replayed: bool) -> None:
    feeder, clock = await feeding.start(), feeding.rig.clock
    clock.jump(ahead_s)
    first = await feeding.insert(b'{"type":"mail"}')
    clock.jump(-ahead_s)
    now = clock.now()
    if is_replayed:
        await feeder.stop()
    text = b'[{"type":"mail","delay":5,"expire":9},{"type":"plain"},{"type":"mail","at":%r}]' % (now + 3)
    order = await feeding.insert(text) - 2
    if is_replayed:
        await feeding.journal.stop()
        clock.advance(2)
        feeder = await feeding.start()
    await caught_up(feeder)
    assert order > first
    delayed, plain, at = [await feeding.rig.queue.reads.job(feeding.ids.of(order + n)) for n in range(3)]
    assert delayed is not None
    assert plain is not None
    assert at is not None
    assert (delayed.due_at, delayed.expire_at, plain.due_at, at.due_at) == (now + 5, now + 9, 0.0, now + 3)
    assert {record.accepted_at for record in (delayed, plain, at)} == {now}


async def test_a_waiting_lane_gets_the_job_without_a_rest(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.feeder.pace, "GATHER_S", 3600)
    hand = feeding.rig.hand(1)
    await feeding.start()
    await feeding.insert(b'{"type":"mail"}')
    assert (await hand.take()).claim.attempt == 1


async def test_ends_that_have_gathered_go_into_the_store_behind_the_next_run(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.feeder.pace, "ENDS_MOST_S", 3600)
    hand, clock = feeding.rig.hand(2), feeding.rig.clock
    feeder = await feeding.start()
    first = await feeding.insert(b'{"type":"mail"}')
    await hand.end(await hand.take())
    clock.advance(kqs.feeder.pace.ENDS_S / 2)
    await feeding.insert(b'{"type":"mail"}')
    await hand.end(await hand.take())
    assert feeder.fed_seq == 0
    clock.advance(kqs.feeder.pace.ENDS_S)
    last = await feeding.insert(b'{"type":"mail"}')
    await until(lambda: feeder.fed_seq == 3)
    assert [await feeding.state(order) for order in (first, last)] == [State.SUCCESS, State.PROCESSING]
    assert (await hand.take()).claim.order == last


async def test_ends_go_into_the_store_though_no_run_follows(feeding: Feeding) -> None:
    hand, clock = feeding.rig.hand(1), feeding.rig.clock
    feeder = await feeding.start()
    order = await feeding.insert(b'{"type":"mail"}')
    await hand.end(await hand.take())
    clock.advance(kqs.feeder.pace.ENDS_MOST_S)
    await until(lambda: feeder.fed_seq == 1)
    assert await feeding.state(order) is State.SUCCESS


async def test_an_end_that_somebody_waits_for_is_stored_though_what_waited_here_last_may_not_begin(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.feeder.pace, "ENDS_MOST_S", 3600)
    await feeding.rig.queue.limiting.say("mail", Said(max_running=1))
    hand = feeding.rig.hand(3, "mail", "other")
    feeder = await feeding.start()
    last = [await feeding.insert(b'{"type":"mail"}') for _ in range(2)][-1]
    await hand.take()
    await feeding.stored_though_asked(last)
    order = await feeding.insert(b'{"type":"other"}')
    await hand.end(await hand.take())
    assert feeder.fed_seq == 2
    feeding.rig.queue.wishes.sooner()
    await until(lambda: feeder.fed_seq == 3)
    assert await feeding.state(order) is State.SUCCESS


async def test_jobs_that_nobody_takes_gather_while_the_feeder_rests(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.feeder.pace, "GATHER_S", 3600)
    feeder = await feeding.start()
    for _ in range(5):
        await feeding.insert(b'{"type":"mail"}')
    assert (feeder.fed_seq, feeder.lag_records) == (0, 5)
    await caught_up(feeder)
    assert feeder.fed_seq == 5


async def test_nothing_is_held_in_memory_before_the_store_is_there(feeding: Feeding) -> None:
    await (await feeding.start()).stop()
    feeding.feeder = Feeder(
        feeding.journal, feeding.rig.queue, feeding.rig.store, feeding.ids, feeding.rig.cascade, feeding.rig.supervisor
    )
    feeding.feeder.wait_for_store(0)
    for _ in range(5):
        await feeding.insert(b'{"type":"mail"}')
    assert (feeding.feeder._held.count, feeding.feeder.lag_records) == (0, 5)
    await feeding.feeder.start(StoreInfo(epoch=1, fed_seq=0, last_order=0))
    await caught_up(feeding.feeder)
    assert len(await listed(feeding.rig.store, Filter(type="mail"))) == 5


async def test_what_an_earlier_boot_left_in_the_journal_is_fed_first(feeding: Feeding) -> None:
    await feeding.start()
    assert feeding.feeder is not None
    await feeding.feeder.stop()
    first = feeding.append(b'{"type":"mail","data":1}', b'{"type":"mail","data":2}')
    await all_settled(feeding.journal)
    await feeding.journal.stop()
    feeder = await feeding.start()
    await caught_up(feeder)
    assert await feeding.state(first) is State.NEW
    assert await feeding.state(first - 1) is State.NEW


async def test_what_the_hand_over_list_cannot_hold_is_read_back_in_order(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.feeder.held, "MAX_JOBS", 3)
    monkeypatch.setattr(kqs.feeder.pace, "GATHER_S", 3600)
    feeder = await feeding.start()
    for number in range(50):
        await feeding.insert(b'{"type":"mail","data":%d}' % number)
    await caught_up(feeder)
    assert feeder.fed_seq == 50
    records = await listed(feeding.rig.store, Filter(type="mail"))
    assert [int(record.data or b"") for record in records] == list(range(50))


async def test_a_store_that_refuses_is_asked_until_it_takes_the_batch(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert, refused = feeding.rig.store.insert, asyncio.Event()
    monkeypatch.setattr(kqs.feeder.feeder, "STORE_FIRST_S", 0.001)

    async def refuse_once(*args: Any) -> object:
        if not refused.is_set():
            refused.set()
            raise StoreUnavailableError("database is full")
        return await insert(*args)

    monkeypatch.setattr(feeding.rig.store, "insert", refuse_once)
    feeder = await feeding.start()
    order = await feeding.insert(b'{"type":"mail"}')
    async with asyncio.timeout(10):
        await refused.wait()
    assert feeder.problems() == ["the store refuses new jobs, which wait in the journal: database is full"]
    await caught_up(feeder)
    assert await feeding.state(order) is State.NEW
    assert feeder.problems() == []


async def test_the_checkpoint_follows_when_all_is_quiet(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.feeder.checkpoints, "AFTER_S", 0.001)
    feeder = await feeding.start()
    order = await feeding.insert(b'{"type":"mail"}')
    async with asyncio.timeout(10):
        while feeder.checkpointed_order <= order:  # noqa: ASYNC110 - no event tells of a checkpoint
            await asyncio.sleep(0)
    assert feeding.journal.stats()["checkpoint_seq"] == 1


async def test_the_checkpoint_follows_a_store_that_had_more(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await feeding.start()).stop()
    order = await feeding.insert(b'{"type":"mail"}')
    await feeding.journal.stop()
    monkeypatch.setattr(kqs.feeder.checkpoints, "AFTER_S", 0.001)
    feeder = await feeding.start(fed_seq=1, last_order=order)
    assert feeder.checkpointed_order == 0
    async with asyncio.timeout(10):
        while feeder.checkpointed_order <= order:  # noqa: ASYNC110 - no event tells of a checkpoint
            await asyncio.sleep(0)


async def test_a_checkpoint_that_comes_due_amid_work_follows_it(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    feeder = await feeding.start()
    feeding.append(b'{"type":"mail"}')
    await all_settled(feeding.journal)
    feeder._checkpoints._ring()
    order = await feeding.insert(b'{"type":"mail"}')
    async with asyncio.timeout(10):
        while feeder.checkpointed_order <= order:  # noqa: ASYNC110 - no event tells of a checkpoint
            await asyncio.sleep(0)


async def test_a_segment_goes_once_the_store_has_all_of_it(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.feeder.checkpoints, "AFTER_BYTES", 1)
    feeder = await feeding.start()
    for _ in range(20):
        await feeding.insert(b'{"type":"mail","data":"%s"}' % (b"x" * 10_000))
    await caught_up(feeder)
    await feeder.stop()
    assert feeding.journal.stats()["segments"] == 1


async def test_what_was_not_fed_at_the_stop_stays_in_the_journal(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.feeder.pace, "GATHER_S", 3600)
    feeder = await feeding.start()
    order = await feeding.insert(b'{"type":"mail"}')
    await feeder.stop()
    assert await feeding.rig.queue.reads.job(feeding.ids.of(order)) is None
    await feeding.journal.stop()
    await caught_up(await feeding.start())
    assert await feeding.state(order) is State.NEW


async def test_an_at_and_own_options_are_kept(feeding: Feeding) -> None:
    feeder = await feeding.start()
    order = await feeding.insert(b'{"type":"mail","at":"2030-01-01T00:00:00Z","ttr":7}')
    await caught_up(feeder)
    record = await feeding.rig.queue.reads.job(feeding.ids.of(order))
    assert record is not None
    assert (record.state, record.due_at, record.options) == (State.DELAYED, 1893456000.0, b'{"ttr":7.0}')


async def test_a_checkpoint_that_cannot_be_written_is_written_later(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.feeder.checkpoints, "AFTER_S", 0.001)
    feeder = await feeding.start()
    checkpoint, refusals = feeding.journal.checkpoint, [JournalError("no space left on device")]

    async def refuse_once(fed_seq: int) -> None:
        if refusals:
            raise refusals.pop()
        await checkpoint(fed_seq)

    monkeypatch.setattr(feeding.journal, "checkpoint", refuse_once)
    order = await feeding.insert(b'{"type":"mail"}')
    async with asyncio.timeout(10):
        while feeder.checkpointed_order <= order:  # noqa: ASYNC110 - no event tells of a checkpoint
            await asyncio.sleep(0)
    assert not refusals


async def fed_from_a_disk_that_fails_once(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch, failure: JournalError
) -> tuple[Feeder, int]:
    """Start a feeder that finds a job in the journal; its first read fails."""
    monkeypatch.setattr(kqs.feeder.feeder, "STORE_FIRST_S", 0.001)
    await (await feeding.start()).stop()
    order = await feeding.insert(b'{"type":"mail"}')
    read, failures = Journal.read, [failure]

    async def fail_once(journal: Journal, from_seq: int) -> AsyncIterator[list[Record]]:
        if failures:
            raise failures.pop()
        async for records in read(journal, from_seq):
            yield records

    monkeypatch.setattr(Journal, "read", fail_once)
    await feeding.journal.stop()
    return await feeding.start(), order


async def test_a_journal_that_cannot_be_read_now_is_read_again(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    feeder, order = await fed_from_a_disk_that_fails_once(feeding, monkeypatch, JournalError("too many open files"))
    await caught_up(feeder)
    assert await feeding.state(order) is State.NEW
    assert feeder.problems() == []


async def test_a_damaged_journal_ends_the_feeder(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    await fed_from_a_disk_that_fails_once(feeding, monkeypatch, JournalCorruptError("a.kqj:42 bad sum"))
    name, error = await feeding.rig.supervisor.told()
    assert (name, type(error)) == ("feeder", JournalCorruptError)


async def test_nobody_waits_for_ever_for_a_store_that_is_behind(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.feeder.feeder, "CATCH_UP_S", 0.01)

    async def refuse(*_: object) -> list[int]:
        raise StoreUnavailableError("full")

    monkeypatch.setattr(feeding.rig.store, "insert", refuse)
    feeder = await feeding.start()
    await feeding.insert(b'{"type":"mail"}')
    with pytest.raises(StoreUnavailableError, match="1 records behind"):
        await feeder.catch_up()
    async with asyncio.timeout(4):
        await feeder.stop()


async def test_a_stop_lets_the_store_finish_the_batch_that_it_has(feeding: Feeding, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = feeding.rig.hand(1)
    insert, begun, may_go_on = feeding.rig.store.insert, asyncio.Event(), asyncio.Event()

    async def dawdle(*args: Any) -> object:
        begun.set()
        await may_go_on.wait()
        return await insert(*args)

    monkeypatch.setattr(feeding.rig.store, "insert", dawdle)
    feeder = await feeding.start()
    await feeding.insert(b'{"type":"mail"}', b'{"type":"mail"}')  # a lone one would not wait for the store
    async with asyncio.timeout(10):
        await begun.wait()
        stopping = asyncio.ensure_future(feeder.stop())
        await asyncio.sleep(0)
        may_go_on.set()
        await stopping
    assert hand.runs.get_nowait().claim.attempt == 1


@pytest.mark.parametrize("is_replayed", [False, True])
async def test_an_id_whose_record_is_over_is_a_new_job_at_once_and_runs_once(feeding: Feeding, is_replayed: bool) -> None:
    text = b'{"type":"mail","id":"mine","keep":0}'
    hand, feeder = feeding.rig.hand(5), await feeding.start()
    await feeding.insert(text)
    await hand.end(await hand.take())
    assert await feeding.rig.queue.reads.job("mine") is None
    if is_replayed:  # all of the journal, with a store that has a part of it
        await feeder.stop()
        await feeding.insert(text)
        await feeding.journal.stop()
        feeder = await feeding.start(fed_seq=0)
    else:
        await feeding.insert(text)
    assert await hand.end(await hand.take())
    await caught_up(feeder)
    assert hand.runs.empty()
    assert await feeding.rig.queue.reads.job("mine") is None
    assert await feeding.rig.queue.reads.counts() == {"mail": {State.SUCCESS: 1}}


async def test_an_adopted_job_does_not_run_again_while_its_record_is_stored(feeding: Feeding) -> None:
    text = b'{"type":"mail","id":"mine","keep":0}'
    hand, feeder = feeding.rig.hand(5), await feeding.start()
    for _ in range(2):
        order = feeding.ids.take(1, feeding.rig.clock.now())
        await appended(feeding.journal, Record(Kind.JOBS, 1, order, text, decode_jobs(text), adopted=True))
        await caught_up(feeder)
        if not hand.runs.empty():
            await hand.end(await hand.take())
    assert (await feeding.rig.queue.reads.counts(), hand.runs.empty()) == ({"mail": {State.SUCCESS: 1}}, True)


async def test_an_urgent_job_starts_before_those_that_wait_however_many_stand_before_it_in_the_journal(
    feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.feeder.pace, "BATCH_JOBS", 100)
    await (await feeding.start()).stop()
    plain = [b'{"type":"mail","data":"%s"}' % (b"x" * 1000)] * 300
    for _ in range(4):
        await feeding.insert(*plain)
    urgent = await feeding.insert(b'{"type":"mail","prio":"urgent"}')
    later = await feeding.insert(*plain)
    await feeding.journal.stop()
    hand = feeding.rig.hand(1)
    await feeding.start()
    runs = [await hand.take()]
    while runs[-1].claim.order != urgent:
        await hand.end(runs[-1])
        runs.append(await hand.take())
    assert max(run.claim.order for run in runs) <= urgent < later
    assert len(runs) < 300


@pytest.mark.parametrize("last", [b'{"type":"mail"}', b'{"type":"mail","prio":"urgent"}'], ids=["alike", "an urgent one last"])
async def test_what_waits_on_disk_alone_goes_straight_to_lanes_if_it_is_alike(
    last: bytes, feeding: Feeding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.feeder.pace, "LEAST_JOBS", 1)
    monkeypatch.setattr(kqs.feeder.held, "MAX_JOBS", 10)
    for limit in ("pace.GATHER_S", "pace.HOLD_S", "pace.PASSED_BY_S", "gathering.RECENT_S"):  # however slow the lane is here
        monkeypatch.setattr(f"kqs.feeder.{limit}", 1000.0)
    broker = feeding.rig.queue._broker
    hand = feeding.rig.hand(1)
    await feeding.start()
    first = await feeding.insert(b'{"type":"mail"}')
    runs = [await hand.take()]
    for _ in range(4):
        await feeding.insert(*[b'{"type":"mail"}'] * 10)
    order = await feeding.insert(last)
    have_waited = set()
    while runs[-1].claim.order != order:
        await hand.end(runs[-1])
        runs.append(await hand.take())
        have_waited.add(broker.backlog("mail") > 0)
    is_alike = b"urgent" not in last
    assert any(have_waited) is not is_alike
    assert (runs[0].claim.order, len(runs) == 42) == (first, is_alike)


async def test_a_job_with_copies_counts_once_though_the_store_refuses_these_at_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    rig.taking = {"order": TakingSection(max_waiting=5), "bill": TakingSection(max_waiting=5)}
    await rig.start()
    rig.queue.bounds.first_order = 0
    feeding, insert, calls = Feeding(rig, tmp_path), rig.store.insert, itertools.count()

    async def refuse_the_second(*args: Any) -> object:
        if next(calls) == 1:
            raise StoreUnavailableError("database is full")
        return await insert(*args)

    monkeypatch.setattr(rig.store, "insert", refuse_the_second)
    feeder = await feeding.start()
    inserter = Inserter(
        feeding.journal, feeding.ids, rig.clock.now, rig.queue.asked, rig.queue.bounds, subscribers={"order": ["bill"]}
    )
    await inserter.insert(b'{"type":"order"}')
    await caught_up(feeder)
    assert [rig.queue.bounds.waiting(type_) for type_ in ("order", "bill")] == [0, 1]
    await feeding.stop()
    await rig.stop()


@pytest.mark.parametrize(
    "texts",
    [
        [b'[{"type":"mail","id":"one"},{"type":"order","id":"one"}]'],
        [b'{"type":"mail","id":"one"}', b'{"type":"order","id":"one"}'],
    ],
    ids=["in one insert", "in two"],
)
async def test_a_job_with_copies_does_not_take_the_id_of_an_older_one(tmp_path: Path, texts: list[bytes]) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    feeding = Feeding(rig, tmp_path)
    feeder = await feeding.start()
    inserter = Inserter(feeding.journal, feeding.ids, rig.clock.now, rig.queue.asked, subscribers={"order": ["bill"]})
    await asyncio.gather(*map(inserter.insert, texts))
    await caught_up(feeder)
    assert [(one.type, one.id) for one in await listed(rig.store)] == [("mail", "one")]
    await feeding.stop()
    await rig.stop()


@pytest.mark.parametrize(
    ("waiting", "text"),
    [
        ("order", b'[{"type":"order","unique":"k"},{"type":"mail","after":[0]}]'),
        ("order", b'[{"type":"order","unique":"k"},{"type":"order","after":[0]}]'),
        ("mail", b'[{"type":"mail","unique":"k"},{"type":"mail","unique":"k","id":"x"},{"type":"order","id":"x","after":[0]}]'),
    ],
    ids=["a job behind one with copies", "copies behind one with copies", "copies behind what is stored before them"],
)
async def test_who_waits_for_a_joined_job_waits_for_the_other_whichever_is_stored_first(
    tmp_path: Path, waiting: str, text: bytes
) -> None:
    rig = Rig(tmp_path)
    await rig.start()
    feeding = Feeding(rig, tmp_path)
    feeder = await feeding.start()
    subscribers: dict[str, list[str]] = {}
    inserter = Inserter(feeding.journal, feeding.ids, rig.clock.now, rig.queue.asked, subscribers=subscribers)
    inserter.check_order = _known
    first = await inserter.insert(b'{"type":"%b","unique":"k"}' % waiting.encode())
    subscribers["order"] = ["bill"]
    await inserter.insert(text)
    await caught_up(feeder)
    [held] = [one for one in await listed(rig.store) if one.after is not None]
    assert (held.state, [*held.awaits]) == (State.NEW, first)
    await feeding.stop()
    await rig.stop()


async def _known(_given: object) -> None:
    """Know whichever jobs are asked for."""
