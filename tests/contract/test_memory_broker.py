from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kqs.broker.memory import MemoryBroker
from tests.contract.broker_contract import BrokerContract
from tests.support.ready_jobs import ReadyJobs
from tests.support.supervising import StrictSupervisor


@pytest.fixture
def store() -> ReadyJobs:
    return ReadyJobs()


@pytest.fixture
async def broker(store: ReadyJobs) -> AsyncIterator[MemoryBroker]:
    broker = MemoryBroker(StrictSupervisor(), max_entries=2000)
    await broker.start(store.refill, store.waiting)
    yield broker
    await broker.close()


class TestMemoryBroker(BrokerContract):
    async def test_close_tolerates_never_started(self) -> None:
        await MemoryBroker(StrictSupervisor()).close()
