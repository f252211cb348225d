"""The beanstalkd broker on servers that die, return empty, drain, or are reached over a bad network."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import pytest

from kqs.broker.beanstalkd import BeanstalkdBroker, link, pool, server
from kqs.broker.beanstalkd import broker as broker_module
from kqs.config import BrokerSection
from kqs.job import Entry
from tests.support import fault_proxy
from tests.support.beanstalkd import Beanstalkd, running_beanstalkd, signal
from tests.support.beanstalkd_brokers import MAIL, WITHIN_S, broker_on, put, take_all, until, wait_for_answers
from tests.support.fault_proxy import FaultProxy
from tests.support.ready_jobs import ReadyJobs, an_entry
from tests.support.supervising import StrictSupervisor

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _waits_for_no_more_than_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_answers(monkeypatch)
    monkeypatch.setattr(server, "POLL_S", 0.2)
    monkeypatch.setattr(server, "GIVE_UP_S", 0.5)


@pytest.fixture
def _impatient(_waits_for_no_more_than_answers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For answers that never come."""
    monkeypatch.setattr(broker_module, "PUT_WITHIN_S", 0.1)
    monkeypatch.setattr(link, "REPLY_WITHIN_S", 2.5)
    monkeypatch.setattr(server, "CONNECT_WITHIN_S", 1.0)


@pytest.fixture
def beanstalkd() -> Iterator[Beanstalkd]:
    with running_beanstalkd() as running:
        yield running


@pytest.fixture
def second() -> Iterator[Beanstalkd]:
    with running_beanstalkd() as running:
        yield running


@pytest.fixture
def store() -> ReadyJobs:
    return ReadyJobs()


async def test_what_an_emptied_server_held_is_put_again(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with broker_on(store, beanstalkd.address) as broker:
        await put(broker, store, range(100))
        beanstalkd.restart()
        assert len(await take_all(broker, store)) == 100


async def test_what_a_dead_server_held_is_put_into_another(
    beanstalkd: Beanstalkd, second: Beanstalkd, store: ReadyJobs
) -> None:
    async with broker_on(store, beanstalkd.address, second.address) as broker:
        await put(broker, store, range(100))
        beanstalkd.kill()
        assert len(await take_all(broker, store)) == 100
        assert beanstalkd.address in broker.problems()[0]


async def test_puts_are_spread_over_the_servers_that_are_there(
    beanstalkd: Beanstalkd, second: Beanstalkd, store: ReadyJobs
) -> None:
    async with broker_on(store, beanstalkd.address, second.address) as broker:
        await put(broker, store, range(20))
        assert (beanstalkd.ready_count(), second.ready_count()) == (10, 10)
        second.kill()
        await until(broker.problems)
        await put(broker, store, range(20, 40))
        await until(lambda: beanstalkd.ready_count() == 40)
        second.start()
        await until(lambda: not broker.problems())
        await put(broker, store, range(40, 60))
        assert (beanstalkd.ready_count(), second.ready_count()) == (50, 10)


async def test_one_server_fills_every_lane_while_the_other_is_idle(
    beanstalkd: Beanstalkd, second: Beanstalkd, store: ReadyJobs
) -> None:
    async with broker_on(store, beanstalkd.address) as alone:
        await put(alone, store, range(50))
    async with broker_on(ReadyJobs(), beanstalkd.address, second.address) as broker:
        assert len(await broker.reserve(MAIL, 50)) == 50


async def test_a_type_that_is_no_longer_asked_for_is_given_back(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with broker_on(store, beanstalkd.address) as broker, broker_on(store, beanstalkd.address) as other:
        await broker.reserve(MAIL | {"suspended": 1}, 1)
        waiting = asyncio.ensure_future(broker.wait_ready(frozenset(MAIL)))
        await other.put([an_entry(1, "suspended")])
        await until(lambda: b"current-jobs-reserved: 0\n" in beanstalkd.talk(b"stats\r\n"))
        assert await broker.reserve(MAIL, 1) == []
        await until(lambda: beanstalkd.ready_count() == 1)
        waiting.cancel()


async def test_a_server_that_returns_is_used_again(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with broker_on(store, beanstalkd.address) as broker:
        beanstalkd.kill()
        await until(broker.problems)
        await put(broker, store, range(10))
        assert broker.backlog("mail")
        assert await broker.reserve(MAIL, 10) == []
        beanstalkd.start()
        assert len(await take_all(broker, store)) == 10
        assert broker.problems() == []


async def test_a_draining_server_is_emptied_and_given_nothing(
    beanstalkd: Beanstalkd, second: Beanstalkd, store: ReadyJobs
) -> None:
    async with broker_on(store, beanstalkd.address, second.address) as broker:
        await put(broker, store, range(20))
        beanstalkd.signal(signal.SIGUSR1)
        await put(broker, store, range(20, 60))
        await until(broker.problems)
        assert "draining" in broker.problems()[0]
        assert len(await take_all(broker, store)) == 60


@pytest.mark.usefixtures("_impatient")
async def test_a_server_that_hangs_holds_nobody_up(beanstalkd: Beanstalkd, second: Beanstalkd, store: ReadyJobs) -> None:
    async with broker_on(store, beanstalkd.address, second.address) as broker:
        beanstalkd.signal(signal.SIGSTOP)
        await put(broker, store, range(20))
        assert broker.problems() == []  # who puts has not waited until it was given up
        try:
            assert len(await take_all(broker, store)) == 20
        finally:
            beanstalkd.signal(signal.SIGCONT)


async def test_what_an_operator_deletes_is_put_again(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with broker_on(store, beanstalkd.address) as broker:
        await put(broker, store, range(5))
        assert b"NOT_FOUND" not in beanstalkd.talk(b"".join(b"delete %d\r\n" % number for number in range(1, 6)))
        assert len(await take_all(broker, store)) == 5


async def test_a_paused_tube_is_not_filled_again_and_again(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with broker_on(store, beanstalkd.address) as broker:
        await put(broker, store, range(5))
        beanstalkd.talk(b"pause-tube kq-mail 1\r\n")
        assert len(await take_all(broker, store)) == 5
        assert b"total-jobs: 5\n" in beanstalkd.talk(b"stats\r\n")


async def test_what_is_not_ours_is_set_aside(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with broker_on(store, beanstalkd.address) as broker:
        beanstalkd.talk(b"use kq-mail\r\nput 0 0 60 5\r\nhello\r\n")
        await put(broker, store, range(5))
        assert len(await take_all(broker, store)) == 5
        await until(lambda: b"FOUND" in beanstalkd.talk(b"use kq-mail\r\npeek-buried\r\n"))


async def test_a_server_too_small_for_a_job_is_a_problem_and_loses_nothing(store: ReadyJobs) -> None:
    with running_beanstalkd("-z", "10") as small:
        async with broker_on(store, small.address) as broker:
            await put(broker, store, range(5))
            await until(broker.problems)
            assert "JOB_TOO_BIG" in broker.problems()[0]
            assert broker.backlog("mail")


async def test_no_more_is_put_than_allowed_and_the_rest_follows(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with broker_on(store, beanstalkd.address, max_entries=10) as broker:
        await put(broker, store, range(100))
        assert b"current-jobs-ready: 10\n" in beanstalkd.talk(b"stats\r\n")
        assert len(await take_all(broker, store)) == 100


async def test_a_start_brings_what_the_store_holds(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    store.add(*(an_entry(number) for number in range(30)))
    async with broker_on(store, beanstalkd.address, max_entries=8) as broker:
        assert len(await take_all(broker, store)) == 30


async def test_what_nobody_fetches_is_given_back(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with broker_on(store, beanstalkd.address) as broker, broker_on(store, beanstalkd.address) as other:
        await put(other, store, range(5))
        reserving = asyncio.ensure_future(other.reserve(MAIL, 5))
        await asyncio.sleep(0)
        reserving.cancel()
        assert len(await take_all(broker, store)) == 5


async def test_a_release_after_a_lost_connection_is_put_again(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with broker_on(store, beanstalkd.address) as broker:
        await put(broker, store, range(3))
        taken = await broker.reserve(MAIL, 3)
        beanstalkd.restart()
        await until(broker.problems)
        await broker.release(taken)
        assert len(await take_all(broker, store)) == 3


@pytest.fixture
async def proxy(beanstalkd: Beanstalkd) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(beanstalkd.port) as proxy:
        yield proxy


async def test_connections_that_break_lose_nothing(proxy: FaultProxy, store: ReadyJobs) -> None:
    async with broker_on(store, proxy.address) as broker:
        await put(broker, store, range(50))
        taken = await broker.reserve(MAIL, 20)
        proxy.drop()
        store.claim(taken[:10])
        assert len(await take_all(broker, store)) == 40


async def test_a_server_that_refuses_is_tried_again(proxy: FaultProxy, store: ReadyJobs) -> None:
    async with broker_on(store, proxy.address) as broker:
        await put(broker, store, range(50))
        await proxy.refuse()
        await until(broker.problems)
        await proxy.listen()
        assert len(await take_all(broker, store)) == 50


@pytest.mark.usefixtures("_impatient")
async def test_a_half_open_connection_is_noticed(proxy: FaultProxy, store: ReadyJobs) -> None:
    async with broker_on(store, proxy.address) as broker:
        proxy.is_half_open = True
        await put(broker, store, range(20))
        await until(broker.problems)
        proxy.is_half_open = False
        assert len(await take_all(broker, store)) == 20


@pytest.mark.usefixtures("_impatient")
async def test_one_byte_at_a_time_is_too_slow(proxy: FaultProxy, store: ReadyJobs) -> None:
    async with broker_on(store, proxy.address) as broker:
        proxy.pace_s = 1.0
        await put(broker, store, range(20))
        await until(broker.problems)
        proxy.pace_s = 0.0
        proxy.drop()
        assert len(await take_all(broker, store)) == 20


#: bytes that three puts and two reserves are answered by
LONGEST_ANSWERS = 250


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("spoil", [fault_proxy.garbage, fault_proxy.doubled, fault_proxy.first_line_last])
async def test_answers_that_cannot_be_credit_nothing(proxy: FaultProxy, store: ReadyJobs, spoil: fault_proxy.Spoil) -> None:
    async with broker_on(store, proxy.address) as broker:
        await put(broker, store, range(20))
        proxy.spoil = spoil
        with pytest.raises(TimeoutError):
            await take_all(broker, store, within_s=0.5)
        proxy.spoil = fault_proxy.untouched
        granted = await take_all(broker, store)
        assert all(entry.id == f"id-{entry.order}" for entry in granted)


@pytest.mark.parametrize("first", range(1, 9))
async def test_answers_cut_at_any_byte_lose_nothing(
    proxy: FaultProxy, store: ReadyJobs, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BACKOFF_FIRST_S", 0.01)
    async with broker_on(store, proxy.address) as broker:
        for place in range(first, LONGEST_ANSWERS, 8):
            await until(lambda: not broker.problems())
            store.add(*(an_entry(number) for number in range(place * 10, place * 10 + 3)))
            proxy.cut_after = place
            await broker.put([an_entry(number) for number in range(place * 10, place * 10 + 3)])
            taken = await broker.reserve(MAIL, 2)
            store.claim([entry for entry in taken if entry.order in store.entries])
            await broker.delete(taken)
            await until(broker.problems)
            proxy.cut_after = None
        await take_all(broker, store)


TYPES = [f"type-{number}" for number in range(500)]


def four_of_each(types: Iterable[str]) -> list[Entry]:
    """Two more than a broker of `max_entries` 2 has room for."""
    return [an_entry(order, type_) for order, type_ in enumerate(sorted(4 * list(types)))]


async def test_room_in_many_tubes_is_noticed_over_a_long_way(
    beanstalkd: Beanstalkd, proxy: FaultProxy, store: ReadyJobs
) -> None:
    async with broker_on(store, proxy.address, max_entries=2) as broker:
        await broker.put(store.add(*four_of_each(TYPES)))
        await until(lambda: beanstalkd.ready_count() == 2 * len(TYPES))
        proxy.delay_s = 2 * WITHIN_S / len(TYPES)  # so that one tube at a time would take twice as long as is waited
        beanstalkd.talk(b"".join(b"delete %d\r\n" % number for number in range(1, 2 * len(TYPES) + 1)))
        await until(lambda: beanstalkd.ready_count() == 2 * len(TYPES))


@pytest.mark.parametrize("place", [0, 700, 1500, 20_000, 60_000])
async def test_a_poll_of_many_tubes_that_is_cut_anywhere_loses_nothing(proxy: FaultProxy, store: ReadyJobs, place: int) -> None:
    types = TYPES[:150]
    async with broker_on(store, proxy.address, max_entries=2) as broker:
        await broker.put(store.add(*four_of_each(types)))
        proxy.cut_after = place
        await until(broker.problems)
        proxy.cut_after = None
        async with asyncio.timeout(WITHIN_S):
            while store.entries:
                if not (taken := await broker.reserve(dict.fromkeys(types, 1), 50)):
                    await broker.wait_ready(frozenset(types))
                store.claim({entry.order: entry for entry in taken if entry.order in store.entries}.values())
                await broker.delete(taken)


def instead_of(said: bytes, answer: bytes) -> fault_proxy.Spoil:
    """Say something else wherever the server says `said` and an id."""
    return lambda data: re.sub(said + rb" \d+\r\n", answer + b"\r\n", data)


async def test_a_job_that_comes_damaged_holds_up_no_other(proxy: FaultProxy, store: ReadyJobs) -> None:
    proxy.spoil = lambda data: re.sub(rb"(RESERVED 2 \d+\r\n[^\r]*)\r\n", rb"\1\0\0", data)
    async with broker_on(store, proxy.address) as broker:
        await put(broker, store, range(5))
        assert sorted(entry.order for entry in await take_all(broker, store)) == list(range(5))


@pytest.mark.parametrize("answer", [b"BURIED 9", b"OUT_OF_MEMORY", b"JOB_TOO_BIG"])
async def test_a_put_that_is_refused_stays_in_the_store(proxy: FaultProxy, store: ReadyJobs, answer: bytes) -> None:
    async with broker_on(store, proxy.address) as broker:
        proxy.spoil = instead_of(b"INSERTED", answer)
        await put(broker, store, range(5))
        await until(lambda: "it refuses jobs" in "".join(broker.problems()))
        proxy.spoil = fault_proxy.untouched
        assert len(await take_all(broker, store)) == 5


@pytest.mark.parametrize("answer", [b"INTERNAL_ERROR", b"UNKNOWN_COMMAND", b"EXPECTED_CRLF", b"BAD_FORMAT"])
async def test_a_put_that_is_not_understood_ends_the_connection(proxy: FaultProxy, store: ReadyJobs, answer: bytes) -> None:
    async with broker_on(store, proxy.address) as broker:
        proxy.spoil = instead_of(b"INSERTED", answer)
        await put(broker, store, range(5))
        await until(lambda: "away" in "".join(broker.problems()))
        proxy.spoil = fault_proxy.untouched
        assert len(await take_all(broker, store)) == 5


@pytest.mark.parametrize("answer", [b"OUT_OF_MEMORY", b"INTERNAL_ERROR"])
async def test_a_reserve_that_fails_ends_the_connection(proxy: FaultProxy, store: ReadyJobs, answer: bytes) -> None:
    async with broker_on(store, proxy.address) as broker:
        await put(broker, store, range(5))
        proxy.spoil = lambda data: re.sub(rb"RESERVED .*\r\n.*\r\n", answer + b"\r\n", data)
        assert await broker.reserve(MAIL, 5) == []
        await until(lambda: "away" in "".join(broker.problems()))
        proxy.spoil = fault_proxy.untouched
        assert len(await take_all(broker, store)) == 5


async def test_a_watch_that_fails_ends_the_connection(proxy: FaultProxy, store: ReadyJobs) -> None:
    async with broker_on(store, proxy.address) as broker:
        waiting = asyncio.ensure_future(broker.wait_ready(frozenset(MAIL)))
        proxy.spoil = lambda data: data.replace(b"TIMED_OUT", b"INTERNAL_ERROR")
        await until(lambda: "INTERNAL_ERROR" in "".join(broker.problems()))
        waiting.cancel()


async def test_the_end_of_a_ttr_costs_no_more_than_a_pause(proxy: FaultProxy, store: ReadyJobs) -> None:
    async with broker_on(store, proxy.address) as broker:
        proxy.spoil = lambda data: data.replace(b"TIMED_OUT", b"DEADLINE_SOON")
        waiting = asyncio.ensure_future(take_all(broker, store))
        await put(broker, store, range(5))
        assert len(await waiting) == 5
        assert broker.problems() == []


async def test_a_stranger_is_no_server(proxy: FaultProxy, store: ReadyJobs) -> None:
    proxy.spoil = lambda data: b"UNKNOWN_COMMAND\r\n"
    async with broker_on(store, proxy.address) as broker:
        assert "UNKNOWN_COMMAND" in broker.problems()[0]
        proxy.spoil = lambda data: b"OK 4\r\n---\n\r\n"
        await until(lambda: "no id" in broker.problems()[0])


async def test_connections_that_lead_to_different_servers_are_refused(proxy: FaultProxy, store: ReadyJobs) -> None:
    lives = itertools.count(1)
    proxy.spoil = lambda data: re.sub(rb"\nid: [0-9a-f]{16}", b"\nid: %016d" % next(lives), data)
    async with broker_on(store, proxy.address) as broker:
        assert "different servers" in broker.problems()[0]


async def test_a_server_that_is_full_of_others_jobs_is_given_none(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    beanstalkd.talk(b"put 0 0 60 0\r\n\r\n" * 5)
    settings = BrokerSection(servers=[beanstalkd.address], max_server_entries=5)
    broker = BeanstalkdBroker(StrictSupervisor(), settings)
    await broker.start(store.refill, store.waiting, "store")
    await put(broker, store, range(5))
    assert broker.backlog("mail")
    assert await broker.reserve(MAIL, 5) == []
    beanstalkd.talk(b"".join(b"delete %d\r\n" % number for number in range(1, 6)))
    assert len(await take_all(broker, store)) == 5
    await broker.close()


async def test_what_was_reserved_on_a_lost_connection_is_deleted_on_the_next(
    beanstalkd: Beanstalkd, proxy: FaultProxy, store: ReadyJobs
) -> None:
    async with broker_on(store, proxy.address) as broker:
        await put(broker, store, range(3))
        taken = await broker.reserve(MAIL, 3)
        proxy.drop()
        await until(broker.problems)
        await until(lambda: not broker.problems())
        await broker.delete(taken)
        await until(lambda: b"current-jobs-ready: 0\n" in beanstalkd.talk(b"stats\r\n"))


async def test_a_job_of_another_life_is_never_deleted(beanstalkd: Beanstalkd, store: ReadyJobs) -> None:
    async with broker_on(store, beanstalkd.address) as broker:
        await put(broker, store, range(1))
        (old,) = await broker.reserve(MAIL, 1)
        store.claim([old])
        beanstalkd.restart()
        await until(broker.problems)
        await until(lambda: not broker.problems())
        await put(broker, store, range(1, 2))
        await broker.delete([old])
        assert len(await take_all(broker, store)) == 1
        await until(lambda: b"cmd-delete: 0\n" not in beanstalkd.talk(b"stats\r\n"))
        assert b"cmd-delete: 1\n" in beanstalkd.talk(b"stats\r\n")


async def test_a_bug_in_what_looks_after_a_server_stops_the_node(
    beanstalkd: Beanstalkd, store: ReadyJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def poll(*_args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(server.Server, "_poll", poll)
    supervisor = StrictSupervisor()
    async with broker_on(store, beanstalkd.address, supervisor=supervisor):
        name, error = await supervisor.told()
    assert (name, str(error)) == (f"beanstalkd {beanstalkd.address}", "a bug")


async def test_a_start_does_not_wait_long_for_a_server_that_hangs(
    beanstalkd: Beanstalkd, store: ReadyJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "FIRST_TRY_S", 0.1)
    beanstalkd.signal(signal.SIGSTOP)
    async with asyncio.timeout(WITHIN_S / 2), broker_on(store, beanstalkd.address) as broker:
        assert broker.problems()
    beanstalkd.signal(signal.SIGCONT)


async def test_a_server_may_be_reached_by_its_socket(tmp_path: Path, store: ReadyJobs) -> None:
    address = f"unix:{tmp_path}/socket"
    with running_beanstalkd(listen=address):
        async with broker_on(store, address) as broker:
            await put(broker, store, range(3))
            assert await broker.reserve(MAIL, 0) == []
            assert len(await take_all(broker, store)) == 3
