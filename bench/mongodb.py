"""Round trips and bytes on the wire to MongoDB, from insert to finish: python -m bench.mongodb; prints a table.

Counted by a proxy between the store and its server, so the figures do not depend on which server it is, nor on the machine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from kqs.config import StoreSection
from kqs.ids import Ids
from kqs.job import Accepted, Claim, Entry, Report
from kqs.service import SystemClock
from kqs.states import State
from kqs.store.mongo import MongoStore
from kqs.supervisor import Supervisor
from tests.support.mongo_proxy import MongoProxy
from tests.support.mongodb import a_database, is_there, mongodb
from tests.support.serving import Served, serving

BATCHES = (1, 100)
JOB_BYTES = 200
#: a server's housekeeping and heartbeats come every 5 s; over so many s they are counted, to be taken off
PERIOD_S = 15.0
BATCHES_IN_PERIOD = 10

_JOURNAL_ID, _NODE = "ab" * 16, "0000beef"
_DATA = b'"' + b"x" * (JOB_BYTES - 2) + b'"'


class Cost(NamedTuple):
    """What a batch cost: the way its jobs went, how many there were, round trips and bytes, both directions, in all."""

    way: str
    jobs: int
    round_trips: float
    size_bytes: float


class _Driver:
    """Drives a store as the queue does, and counts."""

    def __init__(self, store: MongoStore, proxy: MongoProxy, epoch: int) -> None:
        self._store = store
        self._proxy = proxy
        self._epoch = epoch
        self._ids = Ids(_NODE)
        self._fed_seq = 0

    async def cost(self, count: int, *, claimed: bool) -> Cost:
        """Bring a batch from insert to finish. claimed: it meets idle lanes, so that it is stored and claimed at once."""
        now = time.time()
        first = self._ids.take(count, now)
        jobs = [
            Accepted(order, self._ids.of(order), False, "bench", 10_000, 0.0, None, _DATA, None, claimed)
            for order in range(first, first + count)
        ]
        self._fed_seq += 1
        self._proxy.forget()
        await self._store.insert(jobs, self._fed_seq, "bench", now)
        if claimed:
            claims = [Claim(job.order, job.id, 1, self._epoch) for job in jobs]
        else:
            entries = [Entry(job.order, job.id, job.type, job.prio) for job in jobs]
            claims = [run.claim for run in await self._store.claim(entries, "bench", now)]
        reports = [Report(claim, "bench", State.SUCCESS, "success", now, drop_at=now + 3600) for claim in claims]
        assert await self._store.report(reports) == [True] * count
        way = "store: met an idle lane" if claimed else "store: waited its turn"
        return Cost(way, count, self._proxy.commands.total(), self._proxy.sent_bytes + self._proxy.answered_bytes)


async def _store_costs(proxy: MongoProxy) -> list[Cost]:
    supervisor = Supervisor(lambda name, error: sys.exit(f"{name}: {error}"))
    store = MongoStore(StoreSection(uri=proxy.uri), SystemClock(), supervisor, "store")
    info = await store.open(_JOURNAL_ID, _NODE)
    try:
        driver = _Driver(store, proxy, info.epoch)
        return [await driver.cost(count, claimed=claimed) for claimed in (False, True) for count in BATCHES]
    finally:
        await store.close()


async def _server_costs(proxy: MongoProxy) -> list[Cost]:
    with _server(proxy.uri) as server:
        await asyncio.sleep(1)
        still = await _period(proxy, server, 0)
        found = [(count, await _period(proxy, server, count)) for count in BATCHES]
    return [
        Cost("server, over TCP", count, *((all_ - idle) / BATCHES_IN_PERIOD for all_, idle in zip(seen, still, strict=True)))
        for count, seen in found
    ]


async def _period(proxy: MongoProxy, server: Served, count: int) -> tuple[int, int]:
    """Insert batches of `count` jobs, if any, spread over a period; return its round trips and bytes."""
    proxy.forget()
    call = json.dumps({"n": "insert", "m": [{"type": "noop", "data": "x" * (JOB_BYTES - 2)}] * count})
    for _ in range(BATCHES_IN_PERIOD):
        if count:
            await asyncio.to_thread(server.ask, call)
        await asyncio.sleep(PERIOD_S / BATCHES_IN_PERIOD)
    return proxy.commands.total(), proxy.sent_bytes + proxy.answered_bytes


@contextmanager
def _server(uri: str) -> Iterator[Served]:
    settings = {"STORE__KIND": "mongodb", "STORE__URI": uri, "WORKER__MODULES": '["bench.handlers"]', "LOG__LEVEL": "warning"}
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), **settings) as server:
        yield server
        server.stop()


async def _measure(uri: str) -> list[Cost]:
    proxy = MongoProxy(a_database(uri))
    await proxy.start()
    try:
        return [*await _store_costs(proxy), *await _server_costs(proxy)]
    finally:
        await proxy.cut()


def main() -> int:
    """Measure and print; 1 where there is no server of MongoDB's protocol."""
    if not is_there():
        print("no MongoDB: neither KQS_TEST_MONGODB_URI, nor mongod, nor the server that `make test` builds", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, mongodb(Path(folder)) as uri:
        costs = asyncio.run(_measure(uri))
    table = Table("way", "jobs in the batch", "round trips a batch", "bytes a job")
    for cost in costs:
        table.add_row(cost.way, str(cost.jobs), f"{cost.round_trips:.1f}", f"{cost.size_bytes / cost.jobs:,.0f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
