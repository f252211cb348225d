"""What is answered of jobs by a store that neither answers nor refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kqs.errors import StoreUnavailableError
from kqs.filter import Filter
from kqs.job import Claim
from kqs.queue import reads
from kqs.queue.reads import Reads
from tests.support.queueing import Rig

QUESTIONS: dict[str, Callable[[Reads], Awaitable[object]]] = {
    "job": lambda reads: reads.job("mine"),
    "page": lambda reads: reads.page(Filter(), None, 5, newest_first=False),
    "look": lambda reads: reads.look(["mine"]),
    "counts": lambda reads: reads.counts(),
    "oldest": lambda reads: reads.oldest(["mail"], 1),
    "holder": lambda reads: reads.holder("printer"),
}


def let_hang(rig: Rig, monkeypatch: pytest.MonkeyPatch, name: str) -> asyncio.Event:
    """Have the store answer nothing to this until the event is set."""
    event, answer = asyncio.Event(), getattr(rig.store, name)

    async def hang(*args: object, **kwargs: object) -> object:
        await event.wait()
        return await answer(*args, **kwargs)

    monkeypatch.setattr(rig.store, name, hang)
    return event


@pytest.mark.parametrize("name", QUESTIONS)
async def test_nobody_who_asks_waits_for_ever(rig: Rig, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    let_hang(rig, monkeypatch, name)
    monkeypatch.setattr(reads, "ANSWERS_WITHIN_S", 0.01)
    with pytest.raises(StoreUnavailableError, match=r"has not answered for 0\.01 s"):
        await asyncio.wait_for(QUESTIONS[name](rig.queue.reads), 10)


async def test_what_changes_who_watches_over_a_run_is_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    event = let_hang(rig, monkeypatch, "take")
    monkeypatch.setattr(reads, "ANSWERS_WITHIN_S", 0.01)
    taking = asyncio.ensure_future(rig.queue.reads.taken(Claim(1, "mine", 1, 1)))
    done, _ = await asyncio.wait([taking], timeout=0.05)
    assert not done
    event.set()
    assert await taking is None
