"""Several servers, each with a journal of its own, on one database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Unpack

import msgspec
import pytest

from kqs.config import StoreSection
from kqs.errors import StoreCorruptError, StoreUnavailableError
from kqs.filter import Filter
from kqs.ids import Ids
from kqs.job import Accepted, Entry, Rescheduled, Run
from kqs.states import State
from kqs.store.base import Verb, Waiting
from kqs.store.mongo import MongoStore, slices
from kqs.store.mongo.servers import LEASE_S
from kqs.store.mongo.tallies import RECOUNT_S, SETTLE_S
from tests.contract.change_contract import change
from tests.contract.changes import JobChanges
from tests.contract.store_contract import (
    BULK_BYTES,
    FIRST,
    JOURNAL,
    NODE,
    OTHER_JOURNAL,
    OTHER_NODE,
    a_claim,
    a_job,
    a_report,
    an_ended,
    an_entry,
    numbers,
)
from tests.support.clock import FakeClock
from tests.support.jobs import EVERYTHING, listed
from tests.support.mongo_proxy import MongoProxy
from tests.support.mongodb import client_of
from tests.support.supervising import StrictSupervisor

OTHER_IDS = Ids(OTHER_NODE)

MakeStore = Callable[..., MongoStore]


def their_job(n: int, **changes: Unpack[JobChanges]) -> Accepted:
    job = a_job(n, **changes)
    job.id = OTHER_IDS.of(job.order)
    return job


def take_key(uri: str, job_id: str = a_job(5).id, epoch: int = 1) -> None:
    """Take the key `k` for a job of ours that is about to be stored."""
    with client_of(uri) as client:
        uniques = client.get_default_database().uniques
        uniques.insert_one({"_id": "mail\0k", "job": job_id, "order": FIRST + 5, "node": NODE, "epoch": epoch})


def their_entry(n: int) -> Entry:
    return an_entry(n, id=OTHER_IDS.of(FIRST + n))


def ids(found: list[Entry] | list[Run]) -> list[str]:
    return [one.id if isinstance(one, Entry) else one.claim.id for one in found]


async def test_every_boot_of_every_server_has_its_own_epoch_and_progress(ours: MongoStore, make_mongo_store: MakeStore) -> None:
    await ours.insert([a_job(5)], 9, "w", 0.0)
    info = await make_mongo_store().open(OTHER_JOURNAL, OTHER_NODE)
    assert (info.epoch, info.fed_seq, info.last_order) == (2, 0, 0)
    await ours.close()
    info = await make_mongo_store().open(JOURNAL, NODE)
    assert (info.epoch, info.fed_seq, info.last_order) == (3, 9, FIRST + 5)


async def test_jobs_accepted_in_the_same_microsecond_are_two(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    assert await ours.insert([a_job(0)], 1, "w", now) == []
    assert await theirs.insert([their_job(0)], 1, "w", now) == []
    assert len(await ours.claim([an_entry(0), their_entry(0)], "w", now)) == 2


async def test_a_server_does_not_shorten_by_its_clock_what_others_were_told_to_wait(
    ours: MongoStore, theirs: MongoStore, now: float
) -> None:
    due, expiry = now + 3600, now + 7200
    await ours.insert([a_job(0, due_at=due, expire_at=expiry)], 1, "w", now)
    await theirs.insert([their_job(1, due_at=due, expire_at=expiry), their_job(2, expire_at=expiry)], 1, "w", now)
    (run,) = await ours.claim([their_entry(2)], "w", now)
    await ours.report([a_report(run.claim, State.RETRY, at=now, due_at=due)])
    day_before = now - 86400
    are_there_and_not = [a_job(0).id, their_job(1).id, their_job(2).id, their_job(3).id]
    await ours.reschedule(
        [Rescheduled(FIRST + n, id_, (due, expiry), day_before, day_before) for n, id_ in enumerate(are_there_and_not)]
    )
    assert await theirs.expire(now, 9, None) == []
    assert ids(await theirs.wake(now, 9)) == [a_job(0).id, their_job(2).id]
    assert (await theirs.next_due_at(), await theirs.next_expire_at()) == (due, expiry)


async def test_a_server_that_is_alone_shortens_by_its_clock_when_its_jobs_expire(
    ours: MongoStore, theirs: MongoStore, now: float
) -> None:
    expiry = now + 7200
    await ours.insert([a_job(0, expire_at=expiry)], 1, "w", now)
    change = Rescheduled(FIRST, a_job(0).id, (0.0, expiry), 0.0, now - 60)
    await ours.reschedule([change])
    assert await ours.next_expire_at() == expiry
    await theirs.close()
    await ours.reschedule([change])
    assert await ours.next_expire_at() == now - 60
    (run,) = await ours.claim([an_entry(0)], "w", now)
    assert run.expire_at == now - 60


async def test_jobs_of_one_rank_are_never_parted_by_a_page(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await ours.insert([a_job(0), a_job(1)], 1, "w", now)
    await theirs.insert([their_job(0), their_job(1)], 1, "w", now)
    first = await ours.ready("mail", None, 1)
    assert len(first) == 2
    assert len(await ours.ready("mail", first[-1].rank, 1)) == 2
    records, _ = await ours.page(EVERYTHING, None, 1)
    assert [record.order for record in records] == [FIRST, FIRST]


async def test_each_runs_what_the_other_stored(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    await theirs.insert([their_job(1)], 1, "w", now)
    assert ids(await theirs.ready("mail", None, 9)) == [a_job(0).id, their_job(1).id]
    (run,) = await theirs.claim([an_entry(0)], "w2", now)
    assert await theirs.report([a_report(run.claim, at=now)]) == [True]
    record = await ours.job(run.claim.id)
    assert record is not None
    assert (record.state, record.runs[0].worker) == (State.SUCCESS, "w2")


async def test_a_known_id_is_known_to_all(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await ours.insert([a_job(0, id="mine")], 1, "w", now)
    assert await theirs.insert([a_job(1, id="mine")], 1, "w", now) == [FIRST + 1]


async def test_only_one_of_many_claimers_is_granted_the_run(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await ours.insert([a_job(n) for n in range(20)], 1, "w", now)
    entries = [an_entry(n) for n in range(20)]
    granted = await asyncio.gather(*(store.claim(entries, "w", now) for store in (ours, theirs)))
    assert sorted(ids([*granted[0], *granted[1]])) == [entry.id for entry in entries]


async def test_the_others_reports_do_not_pass_the_fence(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    (run,) = await ours.claim([an_entry(0)], "w", now)
    assert run.claim.epoch == 1
    assert await theirs.report([a_report(a_claim(0, epoch=2), at=now)]) == [False]
    assert await theirs.orphans(9) == []


async def test_delayed_and_expired_jobs_are_anybodys(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await ours.insert([a_job(0, due_at=now + 5), a_job(1, expire_at=now + 7)], 1, "w", now)
    assert (await theirs.next_due_at(), await theirs.next_expire_at()) == (now + 5, now + 7)
    assert ids(await theirs.wake(now + 5, 9)) == [a_job(0).id]
    assert await theirs.expire(now + 7, 9, None) == [a_job(1).id]


async def test_counts_are_of_all_servers(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    await ours.counts()
    await theirs.insert([their_job(1)], 1, "w", now)
    assert await theirs.counts() == {"mail": {State.NEW: 2}}
    await theirs.claim([an_entry(0)], "w", now)
    await theirs.counts()
    assert await ours.counts() == {"mail": {State.NEW: 1, State.PROCESSING: 1}}


async def test_runs_of_a_server_that_left_are_given_back_at_once(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    (run,) = await theirs.claim([an_entry(0)], "w2", now)
    assert await ours.orphans(9) == []
    await theirs.close()
    assert await ours.orphans(9) == [run]


async def test_a_held_run_of_a_server_that_left_is_watched_by_another(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    (run,) = await theirs.claim([an_entry(0)], "w2", now, None, held=True)
    assert await ours.adopt([run]) == [False]
    await theirs.close()
    (orphan,) = await ours.orphans(9)
    assert (orphan.claim, orphan.held) == (run.claim, True)
    assert await ours.adopt([orphan]) == [True]
    assert await ours.orphans(9) == []
    assert await ours.report([a_report(run.claim, at=now)]) == [True]


@pytest.mark.parametrize("is_gone", [False, True], ids=["taken from a server that lives", "adopted"])
async def test_a_held_run_is_an_orphan_again_of_which_nobody_heard_that_it_is_its_own(
    theirs: MongoStore, proxy: MongoProxy, proxied: MongoStore, now: float, is_gone: bool
) -> None:
    await proxied.insert([a_job(0)], 1, "w", now)
    (run,) = await theirs.claim([an_entry(0)], "w2", now, None, held=True)
    if is_gone:
        await theirs.close()
    orphans = await proxied.orphans(9)
    proxy.lose_answer("update")
    with pytest.raises(StoreUnavailableError):
        await (proxied.adopt(orphans) if is_gone else proxied.take(run.claim))
    assert await proxied.orphans(9) == []
    await proxied._there.keep_up()
    (orphan,) = await proxied.orphans(9)
    assert await proxied.adopt([orphan]) == [True]
    await proxied._there.keep_up()
    assert await proxied.orphans(9) == []
    assert await proxied.report([a_report(run.claim, State.GHOST, at=now, ghosts=1, by_watcher=True)]) == [True]


async def test_a_held_run_that_is_taken_again_after_its_answer_was_lost_stays_where_it_is(
    theirs: MongoStore, proxy: MongoProxy, proxied: MongoStore, now: float
) -> None:
    await proxied.insert([a_job(0)], 1, "w", now)
    (run,) = await theirs.claim([an_entry(0)], "w2", now, None, held=True)
    proxy.lose_answer("update")
    with pytest.raises(StoreUnavailableError):
        await proxied.take(run.claim)
    assert await proxied.take(run.claim) is not None
    await proxied._there.keep_up()
    assert await theirs.orphans(9) == []


async def test_a_held_run_may_be_watched_by_another_server_while_its_own_lives(
    ours: MongoStore, theirs: MongoStore, now: float
) -> None:
    await ours.insert([a_job(0), a_job(1), a_job(2)], 1, "w", now)
    (run, ended) = await theirs.claim([an_entry(0), an_entry(1)], "w2", now, None, held=True)
    (plain,) = await theirs.claim([an_entry(2)], "w2", now)
    await theirs.report([a_report(ended.claim, at=now)])
    assert [await ours.take(one.claim) for one in (ended, plain)] == [None, None]
    assert await ours.take(msgspec.structs.replace(run.claim, attempt=2)) is None
    for _ in range(2):
        taken = await ours.take(run.claim)
        assert taken is not None
        assert (taken.claim, taken.held, taken.type, taken.started_at) == (run.claim, True, "mail", now)
    ghost = a_report(run.claim, State.GHOST, "ghost", at=now, ghosts=1, by_watcher=True)
    assert await theirs.report([ghost]) == [False]
    assert await theirs.take(run.claim) is not None  # and back again
    assert await ours.report([ghost]) == [False]
    assert await ours.report([a_report(run.claim, State.FAIL, "fail", at=now, by_watcher=True)]) == [False]
    assert await theirs.report([ghost]) == [True]
    assert await ours.take(run.claim) is None


async def test_a_dead_servers_runs_are_given_back_when_its_lease_is_over(
    ours: MongoStore, theirs: MongoStore, clock: FakeClock, now: float
) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    (run,) = await theirs.claim([an_entry(0)], "w2", now)
    steps = int(LEASE_S / 10)
    for _ in range(steps):
        assert await ours.orphans(9) == []
        clock.advance(10)
    assert await ours.orphans(9) == [run]
    assert await ours.report([a_report(run.claim, State.GHOST, "ghost", at=now)]) == [True]
    assert await theirs.report([a_report(run.claim, at=now)]) == [False]


async def test_a_server_that_beats_keeps_its_runs(ours: MongoStore, theirs: MongoStore, clock: FakeClock, now: float) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    await theirs.claim([an_entry(0)], "w2", now)
    for _ in range(9):
        assert await ours.orphans(9) == []
        clock.advance(10)
        await theirs.sync()


@pytest.mark.parametrize("way", ["claim", "insert"])
async def test_who_was_taken_for_dead_says_that_it_lives_before_it_claims(
    ours: MongoStore, theirs: MongoStore, clock: FakeClock, now: float, way: str
) -> None:
    await ours.insert([a_job(0), a_job(1)], 1, "w", now)
    (held,) = await theirs.claim([an_entry(0)], "w2", now)
    for _ in range(3):
        assert await ours.orphans(9) == []
        clock.advance(10)
    assert await ours.orphans(9) == [held]
    if way == "claim":
        assert await theirs.claim([an_entry(1)], "w2", now)
    else:
        await theirs.insert([their_job(2, claimed_at=now)], 1, "w2", now)
    assert await ours.orphans(9) == []


async def test_servers_whose_clocks_differ_by_a_minute_see_each_other_alive_and_dead(
    uri: str, ours: MongoStore, clock: FakeClock, now: float
) -> None:
    late = FakeClock(now - 60)
    late._monotonic = 1e6
    theirs = MongoStore(StoreSection(uri=uri), late, StrictSupervisor())
    await theirs.open(OTHER_JOURNAL, OTHER_NODE)
    try:
        await ours.insert([a_job(0)], 1, "w", now)
        (run,) = await theirs.claim([an_entry(0)], "w2", late.now())
        for is_beating in (True,) * 9 + (False,) * 3:
            assert await ours.orphans(9) == []
            clock.advance(10)
            late.advance(10)
            if is_beating:
                await asyncio.gather(theirs.sync(), ours.sync())
                assert await theirs.orphans(9) == []
        assert await ours.orphans(9) == [run]
    finally:
        await theirs.close()


async def test_who_has_not_looked_for_long_declares_nobody_dead(
    ours: MongoStore, theirs: MongoStore, clock: FakeClock, now: float
) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    await theirs.claim([an_entry(0)], "w2", now)
    assert await ours.orphans(9) == []
    clock.advance(3600)
    assert await ours.orphans(9) == []


async def test_a_wall_clock_that_jumps_kills_nobody(ours: MongoStore, theirs: MongoStore, clock: FakeClock, now: float) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    await theirs.claim([an_entry(0)], "w2", now)
    assert await ours.orphans(9) == []
    clock.jump(7200)
    assert await ours.orphans(9) == []


async def test_what_another_journal_may_replay_is_not_swept(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await theirs.insert([their_job(0, claimed_at=now)], 1, "w", now)
    assert await theirs.report([a_report(a_claim(0, id=OTHER_IDS.of(FIRST), epoch=2), at=now, drop_at=now)]) == [True]
    assert await ours.sweep(now + 1, 9, FIRST + 99) == 0
    assert await ours.trim_successes(0, 9, FIRST + 99) == 0
    await theirs.sync()
    assert await ours.sweep(now + 1, 9, FIRST + 99) == 0  # stored, but its journal's checkpoint is not known to have passed
    assert await theirs.sweep(now - 1, 9, FIRST + 1) == 0
    await theirs.sync()
    assert await ours.sweep(now + 1, 9, FIRST + 99) == 1


async def test_a_second_server_on_a_copied_journal_stops_the_first(ours: MongoStore, make_mongo_store: MakeStore) -> None:
    await make_mongo_store().open(JOURNAL, NODE)
    with pytest.raises(StoreCorruptError, match="copy of journal"):
        await ours.sync()


async def test_a_database_of_a_newer_version_is_refused_untouched(uri: str, make_mongo_store: MakeStore) -> None:
    with client_of(uri) as client:
        db = client.get_default_database()
        db.meta.insert_one({"_id": "kqs", "schema": 99, "epoch": 7})
        with pytest.raises(StoreCorruptError, match="of version 99"):
            await make_mongo_store().open(JOURNAL, NODE)
        assert db.list_collection_names() == ["meta"]
        assert list(db.meta.find()) == [{"_id": "kqs", "schema": 99, "epoch": 7}]


async def test_somebody_elses_database_is_refused_untouched(uri: str, make_mongo_store: MakeStore) -> None:
    with client_of(uri) as client:
        db = client.get_default_database()
        db.jobs.insert_one({"_id": 1, "title": "gardener"})
        with pytest.raises(StoreCorruptError, match="no KQS store"):
            await make_mongo_store().open(JOURNAL, NODE)
        assert db.list_collection_names() == ["jobs"]


async def test_two_servers_may_create_the_database_together(make_mongo_store: MakeStore) -> None:
    stores = [make_mongo_store(), make_mongo_store()]
    infos = await asyncio.gather(stores[0].open(JOURNAL, NODE), stores[1].open(OTHER_JOURNAL, OTHER_NODE))
    assert sorted(info.epoch for info in infos) == [1, 2]


async def test_two_fleets_share_a_database_and_nothing_else(uri: str, make_mongo_store: MakeStore, now: float) -> None:
    fleets = [make_mongo_store(namespace=name) for name in ("", "eu", "eu.west")]
    infos = [await fleet.open(JOURNAL, NODE) for fleet in fleets]
    assert [info.epoch for info in infos] == [1, 1, 1]
    for fleet, data in zip(fleets, (b"1", b'"' + b"2" * BULK_BYTES + b'"', b"3"), strict=True):
        assert await fleet.insert([a_job(0, data=data)], 1, "w", now) == []
        (run,) = await fleet.claim([an_entry(0)], "w", now)
        assert run.data == data
        assert await fleet.counts() == {"mail": {State.PROCESSING: 1}}
    with client_of(uri) as client:
        db = client.get_default_database()
        assert {"jobs", "eu.jobs", "eu.west.jobs"} <= set(db.list_collection_names())
        assert [db[f"{name}bulk.chunks"].count_documents({}) for name in ("", "eu.", "eu.west.")] == [0, 1, 0]


async def test_a_killed_server_leaves_no_wrong_counts(ours: MongoStore, make_mongo_store: MakeStore, now: float) -> None:
    await ours.insert([a_job(0), a_job(1, due_at=now + 9), a_job(2, claimed_at=now)], 1, "w", now)
    again = make_mongo_store()
    await again.open(JOURNAL, NODE)
    assert await again.counts() == {"mail": {State.NEW: 1, State.DELAYED: 1, State.PROCESSING: 1}}


async def test_a_type_without_jobs_is_not_remembered(uri: str, ours: MongoStore, now: float) -> None:
    await ours.insert([a_job(0, claimed_at=now), a_job(1, type="b")], 1, "w", now)
    await ours.counts()
    await ours.report([a_report(a_claim(0), at=now, drop_at=now)])
    await ours.sweep(now, 9, FIRST + 9)
    assert await ours.counts() == {"b": {State.NEW: 1}}
    with client_of(uri) as client:
        assert [tally["_id"] for tally in client.get_default_database().tallies.find()] == ["b"]


async def test_slices_part_the_jobs(ours: MongoStore, monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    monkeypatch.setattr(slices, "SLICE", 3)
    await ours.insert([a_job(n, type="ab"[n % 2]) for n in range(10)], 1, "w", now)
    await ours._there.session.tallies.recount()
    assert await ours.counts() == {"a": {State.NEW: 5}, "b": {State.NEW: 5}}


async def test_every_question_about_jobs_has_an_index(uri: str, ours: MongoStore) -> None:
    with client_of(uri) as client:
        db = client.get_default_database()
        assert set(db.jobs.index_information()) >= {"lines", "later", "expiring", "running", "ended", "age"}
        assert db.servers.index_information()["nodes"]["unique"]


async def counted_anew(store: MongoStore, *others: MongoStore, clock: FakeClock) -> dict[str, dict[State, int]]:
    """Let these servers keep up until those that are in doubt have counted; return what the first tells."""
    for wait_s in (RECOUNT_S, SETTLE_S / 2, SETTLE_S / 2):
        clock.advance(wait_s)
        for one in (store, *others):
            await one._there.keep_up()
    return await store.counts()


def is_doubtful(store: MongoStore) -> bool:
    return store._there.session.tallies._is_doubtful


async def test_what_a_killed_server_did_last_is_counted_by_the_eldest_that_lives(
    ours: MongoStore, theirs: MongoStore, clock: FakeClock, now: float
) -> None:
    await ours._there.say_alive()
    await ours._there.keep_up()
    await theirs.insert([their_job(0), their_job(1, claimed_at=now)], 1, "w", now)
    await theirs._there._supervisor.end(*theirs._there._services)
    assert await ours.counts() == {}
    for _ in range(int((LEASE_S + RECOUNT_S) / 10) + 1):
        clock.advance(10)
        await ours._there.say_alive()
        await ours._there.keep_up()
    assert await ours.counts() == {"mail": {State.NEW: 1, State.PROCESSING: 1}}


async def test_what_a_server_doubts_when_it_is_stopped_is_counted_by_the_eldest(
    ours: MongoStore, theirs: MongoStore, clock: FakeClock, now: float
) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    await ours._there.say_alive()
    theirs._there.session.tallies.add([("mail", State.RETRY)])
    theirs._there.session.tallies.doubt()
    await theirs.close()
    await ours._there.say_alive()
    assert await counted_anew(ours, clock=clock) == {"mail": {State.NEW: 1}}


async def test_what_a_server_doubts_when_it_is_stopped_is_counted_by_its_next_boot(
    ours: MongoStore, theirs: MongoStore, make_mongo_store: MakeStore, clock: FakeClock, now: float
) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    theirs._there.session.tallies.add([("mail", State.RETRY)])
    theirs._there.session.tallies.doubt()
    await theirs.close()
    again = make_mongo_store()
    await again.open(OTHER_JOURNAL, OTHER_NODE)
    assert await counted_anew(again, clock=clock) == {"mail": {State.NEW: 1}}


async def test_a_death_that_the_eldest_has_not_seen_when_it_is_stopped_is_seen_to_by_the_next(
    ours: MongoStore, theirs: MongoStore, make_mongo_store: MakeStore, clock: FakeClock
) -> None:
    third = make_mongo_store()
    await third.open("7" * 32, "7777beef")
    await theirs._there.say_alive()
    await third._there._supervisor.end(*third._there._services)
    for _ in range(int(LEASE_S / 10) + 1):
        clock.advance(10)
        await ours._there.servers.beat()
        await theirs._there.say_alive()
    assert not is_doubtful(theirs)
    await ours.close()
    await theirs._there.say_alive()
    assert is_doubtful(theirs)


@pytest.mark.parametrize("doubters", [1, 2])
async def test_what_a_count_beside_others_finds_amiss_is_put_right_once(
    ours: MongoStore, theirs: MongoStore, clock: FakeClock, now: float, doubters: int
) -> None:
    await ours.insert([a_job(0), a_job(1, type="b"), a_job(2, type="unheard")], 1, "w", now)
    ours._there.session.tallies.remove([("unheard", State.NEW)])
    await ours.counts()
    theirs._there.session.tallies.add([("mail", State.NEW), ("ghostly", State.RETRY)])
    theirs._there.session.tallies.remove([("b", State.NEW)] * 4)
    await theirs.counts()
    for one in (theirs, ours)[:doubters]:
        one._there.session.tallies.doubt()
    right = {type_: {State.NEW: 1} for type_ in ("mail", "b", "unheard")}
    assert await counted_anew(theirs, ours, clock=clock) == right
    assert is_doubtful(theirs)
    assert await counted_anew(theirs, ours, clock=clock) == right
    assert not is_doubtful(theirs)
    assert not is_doubtful(ours)


async def test_a_count_beside_others_passes_over_what_they_have_not_written_yet(
    ours: MongoStore, theirs: MongoStore, clock: FakeClock, now: float
) -> None:
    await ours.insert([a_job(0), a_job(1), a_job(2)], 1, "w", now)
    (run,) = await ours.claim([an_entry(0)], "w", now)
    theirs._there.session.tallies.add([("mail", State.RETRY)] * 9)
    theirs._there.session.tallies.doubt()
    clock.advance(RECOUNT_S)
    await theirs._there.keep_up()
    await ours.report([a_report(run.claim, at=now)])
    assert await ours.counts() == {"mail": {State.NEW: 2, State.SUCCESS: 1, State.RETRY: 9}}
    clock.advance(SETTLE_S)
    await theirs._there.keep_up()
    assert await ours.counts() == {"mail": {State.NEW: 2, State.SUCCESS: 1, State.RETRY: 7}}
    assert await counted_anew(theirs, clock=clock) == {"mail": {State.NEW: 2, State.SUCCESS: 1}}


async def test_a_correction_does_nothing_where_the_numbers_have_moved(
    ours: MongoStore, theirs: MongoStore, clock: FakeClock, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ours.insert([a_job(0), a_job(1, type="b")], 1, "w", now)
    ours._there.session.tallies.remove([("b", State.NEW)])
    ours._there.session.tallies.add([("mail", State.NEW)])
    await ours.counts()
    tallies = theirs._there.session.tallies
    tallies.doubt()
    correct = tallies._correct

    async def move_first(*args: Any) -> None:
        monkeypatch.undo()
        ours._there.session.tallies.remove([("mail", State.NEW)])
        ours._there.session.tallies.add([("b", State.NEW)])
        await ours.counts()
        await correct(*args)

    monkeypatch.setattr(tallies, "_correct", move_first)
    assert await counted_anew(theirs, clock=clock) == {"mail": {State.NEW: 1}, "b": {State.NEW: 1}}


async def test_who_comes_while_another_counts_as_the_only_server_leaves_a_doubt(
    ours: MongoStore, make_mongo_store: MakeStore, clock: FakeClock, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_mongo_store()
    recount = ours._there.session.tallies.recount

    async def beside_another() -> None:
        await other.open(OTHER_JOURNAL, OTHER_NODE)
        await other.insert([their_job(0)], 1, "w", now)
        await recount()
        await other.counts()

    monkeypatch.setattr(ours._there.session.tallies, "recount", beside_another)
    ours._there.session.tallies.doubt()
    clock.advance(RECOUNT_S)
    await ours._there.keep_up()
    assert is_doubtful(ours)
    monkeypatch.undo()
    assert await counted_anew(ours, other, clock=clock) == {"mail": {State.NEW: 1}}


async def test_servers_that_were_killed_together_and_came_back_together_count_anew(
    ours: MongoStore, theirs: MongoStore, make_mongo_store: MakeStore, clock: FakeClock, now: float
) -> None:
    await ours.insert([a_job(0)], 1, "w", now)
    await theirs.insert([their_job(0)], 1, "w", now)
    for killed in (ours, theirs):
        await killed._there._supervisor.end(*killed._there._services)
    back = [make_mongo_store(), make_mongo_store()]
    await back[0].open(JOURNAL, NODE)
    await back[1].open(OTHER_JOURNAL, OTHER_NODE)
    assert await counted_anew(*back, clock=clock) == {"mail": {State.NEW: 2}}


async def test_a_server_that_left_in_good_order_leaves_no_doubt(ours: MongoStore, theirs: MongoStore) -> None:
    await ours.orphans(9)
    await theirs.close()
    await ours.orphans(9)
    assert not ours._there.session.tallies.needs_recount


async def test_a_server_that_was_held_up_doubts_its_counts(ours: MongoStore, theirs: MongoStore, clock: FakeClock) -> None:
    await ours.orphans(9)
    clock.advance(LEASE_S + RECOUNT_S)
    assert not ours._there.session.tallies.needs_recount
    await ours.orphans(9)
    assert ours._there.session.tallies.needs_recount


async def test_records_are_dropped_by_the_eldest_server(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await theirs.insert([their_job(n, claimed_at=now) for n in range(4)], 1, "w", now)
    claims = [a_claim(n, id=their_job(n).id, epoch=2) for n in range(4)]
    await theirs.report([a_report(claims[0], at=now, drop_at=now), *(a_report(claim, at=now) for claim in claims[1:])])
    assert await theirs.counts() == {"mail": {State.SUCCESS: 4}}
    assert (await theirs.sweep(now, 9, FIRST + 9), await theirs.trim_successes(1, 9, FIRST + 9)) == (0, 0)
    await theirs.sync()
    assert (await ours.sweep(now, 9, FIRST + 9), await ours.trim_successes(1, 9, FIRST + 9)) == (1, 2)


async def test_what_is_over_but_can_come_back_from_the_others_journal_is_known_and_shown(
    ours: MongoStore, theirs: MongoStore, now: float
) -> None:
    await theirs.insert([a_job(0, id="mine")], 1, "w", now)
    (run,) = await theirs.claim([an_entry(0, id="mine")], "w", now)
    await theirs.report([a_report(run.claim, at=now, drop_at=now)])
    again = a_job(5, id="mine", accepted_at=now)
    for _ in range(2):  # before we hear of the other server, and after
        assert await ours.insert([again], 1, "w", now) == [FIRST + 5]
        assert await ours.job("mine") is not None
        assert len(await listed(ours)) == 1
        await ours._there.servers.living()
    assert await theirs.job("mine") is None
    assert await theirs.sweep(now, 0, FIRST) == 0  # says how far its journal reaches back
    await theirs.sync()
    await ours._there.servers.living()
    assert await ours.job("mine") is not None
    await theirs._there.servers.replay_bounds(FIRST + 1)
    await theirs.sync()
    await ours._there.servers.living()
    assert await ours.job("mine") is None
    assert await ours.insert([again], 1, "w", now) == []
    await theirs.counts()  # writes what it has counted
    assert await ours.counts() == {"mail": {State.NEW: 1}}


async def test_a_record_that_another_server_sweeps_meanwhile_makes_room_all_the_same(
    ours: MongoStore, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ours.insert([a_job(0, id="mine")], 1, "w", now)
    (run,) = await ours.claim([an_entry(0, id="mine")], "w", now)
    await ours.report([a_report(run.claim, at=now, drop_at=now)])
    find = ours._there.session.find

    async def find_and_sweep(*args: Any) -> object:
        found = await find(*args)
        await ours._there.session.jobs.delete_many({"_id": "mine"})
        return found

    monkeypatch.setattr(ours._there.session, "find", find_and_sweep)
    assert await ours.insert([a_job(5, id="mine", accepted_at=now)], 2, "w", now) == []
    monkeypatch.undo()
    assert (await ours._there.session.jobs.find_one({"_id": "mine"}) or {})["order"] == FIRST + 5


async def test_a_record_that_another_server_replaces_meanwhile_is_known(
    ours: MongoStore, theirs: MongoStore, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ours.insert([a_job(0, id="mine")], 1, "w", now)
    (run,) = await ours.claim([an_entry(0, id="mine")], "w", now)
    await ours.report([a_report(run.claim, at=now, drop_at=now)])
    await ours._there.servers.replay_bounds(FIRST + 1)
    await ours.sync()
    await theirs._there.servers.living()
    find = ours._there.session.find

    async def find_and_lose(*args: Any) -> object:
        found = await find(*args)
        if found:
            assert await theirs.insert([a_job(7, id="mine", accepted_at=now)], 1, "w", now) == []
        return found

    monkeypatch.setattr(ours._there.session, "find", find_and_lose)
    assert await ours.insert([a_job(5, id="mine", accepted_at=now)], 2, "w", now) == [FIRST + 5]
    record = await theirs.job("mine")
    assert record is not None
    assert record.order == FIRST + 7


async def test_key_of_a_waiting_job_is_everybodys(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    await ours.insert([a_job(0, unique="k")], 1, "w", now)
    assert (await theirs.insert([their_job(1, unique="k")], 1, "w", now)).joined == {FIRST + 1: a_job(0).id}
    (run,) = await theirs.claim([an_entry(0)], "w", now)
    assert await theirs.insert([their_job(2, unique="k")], 2, "w", now) == []
    await theirs.report([a_report(run.claim, State.RETRY, "fail", at=now)])
    assert (await ours.insert([a_job(3, unique="k")], 2, "w", now)).joined == {FIRST + 3: a_job(0).id}


async def test_of_servers_that_insert_a_key_at_once_one_makes_the_job(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    for number in range(20):
        first, second = a_job(2 * number, unique=f"k{number}"), their_job(2 * number + 1, unique=f"k{number}")
        found = await asyncio.gather(ours.insert([first], 1, "w", now), theirs.insert([second], 1, "w", now))
        assert sorted(map(len, found)) == [0, 1]
        assert [one.joined for one in found if one] in ([{first.order: second.id}], [{second.order: first.id}])
    assert len(await listed(ours)) == 20


async def test_servers_that_take_many_keys_at_once_share_them(ours: MongoStore, theirs: MongoStore, now: float) -> None:
    mine = [a_job(n, unique=f"k{n}") for n in range(200)]
    others = [their_job(1000 + n, unique=f"k{n}") for n in reversed(range(200))]
    found = await asyncio.gather(ours.insert(mine, 1, "w", now), theirs.insert(others, 1, "w", now))
    assert sum(map(len, found)) == 200
    records = await listed(ours)
    assert len(records) == len({record.unique for record in records}) == 200


async def test_key_that_another_server_has_taken_and_not_used_is_waited_for(
    ours: MongoStore, theirs: MongoStore, uri: str, now: float
) -> None:
    take_key(uri)
    with pytest.raises(StoreUnavailableError, match="another server is storing"):
        await theirs.insert([their_job(6, unique="k")], 1, "w", now)
    storing = asyncio.ensure_future(theirs.insert([their_job(6, unique="k")], 1, "w", now))
    assert await ours.insert([a_job(5, unique="k")], 1, "w", now) == []
    assert (await storing).joined == {FIRST + 6: a_job(5).id}


@pytest.mark.parametrize("why", ["died", "has stored what came later"])
async def test_key_that_nobody_will_use_any_more_is_taken(
    ours: MongoStore, theirs: MongoStore, uri: str, now: float, why: str
) -> None:
    take_key(uri)
    if why == "died":
        await ours.close()
    else:
        await ours.insert([a_job(6)], 1, "w", now)
        await ours.sync()
    assert await theirs.insert([their_job(7, unique="k")], 1, "w", now) == []


async def test_key_whose_job_is_stored_while_another_server_asks_for_it_is_not_taken(
    ours: MongoStore, theirs: MongoStore, uri: str, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_key(uri)
    may_be_storing = theirs._there.servers.may_be_storing

    async def store_and_ask(*args: Any) -> bool:
        assert await ours.insert([a_job(5, unique="k")], 1, "w", now) == []
        await ours.sync()
        return await may_be_storing(*args)

    monkeypatch.setattr(theirs._there.servers, "may_be_storing", store_and_ask)
    assert (await theirs.insert([their_job(6, unique="k")], 1, "w", now)).joined == {FIRST + 6: a_job(5).id}
    assert [record.id for record in await listed(ours)] == [a_job(5).id]


async def test_key_of_a_job_that_is_about_to_replace_a_record_of_its_id_is_waited_for(
    ours: MongoStore, theirs: MongoStore, uri: str, now: float
) -> None:
    await ours.insert([a_job(0, id="mine")], 1, "w", now)
    (run,) = await ours.claim([an_entry(0, id="mine")], "w", now)
    await ours.report([a_report(run.claim, at=now, drop_at=now)])
    take_key(uri, "mine")
    with pytest.raises(StoreUnavailableError, match="another server is storing"):
        await theirs.insert([their_job(6, unique="k")], 1, "w", now)
    assert await ours.insert([a_job(5, id="mine", unique="k", accepted_at=now)], 2, "w", now) == []
    assert (await theirs.insert([their_job(6, unique="k")], 1, "w", now)).joined == {FIRST + 6: "mine"}


async def test_key_that_an_earlier_boot_has_taken_is_the_new_ones_while_it_stores_the_job(
    ours: MongoStore, theirs: MongoStore, uri: str, now: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_key(uri, epoch=0)
    store = ours._there.inserter._store

    async def store_late(documents: list[Any]) -> set[int]:
        with pytest.raises(StoreUnavailableError, match="another server is storing"):
            await theirs.insert([their_job(6, unique="k")], 1, "w", now)
        return await store(documents)

    monkeypatch.setattr(ours._there.inserter, "_store", store_late)
    assert await ours.insert([a_job(5, unique="k")], 1, "w", now) == []
    assert (await theirs.insert([their_job(6, unique="k")], 1, "w", now)).joined == {FIRST + 6: a_job(5).id}


@pytest.mark.parametrize("what", ["a revived job", "a job that goes before others of its batch"])
async def test_key_is_waited_for_though_its_server_has_stored_what_has_a_higher_order(
    ours: MongoStore, theirs: MongoStore, uri: str, now: float, what: str
) -> None:
    if what == "a revived job":
        await ours.insert([an_ended(0, State.FAIL, at=now)], 1, "w", now)
        await change(ours, Verb.RETRY, now=now)
    else:
        await ours.insert([an_ended(6, at=now)], 0, "w", now)
    await ours.sync()
    take_key(uri)
    with pytest.raises(StoreUnavailableError, match="another server is storing"):
        await theirs.insert([their_job(7, unique="k")], 1, "w", now)
    assert await ours.insert([a_job(5, unique="k")], 2, "w", now) == []
    assert (await theirs.insert([their_job(7, unique="k")], 1, "w", now)).joined == {FIRST + 7: a_job(5).id}


async def test_server_that_takes_up_its_journal_again_finds_its_key_taken(
    ours: MongoStore, theirs: MongoStore, make_mongo_store: MakeStore, now: float
) -> None:
    await ours.insert([a_job(0, unique="k")], 1, "w", now)
    await ours.claim([an_entry(0)], "w", now)
    await ours.close()
    assert await theirs.insert([their_job(1, unique="k")], 1, "w", now) == []
    again = make_mongo_store()
    await again.open(JOURNAL, NODE)
    found = await again.insert([a_job(0, unique="k"), a_job(2, unique="k")], 1, "w", now)
    assert (sorted(found), found.joined) == ([FIRST, FIRST + 2], {FIRST + 2: their_job(1).id})
    (run,) = await again.orphans(9)
    await again.report([a_report(run.claim, State.GHOST, at=now)])
    assert (await again.insert([a_job(3, unique="k")], 1, "w", now)).joined == {FIRST + 3: a_job(0).id}


async def test_keys_of_swept_and_replaced_jobs_are_given_up(ours: MongoStore, uri: str, now: float) -> None:
    await ours.insert([a_job(0, unique="k0"), a_job(1, unique="k1", id="mine"), a_job(2, unique="k2")], 1, "w", now)
    for run in await ours.claim([an_entry(0), an_entry(1, id="mine")], "w", now):
        await ours.report([a_report(run.claim, at=now, drop_at=now)])
    assert await ours.insert([a_job(9, id="mine", unique="k9", accepted_at=now)], 1, "w", now) == []
    assert await ours.insert([a_job(10, id="mine", unique="k10", accepted_at=now)], 1, "w", now) == [FIRST + 10]
    assert await ours.sweep(now, 9, FIRST + 100) == 1
    with client_of(uri) as client:
        db = client.get_default_database()
        assert sorted(one["_id"] for one in db.uniques.find()) == ["mail\0k2", "mail\0k9"]
        assert db.jobs.count_documents({"pair": {"$exists": True}}) == 2


async def test_what_others_do_to_what_waits_is_told_later(
    ours: MongoStore, theirs: MongoStore, make_mongo_store: MakeStore, now: float
) -> None:
    told: list[Waiting] = []
    third = make_mongo_store()
    third.on_waiting = told.append
    third.watch(["mail"])
    await ours.insert([a_job(n) for n in range(5)], 1, "w", now)
    await ours.counts()
    await third.open("e" * 32, "0000eeee")
    assert told[-1].counts == {"mail": 5}
    await third.insert([their_job(7)], 1, "w", now)
    assert (told[-1].counts, told[-1].taken) == ({"mail": 6}, [their_job(7)])
    await ours.claim([an_entry(n) for n in range(3)], "w", now)
    await ours.counts()
    await third._there.keep_up()
    assert told[-1].counts == {"mail": 3}


@pytest.mark.parametrize("after", range(4))
async def test_what_takes_the_place_of_an_expired_job_just_then_does_not_expire(
    theirs: MongoStore, proxy: MongoProxy, proxied: MongoStore, now: float, after: int
) -> None:
    await proxied.insert([a_job(0, id="x", expire_at=now)], 1, "w", now)

    async def replace() -> None:
        await change(theirs, Verb.DELETE, Filter(ids=("x",)), now=now)
        await theirs.insert([a_job(9, id="x")], 1, "w", now)

    proxy.meanwhile((after, replace))
    await proxied.expire(now, 9, None)
    if not proxy.is_interrupted:
        await replace()
    record = await theirs.job("x")
    assert record is not None
    assert (record.order, record.state) == (FIRST + 9, State.NEW)


@pytest.mark.parametrize("after", range(4))
async def test_what_runs_and_waits_again_as_it_expires_is_counted_as_it_ends(
    theirs: MongoStore, proxy: MongoProxy, proxied: MongoStore, now: float, after: int
) -> None:
    await proxied.insert([a_job(0, expire_at=now)], 1, "w", now)

    async def run() -> None:
        for each in await theirs.claim([an_entry(0)], "w", now):
            await theirs.report([a_report(each.claim, State.RETRY, at=now, failures=1)])

    proxy.meanwhile((after, run))
    ended = [*await proxied.expire(now, 9, None), *await proxied.expire(now, 9, None)]
    proxy.meanwhile()
    assert ended == [a_job(0).id]
    await theirs.counts()  # writes what it has counted
    assert (await proxied.counts())["mail"] == {State.FAIL: 1}


@pytest.mark.parametrize("after", range(5))
async def test_who_is_called_as_it_expires_leaves_its_resource_to_the_next(
    theirs: MongoStore, proxy: MongoProxy, proxied: MongoStore, now: float, after: int
) -> None:
    await proxied.insert([a_job(0, resource="r"), a_job(1, resource="r", expire_at=now), a_job(2, resource="r")], 1, "w", now)
    (run,) = await theirs.claim([an_entry(0)], "w", now)

    async def end() -> None:
        assert await theirs.report([a_report(run.claim, at=now)]) == [True]

    proxy.meanwhile((after, end))
    ended = [*await proxied.expire(now, 9, None), *await proxied.expire(now, 9, None)]
    assert ended == [a_job(1).id]
    if not proxy.is_interrupted:
        await end()
    assert numbers(await proxied.claim([an_entry(2)], "w", now)) == [2]


@pytest.mark.parametrize("after", range(6))
async def test_what_takes_the_place_of_an_ended_job_as_that_is_dropped_stays(
    proxy: MongoProxy, make_mongo_store: MakeStore, now: float, after: int
) -> None:
    ours, theirs = make_mongo_store(proxy.uri), make_mongo_store()
    await ours.open(JOURNAL, NODE)
    await theirs.open(OTHER_JOURNAL, OTHER_NODE)
    await ours.insert([an_ended(0, at=now, id="x", end_drop_at=now)], 1, "w", now)

    async def replace() -> None:
        await change(theirs, Verb.DELETE, Filter(ids=("x",)), now=now)
        await theirs.insert([an_ended(9, at=now, id="x")], 1, "w", now)

    proxy.meanwhile((after, replace))
    await ours.sweep(now, 9, FIRST + 5)
    if not proxy.is_interrupted:
        await replace()
    record = await theirs.job("x")
    assert record is not None
    assert (record.order, record.state) == (FIRST + 9, State.SUCCESS)


async def test_never_less_than_none_are_told_to_wait(ours: MongoStore, make_mongo_store: MakeStore, now: float) -> None:
    told: list[Waiting] = []
    theirs = make_mongo_store()
    theirs.watch(["mail"])
    theirs.on_waiting = told.append
    await theirs.open(OTHER_JOURNAL, OTHER_NODE)
    await ours.insert([a_job(0)], 1, "w", now)  # and has not written that it waits
    assert len(await theirs.claim([an_entry(0)], "w2", now)) == 1
    await theirs.insert([a_job(1, type="video")], 1, "w2", now)
    assert [waiting.counts["mail"] for waiting in told] == [0] * len(told)
