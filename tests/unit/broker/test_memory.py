from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kqs.broker import memory
from kqs.broker.memory import MemoryBroker
from kqs.errors import StoreUnavailableError
from kqs.job import Entry
from tests.support.ready_jobs import ReadyJobs, an_entry, held_count, orders
from tests.support.supervising import StrictSupervisor

MAIL = {"mail": 1}


@pytest.fixture
def store() -> ReadyJobs:
    return ReadyJobs()


@pytest.fixture
async def broker(store: ReadyJobs) -> AsyncIterator[MemoryBroker]:
    broker = MemoryBroker(StrictSupervisor(), max_entries=10)
    await broker.start(store.refill, store.waiting)
    yield broker
    await broker.close()


async def drain(broker: MemoryBroker, store: ReadyJobs, weights: dict[str, int] = MAIL) -> list[int]:
    got: list[int] = []
    while taken := await broker.reserve(weights, 3):
        store.claim(taken)
        got += orders(taken)
    return got


async def test_a_long_backlog_is_served_whole_and_in_order_from_little_memory(broker: MemoryBroker, store: ReadyJobs) -> None:
    await broker.reserve(MAIL, 1)
    for number in range(500):
        await broker.put(store.add(an_entry(number)))
        assert held_count(broker) <= 20
    assert await drain(broker, store) == list(range(500))


async def test_an_urgent_job_overtakes_a_backlog_that_is_in_the_store(broker: MemoryBroker, store: ReadyJobs) -> None:
    await broker.reserve(MAIL, 1)
    await broker.put(store.add(*(an_entry(number) for number in range(100))))
    await broker.put(store.add(an_entry(100, prio=1)))
    assert orders(await broker.reserve(MAIL, 2)) == [100, 0]


async def test_starting_fetches_nothing_and_the_first_reserve_does(store: ReadyJobs) -> None:
    store.add(*(an_entry(number) for number in range(50)))
    broker = MemoryBroker(StrictSupervisor(), max_entries=10)
    await broker.start(store.refill, store.waiting)
    assert not store.asked
    assert broker.backlog("mail")
    assert await drain(broker, store) == list(range(50))


async def test_a_type_without_waiting_jobs_is_never_looked_up(broker: MemoryBroker, store: ReadyJobs) -> None:
    assert await broker.reserve(MAIL, 1) == []
    assert not store.asked


async def test_types_nobody_asks_for_take_no_memory_and_no_refill(broker: MemoryBroker, store: ReadyJobs) -> None:
    for number in range(100):
        await broker.put(store.add(an_entry(number, f"type-{number % 7}")))
    assert await broker.reserve(MAIL, 1) == []
    assert (held_count(broker), store.asked, len(broker._lines)) == (0, [], 1)
    assert await drain(broker, store, {"type-3": 1}) == list(range(3, 100, 7))


async def test_types_without_end_are_remembered_only_so_far(
    broker: MemoryBroker, store: ReadyJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MAX_COLD", 5)
    await broker.put(store.add(*(an_entry(number, f"type-{number}") for number in range(20))))
    assert broker._cold is None
    assert broker.backlog("type-19")
    assert await drain(broker, store, {"type-19": 1}) == [19]


async def test_types_asked_for_without_end_are_forgotten_but_not_their_jobs(
    store: ReadyJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_MAX_LINES", 4)
    broker = MemoryBroker(StrictSupervisor(), 10)
    await broker.start(store.refill, {})
    await broker.reserve({"kept": 1}, 1)
    await broker.put(store.add(an_entry(1, "kept"), an_entry(2, "kept")))
    for number in range(50):
        await broker.reserve({f"type-{number}": 1}, 1)
    assert len(broker._lines) <= 9
    assert await drain(broker, store, {"kept": 1}) == [1, 2]


class HeldStore(ReadyJobs):
    """Answers a refill with what it finds when asked, but not before `let_go`."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = asyncio.Event()
        self.let_go = asyncio.Event()

    async def refill(self, type_: str, after: tuple[int, int] | None, limit: int) -> list[Entry]:
        found = await super().refill(type_, after, limit)
        self.is_asked.set()
        await self.let_go.wait()
        return found


async def held(*entries: Entry, max_entries: int = 10) -> tuple[MemoryBroker, HeldStore, asyncio.Task[list[Entry]]]:
    store = HeldStore()
    store.add(*entries)
    broker = MemoryBroker(StrictSupervisor(), max_entries)
    await broker.start(store.refill, store.waiting)
    reserving = asyncio.ensure_future(broker.reserve(MAIL, 2))
    await store.is_asked.wait()
    return broker, store, reserving


async def test_what_is_put_while_a_refill_is_under_way_is_not_lost() -> None:
    broker, store, reserving = await held(an_entry(1))
    await broker.put(store.add(an_entry(2)))
    store.let_go.set()
    assert orders(await reserving) == [1, 2]


async def test_what_is_put_and_found_is_there_once() -> None:
    broker, store, reserving = await held(an_entry(1))
    await broker.put([an_entry(1)])
    store.let_go.set()
    assert orders(await reserving) == [1]
    assert held_count(broker) == 0


async def test_a_flood_during_a_refill_stays_bounded_and_whole() -> None:
    broker, store, reserving = await held(an_entry(0), max_entries=4)
    for number in range(1, 100):
        await broker.put(store.add(an_entry(number)))
        line = broker._lines["mail"]
        assert line.aside is not None
        assert len(line.aside) <= 8
    store.let_go.set()
    taken = await reserving
    store.claim(taken)
    assert orders(taken) + await drain(broker, store) == list(range(100))


async def test_a_cancelled_reserve_takes_nothing() -> None:
    broker, store, reserving = await held(an_entry(1))
    reserving.cancel()
    await asyncio.wait([reserving])
    store.let_go.set()
    assert orders(await broker.reserve(MAIL, 1)) == [1]


async def test_a_refill_under_way_is_awaited_not_polled() -> None:
    broker, store, reserving = await held(an_entry(1))
    waiter = asyncio.ensure_future(broker.wait_ready(frozenset(MAIL)))
    await asyncio.sleep(0)
    assert not waiter.done()
    store.let_go.set()
    await asyncio.gather(waiter, reserving)


async def test_closing_ends_a_refill_under_way() -> None:
    broker, _, reserving = await held(an_entry(1))
    reserving.cancel()
    await broker.close()
    assert not broker._refills


async def test_a_store_that_refuses_is_asked_again_after_a_back_off(store: ReadyJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "BACKOFF_FIRST_S", 0.1)
    store.add(an_entry(1))
    broker = MemoryBroker(StrictSupervisor())
    await broker.start(store.refill, store.waiting)
    store.fault = StoreUnavailableError("database is locked")
    assert await broker.reserve(MAIL, 1) == []
    assert await broker.reserve(MAIL, 1) == []
    assert len(store.asked) == 1
    store.fault = None
    await broker.wait_ready(frozenset(MAIL))
    assert orders(await broker.reserve(MAIL, 1)) == [1]


async def test_a_back_off_ends_with_the_broker(store: ReadyJobs) -> None:
    broker = MemoryBroker(StrictSupervisor())
    await broker.start(store.refill, {"mail": 1})
    store.fault = StoreUnavailableError("away")
    await broker.reserve(MAIL, 1)
    await broker.close()
    assert not broker._timers


async def test_a_bug_in_a_refill_stops_the_node_and_reaches_the_one_who_reserves(store: ReadyJobs) -> None:
    supervisor = StrictSupervisor()
    broker = MemoryBroker(supervisor)
    await broker.start(store.refill, {"mail": 1})
    store.fault = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await broker.reserve(MAIL, 1)
    assert await supervisor.told() == ("refill mail", store.fault)


async def test_a_put_wakes_nobody_who_waits_for_other_types(broker: MemoryBroker, store: ReadyJobs) -> None:
    waiter = asyncio.ensure_future(broker.wait_ready(frozenset({"video"})))
    await asyncio.sleep(0)
    await broker.put(store.add(an_entry(1)))
    await asyncio.sleep(0)
    assert not waiter.done()
    waiter.cancel()
