"""Limits over servers on one database: slots are never more than there are, and tokens no more than have come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kqs.store.mongo import MongoStore
from kqs.store.mongo.servers import LEASE_S
from kqs.store.sharing import Share, Sharing
from tests.contract.store_contract import JOURNAL, NODE, OTHER_JOURNAL, OTHER_NODE, a_job, an_entry
from tests.support.clock import FakeClock
from tests.support.mongodb import client_of

MakeStore = Callable[..., MongoStore]


@pytest.fixture
async def stores(make_mongo_store: MakeStore) -> list[MongoStore]:
    made = [make_mongo_store(), make_mongo_store()]
    await made[0].open(JOURNAL, NODE)
    await made[1].open(OTHER_JOURNAL, OTHER_NODE)
    return made


@pytest.fixture
def both(stores: list[MongoStore]) -> tuple[Sharing, Sharing]:
    ours, theirs = (store.sharing for store in stores)
    assert ours is not None
    assert theirs is not None
    return ours, theirs


async def test_slots_are_shared_and_given_back(both: tuple[Sharing, Sharing]) -> None:
    ours, theirs = both
    assert await ours.look() == {}
    assert await ours.slots("mail", 3, 5) == 3
    assert await ours.slots("mail", 3, 5) == 3
    assert await theirs.slots("mail", 4, 5) == 2
    assert await ours.look() == {"mail": Share(ours=3, short=1)}
    assert await theirs.look() == {"mail": Share(ours=2, short=0, is_short=True)}
    assert await ours.slots("mail", 1, 5) == 1
    assert await theirs.slots("mail", 4, 5) == 4
    assert await ours.look() == {"mail": Share(ours=1, short=0)}
    assert await ours.slots("mail", 0, 5) == 0
    assert await theirs.look() == {"mail": Share(ours=4, short=0)}


async def test_what_is_in_use_counts_also_beyond_the_limit(both: tuple[Sharing, Sharing]) -> None:
    ours, theirs = both
    await ours.slots("mail", 2, 2)
    assert await theirs.slots("mail", 3, 2, is_forced=True) == 3
    assert await ours.slots("mail", 3, 2) == 2
    assert await theirs.slots("mail", 1, 2) == 1
    assert [(await one.look())["mail"].ours for one in both] == [2, 1]
    assert await theirs.slots("mail", 0, 2) == 0
    assert await ours.slots("mail", 2, 1) == 2  # a limit that sank takes nothing back


async def test_who_asks_at_once_is_given_no_more_than_there_are(both: tuple[Sharing, Sharing]) -> None:
    asked = [sharing.slots("mail", wanted, 7) for wanted in (2, 4, 6) for sharing in both]
    await asyncio.gather(*asked)
    ours, theirs = [(await sharing.look())["mail"] for sharing in both]
    assert 0 < ours.ours + theirs.ours <= 7


async def test_a_write_whose_answer_was_lost_leaks_nothing(
    both: tuple[Sharing, Sharing], stores: list[MongoStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = both
    await ours.slots("mail", 1, 5)
    shares = stores[0]._there.shares._shares
    update = shares.update_one

    class LostError(Exception):
        pass

    async def lost(*args: Any) -> None:
        await update(*args)
        raise LostError

    monkeypatch.setattr(shares, "update_one", lost)
    with pytest.raises(LostError):
        await ours.slots("mail", 4, 5)
    monkeypatch.undo()
    assert (await ours.look())["mail"] == Share(ours=4, short=0)
    assert await ours.slots("mail", 2, 5) == 2
    assert await theirs.slots("mail", 3, 5) == 3


async def test_the_slots_of_a_server_that_left_come_back_when_none_of_its_runs_is_left(
    both: tuple[Sharing, Sharing], stores: list[MongoStore], now: float
) -> None:
    ours, theirs = both
    await stores[0].insert([a_job(0)], 1, "w", now)
    await theirs.slots("mail", 3, 3)
    assert await ours.slots("mail", 1, 3) == 0
    (run,) = await stores[1].claim([an_entry(0)], "w2", now, None, held=True)
    await stores[1].close()
    assert await ours.slots("mail", 1, 3) == 0
    (orphan,) = await stores[0].orphans(9)
    assert orphan.claim == run.claim
    assert await stores[0].adopt([orphan]) == [True]
    await ours.look()
    assert await ours.look() == {"mail": Share(ours=0, short=0, is_short=True)}
    assert await ours.slots("mail", 3, 3) == 3


async def test_the_slots_of_a_server_that_died_come_back(
    both: tuple[Sharing, Sharing], stores: list[MongoStore], clock: FakeClock
) -> None:
    ours, theirs = both
    await theirs.slots("mail", 3, 3)
    await ours.look()
    for _ in range(8):
        clock.advance(LEASE_S / 6)
        await stores[0].sync()
        await ours.look()
    assert await ours.slots("mail", 2, 3) == 2
    assert (await theirs.look())["mail"] == Share(ours=0, short=0)


async def test_no_more_tokens_are_taken_than_have_come(both: tuple[Sharing, Sharing], clock: FakeClock) -> None:
    ours, theirs = both
    assert await ours.tokens("mail", 2, 2) == 0
    assert await theirs.tokens("mail", 2, 2) == 0
    taken = 0
    for step in range(80):
        clock.advance(0.125)
        taken += await both[step % 3 % 2].tokens("mail", 2, 2)
        assert taken <= (step + 1) * 0.25
    assert taken >= 12
    clock.advance(3600)
    await ours.look()
    assert await ours.tokens("mail", 2, 2) == 2


async def test_one_server_alone_is_given_all_that_come(both: tuple[Sharing, Sharing], clock: FakeClock) -> None:
    ours, _ = both
    await ours.tokens("mail", 8, 8)
    taken = 0
    for _ in range(30):
        clock.advance(0.3125)
        taken += await ours.tokens("mail", 8, 8)
    assert taken == 75
    await ours.tokens("post", 100, 100)
    clock.advance(0.09)
    assert await ours.tokens("post", 100, 100) == 0
    clock.advance(0.02)
    assert await ours.tokens("post", 100, 100) == 11


async def test_two_takers_of_one_turn_are_not_both_given_its_tokens(
    both: tuple[Sharing, Sharing], clock: FakeClock, uri: str
) -> None:
    for sharing in both:
        await sharing.tokens("mail", 4, 4)
    clock.advance(1)
    assert sorted(await asyncio.gather(*(sharing.tokens("mail", 4, 4) for sharing in both))) == [0, 4]
    with client_of(uri) as client:
        (document,) = client.get_default_database()["shares"].find()
    assert (document["turn"], document["left"]) == (1, 0.0)
