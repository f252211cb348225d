"""What is told of jobs, to whom, and when: over a real store."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import closing
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from msgspec.structs import replace

from kqs.errors import StoreUnavailableError
from kqs.job import Accepted, JobRecord, Report, Run, entry_of
from kqs.outcome import Again, Failed, Ok, Outcome
from kqs.queue.changes import Request
from kqs.queue.ends import DELETED, End, Ends
from kqs.queue.events import Batch, Word
from kqs.queue.queue import Queue
from kqs.states import State
from kqs.store.base import DAMAGED, MOST_ENDS, Known, Looked, Verb
from tests.support.feeding import Feeding, caught_up
from tests.support.jobs import EVERYTHING, NOW, a_run, an_accepted
from tests.support.queueing import Hand, Rig
from tests.support.remote import Hired, a_desk

JOB = an_accepted(1).id


class Ear:
    """Hears all that is told."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.batches: list[Batch] = []
        self._heard = asyncio.Event()
        queue.events.listen(self._hear)

    def ignore(self) -> None:
        self.queue.events.ignore(self._hear)

    def _hear(self, batch: Batch) -> None:
        self.batches.append(batch)
        self._heard.set()

    @property
    def words(self) -> list[str]:
        return [batch.word.value for batch in self.batches for _ in batch.jobs]

    async def until(self, word: Word, job_count: int = 1) -> Batch:
        """Return the first batch of this word, once so many jobs were told of with it."""
        async with asyncio.timeout(10):
            while self.words.count(word.value) < job_count:
                self._heard.clear()
                await self._heard.wait()
        return next(batch for batch in self.batches if batch.word is word)


async def test_nothing_is_made_while_nobody_listens(rig: Rig) -> None:
    events = rig.queue.events
    assert not events.hears_ends
    ear = Ear(rig.queue)
    assert events.is_heard
    ear.ignore()
    assert not events.is_heard
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    await hand.end(await hand.take())
    assert ear.batches == []


async def test_a_jobs_way_is_told_in_its_order_and_in_batches(rig: Rig) -> None:
    ear = Ear(rig.queue)
    hand = rig.hand(3)
    await rig.accept(*map(an_accepted, range(3)))
    runs = [await hand.take() for _ in range(3)]
    for run in runs:
        rig.queue.runs.report(hand.leases[run.claim.id], Ok(b"7"))
    await rig.queue.settle()
    assert [(batch.word, len(batch.jobs)) for batch in ear.batches] == [
        (Word.CREATED, 3),
        (Word.QUEUED, 3),
        (Word.STARTED, 3),
        (Word.SUCCESS, 3),
    ]
    reports = ear.batches[-1].reports
    assert reports is not None
    assert [report.result for report in reports] == [b"7"] * 3


@pytest.mark.parametrize(
    ("outcome", "options", "words"),
    [
        (Ok(), {}, ["success"]),
        (Failed("x"), {"retry_delay": 0}, ["retry", "queued"]),
        (Failed("x"), {"retry_delay": 9}, ["retry"]),
        (Failed("x"), {"retries": 0}, ["fail"]),
        (Failed("x", final=True), {}, ["fail"]),
        (Again(), {}, ["retry", "queued"]),
        (Again(9.0), {}, ["retry"]),
    ],
)
async def test_each_way_for_a_run_to_end_is_an_event(
    rig: Rig, outcome: Outcome, options: dict[str, float], words: list[str]
) -> None:
    hand = rig.hand(1)
    job = an_accepted(1)
    job.options = msgspec.json.encode(options) if options else None
    await rig.accept(job)
    run = await hand.take()
    ear = Ear(rig.queue)
    await rig.queue.runs.remove_consumer(hand.consumer)
    rig.hands.remove(hand)
    rig.queue.runs.report(hand.leases[run.claim.id], outcome)
    await rig.queue.settle()
    assert ear.words == words


@pytest.mark.parametrize(("ghosts", "words"), [(10, ["ghost", "queued"]), (0, ["fail"])])
async def test_a_ghost_out_of_tries_has_failed(rig: Rig, ghosts: int, words: list[str]) -> None:
    hand = rig.hand(1)
    job = an_accepted(1)
    job.options = msgspec.json.encode({"ghosts": ghosts})
    await rig.accept(job)
    lease = hand.leases[(await hand.take()).claim.id]
    ear = Ear(rig.queue)
    rig.queue.runs.lose(lease, "it died")
    await rig.queue.settle()
    assert ear.words == words


async def test_what_is_given_back_is_released_and_a_claim_that_never_began_is_nothing(rig: Rig) -> None:
    hand = rig.hand(3)
    ear = Ear(rig.queue)
    await rig.accept(*map(an_accepted, range(1, 3)))
    interrupted, unbegun = [await hand.take() for _ in range(2)]
    rig.queue.runs.release(hand.leases[interrupted.claim.id], 60.0)
    await rig.queue.settle()
    rig.queue.runs.cancel(hand.leases[unbegun.claim.id])
    await rig.queue.settle()
    assert ear.words[6:8] == ["released", "released"]
    ear.batches.clear()
    held = await hand.take()
    await rig.queue.settle()
    ear.batches.clear()
    rig.queue.runs.give_back(held)
    await rig.queue.settle()
    assert "released" not in ear.words


@pytest.mark.parametrize("is_stale", [False, True])
async def test_what_was_given_back_and_is_over_or_stale_says_nothing_of_a_later_run(rig: Rig, is_stale: bool) -> None:
    hand = rig.hand(1)
    ear = Ear(rig.queue)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    events, report = rig.queue.events, Report(run.claim, run.type, State.CANCELLED, "", NOW, has_begun=False)
    events.unbegun(run)
    events.reported([(run, report)], [not is_stale])
    ear.batches.clear()
    events.reported([(run, replace(report, state=State.NEW))], [True])
    assert ear.words == []


async def test_what_was_given_back_says_nothing_of_a_run_of_another_servers_job_with_its_order(rig: Rig) -> None:
    ear = Ear(rig.queue)
    run = a_run(1)
    other = replace(run, claim=replace(run.claim, id="another server's"))
    rig.queue.events.unbegun(run)
    report = Report(other.claim, other.type, State.NEW, "", NOW, has_begun=False)
    rig.queue.events.reported([(other, report)], [True])
    assert "released" not in ear.words
    rig.queue.events.reported([(run, replace(report, claim=run.claim))], [True])
    assert ear.words.count("released") == 1


async def test_a_job_whose_time_comes_is_queued_then(rig: Rig) -> None:
    ear = Ear(rig.queue)
    await rig.accept(an_accepted(1, due_at=NOW + 1))
    assert ear.words == ["created"]
    assert ear.batches[0].state is State.DELAYED
    rig.clock.advance(2)
    await ear.until(Word.QUEUED)


@pytest.mark.parametrize("outcome", [Failed("x"), Again()])
async def test_a_job_with_a_resource_is_queued_when_it_is_created_and_when_its_run_has_ended(
    rig: Rig, outcome: Outcome
) -> None:
    ear = Ear(rig.queue)
    job = an_accepted(1)
    job.resource = "printer"
    job.options = b'{"retry_delay":0}'
    await rig.accept(job)
    await ear.until(Word.QUEUED)
    hand = rig.hand(1)
    run = await hand.take()
    ear_of_end = Ear(rig.queue)
    await rig.queue.runs.remove_consumer(hand.consumer)
    rig.hands.remove(hand)
    rig.queue.runs.report(hand.leases[run.claim.id], outcome)
    await ear_of_end.until(Word.QUEUED)
    assert ear.words == ["created", "queued", "started", "retry", "queued"]


async def test_what_expires_in_line_is_told_with_its_record(rig: Rig) -> None:
    ear = Ear(rig.queue)
    job = an_accepted(1)
    job.expire_at = NOW + 1
    await rig.accept(job)
    rig.clock.advance(2)
    (record,) = (await ear.until(Word.EXPIRED)).jobs
    assert isinstance(record, JobRecord)
    assert (record.id, record.state, record.error) == (job.id, State.FAIL, "expired")


async def test_what_expires_in_a_lane_is_no_end_of_a_run(rig: Rig) -> None:
    hand = rig.hand(0)
    job = an_accepted(1)
    job.expire_at = NOW + 60
    await rig.accept(job)
    ear = Ear(rig.queue)
    rig.clock.advance(30)
    hand.consumer.free()
    (run,) = [await hand.take()]
    assert ear.words == ["started"]
    rig.queue.runs.ending.over(run, rig.queue._judge.expired(run, rig.cascade.resolve("mail", None), NOW))
    await rig.queue.settle()
    assert ear.words == ["started", "expired"]


async def test_a_job_that_is_inserted_again_is_not_created_again(rig: Rig) -> None:
    ear = Ear(rig.queue)
    await rig.accept(an_accepted(1))
    await rig.accept(an_accepted(1))
    assert ear.words == ["created", "queued"]


async def test_a_run_that_goes_on_here_has_not_started_again(rig: Rig) -> None:
    ear, desk = Ear(rig.queue), a_desk(rig)
    run = msgspec.structs.replace(a_run(1), held=True)
    desk.adopt([run])
    (lease,) = rig.queue.runs._leases.all()
    assert lease.run.claim == run.claim
    await asyncio.sleep(0)
    assert ear.words == []
    rig.queue.runs.leave(lease)


async def test_who_was_lost_is_told_with_its_runs(rig: Rig) -> None:
    hired = Hired(a_desk(rig), "w7")
    hired.work(2)
    await rig.accept(an_accepted(1))
    async with asyncio.timeout(10):
        while not hired.open:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
    ear = Ear(rig.queue)
    hired.party.leave("gone")
    lost = await ear.until(Word.WORKER_LOST)
    assert (lost.worker, len(lost.jobs)) == ("w7", 1)
    assert (await ear.until(Word.GHOST)).jobs


async def test_jobs_that_begin_before_they_are_stored_are_created_first(feeding: Feeding) -> None:
    rig = feeding.rig
    ear = Ear(rig.queue)
    hand = rig.hand(1)
    feeder = await feeding.start()
    await feeding.insert(b'{"type":"mail"}')
    run = await hand.take()
    await hand.end(run)
    await caught_up(feeder)
    assert ear.words == ["created", "queued", "started", "success"]


def slow(rig: Rig, monkeypatch: pytest.MonkeyPatch, operation: str, meanwhile: Callable[[], Awaitable[object]]) -> None:
    """Have a store that is asked to do something do `meanwhile` when that is done, and nobody has heard of it; once."""
    do, left = getattr(rig.store, operation), [meanwhile]

    async def slowly(*args: Any, **flags: Any) -> Any:
        answer = await do(*args, **flags)
        while left:
            await left.pop()()
        return answer

    monkeypatch.setattr(rig.store, operation, slowly)


async def turns() -> None:
    """Let others hear what the store tells by itself."""
    for _ in range(20):
        await asyncio.sleep(0)


def run_by(rig: Rig, hand: Hand) -> Callable[[], Awaitable[None]]:
    """Return what has a hand run the job that the broker finds in the store by itself."""

    async def found() -> None:
        hand.consumer.free()
        await rig.broker.put(await rig.store.ready("mail", None, 1))
        await hand.take()
        await turns()

    return found


def a_printing_job() -> Accepted:
    job = an_accepted(1)
    job.resource, job.options = "printer", b'{"retry_delay":0}'
    return job


async def test_a_job_that_is_called_while_it_is_stored_was_created_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ear, insert = Ear(rig.queue), rig.store.insert

    async def parking(jobs: Sequence[Accepted], *rest: Any) -> Known:
        known = await insert(jobs, *rest)
        rig.queue._timetable.called([entry_of(job, None) for job in jobs])
        await turns()
        return Known(known, {job.order for job in jobs})

    monkeypatch.setattr(rig.store, "insert", parking)
    await rig.accept(a_printing_job())
    assert ear.words == ["created", "queued"]


async def test_a_job_that_begins_while_it_is_stored_was_created_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ear, hand = Ear(rig.queue), rig.hand(0)
    slow(rig, monkeypatch, "insert", run_by(rig, hand))
    await rig.accept(an_accepted(1))
    assert ear.words == ["created", "queued", "started"]


@pytest.mark.parametrize("is_resource", [False, True])
async def test_a_job_that_begins_though_its_insert_failed_is_created_when_that_is_repeated(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, is_resource: bool
) -> None:
    ear, hand, insert = Ear(rig.queue), rig.hand(0), rig.store.insert
    monkeypatch.setattr(rig.queue.events, "_is_shared", True)
    job = a_printing_job() if is_resource else an_accepted(1)

    async def losing_its_answer(*given: Any) -> Known:
        await insert(*given)
        raise StoreUnavailableError("the connection is lost")

    async def knowing_itself(*given: Any) -> Known:
        known = await insert(*given)
        return Known(known, {job.order} if is_resource else (), made=set(known))

    monkeypatch.setattr(rig.store, "insert", losing_its_answer)
    with pytest.raises(StoreUnavailableError):
        await rig.accept(job)
    if is_resource:
        rig.queue._timetable.called([entry_of(job, None)])
    await run_by(rig, hand)()
    assert ear.words == []
    monkeypatch.setattr(rig.store, "insert", knowing_itself)
    await rig.accept(job)
    assert ear.words == ["created", "queued", "started"]
    await rig.accept(an_accepted(2))
    assert ear.words[3:] == ["created", "queued"]


async def test_what_happens_to_a_job_whose_id_is_inserted_again_does_not_wait_for_a_full_disk(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run, ear = await hand.take(), Ear(rig.queue)
    monkeypatch.setattr(rig.store, "insert", Mock(side_effect=StoreUnavailableError("the disk is full")))
    with pytest.raises(StoreUnavailableError):
        await rig.accept(an_accepted(1))
    await hand.end(run)
    assert ear.words == ["success"]


@pytest.mark.parametrize("outcome", [Failed("x"), Again()])
async def test_a_job_that_is_called_while_its_report_is_stored_has_ended_its_run_first(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    hand = rig.hand(1)
    await rig.accept(a_printing_job())
    run = await hand.take()
    ear = Ear(rig.queue)
    slow(rig, monkeypatch, "report", turns)
    rig.queue.runs.report(hand.leases[run.claim.id], outcome)
    await rig.queue.settle()
    assert ear.words == ["retry", "queued"]


async def test_a_job_that_runs_again_while_its_report_is_stored_has_ended_its_run_first(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    ear = Ear(rig.queue)
    slow(rig, monkeypatch, "report", run_by(rig, hand))
    rig.queue.runs.report(hand.leases[run.claim.id], Again())
    await rig.queue.settle()
    assert ear.words == ["retry", "queued", "started"]


async def test_a_job_that_begins_while_it_is_woken_was_queued_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ear, job, hand = Ear(rig.queue), an_accepted(1), rig.hand(0)
    job.due_at = NOW + 5
    await rig.accept(job)
    slow(rig, monkeypatch, "wake", run_by(rig, hand))
    rig.clock.advance(6)
    await ear.until(Word.STARTED)
    assert ear.words == ["created", "queued", "started"]


async def test_what_was_ready_all_the_while_is_told_though_the_store_is_slow_to_wake_others(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ear, late, hand = Ear(rig.queue), an_accepted(1), rig.hand(1)
    late.due_at = NOW + 5
    await rig.accept(late)
    told: list[list[str]] = []

    async def begin() -> None:
        await rig.accept(an_accepted(2))
        await hand.take()
        await turns()
        told.append(ear.words)

    slow(rig, monkeypatch, "wake", begin)
    rig.clock.advance(6)
    async with asyncio.timeout(10):
        while not told:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
    assert told == [["created", "created", "queued", "started"]]


async def test_a_retried_job_that_begins_while_it_is_retried_was_queued_first(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    rig.queue.runs.report(hand.leases[run.claim.id], Failed("x", final=True))
    await rig.queue.settle()
    ear = Ear(rig.queue)
    slow(rig, monkeypatch, "change", run_by(rig, hand))
    await rig.queue.changes.do(Request(Verb.RETRY, EVERYTHING), rig.take_orders)
    assert ear.words == ["queued", "started"]


async def test_what_is_retried_and_deleted_at_once_was_cancelled_first(rig: Rig) -> None:
    ear, jobs = Ear(rig.queue), [an_accepted(number) for number in range(3)]
    await rig.accept(*jobs)
    for verb in (Verb.CANCEL, Verb.RETRY, Verb.CANCEL, Verb.DELETE):
        await rig.queue.changes.do(Request(verb, EVERYTHING), rig.take_orders)
    await ear.until(Word.DELETED)
    for job in jobs:
        told = [(batch, one) for batch in ear.batches for one, id_ in zip(batch.jobs, batch.ids, strict=True) if id_ == job.id]
        assert [batch.word for batch, _ in told] == ["created", "queued", "cancelled", "queued", "cancelled", "deleted"]
        ends = [one for batch, one in told if batch.word is Word.CANCELLED and isinstance(one, JobRecord)]
        assert [(end.type, end.state, end.error) for end in ends] == [("mail", State.CANCELLED, "cancelled")] * 2
        assert [batch.at for batch, _ in told] == sorted(batch.at for batch, _ in told)


async def test_many_cancelled_jobs_are_told_with_few_questions_to_the_store(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    ear, jobs = Ear(rig.queue), [an_accepted(number) for number in range(250)]
    await rig.accept(*jobs)
    page, asked = rig.store.page, itertools.count(1)

    async def counted(*args: Any, **flags: Any) -> Any:
        next(asked)
        return await page(*args, **flags)

    monkeypatch.setattr(rig.store, "page", counted)
    monkeypatch.setattr(rig.store, "job", None)  # it is not asked for one
    await rig.queue.changes.do(Request(Verb.CANCEL, EVERYTHING), rig.take_orders)
    await ear.until(Word.CANCELLED, len(jobs))
    assert next(asked) < 10
    ends = [one for batch in ear.batches if batch.word is Word.CANCELLED for one in batch.jobs]
    assert [(end.id, end.type) for end in ends if isinstance(end, JobRecord)] == [(job.id, "mail") for job in jobs]


async def test_who_begins_to_listen_anew_hears_nothing_that_was_kept_for_another(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, ear = a_printing_job(), Ear(rig.queue)
    anew: list[Ear] = []

    async def leave() -> None:
        rig.queue._timetable.called([entry_of(job, None)])
        ear.ignore()
        anew.append(Ear(rig.queue))

    slow(rig, monkeypatch, "insert", leave)
    await rig.accept(job)
    assert ear.words == []
    assert anew[0].words == ["created", "queued"]


async def test_who_begins_to_listen_while_a_job_is_stored_hears_only_what_comes_after(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ears: list[Ear] = []
    run = run_by(rig, rig.hand(0))

    async def listen_and_run() -> None:
        ears.append(Ear(rig.queue))
        await run()

    slow(rig, monkeypatch, "insert", listen_and_run)
    await rig.accept(an_accepted(1))
    assert ears[0].words == ["started"]


class Waiting:
    """Waits for a job's end."""

    def __init__(self, queue: Queue, job_id: str = JOB) -> None:
        self.told: list[tuple[End, bool]] = []
        self.queue = queue
        self.job_id = job_id
        self.has_heard = asyncio.Event()
        queue.events.ends.wait(job_id, self.hear)

    def hear(self, end: End, is_alone: bool) -> None:
        self.told.append((end, is_alone))
        self.has_heard.set()

    async def end(self) -> JobRecord:
        async with asyncio.timeout(10):
            await self.has_heard.wait()
        ((end, _),) = self.told
        assert isinstance(end, JobRecord)
        return end


async def test_whoever_waits_is_told_once_and_others_are_not(rig: Rig) -> None:
    waiting, other, gone = Waiting(rig.queue), Waiting(rig.queue, "other"), Waiting(rig.queue)
    rig.queue.events.ends.forget(JOB, gone.hear)
    rig.queue.events.ends.forget(JOB, gone.hear)
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    await hand.end(await hand.take(), Again())
    await hand.end(await hand.take(), Ok(b"[7]"))
    record = await waiting.end()
    assert (record.id, record.state, record.result, record.attempt) == (JOB, State.SUCCESS, b"[7]", 2)
    assert (other.told, gone.told) == ([], [])
    assert list(rig.queue.events.ends.waiting) == ["other"]


async def test_ends_in_one_commit_are_not_alone(rig: Rig) -> None:
    hand = rig.hand(2)
    waits = [Waiting(rig.queue, an_accepted(number).id) for number in range(2)]
    await rig.accept(*map(an_accepted, range(2)))
    for run in [await hand.take(), await hand.take()]:
        rig.queue.runs.report(hand.leases[run.claim.id], Ok())
    for waiting in waits:
        await waiting.end()
        assert waiting.told[0][1] is False


async def test_a_known_job_that_has_ended_is_looked_for(rig: Rig) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    await hand.end(await hand.take(), Failed("no", final=True))
    waiting = Waiting(rig.queue)
    await rig.accept(an_accepted(1))
    assert (await waiting.end()).error == "no"


async def test_a_known_job_that_goes_on_is_waited_for(rig: Rig) -> None:
    await rig.accept(an_accepted(1))
    waiting = Waiting(rig.queue)
    await rig.accept(an_accepted(1))
    await rig.queue.events.ends._search([JOB], lambda _: DELETED)
    assert waiting.told == []
    hand = rig.hand(1)
    await hand.end(await hand.take())
    await waiting.end()


async def test_a_search_outlasts_a_store_that_is_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kqs.queue.ends.SEARCH_AGAIN_S", 0.0)
    job, tries = rig.store.job, itertools.count()

    async def away(job_id: str) -> JobRecord | None:
        if next(tries) < 3:
            raise StoreUnavailableError("away")
        return await job(job_id)

    monkeypatch.setattr(rig.store, "job", away)
    waiting = Waiting(rig.queue)
    rig.queue.events.ends.search([JOB, "nobody's"])
    async with asyncio.timeout(10):
        await waiting.has_heard.wait()
    assert waiting.told == [(DELETED, True)]


async def test_a_job_that_is_found_damaged_as_it_is_claimed_has_ended(rig: Rig) -> None:
    await rig.accept(an_accepted(1))
    await rig.stop()
    with closing(sqlite3.connect(rig.folder / "store.sqlite")) as db, db:
        db.execute("update jobs set data = x'37'")
    await rig.start()
    waiting = Waiting(rig.queue)
    rig.hand(1)
    assert (await waiting.end()).error == DAMAGED


async def test_what_the_owner_does_is_told_to_both(rig: Rig) -> None:
    ear = Ear(rig.queue)
    await rig.accept(an_accepted(1))
    record = await rig.record(1)
    for word in (Word.DELETED, Word.CANCELLED):
        waiting = Waiting(rig.queue)
        rig.queue.events.changed(word, [record])
        expected = {Word.DELETED: [(DELETED, True)], Word.CANCELLED: [(record, True)]}
        assert waiting.told == expected[word]
        rig.queue.events.ends.forget(JOB, waiting.hear)
    assert ear.words[2:] == ["deleted", "cancelled"]


async def test_the_end_of_a_job_that_is_waited_for_does_not_wait_for_company(feeding: Feeding) -> None:
    hand = feeding.rig.hand(1)
    wanted = []
    await feeding.start()
    await feeding.insert(b'{"type":"mail"}')
    run: Run = await hand.take()
    waiting = Waiting(feeding.rig.queue, run.claim.id)
    early = feeding.rig.queue.wishes.sooner

    def want() -> None:
        wanted.append(True)
        early()

    feeding.rig.queue.wishes.sooner = want
    feeding.rig.queue.runs.report(hand.leases[run.claim.id], Ok())
    assert wanted == [True]
    await waiting.end()


class Elsewhere:
    """Ends of jobs that may end on other servers: what the store says is what the test says."""

    def __init__(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kqs.queue.ends.LOOK_S", 0.0)
        monkeypatch.setattr(rig.store, "look", self.look)
        self.rig = rig
        self.ends = Ends(rig.queue.reads, rig.clock, rig.supervisor, is_shared=True)
        self.there: set[str] = set()
        self.ended: list[JobRecord] = []
        self.asked: list[list[str]] = []
        self.is_away = False
        self.is_slow: asyncio.Event | None = None
        self.told: list[tuple[str, End]] = []

    async def look(self, job_ids: list[str]) -> Looked:
        self.asked.append(list(job_ids))
        if self.is_away:
            raise StoreUnavailableError("away")
        here = [record for record in self.ended if record.id in job_ids]
        looked = Looked(frozenset(self.there & set(job_ids)), here[:MOST_ENDS])
        if self.is_slow is not None:
            await self.is_slow.wait()
        return looked

    def wait(self, job_id: str) -> None:
        def told(end: End, is_alone: bool) -> None:
            self.told.append((job_id, end))

        self.ends.wait(job_id, told)

    def end(self, job_id: str, drop_at: float | None = None) -> None:
        record = self.ends.unrun_record(job_id, State.FAIL, "expired")
        record.drop_at = drop_at
        self.ended.append(record)
        self.there.add(job_id)

    async def turns(self, count: int = 20) -> None:
        for _ in range(count):
            await asyncio.sleep(0)


@pytest.fixture
async def elsewhere(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Elsewhere]:
    elsewhere = Elsewhere(rig, monkeypatch)
    yield elsewhere
    await elsewhere.ends.stop()


async def test_an_end_elsewhere_is_heard_of_and_asked_for_only_as_long_as_somebody_waits(elsewhere: Elsewhere) -> None:
    await elsewhere.turns()
    assert elsewhere.asked == []
    elsewhere.wait("a")
    elsewhere.wait("b")
    await elsewhere.turns()
    assert elsewhere.asked[-1] == ["a", "b"]
    elsewhere.end("a")
    await elsewhere.turns()
    elsewhere.is_away = True
    await elsewhere.turns()
    elsewhere.is_away = False
    elsewhere.end("b")
    await elsewhere.turns()
    assert [job_id for job_id, _ in elsewhere.told] == ["a", "b"]
    asked = len(elsewhere.asked)
    await elsewhere.turns()
    assert len(elsewhere.asked) == asked
    elsewhere.wait("a")
    await elsewhere.turns()
    assert len(elsewhere.told) == 3


async def test_a_job_that_is_there_no_more_was_deleted_and_one_that_was_never_there_is_on_its_way(elsewhere: Elsewhere) -> None:
    elsewhere.there = {"a"}
    elsewhere.wait("a")
    elsewhere.wait("b")
    await elsewhere.turns()
    elsewhere.there = set()
    await elsewhere.turns()
    assert elsewhere.told == [("a", DELETED)]


@pytest.mark.parametrize("is_looking", [False, True], ids=["before a look", "as one is under way"])
async def test_a_job_that_was_stored_is_deleted_where_no_look_has_ever_found_it(elsewhere: Elsewhere, is_looking: bool) -> None:
    elsewhere.is_slow = asyncio.Event() if is_looking else None
    elsewhere.wait(JOB)
    elsewhere.wait("b")
    await elsewhere.turns()
    elsewhere.ends.stored([an_accepted(1)], (), ())
    if elsewhere.is_slow is not None:
        elsewhere.is_slow.set()
        await elsewhere.turns(1)
        assert elsewhere.told == []
    await elsewhere.turns()
    assert elsewhere.told == [(JOB, DELETED)]


async def test_a_job_that_was_joined_to_another_is_not_deleted(elsewhere: Elsewhere) -> None:
    elsewhere.wait(JOB)
    elsewhere.ends.stored([job := an_accepted(1)], (), {job.order})
    await elsewhere.turns()
    assert elsewhere.told == []


async def test_a_job_that_was_seen_before_any_look_is_deleted_for_those_who_have(elsewhere: Elsewhere) -> None:
    told: list[tuple[str, End]] = []
    for name in ("has seen", "has not"):
        elsewhere.ends.wait("a", hear := lambda end, is_alone, name=name: told.append((name, end)))
        if name == "has seen":
            elsewhere.ends.seen("a", hear)
            elsewhere.ends.seen("b", hear)
    await elsewhere.turns()
    assert told == [("has seen", DELETED)]


async def test_a_search_that_finds_a_job_has_seen_it(elsewhere: Elsewhere) -> None:
    await elsewhere.rig.accept(an_accepted(1))
    elsewhere.wait(JOB)
    await elsewhere.ends._search([JOB], lambda _: DELETED)
    await elsewhere.turns()
    assert elsewhere.told == [(JOB, DELETED)]


async def test_a_record_that_was_over_before_is_of_another_job(elsewhere: Elsewhere) -> None:
    elsewhere.end("a", drop_at=NOW)
    elsewhere.wait("a")
    await elsewhere.turns(3)
    assert elsewhere.told == []
    elsewhere.ended[0].drop_at = NOW + 1
    await elsewhere.turns()
    assert [job_id for job_id, _ in elsewhere.told] == ["a"]


async def test_a_record_that_was_over_before_by_another_clock_is_that_of_an_id_made_by_a_server(elsewhere: Elsewhere) -> None:
    made = "66185edaaec68-474bd282"
    elsewhere.end(made, drop_at=NOW - 20)
    elsewhere.wait(made)
    await elsewhere.turns()
    assert [job_id for job_id, _ in elsewhere.told] == [made]


@pytest.mark.parametrize("is_there", [True, False], ids=["as it ended", "not there any more"])
async def test_who_waits_for_the_next_job_of_an_id_is_not_told_of_the_one_before(elsewhere: Elsewhere, is_there: bool) -> None:
    elsewhere.there = {"a"}
    elsewhere.wait("a")
    await elsewhere.turns()  # it is there
    elsewhere.ends.tell("a", DELETED)
    elsewhere.rig.clock.advance(1)
    elsewhere.wait("a")
    elsewhere.there = set()
    if is_there:
        elsewhere.end("a", drop_at=NOW)
    await elsewhere.turns()
    assert elsewhere.told == [("a", DELETED)]
    elsewhere.end("a", drop_at=NOW + 2)
    await elsewhere.turns()
    assert [job_id for job_id, _ in elsewhere.told] == ["a", "a"]


async def test_a_look_that_was_under_way_says_nothing_of_who_is_waited_for_since(elsewhere: Elsewhere) -> None:
    elsewhere.there = {"a"}
    elsewhere.wait("a")
    elsewhere.is_slow = asyncio.Event()
    await elsewhere.turns()
    elsewhere.ends.tell("a", DELETED)
    elsewhere.wait("a")
    elsewhere.is_slow.set()
    await elsewhere.turns(1)
    elsewhere.there = set()
    await elsewhere.turns()
    assert elsewhere.told == [("a", DELETED)]


async def test_many_ends_are_asked_for_at_once(elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kqs.queue.ends.LOOK_JOBS", 3)
    monkeypatch.setattr("kqs.queue.ends.MOST_ENDS", 2)
    for number in range(10):
        elsewhere.end(str(number))
        elsewhere.wait(str(number))
    await elsewhere.turns(100)
    assert len(elsewhere.told) == 10
    assert max(map(len, elsewhere.asked)) == 3
    assert elsewhere.ends.waiting == {}
