"""What every broker promises. A subclass brings a `broker` fixture: started, with `store.refill` and `store.waiting`."""

from __future__ import annotations

import asyncio

from kqs.broker.base import Broker
from kqs.job import Entry
from tests.support.ready_jobs import ReadyJobs, an_entry, orders

MAIL = frozenset({"mail"})


class BrokerContract:
    async def put(self, broker: Broker, store: ReadyJobs, *numbers: int, type_: str = "mail", prio: int = 10_000) -> None:
        await broker.put(store.add(*(an_entry(number, type_, prio) for number in numbers)))

    async def test_an_empty_broker_has_nothing_to_reserve(self, broker: Broker) -> None:
        assert await broker.reserve({"mail": 1}, 10) == []

    async def test_a_put_entry_is_reserved_once(self, broker: Broker, store: ReadyJobs) -> None:
        await self.put(broker, store, 1)
        taken = await broker.reserve({"mail": 1}, 10)
        store.claim(taken)
        assert orders(taken) == [1]
        assert await broker.reserve({"mail": 1}, 10) == []

    async def test_entries_of_one_type_come_by_age(self, broker: Broker, store: ReadyJobs) -> None:
        await broker.reserve({"mail": 1}, 1)
        await self.put(broker, store, 3, 1, 2)
        assert orders(await broker.reserve({"mail": 1}, 3)) == [1, 2, 3]

    async def test_priority_goes_before_age(self, broker: Broker, store: ReadyJobs) -> None:
        await self.put(broker, store, 1, 2)
        await self.put(broker, store, 3, prio=9_000)
        assert orders(await broker.reserve({"mail": 1}, 3)) == [3, 1, 2]

    async def test_reserve_takes_no_more_than_asked(self, broker: Broker, store: ReadyJobs) -> None:
        await self.put(broker, store, 1, 2, 3)
        assert orders(await broker.reserve({"mail": 1}, 2)) == [1, 2]

    async def test_reserve_takes_only_the_types_it_names(self, broker: Broker, store: ReadyJobs) -> None:
        await self.put(broker, store, 1, type_="video")
        await self.put(broker, store, 2)
        assert orders(await broker.reserve({"mail": 1}, 2)) == [2]

    async def test_a_released_entry_returns_to_its_place(self, broker: Broker, store: ReadyJobs) -> None:
        await self.put(broker, store, 1, 2, 3)
        await broker.release(await broker.reserve({"mail": 1}, 1))
        assert orders(await broker.reserve({"mail": 1}, 3)) == [1, 2, 3]

    async def test_a_deleted_entry_does_not_return(self, broker: Broker, store: ReadyJobs) -> None:
        await self.put(broker, store, 1, 2)
        taken = await broker.reserve({"mail": 1}, 1)
        store.claim(taken)
        await broker.delete(taken)
        assert orders(await broker.reserve({"mail": 1}, 2)) == [2]

    async def test_forgotten_entries_are_not_reserved(self, broker: Broker, store: ReadyJobs) -> None:
        await broker.reserve({"mail": 1, "video": 1}, 1)
        await self.put(broker, store, *range(1, 7))
        await self.put(broker, store, 7, type_="video")
        await self.put(broker, store, 8, prio=9_000)
        gone = [an_entry(8, prio=9_000), *(an_entry(number) for number in (1, 3, 6, 99)), an_entry(99, "none")]
        store.claim([entry for entry in gone if entry.order != 99])
        await broker.forget(gone)
        taken: list[Entry] = []
        async with asyncio.timeout(10):
            while len(taken) < 4:
                taken += await broker.reserve({"mail": 1, "video": 1}, 9)
        assert sorted(orders(taken)) == [2, 4, 5, 7]
        assert await broker.reserve({"mail": 1}, 9) == []

    async def test_all_that_was_put_may_be_forgotten(self, broker: Broker, store: ReadyJobs) -> None:
        await broker.reserve({"mail": 1}, 1)
        await self.put(broker, store, 1, 2)
        taken = await broker.reserve({"mail": 1}, 1)
        await broker.release(taken)
        store.claim(taken)
        store.claim([an_entry(2)])
        await broker.forget([an_entry(1), an_entry(2)])
        on_its_way = await broker.reserve({"mail": 1}, 9)
        assert len(on_its_way) <= 1
        await broker.delete(on_its_way)
        assert await broker.reserve({"mail": 1}, 9) == []
        await self.put(broker, store, 3)
        assert orders(await broker.reserve({"mail": 1}, 9)) == [3]

    async def test_one_job_is_not_starved_by_a_thousand(self, broker: Broker, store: ReadyJobs) -> None:
        await self.put(broker, store, *range(1000), type_="video")
        await self.put(broker, store, 1000)
        first = await broker.reserve({"mail": 1, "video": 1}, 2)
        assert {entry.type for entry in first} == {"mail", "video"}

    async def test_turns_follow_the_weights(self, broker: Broker, store: ReadyJobs) -> None:
        await self.put(broker, store, *range(100), type_="video")
        await self.put(broker, store, *range(100, 200))
        taken = await broker.reserve({"mail": 3, "video": 1}, 40)
        assert sum(entry.type == "mail" for entry in taken) == 30

    async def test_no_more_of_a_type_come_than_are_wanted(self, broker: Broker, store: ReadyJobs) -> None:
        await self.put(broker, store, *range(10), type_="video")
        await self.put(broker, store, *range(10, 30))

        def most_of(type_: str) -> int:
            return 3 if type_ == "video" else 100

        weights = {"mail": 1, "video": 1}
        taken = await broker.reserve(weights, 20, most_of)
        assert orders(entry for entry in taken if entry.type == "video") == [0, 1, 2]
        assert len(taken) == 20
        assert await broker.reserve({"video": 1}, 20, lambda _type: 0) == []
        assert orders(await broker.reserve({"video": 1}, 20, lambda _type: 2)) == [3, 4]

    async def test_who_waits_is_told_that_a_type_opens(self, broker: Broker, store: ReadyJobs) -> None:
        await broker.reserve({"mail": 1, "video": 1}, 1)
        waits = (broker.wait_ready(MAIL), broker.wait_ready(MAIL, frozenset({"video"})), broker.wait_ready(frozenset(), MAIL))
        alone, mail, none = [asyncio.ensure_future(wait) for wait in waits]
        await asyncio.sleep(0)
        broker.wake({"video"})
        await mail
        assert not alone.done()
        assert not none.done()
        broker.wake({"mail"})
        await asyncio.gather(alone, none)

    async def test_a_backlog_is_known_until_it_is_taken(self, broker: Broker, store: ReadyJobs) -> None:
        await self.put(broker, store, 1)
        assert broker.backlog("mail")
        store.claim(await broker.reserve({"mail": 1}, 1))
        await broker.reserve({"mail": 1}, 1)
        assert not broker.backlog("mail")

    async def test_a_put_wakes_who_waits_for_its_type(self, broker: Broker, store: ReadyJobs) -> None:
        await broker.reserve({"mail": 1}, 1)
        waiter = asyncio.ensure_future(broker.wait_ready(MAIL))
        await asyncio.sleep(0)
        assert not waiter.done()
        await self.put(broker, store, 1)
        await waiter

    async def test_what_others_stored_is_found_by_a_recheck(self, broker: Broker, store: ReadyJobs) -> None:
        await broker.reserve({"mail": 1}, 1)
        waiter = asyncio.ensure_future(broker.wait_ready(MAIL))
        store.add(an_entry(1), an_entry(2), an_entry(3, "video"))
        await asyncio.sleep(0)
        assert not waiter.done()
        await broker.recheck(["mail", "video"])
        await waiter
        taken: list[Entry] = []
        async with asyncio.timeout(10):
            while len(taken) < 2:
                await broker.wait_ready(MAIL)
                taken += await broker.reserve({"mail": 1}, 3)
        assert sorted(orders(taken)) == [1, 2]

    async def test_a_release_wakes_who_waits(self, broker: Broker, store: ReadyJobs) -> None:
        await self.put(broker, store, 1)
        taken = await broker.reserve({"mail": 1}, 2)
        waiter = asyncio.ensure_future(broker.wait_ready(MAIL))
        await asyncio.sleep(0)
        await broker.release(taken)
        await waiter

    async def test_wait_ready_does_not_wait_for_what_is_there(self, broker: Broker, store: ReadyJobs) -> None:
        await self.put(broker, store, 1)
        await broker.wait_ready(MAIL)
        store.claim(await broker.reserve({"mail": 1}, 2))
        await broker.reserve({"mail": 1}, 2)
        await self.put(broker, store, 2)
        await broker.wait_ready(MAIL)

    async def test_a_wake_has_everybody_look_again(self, broker: Broker, store: ReadyJobs) -> None:
        await broker.reserve({"mail": 1}, 1)
        waiters = [asyncio.ensure_future(broker.wait_ready(types)) for types in (MAIL, frozenset({"video"}), frozenset())]
        await asyncio.sleep(0)
        assert not any(waiter.done() for waiter in waiters)
        broker.wake()
        await asyncio.gather(*waiters)

    async def test_a_cancelled_waiter_leaves_nothing_behind(self, broker: Broker, store: ReadyJobs) -> None:
        await broker.reserve({"mail": 1}, 1)
        waiter = asyncio.ensure_future(broker.wait_ready(MAIL))
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.wait([waiter])
        await self.put(broker, store, 1)
        assert orders(await broker.reserve({"mail": 1}, 1)) == [1]

    async def test_close_may_be_repeated(self, broker: Broker) -> None:
        await broker.close()
        await broker.close()
