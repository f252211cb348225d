"""The MongoDB store over a bad network: no end is accepted that is not stored, nothing is lost, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
from pymongo import common

from kqs.errors import StoreUnavailableError
from kqs.job import Run
from kqs.states import State
from kqs.store.mongo import MongoStore
from tests.contract.store_contract import FIRST, IDS, JOURNAL, NODE, a_report, an_entry, some_jobs
from tests.support.clock import FakeClock
from tests.support.fault_proxy import FaultProxy, doubled, garbage, untouched
from tests.support.mongo_proxy import MongoProxy

pytestmark = pytest.mark.slow

MakeStore = Callable[..., MongoStore]
T = TypeVar("T")

JOBS = 3
STEPS = ("insert", "claim", "report")
_URI_OPTIONS = "serverSelectionTimeoutMS=500&connectTimeoutMS=500&socketTimeoutMS=500"
#: no operation takes longer, whatever the network does: a few round trips, each within the time-outs above, and what a busy
#: machine takes; half of what one takes that none of these time-outs ends
BOUND_S = 10.0
#: how long the network is bad
FAULT_S = 0.7


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.02)


@pytest.fixture
async def line(uri: str) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(urlsplit(uri).port or 27017) as line:
        yield line


class Lives:
    """Jobs on their way from insert to finish as the queue brings them: what fails is asked for again."""

    def __init__(self, store: MongoStore, clock: FakeClock) -> None:
        self._store = store
        self._now = clock.now()
        self._runs: list[Run] = []
        self.longest_s = 0.0

    async def step(self, name: str) -> None:
        async with asyncio.timeout(60):
            await {"insert": self._insert, "claim": self._claim, "report": self._report}[name]()

    async def _insert(self) -> None:
        assert await self._again(lambda: self._store.insert(some_jobs(JOBS), 1, "w1", self._now)) == []

    async def _claim(self) -> None:
        while len(self._runs) < JOBS:
            await self._again(lambda: self._store.wake(self._now, 9))
            self._runs += await self._again(lambda: self._store.claim([an_entry(n) for n in range(JOBS)], "w1", self._now))
            await self._again(self._store._there.say_alive)
            await self._again(self._store._there.keep_up)

    async def _report(self) -> None:
        reports = [a_report(run.claim, at=self._now) for run in self._runs]
        assert await self._again(lambda: self._store.report(reports)) == [True] * JOBS

    async def _again(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            began = time.monotonic()
            try:
                return await ask()
            except StoreUnavailableError:
                await asyncio.sleep(0.02)
            finally:
                self.longest_s = max(self.longest_s, time.monotonic() - began)


async def opened(store: MongoStore) -> MongoStore:
    """Open a store whose time-outs are so short that a busy machine is a bad network too."""
    async with asyncio.timeout(60):
        while True:
            with suppress(StoreUnavailableError):
                await store.open(JOURNAL, NODE)
                return store


async def assert_all_ended_once(store: MongoStore) -> None:
    for n in range(JOBS):
        record = await store.job(IDS.of(FIRST + n))
        assert record is not None
        assert (record.state, [run.state for run in record.runs]) == (State.SUCCESS, ["success"])


def torn(answer: bytes) -> bytes:
    """An answer of the right length, with an end that means nothing."""
    return answer[:26] + b"\xff" * len(answer[26:])


async def refuse(line: FaultProxy) -> None:
    await line.refuse()
    await asyncio.sleep(FAULT_S)
    await line.listen()


async def half_open(line: FaultProxy) -> None:
    line.is_half_open = True
    await asyncio.sleep(FAULT_S)
    line.is_half_open = False
    line.drop()


async def slow(line: FaultProxy) -> None:
    line.pace_s = 0.001
    await asyncio.sleep(FAULT_S)
    line.pace_s = 0.0


async def spoil(how: Callable[[bytes], bytes], line: FaultProxy) -> None:
    line.spoil = how
    await asyncio.sleep(FAULT_S)
    line.spoil = untouched
    line.drop()


FAULTS: dict[str, Callable[[FaultProxy], Awaitable[None]]] = {
    "refuses": refuse,
    "half open": half_open,
    "slow": slow,
    "garbage": partial(spoil, garbage),
    "torn": partial(spoil, torn),
    "doubled": partial(spoil, doubled),
}


@pytest.mark.parametrize("bad_step", STEPS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_jobs_get_through_a_bad_network(
    uri: str, line: FaultProxy, make_mongo_store: MakeStore, clock: FakeClock, fault: str, bad_step: str
) -> None:
    store = await opened(make_mongo_store(f"{urlsplit(uri)._replace(netloc=line.address).geturl()}?{_URI_OPTIONS}"))
    lives = Lives(store, clock)
    for step in STEPS:
        if step == bad_step:
            passing = asyncio.ensure_future(FAULTS[fault](line))
            await asyncio.sleep(0)
        await lives.step(step)
    await passing
    assert lives.longest_s < BOUND_S
    direct = make_mongo_store()
    await direct.open("f" * 32, "00c0ffee")
    await assert_all_ended_once(direct)


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_store_opens_once_the_network_is_good(
    uri: str, line: FaultProxy, make_mongo_store: MakeStore, fault: str
) -> None:
    passing = asyncio.ensure_future(FAULTS[fault](line))
    await asyncio.sleep(0)
    store = make_mongo_store(f"{urlsplit(uri)._replace(netloc=line.address).geturl()}?{_URI_OPTIONS}")
    async with asyncio.timeout(30):
        while True:
            began = time.monotonic()
            try:
                await store.open(JOURNAL, NODE)
                break
            except StoreUnavailableError:
                assert time.monotonic() - began < BOUND_S
                await asyncio.sleep(0.02)
    await passing


async def test_a_stop_on_a_line_that_swallows_everything_is_bounded(
    uri: str, line: FaultProxy, make_mongo_store: MakeStore, clock: FakeClock
) -> None:
    store = await opened(make_mongo_store(f"{urlsplit(uri)._replace(netloc=line.address).geturl()}?{_URI_OPTIONS}"))
    line.is_half_open = True
    asked = [store.insert(some_jobs(JOBS), 1, "w1", clock.now()), store.sync(), store.counts()]
    began = time.monotonic()
    await store.close()
    assert time.monotonic() - began < BOUND_S
    assert {type(answer) for answer in await asyncio.gather(*asked, return_exceptions=True)} == {StoreUnavailableError}


@pytest.mark.parametrize(
    ("command", "step"), [("insert", "insert"), ("update", "claim"), ("find", "claim"), ("update", "report")]
)
async def test_an_answer_may_be_cut_anywhere(
    uri: str, proxy: MongoProxy, make_mongo_store: MakeStore, clock: FakeClock, command: str, step: str
) -> None:
    store = make_mongo_store(proxy.uri)
    await store.open(JOURNAL, NODE)
    for passed_bytes in (1, 4, 15, 16, 20, 21, 30, 10**6):
        lives = Lives(store, clock)
        for name in STEPS:
            if name == step:
                proxy.lose_answer(command, passed_bytes)
            await lives.step(name)
        assert proxy.has_lost_answer
        await assert_all_ended_once(store)
        await store._there.session.jobs.delete_many({})
