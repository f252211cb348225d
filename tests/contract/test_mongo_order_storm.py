"""Two servers that insert, run, retry and delete jobs that wait for each other at once: nobody waits for ever, or too short."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Unpack

import pytest

from kqs.filter import Filter
from kqs.job import Accepted, After, Entry, JobRecord, Members
from kqs.states import State
from kqs.store.base import Verb
from kqs.store.mongo import MongoStore
from tests.contract.change_contract import change
from tests.contract.changes import JobChanges
from tests.contract.store_contract import FIRST, JOURNAL, NODE, OTHER_JOURNAL, OTHER_NODE, a_job, a_report
from tests.support.clock import FakeClock
from tests.support.jobs import listed

ROUNDS = 25
#: orders of the jobs of one server, and from where on its retried ones have theirs
STRIDE = 100_000

MakeStore = Callable[..., MongoStore]


class Server:
    """A server that does something at random, again and again."""

    def __init__(self, store: MongoStore, number: int, chance: random.Random, ids: list[str], opened: list[str]) -> None:
        self.store = store
        self._number = number
        self._chance = chance
        self._ids = ids  # of both servers
        self._opened = opened  # batches
        self._last = number * STRIDE
        self._revived = FIRST + (number + 10) * STRIDE
        self.members: dict[str, int] = {}  # by batch: inserted while it was open for sure

    async def live(self) -> None:
        """Do so."""
        for _ in range(ROUNDS):
            deed = self._chance.choice(
                [self._insert, self._insert, self._begin, self._join, self._run, self._run, self._owners]
            )
            await deed()
            await self.store.news()
            await self.follow()

    async def follow(self) -> None:
        """Follow all that it has noted."""
        while (await self.store.follow(self.now(), None)).is_more:
            pass

    def now(self) -> float:
        """What the clock says."""
        return self.store._there.session.now()

    def _a_job(self, **changes: Unpack[JobChanges]) -> Accepted:
        self._last += 1
        job = a_job(self._last, **changes)
        job.id = f"job{self._number}-{self._last}"
        return job

    async def _store(self, jobs: list[Accepted]) -> None:
        await self.store.insert(jobs, 0, "w", self.now())
        self._ids += [job.id for job in jobs]

    async def _insert(self) -> None:
        parent = self._a_job()
        known = self._chance.sample(self._ids, min(2, len(self._ids)))
        after = After((parent.id, *known), self._chance.random() < 0.5)
        await self._store([parent, self._a_job(after=after), self._a_job(after=After(tuple(known)) if known else None)])

    async def _begin(self) -> None:
        then = self._a_job(members=Members(True))
        await self._store([then, *(self._a_job(batch=then.id) for _ in range(2))])
        self.members[then.id] = 2
        self._opened.append(then.id)

    async def _join(self) -> None:
        if self._opened and self._chance.random() < 0.5:
            await self.store.close_batch(self._opened.pop(0))
        elif self._opened:
            await self._store([self._a_job(batch=self._chance.choice(self._opened))])

    async def _run(self) -> None:
        entries = await self.store.ready("mail", None, 6)
        for run in await self.store.claim(entries, "w", self.now()):
            record = await self.store.job(run.claim.id)
            if record is not None and record.tally is not None:
                assert record.tally.ended == record.tally.count, record
            state = self._chance.choice([State.SUCCESS, State.SUCCESS, State.FAIL])
            if await self.store.report([a_report(run.claim, state, at=self.now())]) == [None]:  # it was cancelled meanwhile
                await self.store.report([a_report(run.claim, State.CANCELLED, at=self.now())])

    async def _owners(self) -> None:
        if self._ids:
            verb = self._chance.choice([Verb.RETRY, Verb.DELETE, Verb.CANCEL])
            wanted = Filter(ids=tuple(self._chance.sample(self._ids, min(3, len(self._ids)))))
            await change(self.store, verb, wanted, now=self.now(), first_order=self._revived)
            self._revived += 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_two_servers_at_once_end_all_jobs_and_count_all_members(
    make_mongo_store: MakeStore, clock: FakeClock, seed: int
) -> None:
    chance = random.Random(seed)
    ids: list[str] = []
    opened: list[str] = []
    stores = make_mongo_store(), make_mongo_store()
    await stores[0].open(JOURNAL, NODE)
    await stores[1].open(OTHER_JOURNAL, OTHER_NODE)
    servers = [Server(store, number, chance, ids, opened) for number, store in enumerate(stores, 1)]
    for _ in range(3):
        await asyncio.gather(*(server.live() for server in servers))
    while opened:
        await stores[0].close_batch(opened.pop())
    await run_all(servers)
    for _ in range(3):  # whatever these find was to be found without them
        await stores[0]._there.keep_up()
    assert not stores[0]._there.session.noted.has_any
    records = await listed(stores[0])
    assert [record for record in records if record.ended_at is None] == []
    check_batches({record.id: record for record in records}, servers)


async def run_all(servers: Sequence[Server]) -> None:
    """Run jobs until none is ready any more, and nothing is to follow."""
    entries: Sequence[Entry] | None = None
    while entries is None or entries:
        for server in servers:
            await server.store.news()
            await server.follow()
        store = servers[0].store
        entries = await store.ready("mail", None, 1000)
        for run in await store.claim(entries, "w", server.now()):
            await store.report([a_report(run.claim, at=server.now())])


def check_batches(records: Mapping[str, JobRecord], servers: Sequence[Server]) -> None:
    """See that all members have ended, and were counted, of the batches whose `then` is still there."""
    for batch, count in [item for server in servers for item in server.members.items() if item[0] in records]:
        tally = records[batch].tally
        assert tally is not None
        assert tally.ended == tally.count >= count, (tally, count)
