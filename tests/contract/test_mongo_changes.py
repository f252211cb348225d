"""Owners' changes on a MongoDB of several servers: what only there can go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from kqs.errors import StoreUnavailableError
from kqs.filter import Filter
from kqs.job import Claim
from kqs.states import State
from kqs.store import change as changing
from kqs.store.base import Change, Slice, Spans, Verb
from kqs.store.mongo import MongoStore, retention
from kqs.store.mongo.servers import LISTEN_S
from tests.contract.change_contract import ABOVE_ALL, FRESH, change, of_ids, retried_and_failed_again, states
from tests.contract.store_contract import (
    BULK_BYTES,
    FIRST,
    IDS,
    JOURNAL,
    NODE,
    OTHER_NODE,
    a_job,
    a_report,
    an_ended,
    an_entry,
    some_jobs,
)
from tests.contract.test_mongo_questions import asked
from tests.contract.test_mongo_shared import their_entry, their_job
from tests.support.clock import FakeClock
from tests.support.jobs import EVERYTHING, listed
from tests.support.mongo_proxy import MongoProxy
from tests.support.mongodb import client_of

MakeStore = Callable[..., MongoStore]

#: so many runs are called off between two looks
REPLACED = 120


async def stored(store: MongoStore) -> int:
    return int(await store._there.session.jobs.count_documents({}))


async def heard(store: MongoStore) -> list[Claim]:
    """Return which runs a server hears of that others have called off."""
    return list((await store.news()).claims)


async def test_no_replay_brings_back_what_was_deleted(ours: MongoStore, make_mongo_store: MakeStore, now: float) -> None:
    jobs = [a_job(0), a_job(1, id="mine"), a_job(2, claimed_at=now)]
    await ours.insert(jobs, 1, "w", now)
    assert (await change(ours, Verb.DELETE, now=now, is_forced=True)).numbers == [0, 1, 2]
    assert await ours.insert(jobs, 1, "w", now) == [job.order for job in jobs]
    again = make_mongo_store()
    await again.open(JOURNAL, NODE)
    assert await again.insert(jobs, 1, "w", now) == [job.order for job in jobs]
    assert await again.orphans(9) == []
    assert await listed(again) == []
    assert await states(again) == {}


async def test_deleted_record_goes_when_its_journal_has_forgotten_the_job(
    ours: MongoStore, theirs: MongoStore, now: float
) -> None:
    await theirs.insert([their_job(0)], 1, "w", now)
    assert (await change(ours, Verb.DELETE, now=now)).numbers == [0]
    assert await ours.sweep(now + 1, 9, FIRST + 9) == 0
    assert await stored(ours) == 1
    await theirs.sweep(now, 0, FIRST + 1)  # says how far its journal reaches back
    await theirs.sync()
    assert await ours.sweep(now + 1, 9, FIRST + 9) == 0  # it is none of those that are counted
    assert await stored(ours) == 0


async def test_what_no_journal_can_bring_back_goes_at_once(uri: str, ours: MongoStore, now: float) -> None:
    await ours.insert([a_job(0, data=b"1" * 3 * BULK_BYTES), a_job(1)], 1, "w", now)
    await ours.sweep(now, 0, FIRST + 1)
    await change(ours, Verb.DELETE, now=now)
    assert await stored(ours) == 1
    with client_of(uri) as client:
        assert client.get_default_database()["bulk.files"].count_documents({}) == 0


async def test_id_of_a_job_that_another_server_deleted_is_free(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    old = a_job(0, id="mine")
    await ours.insert([old], 1, "w", now)
    await change(theirs, Verb.DELETE, now=now)
    new = their_job(5, accepted_at=now)
    new.id = "mine"
    assert await theirs.insert([new], 1, "w", now) == []
    assert await ours.insert([old], 1, "w", now) == [FIRST]
    record = await ours.job("mine")
    assert record is not None
    assert record.order == FIRST + 5
    # when the new one has gone, the old one must not come back
    (run,) = await theirs.claim([an_entry(5, id="mine")], "w", now)
    await theirs.report([a_report(run.claim, at=now, drop_at=now)])
    await theirs.sweep(now, 0, FIRST + 9)
    await theirs.sync()
    assert await ours.sweep(now + 1, 9, FIRST) == 0
    assert await ours.insert([old], 1, "w", now) == [FIRST]
    assert await ours.sweep(now + 1, 9, FIRST + 1) == 1


async def test_id_that_was_deleted_by_a_clock_that_is_ahead_is_free_when_that_of_its_server_comes_to_it(
    ours: MongoStore, theirs: MongoStore, now: float
) -> None:
    await theirs.insert([a_job(0, id="mine")], 1, "w", now)
    await change(ours, Verb.DELETE, now=now + 30)
    assert await theirs.insert([a_job(5, id="mine", accepted_at=now + 5)], 2, "w", now + 5) == [FIRST + 5]
    assert await theirs.insert([a_job(6, id="mine", accepted_at=now + 30)], 3, "w", now + 30) == []


@pytest.mark.parametrize("verb", [Verb.DELETE, Verb.RETRY])
async def test_a_look_during_which_others_change_an_ended_job_tells_no_end_of_it(
    ours: MongoStore, theirs: MongoStore, now: float, monkeypatch: pytest.MonkeyPatch, verb: Verb
) -> None:
    await theirs.insert([a_job(0)], 1, "w", now)
    await change(theirs, Verb.CANCEL, now=now)
    assert [record.state for record in (await ours.look([a_job(0).id])).ended] == [State.CANCELLED]
    find = ours._there.session.find

    async def find_and_change(*args: Any) -> object:
        found = await find(*args)
        await change(theirs, verb, now=now)
        return found

    monkeypatch.setattr(ours._there.session, "find", find_and_change)
    assert (await ours.look([a_job(0).id])).ended == []


async def test_two_servers_that_purge_at_once_count_each_record_once(
    ours: MongoStore, theirs: MongoStore, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changing, "SLICE", 7)
    await ours.insert(some_jobs(40), 1, "w", now)
    await theirs.insert([an_ended(n, at=now, epoch=2) for n in range(50, 70)], 1, "w", now)
    for verb in (Verb.CANCEL, Verb.RETRY, Verb.DELETE):
        both = await asyncio.gather(*(change(store, verb, now=now + 1) for store in (ours, theirs)))
        met = [one.id for done in both for one in done.changed]
        assert (len(met), len(set(met))) == ((60, 60) if verb is Verb.DELETE else (40, 40))
    await theirs.counts()  # writes what it has counted
    assert await states(ours) == {}


@pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.DELETE])
async def test_who_runs_a_job_hears_once_that_another_has_called_it_off(
    ours: MongoStore, theirs: MongoStore, now: float, verb: Verb
) -> None:
    await ours.insert([a_job(0), a_job(1), a_job(2)], 1, "w", now)
    (run, own) = await ours.claim([an_entry(0), an_entry(1)], "w", now)
    (other,) = await theirs.claim([an_entry(2)], "w2", now)
    assert await heard(ours) == []
    await change(ours, verb, Filter(ids=(own.claim.id,)), now=now, is_forced=True)
    await change(theirs, verb, Filter(ids=(run.claim.id, other.claim.id)), now=now, is_forced=True)
    assert await heard(ours) == [run.claim]
    assert await heard(ours) == []
    assert await heard(theirs) == []


async def test_it_hears_of_it_although_the_other_was_killed_before_it_rang(
    ours: MongoStore, theirs: MongoStore, clock: FakeClock, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    (run,) = await ours.claim([an_entry(0)], "w", now)
    assert await heard(ours) == []

    async def ring(_epochs: object) -> None:
        pass

    monkeypatch.setattr(theirs._there.servers, "ring", ring)
    await change(theirs, Verb.CANCEL, now=now)
    assert await heard(ours) == []
    clock.advance(LISTEN_S)
    assert await heard(ours) == [run.claim]


async def test_a_deleted_run_and_the_next_job_of_its_id_are_two(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await ours.insert([a_job(0, id="mine")], 1, "w", now)
    (old,) = await ours.claim([an_entry(0, id="mine")], "w", now)
    assert await heard(ours) == []
    await change(theirs, Verb.DELETE, now=now, is_forced=True)
    new = their_job(5, accepted_at=now)
    new.id = "mine"
    assert await theirs.insert([new], 1, "w", now) == []
    assert await heard(ours) == [old.claim]
    (run,) = await ours.claim([an_entry(5, id="mine")], "w", now)
    assert (run.claim.attempt, run.claim.epoch) == (old.claim.attempt, old.claim.epoch)
    assert await ours.report([a_report(old.claim, at=now)]) == [False]
    await change(theirs, Verb.CANCEL, now=now)
    assert await heard(ours) == [run.claim]
    assert await heard(ours) == []
    await change(theirs, Verb.DELETE, now=now, is_forced=True)
    assert [one.order for one in (await ours.news()).deleted] == [run.claim.order]
    assert await ours.report([a_report(old.claim, at=now), a_report(run.claim, at=now)]) == [False, False]


async def test_it_hears_of_it_although_its_look_failed(
    theirs: MongoStore, proxy: MongoProxy, proxied: MongoStore, now: float
) -> None:
    await proxied.insert([a_job(0)], 1, "w", now)
    (run,) = await proxied.claim([an_entry(0)], "w", now)
    assert await heard(proxied) == []
    await change(theirs, Verb.DELETE, now=now, is_forced=True)
    proxy.lose_answer("find")
    with pytest.raises(StoreUnavailableError):
        await heard(proxied)
    assert await heard(proxied) == [run.claim]


async def test_who_could_not_ring_rings_later(
    ours: MongoStore, theirs: MongoStore, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    (run,) = await ours.claim([an_entry(0)], "w", now)
    assert await heard(ours) == []
    servers = theirs._there.servers

    async def away(*_args: object) -> None:
        raise AutoReconnect("away")

    monkeypatch.setattr(servers, "_servers", SimpleNamespace(update_many=away))
    await change(theirs, Verb.CANCEL, now=now)
    monkeypatch.undo()
    assert await heard(ours) == []
    await heard(theirs)
    assert await heard(ours) == [run.claim]


async def test_who_could_not_ring_while_another_call_rang_rings_later(
    ours: MongoStore, theirs: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = theirs._there.servers
    real, turns = servers._servers, [asyncio.Event(), asyncio.Event()]
    passing = iter(turns)

    async def slowly(*args: Any) -> None:
        is_first = (turn := next(passing)) is turns[0]
        await turn.wait()
        if not is_first:
            raise AutoReconnect("away")
        await real.update_many(*args)

    assert (await ours.news()).is_more
    monkeypatch.setattr(servers, "_servers", SimpleNamespace(update_many=slowly))
    first, second = [asyncio.ensure_future(servers.ring_all()) for _ in range(2)]
    await asyncio.sleep(0)
    turns[1].set()
    with pytest.raises(AutoReconnect):
        await second
    turns[0].set()
    await first
    monkeypatch.undo()
    assert (await ours.news()).is_more
    assert not (await ours.news()).is_more
    await theirs.news()
    assert (await ours.news()).is_more


async def test_record_of_a_deleted_run_stays_until_who_runs_it_has_heard(
    ours: MongoStore, theirs: MongoStore, now: float
) -> None:
    await theirs.insert([their_job(0)], 1, "w", now)
    (run,) = await theirs.claim([their_entry(0)], "w", now)
    await theirs.sweep(now, 0, FIRST + 1)  # its journal has forgotten the job
    await theirs.sync()
    await change(ours, Verb.DELETE, now=now, is_forced=True)
    await ours.sweep(now + 1, 9, FIRST + 9)
    assert await heard(theirs) == [run.claim]
    await ours.sweep(now + 1, 9, FIRST + 9)
    assert await stored(ours) == 0
    assert await heard(theirs) == []


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_deletion_is_told_once_to_who_runs_the_job_also_if_that_was_cancelled_before(
    ours: MongoStore, theirs: MongoStore, now: float, is_replaced: bool
) -> None:
    await theirs.insert([a_job(0, id="mine"), a_job(1), a_job(2)], 1, "w", now)
    entries = [an_entry(0, id="mine"), an_entry(1), an_entry(2)]
    runs = await theirs.claim(entries, "w", now)
    await change(ours, Verb.CANCEL, now=now)
    assert not (await theirs.news()).deleted
    await change(ours, Verb.DELETE, Filter(ids=("mine",)), now=now, is_forced=True)
    if is_replaced:
        await ours.insert([a_job(5, id="mine", accepted_at=now)], 1, "w", now)
    await change(theirs, Verb.DELETE, Filter(ids=(runs[1].claim.id,)), now=now, is_forced=True)  # it knows of that
    told = await theirs.news()
    assert told.claims == []
    assert [(one.id, one.claim, one.type, one.attempt, one.state) for one in told.deleted] == [
        ("mine", runs[0].claim, "mail", 1, State.PROCESSING)
    ]
    assert list((await theirs.news()).deleted) == []
    await change(ours, Verb.DELETE, Filter(ids=(runs[2].claim.id,)), now=now, is_forced=True)
    assert [one.id for one in (await theirs.news()).deleted] == [runs[2].claim.id]


async def test_deleted_run_is_heard_of_although_a_new_job_has_its_id(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await theirs.insert([a_job(0, id="mine")], 1, "w", now)
    (run,) = await theirs.claim([an_entry(0, id="mine")], "w", now)
    assert await heard(theirs) == []
    await change(ours, Verb.DELETE, now=now, is_forced=True)
    assert await ours.insert([a_job(5, id="mine", accepted_at=now)], 1, "w", now) == []
    assert await heard(theirs) == [run.claim]
    assert await heard(theirs) == []
    (again,) = await theirs.claim([an_entry(5, id="mine")], "w", now)
    assert await theirs.report([a_report(run.claim, at=now), a_report(again.claim, at=now)]) == [False, True]


async def test_any_number_of_deleted_runs_are_heard_of_although_new_jobs_have_their_ids(
    ours: MongoStore, theirs: MongoStore, clock: FakeClock, now: float
) -> None:
    many = range(REPLACED)
    await theirs.insert([a_job(n, id=f"mine{n}") for n in many], 1, "w", now)
    runs = await theirs.claim([an_entry(n, id=f"mine{n}") for n in many], "w", now)
    await change(ours, Verb.DELETE, now=now, is_forced=True)
    await ours.insert([a_job(REPLACED + n, id=f"mine{n}", accepted_at=now) for n in many], 1, "w", now)
    told = await theirs.news()
    assert set(told.claims) == {run.claim for run in runs}
    assert {one.id for one in told.deleted} == {run.claim.id for run in runs}
    clock.advance(LISTEN_S)
    assert await heard(theirs) == []
    assert theirs._there.servers.called_off, "as it was before that look"
    clock.advance(LISTEN_S)
    assert await heard(theirs) == []
    assert not theirs._there.servers.called_off, "it has them for ever"


async def test_job_that_was_cancelled_under_a_claim_nobody_was_told_of_ends(
    ours: MongoStore, theirs: MongoStore, now: float
) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    (run,) = await ours.claim([an_entry(0)], "w", now)
    await change(theirs, Verb.CANCEL, now=now)
    session = ours._there.session
    ours._there.claimer._doubt(session._last_mark)
    await ours._there.claimer.take_back()
    assert await ours.ready("mail", None, 9) == []
    assert await ours.wake(now + 9, 9) == []
    (orphan,) = await ours.orphans(9)
    assert (orphan.claim, orphan.is_cancelled) == (run.claim, True)
    assert await ours.report([a_report(run.claim, State.CANCELLED, at=now)]) == [True]


@pytest.mark.parametrize("verb", list(Verb))
async def test_change_whose_answer_was_lost_is_counted_once(
    proxy: MongoProxy, make_mongo_store: MakeStore, now: float, verb: Verb
) -> None:
    store = make_mongo_store(proxy.uri)
    await store.open(JOURNAL, NODE)
    ended = [an_ended(n, State.FAIL, at=now - 9) for n in range(20, 30)]
    await store.insert([*some_jobs(10), *ended], 1, "w", now)
    await store.claim([an_entry(n) for n in range(3)], "w", now)
    asked = Change(verb, EVERYTHING, now, ABOVE_ALL, is_forced=True)
    parts: list[Slice] = []
    after = None
    proxy.lose_answer("update")
    for _ in range(99):
        try:
            part = await store.change(asked, after, FRESH)
        except StoreUnavailableError:
            continue
        parts.append(part)
        after = part.next
        if after is None:
            break
    assert proxy.has_lost_answer
    met = [one.id for part in parts for one in part.changed]
    assert (len(met), len(set(met))) == ({Verb.CANCEL: 10, Verb.RETRY: 10, Verb.DELETE: 20}[verb],) * 2
    ready = {entry.id: entry.order for part in parts for entry in part.ready}
    records = await listed(store, Filter(states=frozenset({State.RETRY})))
    assert {record.id: record.order for record in records} == ready
    assert len(set(ready.values())) == len(ready)
    counts = await states(store)
    assert sum(counts.get("mail", {}).values()) == await store._there.session.jobs.count_documents({"place": {"$lt": 4}})


async def test_what_is_claimed_between_the_look_and_the_write_is_cancelled_all_the_same(
    ours: MongoStore, theirs: MongoStore, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ours.insert(some_jobs(3), 1, "w", now)
    write = theirs._there.changer._write

    async def claim_first(*args: Any) -> Any:
        monkeypatch.undo()
        await ours.claim([an_entry(1)], "w", now)
        return await write(*args)

    monkeypatch.setattr(theirs._there.changer, "_write", claim_first)
    done = await change(theirs, Verb.CANCEL, now=now)
    assert {one.id: one.state for one in done.changed} == {
        IDS.of(FIRST): State.NEW,
        IDS.of(FIRST + 1): State.PROCESSING,
        IDS.of(FIRST + 2): State.NEW,
    }
    assert len(await heard(ours)) == 1


async def test_jobs_of_one_order_are_all_met(
    ours: MongoStore, theirs: MongoStore, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changing, "SLICE", 3)
    monkeypatch.setattr(changing, "LOOKED", 5)
    for n in range(10):
        await ours.insert([a_job(n)], 1, "w", now)
        await theirs.insert([their_job(n)], 1, "w", now)
    await ours.claim([an_entry(3), their_entry(3)], "w", now)
    for wanted in (EVERYTHING, Filter(states=frozenset({State.NEW, State.PROCESSING}))):
        done = await change(ours, Verb.CANCEL, wanted, now=now, is_dry=True)
        assert len({one.id for one in done.changed}) == len(done.changed) == 20


@pytest.mark.parametrize("first_order", [FRESH, FIRST - 10], ids=["later", "by a clock that is behind"])
async def test_record_of_what_another_server_has_retried_goes_when_its_journal_cannot_bring_it_back(
    ours: MongoStore, theirs: MongoStore, now: float, first_order: int
) -> None:
    await theirs.insert([an_ended(1, State.FAIL, at=now, id=their_job(1).id)], 1, "w", now)
    assert (await change(ours, Verb.RETRY, now=now, first_order=first_order)).numbers == [1]
    await change(ours, Verb.CANCEL, now=now, keep=Spans(0.0))
    swept = []
    for journal_order in (FIRST + 1, FIRST + 2):
        await theirs._there.servers.replay_bounds(journal_order)
        await theirs._there.servers.beat()
        swept.append(await ours.sweep(now, 9, FIRST))
    assert swept == [0, 1]


@pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.DELETE])
@pytest.mark.parametrize("wanted", [EVERYTHING, of_ids(0)])
async def test_what_another_server_has_retried_is_changed_by_that_of_its_journal_too(
    ours: MongoStore, theirs: MongoStore, now: float, verb: Verb, wanted: Filter
) -> None:
    await ours.insert([an_ended(0, State.FAIL, at=now)], 1, "w", now)
    assert (await change(theirs, Verb.RETRY, now=now, first_order=FRESH)).numbers == [0]
    done = await change(ours, verb, wanted, now=now, before_order=FIRST + 1)
    assert done.numbers == [FRESH - FIRST]


@pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.DELETE])
async def test_what_another_server_accepts_after_it_was_asked_is_not_meant(
    ours: MongoStore, theirs: MongoStore, now: float, verb: Verb
) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    await theirs.insert([an_ended(1, State.FAIL, at=now, id=their_job(1).id), their_job(2)], 1, "w", now)
    await change(ours, Verb.RETRY, now=now, first_order=FRESH)
    question = asyncio.ensure_future(ours.others_caught_up(None))
    await theirs.answer(await asked(theirs))
    reached = await question
    await theirs.insert([their_job(3)], 2, "w", now)
    assert reached == {OTHER_NODE: FIRST + 2}
    done = await change(ours, verb, now=now, before_order=FIRST + 1, reached=reached)
    assert sorted(done.numbers) == [0, 2, FRESH - FIRST]
    record = await ours.job(their_job(3).id)
    assert record is not None
    assert record.state is State.NEW


async def test_what_failed_by_the_clock_of_a_server_that_is_ahead_is_retried_and_once(
    ours: MongoStore, theirs: MongoStore, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changing, "SLICE", 1)
    await theirs.insert([their_job(n) for n in range(3)], 1, "w", now)
    for run in await theirs.claim([their_entry(n) for n in range(3)], "w", now):
        await theirs.report([a_report(run.claim, State.FAIL, at=now + 5)])
    assert await retried_and_failed_again(ours, theirs, now) == [0, 1, 2]


async def test_record_that_takes_the_place_of_a_deleted_one_as_that_is_forgotten_stays_until_its_run_has_heard(
    ours: MongoStore, theirs: MongoStore, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ours.insert([a_job(0, id="mine")], 1, "w", now)
    await change(ours, Verb.DELETE, Filter(ids=("mine",)), now=now, before_order=FIRST + 1)
    jobs = ours._there.session.jobs
    assert await jobs.count_documents({"_id": "mine"}) == 1
    bury = ours._there.follower.bury

    async def replace_first(documents: Any) -> None:
        await bury(documents)
        monkeypatch.undo()
        await ours.insert([a_job(1, id="mine")], 2, "w", now)
        await theirs.claim([an_entry(1, id="mine")], "w2", now)
        await change(ours, Verb.DELETE, Filter(ids=("mine",)), now=now, before_order=FIRST + 2, is_forced=True)

    monkeypatch.setattr(ours._there.follower, "bury", replace_first)
    await retention.sweep(ours._there.session, ours._there.servers, ours._there.follower, now, 9, FIRST + 2)
    assert (await jobs.find_one({"_id": "mine"}) or {}).get("order") == FIRST + 1
