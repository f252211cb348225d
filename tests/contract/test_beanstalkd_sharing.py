"""beanstalkds with jobs of an earlier life of ours, of other servers of our store, and of other stores."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

from kqs.broker.beanstalkd import server
from tests.support.beanstalkd import Beanstalkd, running_beanstalkd
from tests.support.beanstalkd_brokers import MAIL, broker_on, put, take_all, until, wait_for_answers
from tests.support.ready_jobs import ReadyJobs, an_entry, orders

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _waits_for_no_more_than_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_answers(monkeypatch)
    monkeypatch.setattr(server, "POLL_S", 0.2)


@pytest.fixture
def beanstalkd() -> Iterator[Beanstalkd]:
    with running_beanstalkd() as running:
        yield running


@pytest.fixture
def store() -> ReadyJobs:
    return ReadyJobs()


def number_in(beanstalkd: Beanstalkd, name: str, tube: str = "kq-mail") -> int:
    """Return a number of a tube's stats, 0 when there is no tube."""
    found = re.search(rf"{name}: (\d+)", beanstalkd.talk(f"stats-tube {tube}\r\n".encode()).decode())
    return int(found[1]) if found else 0


async def test_jobs_that_others_put_are_found(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with (
        broker_on(store, beanstalkd.address) as broker,
        broker_on(store, beanstalkd.address) as other,
    ):
        waiting = asyncio.create_task(take_all(broker, store))
        await put(other, store, range(50))
        await waiting
        assert len(waiting.result()) == 50


async def test_room_that_others_make_is_filled(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with (
        broker_on(store, beanstalkd.address, max_entries=10) as accepting,
        broker_on(ReadyJobs(), beanstalkd.address) as working,
    ):
        await put(accepting, store, range(100))
        assert len(await take_all(working, store)) == 100


async def test_a_start_beside_what_is_there_already_doubles_no_more_than_allowed(
    beanstalkd: Beanstalkd, store: ReadyJobs
) -> None:
    store.add(*(an_entry(number) for number in range(100)))
    for _ in range(6):
        async with broker_on(store, beanstalkd.address, max_entries=40) as broker:
            await until(lambda: not broker._supply._refill_count)
    assert number_in(beanstalkd, "current-jobs-ready") <= 2 * 40
    async with broker_on(store, beanstalkd.address, max_entries=40) as broker:
        assert sorted(orders(await take_all(broker, store))) == list(range(100))
        assert await broker.reserve(MAIL, 10) == []


async def test_a_start_takes_what_an_earlier_one_put_before_it_puts_more(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with broker_on(store, beanstalkd.address) as broker:
        await put(broker, store, range(5))
    async with broker_on(ReadyJobs(), beanstalkd.address) as restarted:
        assert sorted(orders(await restarted.reserve(MAIL, 5))) == list(range(5))


async def test_each_store_gets_its_own_jobs_and_its_server_says_what_is_wrong(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    other_store = ReadyJobs()
    async with (
        broker_on(store, beanstalkd.address, store_id="mine") as mine,
        broker_on(other_store, beanstalkd.address, store_id="yours") as yours,
    ):
        await put(mine, store, range(20))
        await put(yours, other_store, range(20))
        taken = await asyncio.gather(take_all(mine, store), take_all(yours, other_store))
        assert [sorted(orders(entries)) for entries in taken] == [list(range(20))] * 2
        assert "jobs of another store, yours" in mine.problems()[0]
        assert "jobs of another store, mine" in yours.problems()[0]
        assert number_in(beanstalkd, "total-jobs") <= 60


async def test_what_a_lost_store_left_behind_starves_nobody(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    lost = ReadyJobs()
    async with broker_on(lost, beanstalkd.address, store_id="lost") as broker:
        await put(broker, lost, range(100))
    store.add(*(an_entry(number) for number in range(60)))
    async with broker_on(store, beanstalkd.address, max_entries=20) as broker:
        assert len(await take_all(broker, store)) == 60


async def test_what_is_deleted_amid_jobs_of_a_lost_store_is_put_again(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    lost = ReadyJobs()
    async with broker_on(lost, beanstalkd.address, store_id="lost") as broker:
        await put(broker, lost, range(3))
    async with broker_on(store, beanstalkd.address) as broker:
        await put(broker, store, range(1))
        assert beanstalkd.talk(b"delete 4\r\n") == b"DELETED\r\n"
        assert len(await take_all(broker, store)) == 1


async def test_with_a_namespace_none_meets_the_jobs_of_another(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with broker_on(store, beanstalkd.address, namespace="eu") as mine, broker_on(store, beanstalkd.address) as yours:
        await put(mine, store, range(5))
        assert await yours.reserve(MAIL, 5) == []
        assert len(await take_all(mine, store)) == 5
