"""Turns of groups while what was given out is not claimed yet."""

from __future__ import annotations

from pathlib import Path

from kqs.broker.memory import MemoryBroker
from kqs.config import StoreSection
from kqs.ids import Ids
from kqs.options import Cascade
from kqs.queue.groups import Groups
from kqs.queue.rules import accept
from kqs.store.sqlite import SqliteStore
from kqs.wire.jobs import replay_jobs
from tests.support.clock import FakeClock
from tests.support.supervising import StrictSupervisor


async def test_who_stands_behind_what_is_about_to_be_claimed_has_its_turn_after_that(tmp_path: Path) -> None:
    clock, supervisor, ids = FakeClock(), StrictSupervisor(), Ids("0000beef")
    store = SqliteStore(tmp_path / "store.sqlite", StoreSection(), clock, supervisor)
    await store.open("0" * 32, "0000beef")
    options = Cascade({}, {}).for_type("t")
    jobs = [
        accept(job, order, ids.of(order), options, clock.now(), None)
        for group in "abcc"
        for job in replay_jobs(b'{"type":"t","group":"%c"}' % ord(group))
        for order in [ids.take(1, clock.now())]
    ]
    await store.insert(jobs, 1, "w", clock.now())
    groups = Groups(MemoryBroker(supervisor), store.in_turn, {})

    async def refill(_type: str, _after: object, _count: int) -> list:  # type: ignore[type-arg]
        return []

    await groups.start(refill, {}, grouped=["t"])
    given = await groups.reserve({"t": 1}, 3)
    assert [entry.group for entry in given] == ["a", "b", "c"]
    assert await groups.reserve({"t": 1}, 1) == []  # the first groups by name have nobody else
    await store.claim(given, "w", clock.now(), None)
    groups.claimed(given)
    await groups.wait_ready(frozenset(["t"]))
    assert [entry.group for entry in await groups.reserve({"t": 1}, 1)] == ["c"]
    await groups.close()
    await store.close()
