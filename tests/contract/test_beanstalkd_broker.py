from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from kqs.broker.beanstalkd import BeanstalkdBroker
from kqs.broker.beanstalkd import broker as broker_module
from kqs.config import BrokerSection
from tests.contract.broker_contract import BrokerContract
from tests.support.beanstalkd import Beanstalkd, running_beanstalkd
from tests.support.beanstalkd_brokers import WITHIN_S, wait_for_answers
from tests.support.ready_jobs import ReadyJobs
from tests.support.supervising import StrictSupervisor


@pytest.fixture(params=[1, 2], ids=["one", "two"])
def servers(request: pytest.FixtureRequest) -> Iterator[list[Beanstalkd]]:
    with running_beanstalkd() as first, running_beanstalkd() as second:
        yield [first, second][: request.param]


@pytest.fixture
def store() -> ReadyJobs:
    return ReadyJobs()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_for_answers(monkeypatch)
    # what comes from two servers is in order only where their answers come together
    monkeypatch.setattr(broker_module, "STRAGGLE_S", WITHIN_S)


@pytest.fixture
async def broker(store: ReadyJobs, servers: list[Beanstalkd]) -> AsyncIterator[BeanstalkdBroker]:
    settings = BrokerSection(servers=[server.address for server in servers], max_entries=2000)
    broker = BeanstalkdBroker(StrictSupervisor(), settings)
    await broker.start(store.refill, store.waiting)
    yield broker
    await broker.close()


@pytest.mark.slow
class TestBeanstalkdBroker(BrokerContract):
    async def test_close_tolerates_never_started(self) -> None:
        await BeanstalkdBroker(StrictSupervisor(), BrokerSection(servers=["127.0.0.1:1"])).close()
