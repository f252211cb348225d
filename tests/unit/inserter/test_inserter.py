"""Jobs go into a journal without anybody's connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kqs.config import TakingSection
from kqs.errors import CallError, JournalFailedError, NoSpaceError
from kqs.ids import Ids
from kqs.inserter import Found, Inserter
from kqs.journal.format import Kind
from kqs.options import PlainJob
from kqs.queue.bounds import Bounds
from kqs.wire.inserted import Inserted
from kqs.wire.jobs import Told
from kqs.wire.steps import Steps, finish
from tests.support.backend import MemoryJournal, MemoryVerdicts
from tests.support.clock import FakeClock
from tests.support.turning import until


class Rig:
    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.ids = Ids("0000cafe")
        self.clock = FakeClock()
        self.verdicts = MemoryVerdicts()
        self.inserter = Inserter(self.journal, self.ids, self.clock.now, self.verdicts)


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_a_job_is_kept_and_told_by_its_id(rig: Rig) -> None:
    text = b'{"type":"mail","data":1}'
    (job_id,) = await rig.inserter.insert(text)
    (record,) = rig.journal.records
    assert (record.kind, record.count, record.payload) == (Kind.JOBS, 1, text)
    assert job_id == rig.ids.of(record.first_order)
    assert record.done is None


async def test_an_array_is_one_record_and_its_ids_come_in_order(rig: Rig) -> None:
    ids = await rig.inserter.insert(b'[{"type":"mail"},{"type":"mail","id":"mine"}]')
    (record,) = rig.journal.records
    assert ids == [rig.ids.of(record.first_order), "mine"]


def test_what_is_told_of_jobs_is_made_as_they_are_checked_in_steps(rig: Rig) -> None:
    text = b'[{"type":"mail"},{"type":"mail","id":"b","unique":"a","on_conflict":"refuse"},{"type":"mail","answer":"full"}]'
    told = finish(rig.inserter.checking(text, 3)).told
    assert told == {1: Told(True, False, True, "a"), 2: Told(False, True, False, None)}


async def test_no_job_is_no_record(rig: Rig) -> None:
    assert await rig.inserter.insert(b"[]") == []
    assert rig.journal.records == []


@pytest.mark.parametrize("text", [b'[{"type":"mail"},{"type":1}]', b"{", b"7", b'{"type":"mail"}{"type":"mail"}', b""])
async def test_what_is_no_job_is_refused_and_with_it_all_beside_it(rig: Rig, text: bytes) -> None:
    with pytest.raises(CallError):
        await rig.inserter.insert(text)
    assert rig.journal.records == []


async def test_more_jobs_than_the_most_are_refused(rig: Rig) -> None:
    with pytest.raises(CallError) as caught:
        await rig.inserter.insert(b'[{"type":"mail"},{"type":"mail"}]', max_jobs=1)
    assert caught.value.call_code == "too_large"


async def test_an_id_that_a_server_may_have_yet_to_make_is_refused(rig: Rig) -> None:
    unmade = rig.ids.of(int(rig.clock.now() * 1e6))
    with pytest.raises(CallError, match="job 1: id"):
        await rig.inserter.insert(b'[{"type":"mail"},{"type":"mail","id":"%s"}]' % unmade.encode())
    assert rig.inserter.may_make_any(["mine", unmade])
    assert not rig.inserter.may_make_any(["mine"])


async def test_what_is_not_flushed_counts_until_it_is(rig: Rig) -> None:
    rig.journal.held = True
    inserting = asyncio.ensure_future(rig.inserter.insert(b'{"type":"mail"}'))
    await asyncio.sleep(0)
    assert rig.inserter.unflushed_bytes == len(b'{"type":"mail"}')
    assert not inserting.done()
    rig.journal.flush()
    assert len(await inserting) == 1
    assert rig.inserter.unflushed_bytes == 0


@pytest.mark.parametrize("error", [NoSpaceError("full"), JournalFailedError("EIO")])
async def test_a_journal_that_takes_nothing_is_told(rig: Rig, error: NoSpaceError | JournalFailedError) -> None:
    rig.journal.failure = error
    with pytest.raises(type(error)):
        await rig.inserter.insert(b'{"type":"mail"}')
    assert rig.inserter.unflushed_bytes == 0


async def test_who_gives_up_waiting_leaves_the_job_where_it_is(rig: Rig) -> None:
    rig.journal.held = True
    inserting = asyncio.ensure_future(rig.inserter.insert(b'{"type":"mail"}'))
    await asyncio.sleep(0)
    inserting.cancel()
    rig.journal.flush()
    await asyncio.wait([inserting])
    assert len(rig.journal.records) == 1


async def test_what_the_store_makes_of_jobs_is_told(rig: Rig) -> None:
    rig.verdicts.found = lambda order: Found(frozenset(), {order: "other"})
    text = b'[{"type":"mail","unique":"k"},{"type":"mail","id":"mine"},{"type":"mail","unique":"k","answer":"full"}]'
    assert await rig.inserter.insert_told(text) == ["other", "mine", Inserted("other", created=False)]
    assert await rig.inserter.insert(text) == ["other", "mine", "other"]


async def test_the_answers_to_many_jobs_are_made_in_steps_and_in_order(rig: Rig) -> None:
    rig.verdicts.found = lambda order: Found(frozenset(), {order: "other"} if order % 2 else {})
    some = [b'{"type":"mail"}', b'{"type":"mail","unique":"k"}', b'{"type":"mail","unique":"k","answer":"full"}']
    text = b"[%b]" % b",".join(some * 2000)
    works: list[Steps[None]] = []
    told: list[Any] = []
    rig.inserter.keep_told(finish(rig.inserter.checking(text, 6000)), told.append, run=works.append)
    await until(lambda: bool(works))
    assert told == []
    assert sum(1 for _ in works[0]) >= 10
    first = rig.journal.records[0].first_order
    ids = [
        rig.ids.of(order) if index % 3 == 0 or order % 2 == 0 else "other"
        for index, order in enumerate(range(first, first + 6000))
    ]
    assert told == [[Inserted(id_, id_ != "other") if index % 3 == 2 else id_ for index, id_ in enumerate(ids)]]


async def test_a_job_that_is_refused_for_its_key_is_an_error_and_the_others_are_kept(rig: Rig) -> None:
    rig.verdicts.found = lambda order: Found(frozenset(), {order: "other"})
    text = b'[{"type":"mail"},{"type":"mail","unique":"k","on_conflict":"refuse"}]'
    with pytest.raises(CallError, match="job 1: unique: a job of this type and key 'k' waits") as caught:
        await rig.inserter.insert(text)
    assert caught.value.call_code == "duplicate"
    assert [record.payload for record in rig.journal.records] == [text]


async def test_who_gives_up_waiting_for_the_store_is_told_nothing(rig: Rig) -> None:
    rig.verdicts.held = True
    inserting = asyncio.ensure_future(rig.inserter.insert(b'{"type":"mail","unique":"k"}'))
    await until(lambda: bool(rig.verdicts.flushed_first))
    inserting.cancel()
    await asyncio.wait([inserting])
    rig.verdicts.decide()
    assert rig.verdicts.asked == []


async def test_jobs_that_would_be_too_many_are_refused_and_journal_trouble_gives_their_room_back(rig: Rig) -> None:
    door = Bounds({"mail": TakingSection(max_waiting=2)})
    door.is_known = True
    inserter = Inserter(rig.journal, rig.ids, rig.clock.now, rig.verdicts, door)
    assert inserter.are_alone([PlainJob("mail")] * 2)
    assert not inserter.are_alone([PlainJob("mail")] * 3)
    rig.journal.failure = NoSpaceError("full")
    with pytest.raises(NoSpaceError):
        await inserter.insert(b'[{"type":"mail"},{"type":"mail"}]')
    rig.journal.failure = None
    rig.journal.held = True
    inserting = asyncio.ensure_future(inserter.insert(b'[{"type":"mail"},{"type":"mail"}]'))
    await asyncio.sleep(0)
    with pytest.raises(CallError, match="max_waiting = 2"):
        await inserter.insert(b'{"type":"mail"}')
    rig.journal.failure = JournalFailedError("EIO")
    rig.journal.flush()
    with pytest.raises(JournalFailedError):
        await inserting
    assert door.waiting("mail") == 0
    assert inserter.unflushed_bytes == 0


async def test_jobs_with_subscribers_are_kept_with_their_copies_and_answered_by_their_own_ids(rig: Rig) -> None:
    inserter = Inserter(rig.journal, rig.ids, rig.clock.now, rig.verdicts, None, {"order": ["bill", "ship"]})
    text = b'[{"type":"order"},{"type":"mail"},{"type":"order","id":"mine"}]'
    ids = await inserter.insert(text)
    (record,) = rig.journal.records
    assert (record.kind, record.count, record.jobs) == (Kind.FANNED, 7, None)
    assert record.payload == b'{"order":["bill","ship"]}\n' + text
    assert ids == [rig.ids.of(record.first_order), rig.ids.of(record.first_order + 1), "mine"]
    assert not inserter.are_alone([PlainJob("mail"), PlainJob("order")])
    await inserter.insert(b'{"type":"mail"}')
    assert rig.journal.records[-1].kind is Kind.JOBS
    with pytest.raises(CallError, match="at most 4000 jobs with their copies") as caught:
        await inserter.insert(b"[%b]" % b",".join([b'{"type":"order"}'] * 1334))
    assert caught.value.call_code == "too_large"


async def test_only_what_is_adopted_says_itself_which_copies_it_has(rig: Rig) -> None:
    with pytest.raises(CallError, match="job 1: copies: belongs to `adopt`"):
        await rig.inserter.insert(b'[{"type":"mail"},{"type":"order","copies":{"bill":"x"}}]')
    for copies in (b'{"bill":"no id"}', b'{"\\u0000":"x"}'):
        with pytest.raises(CallError, match=r"^copies: expected an id for each type"):
            finish(rig.inserter.checking(b'{"type":"order","id":"a","copies":%b}' % copies, 1, adopted=True))
