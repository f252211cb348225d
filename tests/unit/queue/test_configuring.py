"""What owners say of options at run time: the cascade heeds it, and the store keeps it."""

from __future__ import annotations

from typing import Any

import pytest

from kqs.errors import CallError, StoreCorruptError, StoreUnavailableError
from kqs.queue import configuring
from kqs.queue.configuring import ALL, Configuring
from kqs.store.sayings import Topic
from tests.support.jobs import an_accepted
from tests.support.queueing import Rig
from tests.support.remote import still


async def say(rig: Rig, type_: str = "mail", **named: Any) -> bool:
    return await rig.queue.configuring.say(type_, named)


def of(rig: Rig, type_: str = "mail") -> Any:
    return rig.queue.cascade.of_type[type_]


async def test_it_stands_above_its_section_until_it_is_taken_back(rig: Rig) -> None:
    before = of(rig).ttr
    assert await say(rig, ttr=7, retries=2)
    assert (of(rig).ttr, of(rig).retries, of(rig, "video").ttr) == (7, 2, before)
    assert not await say(rig, ttr=7)
    assert await say(rig, ttr=None)
    assert (of(rig).ttr, of(rig).retries) == (before, 2)
    assert rig.queue.configuring.said("mail") == {"retries": 2}
    assert await rig.queue.configuring.reset("mail")
    assert not await rig.queue.configuring.reset("mail")
    assert rig.queue.configuring.said("mail") == {}


async def test_of_all_types_it_gives_way_to_what_is_said_of_one(rig: Rig) -> None:
    await say(rig, ALL, ttr=7, prio="high")
    await say(rig, "mail", ttr=9)
    assert (of(rig).ttr, of(rig).prio, of(rig, "video").ttr) == (9, 9000, 7)
    assert rig.queue.cascade.base.ttr == 7


async def test_runs_that_begin_have_it_and_those_that_have_begun_do_not(rig: Rig) -> None:
    hand = rig.hand(2)
    await rig.accept(an_accepted(0))
    begun = await hand.take()
    lease = rig.queue.runs.begin(begun, lambda reason: None)
    await say(rig, ttr=77)
    await rig.accept(an_accepted(1))
    await still(rig)
    assert rig.queue.runs.begin(await hand.take(), lambda reason: None).options.ttr == 77
    assert lease.options.ttr != 77


async def test_another_server_hears_of_it_by_looking(rig: Rig) -> None:
    other = Configuring(rig.store, rig.queue.cascade)
    await other.say("mail", {"wait": 5})
    assert rig.queue.cascade.has_waits
    await rig.queue.configuring.look()
    assert rig.queue.configuring.said("mail") == {"wait": 5}
    await rig.queue.configuring.reset("mail")
    assert not rig.queue.cascade.has_waits


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"ttl": 5}, 'unknown option "ttl"; the nearest known one is "ttr"'),
        ({"ttr": "long"}, 'ttr: expected .*, got "long"'),
        ({"ttr": 0}, "ttr: expected .*, got 0"),
        ({"retries": True}, "retries: expected .*, got true"),
        ({"resource": ""}, "resource: expected"),
        ({"weight": 3}, 'unknown option "weight"'),
        ({"ttr": [1] * 500}, "ttr: expected"),
    ],
)
async def test_what_cannot_be_is_refused_whole(rig: Rig, named: dict[str, object], words: str) -> None:
    with pytest.raises(CallError, match=words) as refused:
        await rig.queue.configuring.say("mail", {"retries": 1} | named)
    assert (refused.value.call_code, len(str(refused.value)) < 400) == ("bad_call", True)
    assert rig.queue.configuring.said("mail") == {}


async def test_no_more_types_than_there_may_be(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuring, "MAX_SAID", 1)
    await say(rig, ttr=5)
    await say(rig, ttr=6)
    with pytest.raises(CallError, match="1 types have options") as refused:
        await say(rig, "video", ttr=5)
    assert refused.value.call_code == "busy"


async def test_a_store_that_refuses_leaves_it_as_it_was(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await say(rig, ttr=5)

    async def refuse(*_: object) -> bool:
        raise StoreUnavailableError("full")

    monkeypatch.setattr(rig.store, "say", refuse)
    for change in (say(rig, ttr=9), rig.queue.configuring.reset("mail")):
        with pytest.raises(StoreUnavailableError):
            await change
    assert of(rig).ttr == 5


async def test_what_another_version_said_is_kept_to_as_well_as_can_be(rig: Rig) -> None:
    await rig.store.say(Topic.OPTIONS, "mail", b'{"ttr":0.0001,"sparkle":true,"retries":[],"keep":5}')
    await rig.queue.configuring.look()
    assert rig.queue.configuring.said("mail") == {"ttr": 0.1, "keep": 5}
    await rig.store.say(Topic.OPTIONS, "mail", b"[]")
    with pytest.raises(StoreCorruptError, match="the options of type 'mail'"):
        await rig.queue.configuring.look()
