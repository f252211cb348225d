"""Limits over several servers: each asks for what it needs, gives back what it does not, and none is passed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import msgspec
import pytest

from kqs.errors import StoreUnavailableError
from kqs.queue import sharer
from kqs.queue.limiting import Said
from kqs.store.sharing import Share
from kqs.store.sqlite import SqliteStore
from tests.support.jobs import ORDER, an_accepted
from tests.support.queueing import Rig
from tests.support.turning import until


class Ledger:
    """What the servers of a store have: a model of one document a type."""

    def __init__(self) -> None:
        self.by: dict[str, int] = {}
        self.short: set[str] = set()
        self.tokens = 0
        self.asked = 0
        self.looks = 0
        self.refusals = 0
        self.fault: Exception | None = None


class Account:
    """Satisfies kqs.store.base.Sharing for one server."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self.ledger = ledger
        self.name = name

    async def look(self) -> dict[str, Share]:
        self.ledger.looks += 1
        others = (self.ledger.by.keys() | self.ledger.short) - {self.name}
        short = len(others) if self.ledger.short - {self.name} else 0
        ours = self.ledger.by.get(self.name, 0)
        return {"mail": Share(ours, short, self.name in self.ledger.short)}

    async def slots(self, type_: str, wanted: int, most: int, *, is_forced: bool = False) -> int:
        if self.ledger.fault is not None:
            self.ledger.refusals += 1
            raise self.ledger.fault
        self.ledger.asked += 1
        ours = self.ledger.by.pop(self.name, 0)
        free = max(0, most - ours - sum(self.ledger.by.values()))
        target = wanted if is_forced or wanted <= ours else min(wanted, ours + free)
        self.ledger.short -= {self.name}
        if target < wanted:
            self.ledger.short.add(self.name)
        if target:
            self.ledger.by[self.name] = target
        return target

    async def tokens(self, type_: str, per_second: float, burst: float) -> int:
        taken, self.ledger.tokens = self.ledger.tokens, 0
        return taken


class Shared(Rig):
    """A queue whose store says that it shares its limits."""

    def __init__(self, folder: Path, ledger: Ledger, name: str) -> None:
        super().__init__(folder)
        self.account = Account(ledger, name)

    def a_store(self) -> SqliteStore:
        store = super().a_store()
        store.sharing = self.account
        return store

    async def say(self, **named: float | None) -> None:
        await self.queue.limiting.say("mail", msgspec.structs.replace(Said(), **named))


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setattr(sharer, "LOOK_S", 0.01)
    monkeypatch.setattr(sharer, "TOKENS_S", 0.001)
    return Ledger()


async def several_looks(ledger: Ledger) -> None:
    """Wait until each server must have looked, and asked for what it wants, again."""
    wanted = ledger.looks + 6
    await until(lambda: ledger.looks >= wanted)


@pytest.fixture
async def rigs(tmp_path: Path, ledger: Ledger) -> AsyncIterator[list[Shared]]:
    made: list[Shared] = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        made.append(Shared(tmp_path / name, ledger, name))
        await made[-1].start()
    yield made
    for rig in made:
        await rig.stop()


async def test_a_lone_job_is_given_a_slot_at_once_and_an_idle_type_has_none(rigs: list[Shared], ledger: Ledger) -> None:
    one = rigs[0]
    await one.say(max_running=3)
    hand = one.hand(9)
    await one.accept(an_accepted(0))
    run = await hand.take()
    await until(lambda: ledger.by == {"one": 1})
    await hand.end(run)
    await until(lambda: ledger.by == {})
    asked = ledger.asked
    await several_looks(ledger)
    assert ledger.asked == asked


async def test_no_more_run_than_may_and_all_run_in_the_end(rigs: list[Shared], ledger: Ledger) -> None:
    hands = []
    for rig in rigs:
        await rig.say(max_running=4)
        hands.append(rig.hand(9))
        await rig.accept(*(an_accepted(n) for n in range(20)))
    left = 40
    while left:
        await until(lambda: any(hand.runs.qsize() for hand in hands))
        running = sum(len(rig.queue.admission.limits.gates["mail"].places) for rig in rigs)
        assert running <= sum(ledger.by.values()) <= 4
        for hand in hands:
            if hand.runs.qsize():
                await hand.end(await hand.take())
                left -= 1


async def test_who_has_all_slots_gives_others_their_share(rigs: list[Shared], ledger: Ledger) -> None:
    hands = []
    for rig in rigs:
        await rig.say(max_running=4)
        hands.append(rig.hand(9))
        await rig.accept(*(an_accepted(n) for n in range(99)))
        await until(lambda: ledger.by.get("one") == 4)
    later = count(99)  # it has always some that wait, however late the other comes to look
    async with asyncio.timeout(20):
        while ledger.by != {"one": 2, "two": 2}:
            if hands[0].runs.qsize():
                await hands[0].end(await hands[0].take())
                await rigs[0].accept(an_accepted(next(later)))
            await asyncio.sleep(0)
    assert len(rigs[1].queue.admission.limits.gates["mail"].places) <= 2


async def test_a_server_that_does_not_take_the_type_asks_for_none(rigs: list[Shared], ledger: Ledger) -> None:
    await rigs[0].say(max_running=4)
    rigs[0].hand(9, "video")
    await rigs[0].say(rate=1.0)  # so that it looks, whatever it takes
    await rigs[0].accept(an_accepted(0))
    await several_looks(ledger)
    assert (ledger.by, ledger.asked) == ({}, 0)


async def test_what_runs_when_the_limit_comes_counts_for_the_others(rigs: list[Shared], ledger: Ledger) -> None:
    hand = rigs[0].hand(9)
    await rigs[0].accept(*(an_accepted(n) for n in range(5)))
    runs = [await hand.take() for _ in range(5)]
    await rigs[0].say(max_running=3)
    await until(lambda: ledger.by == {"one": 5})
    for run in runs:
        await hand.end(run)
    await until(lambda: ledger.by == {})


async def test_a_limit_that_is_lifted_leaves_nothing_taken(rigs: list[Shared], ledger: Ledger) -> None:
    hand = rigs[0].hand(9)
    await rigs[0].say(max_running=3)
    await rigs[0].say(rate=1.0)
    await rigs[0].accept(an_accepted(0))
    ledger.tokens = 1
    await hand.take()
    await rigs[0].say(max_running=None)
    await until(lambda: ledger.by == {})


async def test_tokens_are_asked_for_while_jobs_wait(rigs: list[Shared], ledger: Ledger) -> None:
    hand = rigs[0].hand(9)
    await rigs[0].say(rate=5.0)
    await rigs[0].accept(*(an_accepted(n) for n in range(4)))
    ledger.tokens = 3
    assert [(await hand.take()).claim.order - ORDER for _ in range(3)] == [0, 1, 2]
    reached = rigs[0].queue.limiting.reached("mail")
    assert reached is not None
    assert (reached.name, reached.next_at) == ("rate", None)
    ledger.tokens = 1
    assert (await hand.take()).claim.order == ORDER + 3
    ledger.tokens = 7
    await several_looks(ledger)
    assert ledger.tokens == 7


async def test_a_store_that_is_away_is_asked_again(rigs: list[Shared], ledger: Ledger) -> None:
    hand = rigs[0].hand(9)
    await rigs[0].say(max_running=3)
    ledger.fault = StoreUnavailableError("away")
    await rigs[0].accept(an_accepted(0))
    await until(lambda: ledger.refusals > 1)
    assert hand.runs.empty()
    ledger.fault = None
    await hand.take()
