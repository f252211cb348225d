"""Each store against a dictionary: whatever is done in whatever order, both tell the same story, and no count drifts."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, ParamSpec, TypeVar

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kqs.config import StoreSection
from kqs.errors import StoreUnavailableError
from kqs.job import Accepted, Claim, Entry, JobRecord, Report
from kqs.states import ENDED, WAITING, State
from kqs.store.base import Known as Inserted
from kqs.store.base import Store
from kqs.store.mongo import MongoStore
from kqs.store.sqlite import SqliteStore
from tests.contract.store_contract import FIRST, IDS, JOURNAL, NODE
from tests.support.clock import FakeClock
from tests.support.jobs import listed
from tests.support.mongo_proxy import MongoProxy
from tests.support.mongodb import a_database, client_of, mongodb, sweep_all_bulk
from tests.support.supervising import StrictSupervisor

T = TypeVar("T")
P = ParamSpec("P")

BULK_BYTES = 30
TYPES = st.sampled_from(["mail", "resize"])
GIVEN_IDS = st.sampled_from([None, None, "a", "b", "c"])
KEYS = st.sampled_from([None, None, None, "k", "l"])
DELAYS = st.sampled_from([0.0, 0.0, 2.0, 7.0])
KEEPS = st.sampled_from([None, 0.0, 3.0, 9.0])
WAYS = st.sampled_from([State.SUCCESS, State.SUCCESS, State.FAIL, State.RETRY, State.GHOST])
#: how the first run of a job ended before it was stored: state, how long it is kept, result
Ended = tuple[State, float | None, bytes | None]
ENDS = st.tuples(st.sampled_from([State.SUCCESS, State.SUCCESS, State.FAIL]), KEEPS, st.sampled_from([None, b"r", b"r" * 40]))
#: not claimed, claimed, claimed and ended
FIRST_RUNS = st.one_of(st.none(), st.just(()), ENDS)


class Known:
    """What the oracle knows of one job."""

    def __init__(self, job: Accepted, now: float, epoch: int) -> None:
        self.job = job
        self.state = State.PROCESSING if job.claimed_at else State.DELAYED if job.due_at > now else State.NEW
        self.is_ready = self.state is State.NEW
        self.due_at = job.due_at
        self.drop_at: float | None = None
        self.result: bytes | None = None
        self.claims = 1 if job.claimed_at else 0
        self.returned = 0
        self.waited_as = State.NEW
        self.epoch = epoch if job.claimed_at else None
        self.ended_by: tuple[int, int | None] | None = None
        if job.end is not None:
            self.end(job.end)

    def end(self, report: Report) -> None:
        self.state, self.drop_at, self.result = report.state, report.drop_at, report.result
        self.ended_by = (report.claim.attempt, report.claim.epoch)

    @property
    def attempt(self) -> int:
        return self.claims - self.returned

    @property
    def entry(self) -> Entry:
        return Entry(self.job.order, self.job.id, self.job.type, self.job.prio)

    def is_gone(self, now: float) -> bool:
        return self.drop_at is not None and self.drop_at <= now


class StoreMachine(RuleBasedStateMachine):
    """An engine's subclass supplies `make_store`, `count_bulk` and `bulk_result_bytes`: longer results are in bulk."""

    bulk_result_bytes: ClassVar[int]

    def make_store(self) -> Store:
        raise NotImplementedError

    async def count_bulk(self) -> int:
        raise NotImplementedError

    @initialize()
    def open(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.clock = FakeClock()
        self.known: dict[int, Known] = {}
        self.replaced: list[Accepted] = []
        self.next_order = FIRST
        self.fed_seq = self.epoch = 0
        self.claims: list[tuple[Claim, str]] = []
        self._open()

    def _open(self) -> None:
        self.store = self.make_store()
        info = self.runner.run(self.store.open(JOURNAL, NODE))
        self.epoch += 1
        assert (info.epoch, info.fed_seq) == (self.epoch, self.fed_seq)

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()
        shutil.rmtree(self.folder)

    @rule(
        jobs=st.lists(
            st.tuples(TYPES, GIVEN_IDS, st.integers(0, 3), DELAYS, DELAYS, FIRST_RUNS, st.integers(0, 60), st.booleans(), KEYS),
            max_size=9,
        )
    )
    def insert(
        self,
        jobs: list[tuple[str, str | None, int, float, float, Ended | None, int, bool, str | None]],
    ) -> None:
        now = self.clock.now()
        batch: list[Accepted] = []
        for type_, given, prio, delay, expire, run, size, is_plain, key in jobs:
            order, self.next_order = self.next_order, self.next_order + 1
            due_at = now + delay if delay else 0.0
            job = Accepted(
                order, given or IDS.of(order), given is not None, type_, prio, due_at, now + expire if expire else None,
                b"%060d" % order + b"x" * size if size > BULK_BYTES else b"1", None, 0.0 if run is None else now, now,
            )  # fmt: skip
            if is_plain:
                job = Accepted(order, IDS.of(order), False, type_, prio, 0.0, None, b"1", None, job.claimed_at)
            job.unique = key
            if run and key is None:
                job.end = self._end(job, *run)
            batch.append(job)
        refused, joined = self._accept(batch)
        self.fed_seq += 1
        found = self.runner.run(self.store.insert(batch, self.fed_seq, "w", now))
        assert (sorted(found), found.joined) == (sorted(refused), joined)

    def _accept(self, batch: list[Accepted]) -> tuple[list[int], dict[int, str]]:
        """Take in new jobs, one by one; return whose id or key is taken, and by whom."""
        now, refused, joined = self.clock.now(), [], {}
        made: dict[tuple[str, str], str] = {}
        for job in batch:
            holder = next((one for one in self.known.values() if one.job.id == job.id), None)
            if holder and not holder.is_gone(now):
                refused.append(job.order)
                continue
            if job.unique is not None:
                pair = (job.type, job.unique)
                waiting = made.get(pair) or next((one.job.id for one in self._waiting() if self._has(one, pair)), None)
                if waiting:
                    refused.append(job.order)
                    joined[job.order] = waiting
                    continue
                made[pair] = job.id
            if holder:
                self.replaced.append(self.known.pop(holder.job.order).job)
            self.known[job.order] = Known(job, now, self.epoch)
            if job.claimed_at:
                self.claims.append((Claim(job.order, job.id, 1, self.epoch), job.type))
        self.known = dict(sorted(self.known.items()))
        return refused, joined

    def _has(self, one: Known, pair: tuple[str, str]) -> bool:
        job = one.job
        return (job.type, job.unique) == pair and (job.expire_at is None or job.expire_at > self.clock.now())

    def _end(self, job: Accepted, state: State, keep: float | None, result: bytes | None) -> Report:
        now, claim = self.clock.now(), Claim(job.order, job.id, 1, self.epoch)
        drop_at = None if keep is None else now + keep
        return Report(claim, job.type, state, state.word, now, drop_at=drop_at, result=result)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def insert_again(self, data: st.DataObject) -> None:
        again = data.draw(st.lists(st.sampled_from(sorted(self.known)), unique=True))
        jobs = [self.known[order].job for order in again]
        jobs += data.draw(st.lists(st.sampled_from(self.replaced), unique_by=id)) if self.replaced else []
        jobs.sort(key=lambda job: job.order)
        known = self.runner.run(self.store.insert(jobs, self.fed_seq, "w", self.clock.now()))
        assert sorted(known) == [job.order for job in jobs]

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        now = self.clock.now()
        wanted = [self.known[order] for order in data.draw(st.lists(st.sampled_from(sorted(self.known))))]
        granted = self.runner.run(self.store.claim([one.entry for one in wanted], "w", now))
        expected = []
        for one in wanted:
            if one.is_ready:
                one.is_ready, one.waited_as, one.state = False, one.state, State.PROCESSING
                one.claims, one.epoch = one.claims + 1, self.epoch
                claim = Claim(one.job.order, one.job.id, one.claims, self.epoch)
                expected.append((claim, one.returned, one.waited_as, one.job.data))
        assert [(run.claim, run.returned, run.waited_as, run.data) for run in granted] == expected
        self.claims += [(run.claim, run.type) for run in granted]

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        ways=st.lists(st.tuples(WAYS, DELAYS, KEEPS, st.sampled_from([None, b"r"]), st.booleans()), max_size=9),
    )
    def report(self, data: st.DataObject, ways: list[tuple[State, float, float | None, bytes | None, bool]]) -> None:
        now, reports, expected = self.clock.now(), [], []
        for state, delay, keep, result, has_begun in ways:
            claim, type_ = data.draw(st.sampled_from(self.claims))
            one = self.known.get(claim.order)
            report = Report(claim, type_, state, state.word, now, has_begun=has_begun)
            report.returned = one.returned if one else 0
            if state in ENDED:
                report.drop_at, report.result = None if keep is None else now + keep, result if has_begun else None
            elif has_begun:
                report.due_at = now + delay if delay else 0.0
            else:
                report.state = one.waited_as if one else State.NEW
            reports.append(report)
            expected.append(self._apply(report))
        assert self.runner.run(self.store.report(reports)) == expected

    def _apply(self, report: Report) -> bool:
        one = self.known.get(report.claim.order)
        fence = (report.claim.attempt, report.claim.epoch)
        if one is None or one.state is not State.PROCESSING or (one.claims, one.epoch) != fence:
            return one is not None and one.ended_by == fence and report.state in ENDED
        one.returned += not report.has_begun
        if report.state in ENDED:
            one.end(report)
        else:
            one.state, one.due_at, one.is_ready = report.state, report.due_at, not report.due_at
        return True

    @rule(seconds=st.sampled_from([1.0, 4.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def wake(self) -> None:
        now = self.clock.now()
        due = [one for one in self._waiting() if not one.is_ready and one.due_at <= now]
        woken = self.runner.run(self.store.wake(now, 999))
        assert {entry.order for entry in woken} == {one.job.order for one in due}
        for one in due:
            one.is_ready = True

    @rule(keep=KEEPS)
    def expire(self, keep: float | None) -> None:
        now = self.clock.now()
        over = [one for one in self._waiting() if one.job.expire_at is not None and one.job.expire_at <= now]
        assert sorted(self.runner.run(self.store.expire(now, 999, keep))) == sorted(one.job.id for one in over)
        for one in over:
            one.state, one.is_ready, one.drop_at = State.FAIL, False, None if keep is None else now + keep

    @rule(share=st.sampled_from([0.5, 1.0]))
    def sweep(self, share: float) -> None:
        before = FIRST + int((self.next_order - FIRST) * share)
        over = [one.job.order for one in self.known.values() if one.is_gone(self.clock.now()) and one.job.order < before]
        assert self.runner.run(self.store.sweep(self.clock.now(), 999, before)) == len(over)
        for order in over:
            del self.known[order]
        self.replaced = [job for job in self.replaced if job.order >= before]

    @rule()
    def reopen(self) -> None:
        self.runner.run(self.store.close())
        self._open()
        orphans = self.runner.run(self.store.orphans(999))
        assert {run.claim.order for run in orphans} == {
            one.job.order for one in self.known.values() if one.state is State.PROCESSING
        }

    def _waiting(self) -> list[Known]:
        return [one for one in self.known.values() if one.state in WAITING]

    @invariant()
    def tells_the_same(self) -> None:
        if not hasattr(self, "store"):
            return
        shown = self.runner.run(listed(self.store))
        there = [one for one in self.known.values() if not one.is_gone(self.clock.now())]
        assert [record.id for record in shown] == [one.job.id for one in there]
        records = [self.runner.run(self.store.job(one.job.id)) for one in there]
        assert [_told(record) for record in records if record] == [_expected(one) for one in there]
        ready = [entry.order for type_ in ("mail", "resize") for entry in self.runner.run(self.store.ready(type_, None, 9999))]
        wanted = sorted((one for one in self.known.values() if one.is_ready), key=lambda one: (one.job.type, *one.entry.rank))
        assert ready == [one.job.order for one in wanted]
        counts = self.runner.run(self.store.counts())
        kinds = Counter((one.job.type, one.state) for one in self.known.values())
        assert {(type_, state): n for type_, states in counts.items() for state, n in states.items()} == kinds

    @invariant()
    def bulk_rows_have_their_jobs(self) -> None:
        if hasattr(self, "store"):
            big = sum(len(one.job.data) > BULK_BYTES for one in self.known.values())
            big += sum(len(one.result or b"") > self.bulk_result_bytes for one in self.known.values())
            assert self.runner.run(self.count_bulk()) == big


def _told(record: JobRecord) -> tuple[object, ...]:
    return (record.order, record.id, record.state, record.attempt, record.data, record.drop_at, record.result)


def _expected(one: Known) -> tuple[object, ...]:
    return (one.job.order, one.job.id, one.state, one.attempt, one.job.data, one.drop_at, one.result)


class SqliteMachine(StoreMachine):
    bulk_result_bytes = 1 << 40
    store: SqliteStore

    def make_store(self) -> SqliteStore:
        return SqliteStore(self.folder / "store.sqlite", StoreSection(bulk_bytes=BULK_BYTES), self.clock, StrictSupervisor())

    async def count_bulk(self) -> int:
        count: int
        ((count,),) = await self.store._runner.call(lambda session: session.db.execute("select count(*) from bulk").fetchall())
        return count


class MongoMachine(StoreMachine):
    bulk_result_bytes = BULK_BYTES
    server_uri: ClassVar[str]
    store: MongoStore

    def __init__(self) -> None:
        super().__init__()
        self.uri = a_database(self.server_uri)

    def make_store(self) -> MongoStore:
        return MongoStore(StoreSection(uri=self.uri, bulk_bytes=BULK_BYTES), self.clock, StrictSupervisor())

    async def count_bulk(self) -> int:
        count: int = await self.store._there.session.bulk._files.count_documents({})
        return count

    def teardown(self) -> None:
        super().teardown()
        with client_of(self.uri) as client:
            client.drop_database(client.get_default_database())


class Repeating(MongoStore):
    """A store behind a line that loses answers, whose caller asks again, as the feeder and the reporter do."""

    def __init__(self, proxy: MongoProxy, clock: FakeClock) -> None:
        super().__init__(StoreSection(uri=proxy.uri, bulk_bytes=BULK_BYTES), clock, StrictSupervisor())
        self._proxy = proxy
        self.loses_next = False

    async def insert(self, jobs: Sequence[Accepted], fed_seq: int, worker: str, now: float) -> Inserted:
        return await self._until_answered("insert", super().insert, jobs, fed_seq, worker, now)

    async def report(self, reports: Sequence[Report]) -> Sequence[bool | None]:
        return await self._until_answered("update", super().report, reports)

    async def _until_answered(self, command: str, operation: Callable[P, Awaitable[T]], *args: P.args, **named: P.kwargs) -> T:
        self._proxy.lose_answer(command if self.loses_next else None)
        self.loses_next = False
        while True:
            try:
                answer = await operation(*args, **named)
            except StoreUnavailableError:
                continue
            self._proxy.lose_answer(None)
            await self._there.session.tallies.recount()
            await sweep_all_bulk(self, 0.0)
            return answer


class LosingMachine(MongoMachine):
    """As above; now and then the answer to an insert or a report is lost, whatever it did."""

    store: Repeating

    def make_store(self) -> Repeating:
        self.proxy = MongoProxy(self.uri)
        self.runner.run(self.proxy.start())
        return Repeating(self.proxy, self.clock)

    @precondition(lambda self: not self.store.loses_next)
    @rule()
    def lose(self) -> None:
        self.store.loses_next = True

    @rule()
    def reopen(self) -> None:
        old = self.proxy
        super().reopen()
        self.runner.run(old.cut())

    def teardown(self) -> None:
        self.runner.run(self.store.close())
        self.runner.run(self.proxy.cut())
        super().teardown()


SqliteMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25)
TestSqliteStore = SqliteMachine.TestCase
# a server takes a second for what takes SQLite ten milliseconds: too slow for shrinking
MongoMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=25, phases=[Phase.generate])


LosingMachine.TestCase.settings = MongoMachine.TestCase.settings


@pytest.fixture
def mongo_server(tmp_path: Path) -> Iterator[None]:
    with mongodb(tmp_path) as MongoMachine.server_uri:
        yield


TestMongoStore = pytest.mark.usefixtures("mongo_server")(MongoMachine.TestCase)
TestMongoStoreThatLosesAnswers = pytest.mark.usefixtures("mongo_server")(LosingMachine.TestCase)
