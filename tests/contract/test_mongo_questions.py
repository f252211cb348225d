"""Servers that ask others to store what they have accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kqs.errors import StoreUnavailableError
from kqs.store.mongo import MongoStore, questions
from kqs.store.mongo.servers import LEASE_S
from tests.contract.store_contract import NODE, OTHER_JOURNAL, OTHER_NODE
from tests.support.clock import FakeClock
from tests.support.mongo_proxy import MongoProxy

MakeStore = Callable[..., MongoStore]


async def asked(store: MongoStore) -> int:
    """Return what this server is asked, once it is."""
    while True:
        if (question := (await store.news()).question) is not None:
            return question


async def test_who_asks_hears_when_the_other_has_stored_all(ours: MongoStore, theirs: MongoStore) -> None:
    for node in (None, OTHER_NODE, None):
        question = asyncio.ensure_future(ours.others_caught_up(node))
        number = await asked(theirs)
        assert not question.done()
        await theirs.answer(number)
        await question
        assert (await theirs.news()).question is None


async def test_many_who_ask_at_once_ask_no_more_than_twice(
    ours: MongoStore, theirs: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = asyncio.ensure_future(ours.others_caught_up(None))
    number = await asked(theirs)
    have_asked = asyncio.Semaphore(0)
    question_of = ours._there.questions._question

    def noted(journal_id: str) -> asyncio.Task[dict[str, Any] | None]:
        have_asked.release()
        return question_of(journal_id)

    monkeypatch.setattr(ours._there.questions, "_question", noted)
    others = [asyncio.ensure_future(ours.others_caught_up(node)) for node in (None, OTHER_NODE) * 20]
    for _ in others:
        await have_asked.acquire()
    await theirs.answer(number)
    await first
    await theirs.answer(await asked(theirs))
    await asyncio.gather(*others)
    assert number == 1
    assert await ours._there.questions._collection.count_documents({"asked": 2, "answered": 2}) == 1


async def test_nobody_else_is_asked(make_mongo_store: MakeStore, ours: MongoStore, proxy: MongoProxy, clock: FakeClock) -> None:
    lone = make_mongo_store(proxy.uri)
    await lone.open(OTHER_JOURNAL, OTHER_NODE)
    await ours.close()
    proxy.forget()
    for node in (None, NODE, OTHER_NODE, "00000000"):
        await lone.others_caught_up(node)
    assert dict(proxy.commands).keys() == {"find"}


async def test_who_does_not_answer_is_told_and_a_dead_one_is_not_asked(
    ours: MongoStore, theirs: MongoStore, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "WITHIN_S", 0.1)
    for node in (None, OTHER_NODE):
        with pytest.raises(StoreUnavailableError, match="another server"):
            await ours.others_caught_up(node)
    await ours.others_caught_up("00000000")
    for _ in range(int(LEASE_S / 10) + 1):
        clock.advance(10)
        await ours._there.say_alive()
    await ours.others_caught_up(None)


async def test_a_server_that_leaves_is_waited_for_no_longer(ours: MongoStore, theirs: MongoStore) -> None:
    question = asyncio.ensure_future(ours.others_caught_up(None))
    await asked(theirs)
    await theirs.close()
    await question


async def test_types_that_are_suspended_elsewhere_are_rung_for(
    ours: MongoStore, theirs: MongoStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await ours.news()).is_more
    assert not (await ours.news()).is_more
    for change in (theirs.suspend("mail", 1.0), theirs.suspend("mail", 2.0), theirs.resume("mail")):
        await change
        assert (await ours.news()).is_more
        assert not (await ours.news()).is_more
