from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

import kqs.queue.changes as changing
from kqs.errors import StoreCorruptError, StoreUnavailableError
from kqs.filter import Filter
from kqs.options import Cascade
from kqs.outcome import Again, Failed, Ok
from kqs.queue.changes import Done, Request
from kqs.queue.ends import DELETED, End
from kqs.queue.events import Word
from kqs.states import State
from kqs.store import change as bounds
from kqs.store.base import Change, Slice, Verb
from tests.support.jobs import EVERYTHING, an_accepted
from tests.support.queueing import Rig
from tests.support.ready_jobs import held_count


async def change(rig: Rig, verb: Verb, wanted: Filter = EVERYTHING, **flags: Any) -> Done:
    return await rig.queue.changes.do(Request(verb, wanted, **flags), rig.take_orders)


async def state(rig: Rig, number: int) -> State:
    return (await rig.record(number)).state


async def test_first_hundred_ids_are_told_and_all_are_counted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "SLICE", 70)
    jobs = [an_accepted(number) for number in range(250)]
    await rig.accept(*jobs)
    done = await change(rig, Verb.CANCEL)
    assert (done.count, done.ids, done.skipped) == (250, [job.id for job in jobs[:100]], 0)


async def test_the_store_hears_how_far_other_servers_have_come(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Mapping[str, int]] = []
    do_slice = rig.store.change

    async def noted(change: Change, after: object | None, first_order: int) -> Slice:
        asked.append(change.reached)
        return await do_slice(change, after, first_order)

    monkeypatch.setattr(rig.store, "change", noted)
    await change(rig, Verb.CANCEL, reached={"0000beef": 7})
    assert asked == [{"0000beef": 7}]


@pytest.mark.parametrize("is_dry", [True, False])
async def test_what_is_done_so_far_is_told_after_each_slice(rig: Rig, monkeypatch: pytest.MonkeyPatch, is_dry: bool) -> None:
    monkeypatch.setattr(bounds, "SLICE", 70)
    await rig.accept(*map(an_accepted, range(150)))
    counts: list[int] = []
    request = Request(Verb.CANCEL, EVERYTHING, is_dry=is_dry)
    await rig.queue.changes.do(request, rig.take_orders, lambda done: counts.append(done.count))
    assert counts == [70, 140]


async def test_retried_jobs_run_again_by_themselves(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    await hand.end(await hand.take(), Failed("no", final=True))
    assert (await change(rig, Verb.RETRY)).count == 1
    run = await hand.take()
    assert (run.claim.id, run.attempt, run.failures) == (an_accepted(1).id, 2, 0)
    await hand.end(run)
    assert await state(rig, 1) is State.SUCCESS


async def test_retried_job_expires_when_its_time_is_over_again(rig: Rig) -> None:
    rig.cascade._types = {"mail": {"expire": 5.0}}
    rig.cascade._made.clear()
    await rig.accept(an_accepted(1))
    await change(rig, Verb.CANCEL)
    await change(rig, Verb.RETRY)
    assert (await rig.record(1)).expire_at == rig.clock.now() + 5
    rig.clock.advance(6)
    rig.queue._timetable._expiring.note(0.0)
    assert (await rig.until(1, State.FAIL)).error == "expired"


@pytest.mark.parametrize("is_seen", [False, True])
async def test_retried_job_expires_no_later_than_it_should_after_the_clock_was_set_back(rig: Rig, is_seen: bool) -> None:
    rig.cascade._types = {"mail": {"expire": 5.0}}
    rig.cascade._made.clear()
    await rig.accept(an_accepted(1))
    await change(rig, Verb.CANCEL)
    rig.clock.jump(3600.0)
    await change(rig, Verb.RETRY)
    if is_seen:
        await rig.queue.house.keep()
    rig.clock.jump(-3600.0)
    await rig.queue.house.keep()
    assert (await rig.record(1)).expire_at == rig.clock.now() + 5.0


async def test_what_is_kept_of_the_cancelled_is_what_is_kept_of_failures(rig: Rig) -> None:
    await rig.accept(an_accepted(1), an_accepted(2, "short"))
    rig.cascade._types = {"short": {"keep": 7.0}}
    rig.cascade._made.clear()
    await change(rig, Verb.CANCEL)
    records = [await rig.record(number) for number in (1, 2)]
    assert [record.drop_at and record.drop_at - (record.ended_at or 0) for record in records] == [None, 7]


@pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.DELETE])
async def test_broker_does_not_hold_what_waits_no_more(rig: Rig, verb: Verb) -> None:
    hand = rig.hand(0)
    await rig.accept(an_accepted(0))
    hand.consumer.grow(1)
    run = await hand.take()
    await rig.accept(*(an_accepted(number) for number in range(1, 90)))
    assert held_count(rig.broker) == 89
    assert (await change(rig, verb, Filter(states=frozenset({State.NEW})))).count == 89
    assert held_count(rig.broker) == 0
    assert not rig.broker.backlog("mail")
    await hand.end(run)


@pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.DELETE])
async def test_run_is_lost_whose_job_was_called_off(rig: Rig, verb: Verb) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    assert (await change(rig, verb, is_forced=True)).count == 1
    assert [lease.run.claim for lease in hand.lost] == [run.claim]
    assert not await hand.end(run)
    if verb is Verb.CANCEL:
        record = await rig.until(1, State.CANCELLED)
        assert (record.error, [one.state for one in record.runs]) == ("cancelled", ["cancelled"])
    else:
        assert await rig.store.job(run.claim.id) is None


async def test_two_runs_of_one_id_are_called_off_at_once(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    rig.queue.runs.call_off([run.claim, replace(run.claim, order=run.claim.order + 1)])
    assert [lease.run.claim for lease in hand.lost] == [run.claim]


@pytest.mark.parametrize("outcome", [Ok(b"1"), Again(), Failed("oops"), Failed("oops", final=True)])
async def test_report_that_was_on_its_way_is_judged_by_what_it_says(rig: Rig, outcome: Any) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    cancelling = asyncio.ensure_future(change(rig, Verb.CANCEL))
    await asyncio.sleep(0)  # the store is asked
    assert await hand.end(run, outcome)
    assert (await cancelling).count == 1
    assert await state(rig, 1) is (State.SUCCESS if type(outcome) is Ok else State.CANCELLED)
    assert (await rig.record(1)).error == ("oops" if type(outcome) is Failed else None if type(outcome) is Ok else "cancelled")


async def test_claimed_job_that_was_cancelled_before_its_run_began_never_begins(rig: Rig) -> None:
    runs: list[Any] = []
    hand = rig.hand(1)
    hand.consumer.deliver = runs.extend
    await rig.accept(an_accepted(1))
    assert len(runs) == 1  # it was claimed with its insert
    assert rig.queue.runs.is_certain(runs[0])
    assert (await change(rig, Verb.CANCEL)).count == 1
    assert not rig.queue.runs.is_certain(runs[0])
    assert not rig.queue.runs.may_begin(runs[0])
    record = await rig.until(1, State.CANCELLED)
    assert (record.attempt, record.runs) == (0, [])
    assert rig.queue.runs.is_certain(runs[0])


async def test_restart_ends_what_was_cancelled_while_it_ran(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    hand.leases[run.claim.id].on_cancel = lambda lease: None
    await change(rig, Verb.CANCEL)
    assert (await rig.record(1)).cancel_at is not None
    await rig.restart()
    record = await rig.record(1)
    assert (record.state, record.error) == (State.CANCELLED, "the server died during the run")


async def test_ttr_of_a_cancelled_run_ends_its_job(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    hand.leases[run.claim.id].on_cancel = lambda lease: None
    await change(rig, Verb.CANCEL)
    rig.clock.advance(31)
    rig.queue.runs.look_again()
    assert (await rig.until(1, State.CANCELLED)).ghosts == 1


async def test_what_is_changed_is_told(rig: Rig) -> None:
    told: list[tuple[Word, list[str]]] = []
    rig.queue.events.listen(lambda batch: told.append((batch.word, [getattr(job, "id", "") for job in batch.jobs])))
    one = an_accepted(1)
    await rig.accept(one)
    told.clear()
    await change(rig, Verb.DELETE, is_dry=True)
    await change(rig, Verb.CANCEL)
    while not told:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)
    await change(rig, Verb.RETRY)
    await change(rig, Verb.DELETE)
    assert told == [(word, [one.id]) for word in (Word.CANCELLED, Word.QUEUED, Word.DELETED)]


@pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.DELETE])
async def test_who_waits_for_a_job_that_did_not_run_hears_what_became_of_it(rig: Rig, verb: Verb) -> None:
    told: list[End] = []
    one = an_accepted(1)
    await rig.accept(one)
    rig.queue.events.ends.wait(one.id, lambda end, _is_alone: told.append(end))
    await change(rig, verb)
    while not told:  # noqa: ASYNC110 - it has no event
        await asyncio.sleep(0)
    assert [end if isinstance(end, str) else end.state for end in told] == [DELETED if verb is Verb.DELETE else State.CANCELLED]


async def test_store_that_refuses_is_asked_again_for_a_while(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changing, "RETRY_WAIT_S", 0)
    ask, refusals = rig.store.change, iter([StoreUnavailableError("full"), StoreUnavailableError("full")])

    async def refuse(*arguments: Any) -> Any:
        if (error := next(refusals, None)) is not None:
            raise error
        return await ask(*arguments)

    monkeypatch.setattr(rig.store, "change", refuse)
    await rig.accept(an_accepted(1))
    assert (await change(rig, Verb.DELETE)).count == 1
    monkeypatch.setattr(changing, "PATIENCE_S", 0)
    refusals = iter([StoreUnavailableError("full")] * 9)
    with pytest.raises(StoreUnavailableError):
        await change(rig, Verb.DELETE)


async def test_damage_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> Any:
        raise StoreCorruptError("damaged")

    monkeypatch.setattr(rig.store, "change", refuse)
    with pytest.raises(StoreCorruptError) as caught:
        await change(rig, Verb.DELETE)
    assert await rig.supervisor.told() == ("queue", caught.value)


def test_expiry_by_type_is_what_each_type_gets() -> None:
    cascade = Cascade({"expire": 9.0}, {"a": {"expire": 5.0}, "b": {"ttr": 5.0}})
    assert cascade.expire_by_type() == {"a": 5.0, "b": 9.0}
