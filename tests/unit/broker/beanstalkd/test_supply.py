from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kqs.broker.beanstalkd import supply as supply_module
from kqs.broker.beanstalkd.supply import MAX_REFILLS, Supply
from kqs.errors import StoreCorruptError, StoreUnavailableError
from tests.support.jobs_pool import JobsPool
from tests.support.ready_jobs import ReadyJobs, an_entry
from tests.support.supervising import StrictSupervisor


class Rig:
    """A supply between a store and a pool that a test owns."""

    def __init__(self, max_entries: int = 10) -> None:
        self.store = ReadyJobs()
        self.pool = JobsPool()
        self.placed: list[str] = []
        self.supervisor = StrictSupervisor()
        self.supply = Supply(self.pool, max_entries, self.placed.append, self.supervisor)

    def start(self) -> None:
        self.supply.start(self.store.refill, self.store.waiting)

    def offer(self, *numbers: int, type_: str = "mail", prio: int = 10_000) -> None:
        self.supply.offer(type_, self.store.add(*(an_entry(number, type_, prio) for number in numbers)))

    async def settle(self) -> None:
        """Let the refills under way end."""
        for _ in range(200):
            await asyncio.sleep(0)

    def take(self, count: int) -> None:
        self.store.claim(self.pool.take("mail", count))
        self.supply.refill("mail")


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    rig.start()
    yield rig
    await rig.supply.stop()


async def test_what_is_offered_is_placed_by_rank(rig: Rig) -> None:
    rig.offer(3, 1, 2)
    assert rig.pool.orders("mail") == [1, 2, 3]
    assert rig.placed == ["mail"]
    assert not rig.supply.is_partial("mail")


async def test_what_is_too_much_follows_as_room_is_made(rig: Rig) -> None:
    rig.offer(*range(25))
    assert rig.pool.orders("mail") == list(range(10))
    assert rig.supply.is_partial("mail")
    while rig.store.entries:
        rig.take(3)
        await rig.settle()
    assert rig.pool.history == list(range(25))
    assert not rig.supply.is_partial("mail")


async def test_an_urgent_job_is_placed_beyond_the_limit(rig: Rig) -> None:
    rig.offer(*range(25))
    rig.offer(30, prio=1)
    assert 30 in rig.pool.orders("mail")


async def test_not_even_urgent_jobs_are_placed_beyond_twice_the_limit(rig: Rig) -> None:
    rig.offer(*range(25))
    rig.offer(*range(30, 50), prio=1)
    assert rig.pool.count("mail") == 20
    while rig.store.entries:
        rig.take(6)
        await rig.settle()
    assert sorted(set(rig.pool.history)) == [*range(25), *range(30, 50)]


async def test_what_cannot_be_placed_is_placed_later(rig: Rig) -> None:
    rig.pool.is_closed = True
    rig.offer(1, 2)
    await rig.settle()
    assert rig.store.asked == []
    rig.pool.is_closed = False
    rig.supply.refill_all()
    await rig.settle()
    assert rig.pool.orders("mail") == [1, 2]


async def test_what_is_known_to_be_placed_is_not_placed_again(rig: Rig) -> None:
    rig.offer(1, 2)
    rig.supply.recheck("mail")
    await rig.settle()
    assert rig.pool.history == [1, 2]
    rig.pool.lose("mail", 1)
    rig.supply.recheck("mail")
    await rig.settle()
    assert rig.pool.history == [1, 2, 1]


async def test_a_job_that_comes_during_a_refill_is_not_forgotten(rig: Rig) -> None:
    rig.store.add(an_entry(5))
    rig.supply.recheck("mail")
    await asyncio.sleep(0)
    rig.offer(9)
    await rig.settle()
    assert rig.pool.orders("mail") == [5, 9]
    assert not rig.supply.is_partial("mail")


async def test_a_store_that_refuses_is_asked_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply_module, "RETRY_S", 0.0)
    rig.store.fault = StoreUnavailableError("locked")
    rig.store.add(an_entry(1))
    rig.supply.recheck("mail")
    await asyncio.sleep(0)
    rig.store.fault = None
    await rig.settle()
    assert rig.pool.orders("mail") == [1]


async def test_damage_stops_the_node_and_is_for_the_next_caller_to_die_of(rig: Rig) -> None:
    rig.store.fault = StoreCorruptError("damaged")
    rig.supply.recheck("mail")
    await rig.settle()
    assert await rig.supervisor.told() == ("refill mail", rig.store.fault)
    assert rig.supply.fault is rig.store.fault


async def test_a_pool_that_closes_during_a_refill_is_tried_later(rig: Rig) -> None:
    rig.store.add(an_entry(1))
    rig.supply.recheck("mail")
    rig.pool.is_closed = True
    await rig.settle()
    assert rig.supply.is_partial("mail")


async def test_a_start_asks_for_what_waits_a_few_types_at_a_time() -> None:
    rig = Rig()
    types = [f"type-{number}" for number in range(50)]
    rig.store.add(*(an_entry(number, type_) for number, type_ in enumerate(types)))
    rig.start()
    await asyncio.sleep(0)
    assert len(rig.store.asked) <= MAX_REFILLS
    await rig.settle()
    assert sorted(rig.pool.history) == list(range(50))
    await rig.supply.stop()


async def test_types_of_which_nothing_waits_are_forgotten(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply_module, "_MAX_LINES", 3)
    for number in range(5):
        rig.offer(number, type_=f"type-{number}")
    rig.supply.refill_all()
    assert rig.supply._lines == {}
    assert rig.pool.forgot


async def test_a_stop_ends_the_refills_under_way(rig: Rig) -> None:
    rig.store.add(an_entry(1))
    rig.supply.recheck("mail")
    await rig.supply.stop()
    assert rig.pool.history == []
