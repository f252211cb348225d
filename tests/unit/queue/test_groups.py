"""Turns of groups while what was given out is not claimed yet, or was just now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from kqs.broker.memory import MemoryBroker
from kqs.config import StoreSection, TakingSection
from kqs.ids import Ids
from kqs.job import Claim, Entry, Run
from kqs.options import Cascade
from kqs.queue.groups import Groups
from kqs.queue.rules import accept
from kqs.store.sqlite import SqliteStore
from kqs.wire.replayed import replay_jobs
from tests.support.clock import FakeClock
from tests.support.supervising import StrictSupervisor


class SlowBroker(MemoryBroker):
    """Answers when it is told to. asked: somebody waits for that."""

    def __init__(self, supervisor: StrictSupervisor) -> None:
        super().__init__(supervisor)
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.asked = asyncio.Event()

    async def reserve(self, weights: Mapping[str, int], count: int, most_of: Callable[[str], int] | None = None) -> list[Entry]:
        if not self.may_answer.is_set():
            self.asked.set()
        await self.may_answer.wait()
        return await super().reserve(weights, count, most_of)


class Turning:
    """Groups over a real store, with jobs of type `t`: one of each group, by its letter; `-`: of none."""

    def __init__(self, folder: Path, taking: Mapping[str, TakingSection]) -> None:
        self.clock, supervisor = FakeClock(), StrictSupervisor()
        self.store = SqliteStore(folder / "store.sqlite", StoreSection(), self.clock, supervisor)
        self.broker = SlowBroker(supervisor)
        self.groups = Groups(self.broker, self.store.in_turn, taking)

    async def start(self, letters: str) -> None:
        now, ids, options = self.clock.now(), Ids("0000beef"), Cascade({}, {}).of_type["t"]
        await self.store.open("0" * 32, "0000beef")
        lines = [b'{"type":"t"}' if letter == "-" else b'{"type":"t","group":"%c"}' % ord(letter) for letter in letters]
        jobs = [
            accept(job, order, ids.of(order), options, now, None)
            for line in lines
            for job in replay_jobs(line)
            for order in [ids.take(1, now)]
        ]
        await self.store.insert(jobs, 1, "w", now)

        async def refill(_type: str, _after: object, _count: int) -> list[Entry]:
            return []

        await self.groups.start(refill, {}, grouped=["t"])
        await self.broker.put([Entry(job.order, job.id, "t", job.prio) for job in jobs if job.group is None])

    async def claim(self, entries: list[Entry]) -> list[Run]:
        """Do as who was given jobs does."""
        runs = await self.store.claim(entries, "w", self.clock.now(), None)
        self.groups.claimed(entries)
        kept = {run.claim.id for run in runs}
        await self.groups.delete([entry for entry in entries if entry.id not in kept])
        return runs

    async def stop(self) -> None:
        await self.groups.close()
        await self.store.close()


async def test_who_stands_behind_what_is_about_to_be_claimed_has_its_turn_after_that(tmp_path: Path) -> None:
    turning = Turning(tmp_path, {})
    await turning.start("abcc")
    groups = turning.groups
    given = await groups.reserve({"t": 1}, 3)
    assert [entry.group for entry in given] == ["a", "b", "c"]
    assert await groups.reserve({"t": 1}, 1) == []  # the first groups by name have nobody else
    await turning.claim(given)
    await groups.wait_ready(frozenset(["t"]))
    assert [entry.group for entry in await groups.reserve({"t": 1}, 1)] == ["c"]
    await turning.stop()


async def test_what_was_found_before_it_ran_is_not_given_out_while_it_does(tmp_path: Path) -> None:
    turning = Turning(tmp_path, {"t": TakingSection(group_max_running=2)})
    await turning.start("aaaa-")
    groups, broker = turning.groups, turning.broker
    broker.may_answer.clear()
    slow = asyncio.ensure_future(groups.reserve({"t": 1}, 2))  # its look is over, and brought the first job of the group
    await broker.asked.wait()
    quick = asyncio.ensure_future(groups.reserve({"t": 1}, 1))
    runs = await turning.claim(await quick)
    broker.may_answer.set()
    for asked in (slow, groups.reserve({"t": 1}, 3)):
        runs += await turning.claim(await asked)
    of_group = [run for run in runs if run.group == "a"]
    assert len(of_group) == 2
    await groups.delete([Entry(run.claim.order, run.claim.id, "t", run.prio, run.handle) for run in of_group])
    assert len(await groups.reserve({"t": 1}, 3)) == 2
    await turning.stop()


async def test_jobs_of_two_servers_that_have_the_same_order_count_both(tmp_path: Path) -> None:
    turning = Turning(tmp_path, {"t": TakingSection(group_max_running=2)})
    groups = turning.groups
    ours, theirs = (groups.found(Run(Claim(1, id_, 1, 1), "t", 0, b"null", None, group="a")) for id_ in ("ours", "theirs"))
    assert groups.most_running("t", "a") == 2
    groups.lose(ours)
    assert groups.most_running("t", "a") == 0
    groups.lose(theirs)
    assert groups._out["t"].counts == {}
