"""Each store against a small oracle of resources: never two at once, the first of those that wait, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kqs.config import StoreSection
from kqs.job import Accepted, Entry, Run, first_run
from kqs.states import State
from kqs.store.base import CALL_S, Store
from kqs.store.mongo import MongoStore
from kqs.store.sqlite import SqliteStore
from tests.contract.store_contract import FIRST, IDS, JOURNAL, NODE
from tests.support.clock import FakeClock
from tests.support.jobs import a_report
from tests.support.mongodb import a_database, client_of, mongodb
from tests.support.supervising import StrictSupervisor

TYPES = ["mail", "resize"]
JOBS = st.lists(
    st.tuples(
        st.sampled_from(TYPES),
        st.sampled_from(["r", "s", None]),
        st.integers(0, 2),
        st.sampled_from([0.0, 0.0, 0.0, 3.0]),  # delay
        st.sampled_from([None, None, 2.0]),  # expire
        st.booleans(),  # claimed at once
        st.booleans(),  # an id of its own
    ),
    min_size=1,
    max_size=6,
)
ENDS = st.sampled_from([State.SUCCESS, State.FAIL, State.RETRY, State.GHOST, State.NEW])


class ResourceMachine(RuleBasedStateMachine):
    """An engine's subclass supplies `make_store`."""

    def make_store(self) -> Store:
        raise NotImplementedError

    @initialize()
    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FakeClock()
        self.next_order, self.fed_seq = FIRST, 0
        self.jobs: dict[str, Accepted] = {}
        self.running: dict[str, Run] = {}
        self.told: list[Entry] = []
        self._open()

    def _open(self) -> None:
        self.store = self.make_store()
        self.runner.run(self.store.open(JOURNAL, NODE))
        self.store.on_called = self.told.extend

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self._drain()
            self.runner.run(self.store.close())
            self.runner.close()
            shutil.rmtree(self.folder)

    @rule(jobs=JOBS)
    def insert(self, jobs: list[tuple[str, str | None, int, float, float | None, bool, bool]]) -> None:
        now, batch = self.clock.now(), []
        for type_, resource, prio, delay, expire, is_claimed, has_id in jobs:
            order, self.next_order = self.next_order, self.next_order + 1
            job_id = f"own-{order}" if has_id else IDS.of(order)
            due_at, expire_at = (now + delay if delay else 0.0), (None if expire is None else now + expire)
            job = Accepted(order, job_id, has_id, type_, prio, due_at, expire_at, b"1", None, resource=resource)
            job.claimed_at = now if is_claimed and not delay else 0.0
            batch.append(job)
            self.jobs[job_id] = job
        self.fed_seq += 1
        known = self.runner.run(self.store.insert(batch, self.fed_seq, "w", now))
        assert known == []
        for job in batch:
            if job.claimed_at and job.order not in known.parked:
                record = self.runner.run(self.store.job(job.id))
                assert record is not None
                assert record.state is State.PROCESSING
                assert record.epoch is not None
                self._began(first_run(job, record.epoch))

    def _began(self, run: Run) -> None:
        assert run.claim.id not in self.running
        if run.resource is not None:
            assert run.resource not in [other.resource for other in self.running.values()], "two at once"
        assert run.resource == self.jobs[run.claim.id].resource
        self.running[run.claim.id] = run

    def _ready(self) -> list[Entry]:
        return [entry for type_ in TYPES for entry in self.runner.run(self.store.ready(type_, None, 99))]

    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        entries = {entry.id: entry for entry in [*self.told, *self._ready()]}
        if not entries:
            return
        chosen = data.draw(st.lists(st.sampled_from(sorted(entries)), unique=True, max_size=5))
        self._claim([entries[job_id] for job_id in chosen])

    def _claim(self, entries: list[Entry]) -> int:
        free = {self.jobs[entry.id].resource for entry in entries} - {run.resource for run in self.running.values()}
        runs = self.runner.run(self.store.claim(entries, "w", self.clock.now()))
        for run in runs:
            assert run.resource is None or run.resource in free
            self._began(run)
        return len(runs)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), end=ENDS, delay=st.sampled_from([0.0, 0.0, 2.0]), prio=st.sampled_from([None, 0, 3]))
    def report(self, data: st.DataObject, end: State, delay: float, prio: int | None) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.running)), unique=True, min_size=1, max_size=3))
        self._report([self.running.pop(job_id) for job_id in chosen], end, delay, prio)

    def _report(self, runs: list[Run], end: State, delay: float = 0.0, prio: int | None = None) -> None:
        now, reports = self.clock.now(), []
        for run in runs:
            one = a_report(run, end, now, delay, prio)
            if one.prio is not None:
                self.jobs[run.claim.id].prio = one.prio
            reports.append(one)
        assert self.runner.run(self.store.report(reports)) == [True] * len(runs)

    @rule(seconds=st.sampled_from([0.5, CALL_S, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.told += self.runner.run(self.store.wake(self.clock.now(), 99))
        self.runner.run(self.store.expire(self.clock.now(), 99, None))
        self.runner.run(self.store.call_on(self.clock.now()))

    @rule()
    def restart(self) -> None:
        self.runner.run(self.store.close())
        self.told.clear()
        self._open()
        orphans = self.runner.run(self.store.orphans(999))
        assert {run.claim.id for run in orphans} == set(self.running)
        for run in orphans:
            assert run.resource == self.jobs[run.claim.id].resource
        self.running.clear()
        self._report(orphans, State.GHOST)

    @invariant()
    def those_who_have_it_run(self) -> None:
        if not hasattr(self, "store"):
            return
        holders = {run.resource: run.claim.id for run in self.running.values()}
        for resource in ("r", "s"):
            holder = self.runner.run(self.store.holder(resource))
            assert (holder and holder.id) == holders.get(resource)

    def _drain(self) -> None:
        """Run all that waits: each job comes to its turn, and one that comes by as all others are parked is the first."""
        for _ in range(500):
            self._report(list(self.running.values()), State.SUCCESS)
            self.running.clear()
            states = self.runner.run(self.store.counts())
            if not any(states.get(type_, {}).get(state) for type_ in TYPES for state in State if state < State.SUCCESS):
                return
            self.clock.advance(CALL_S)
            self.told += self.runner.run(self.store.wake(self.clock.now(), 99))
            self.runner.run(self.store.call_on(self.clock.now()))
            self._claim(self._ready())
        raise AssertionError("somebody was forgotten")


class SqliteResourceMachine(ResourceMachine):
    def make_store(self) -> Store:
        return SqliteStore(self.folder / "store.sqlite", StoreSection(), self.clock, StrictSupervisor())


class MongoResourceMachine(ResourceMachine):
    server_uri = ""

    @initialize()
    def open(self) -> None:
        self.uri = a_database(self.server_uri)
        super().open()

    def make_store(self) -> Store:
        return MongoStore(StoreSection(uri=self.uri), self.clock, StrictSupervisor())

    def teardown(self) -> None:
        super().teardown()
        with client_of(self.uri) as client:
            client.drop_database(client.get_default_database())


TestSqliteResources = SqliteResourceMachine.TestCase
TestSqliteResources.settings = settings(max_examples=60, stateful_step_count=30)


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with mongodb(tmp_path_factory.mktemp("mongodb")) as uri:
        MongoResourceMachine.server_uri = uri
        yield


TestMongoResources = MongoResourceMachine.TestCase
TestMongoResources.settings = settings(max_examples=8, stateful_step_count=20)
