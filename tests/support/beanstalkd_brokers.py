"""Brokers over real beanstalkds, used as the queue uses them, with `ReadyJobs` for a store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from kqs.broker.beanstalkd import BeanstalkdBroker, link, pool, server
from kqs.broker.beanstalkd import broker as broker_module
from kqs.config import BrokerSection
from kqs.job import Entry
from tests.support.ready_jobs import ReadyJobs, an_entry
from tests.support.supervising import StrictSupervisor

MAIL = {"mail": 1}
#: how long a test waits for what must come, however busy the machine is, in s
WITHIN_S = 20.0


def wait_for_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have brokers take no server for one that is away or slow only because the machine is busy."""
    monkeypatch.setattr(pool, "FIRST_TRY_S", WITHIN_S)
    monkeypatch.setattr(server, "CONNECT_WITHIN_S", WITHIN_S)
    monkeypatch.setattr(link, "REPLY_WITHIN_S", WITHIN_S)
    monkeypatch.setattr(broker_module, "PUT_WITHIN_S", WITHIN_S)


@asynccontextmanager
async def broker_on(
    store: ReadyJobs,
    *addresses: str,
    max_entries: int = 1000,
    store_id: str = "store",
    namespace: str = "",
    supervisor: StrictSupervisor | None = None,
) -> AsyncIterator[BeanstalkdBroker]:
    settings = BrokerSection(servers=[*addresses], max_entries=max_entries)
    broker = BeanstalkdBroker(supervisor or StrictSupervisor(), settings, namespace)
    await broker.start(store.refill, store.waiting, store_id)
    try:
        yield broker
    finally:
        await broker.close()


async def take_all(broker: BeanstalkdBroker, store: ReadyJobs, within_s: float = WITHIN_S) -> list[Entry]:
    """Reserve and claim as the queue does until the store holds nothing ready; return what was granted."""
    granted: list[Entry] = []
    async with asyncio.timeout(within_s):
        while store.entries:
            taken = await broker.reserve(MAIL, 10)
            if not taken:
                await broker.wait_ready(frozenset(MAIL))
                continue
            own = [entry for entry in taken if entry.order in store.entries]
            own = list({entry.order: entry for entry in own}.values())
            store.claim(own)
            granted += own
            await broker.delete(taken)
    return granted


async def put(broker: BeanstalkdBroker, store: ReadyJobs, numbers: range) -> None:
    await broker.put(store.add(*(an_entry(number) for number in numbers)))


async def until(condition: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Wait for what a background task does; it has no event that a test could await."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)
