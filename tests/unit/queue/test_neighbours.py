"""What a server hears of others, and what it tells them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kqs.errors import CallError, StoreUnavailableError
from kqs.filter import Filter
from kqs.job import JobRecord
from kqs.queue import neighbours
from kqs.queue.events import Batch, Word
from kqs.states import State
from kqs.store.base import Change, Changed, News, Spans, Verb
from tests.support.jobs import an_accepted
from tests.support.queueing import Rig
from tests.support.turning import until

NOTHING = News([], False, None)


@pytest.fixture(autouse=True)
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "LOOK_S", 0)


def hears(rig: Rig, monkeypatch: pytest.MonkeyPatch, *told: Any) -> asyncio.Event:
    """Let the store tell this, one at each look, and then nothing; return what is set then."""
    answers, is_over = list(told), asyncio.Event()

    async def news() -> News:
        answer = answers.pop(0) if answers else NOTHING
        if not answers:
            is_over.set()
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, News)
        return answer

    monkeypatch.setattr(rig.store, "news", news)
    return is_over


async def test_runs_that_another_server_cancelled_are_called_off(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    hears(rig, monkeypatch, StoreUnavailableError("away"), NOTHING, NOTHING._replace(claims=[run.claim]))
    looking = asyncio.ensure_future(rig.queue.neighbours.run())
    await rig.until(1, State.CANCELLED)
    looking.cancel()
    await asyncio.wait([looking])
    assert [lease.run.claim for lease in hand.lost] == [run.claim]


async def test_a_run_whose_job_another_server_deleted_has_that_end_and_no_other(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Batch] = []
    rig.queue.events.listen(told.append)
    hand = rig.hand(1)
    await rig.accept(an_accepted(1))
    run = await hand.take()
    spans = Spans(0.0, {})
    await rig.store.change(Change(Verb.DELETE, Filter(), rig.clock.now(), 2**60, spans, spans, is_forced=True), None, 0)
    gone = Changed(run.claim.order, run.claim.id, run.type, run.prio, State.PROCESSING, run.claim, run.attempt)
    hears(rig, monkeypatch, NOTHING._replace(claims=[run.claim], deleted=[gone]))
    looking = asyncio.ensure_future(rig.queue.neighbours.run())
    await until(lambda: bool(hand.lost) and told[-1].word is Word.DELETED)
    looking.cancel()
    await asyncio.wait([looking])
    await rig.queue.settle()
    assert [batch.word for batch in told] == [Word.CREATED, Word.QUEUED, Word.STARTED, Word.DELETED]
    (record,) = told[-1].jobs
    assert isinstance(record, JobRecord)
    assert (record.id, record.type, record.attempt) == (run.claim.id, run.type, 1)


async def test_a_look_at_suspended_types_that_failed_is_made_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    hears(rig, monkeypatch, NOTHING._replace(is_more=True))
    seen = asyncio.Event()

    async def look() -> None:
        monkeypatch.setattr(rig.queue.neighbours, "_look_at_settings", look_again)
        raise StoreUnavailableError("away")

    async def look_again() -> None:
        seen.set()

    monkeypatch.setattr(rig.queue.neighbours, "_look_at_settings", look)
    looking = asyncio.ensure_future(rig.queue.neighbours.run())
    await seen.wait()
    looking.cancel()
    await asyncio.wait([looking])


async def test_a_question_is_answered_once_all_is_stored(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    hears(rig, monkeypatch, *[NOTHING._replace(question=7)] * 9)
    tries, answered = list[int](), asyncio.get_running_loop().create_future()

    async def store_all() -> None:
        tries.append(len(tries))
        if len(tries) == 1:
            raise CallError("the store is behind", "busy")

    async def answer(question: int) -> None:
        if not answered.done():
            answered.set_result((question, len(tries)))

    monkeypatch.setattr(rig.store, "answer", answer)
    rig.queue.neighbours.on_question = store_all
    looking = asyncio.ensure_future(rig.queue.neighbours.run())
    assert await answered == (7, 2)
    looking.cancel()
    await asyncio.wait([looking])
    await rig.queue.neighbours.stop()
