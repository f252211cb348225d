"""Every promise of kqs.store.base.Store as a test. An engine's subclass supplies `make_store`, `damage` and `read_raw`."""

from __future__ import annotations

import asyncio
import copy
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, Unpack
from unittest.mock import ANY

import msgspec
import pytest

from kqs.errors import StoreCorruptError, StoreUnavailableError
from kqs.filter import Filter
from kqs.ids import Ids
from kqs.job import (
    MAX_PROGRESS_BYTES,
    NO_PROGRESS,
    Accepted,
    Claim,
    Entry,
    JobRecord,
    Progress,
    Report,
    Rescheduled,
    Run,
    first_run,
)
from kqs.states import State
from kqs.store import base
from kqs.store.base import DAMAGED, LISTED_BYTES, Known, Store, StoreInfo, Waiting
from kqs.store.sayings import Topic
from tests.contract.changes import EndedChanges, EntryChanges, JobChanges, ReportChanges, changed
from tests.support.clock import FakeClock
from tests.support.jobs import EVERYTHING, listed
from tests.support.memory import MIB

JOURNAL = "0123456789abcdef" * 2
NODE = "abcdef12"
#: of another server on the same store
OTHER_JOURNAL, OTHER_NODE = "f" * 32, "00c0ffee"
IDS = Ids(NODE)
#: the order of job 0
FIRST = 1_700_000_000_000_000
BULK_BYTES = 1000

#: the answer to jobs whose data would be too much, in the tests that lower it
FEW_BYTES = 5 * BULK_BYTES

#: changes fields of the record of job n behind the store's back: type, data, options, expire_at, …, or bulk (long data)
Damage = Callable[..., Awaitable[None]]
#: all that the engine keeps of the record of job n, but for what must differ from job to job
ReadRaw = Callable[[Store, int], Awaitable[dict[str, object]]]
#: makes a store on the test's own data, not yet opened; called again, one on the same data
MakeStore = Callable[[], Store]
#: closes the store of a test, and opens another one on the same data
Reopen = Callable[[], Awaitable[tuple[Store, StoreInfo]]]


class Insert(Protocol):
    """Stores jobs."""

    async def __call__(self, *jobs: Accepted, fed_seq: int = 0) -> Known: ...


class RunOne(Protocol):
    """Stores job n, and claims it."""

    async def __call__(self, n: int = 0, **changes: Unpack[JobChanges]) -> Run: ...


class EndAt(Protocol):
    """Stores, claims and ends job n, whose record is over at `drop_at`."""

    async def __call__(self, drop_at: float | None, n: int = 0, **changes: Unpack[JobChanges]) -> Run: ...


def a_job(n: int, **changes: Unpack[JobChanges]) -> Accepted:
    id_ = changes.get("id")
    job = Accepted(FIRST + n, id_ or IDS.of(FIRST + n), id_ is not None, "mail", 10000, 0.0, None, b'{"n":%d}' % n, None)
    return changed(job, {**changes, "id": job.id})


def some_jobs(count: int, **changes: Unpack[JobChanges]) -> list[Accepted]:
    return [a_job(n, **changes) for n in range(count)]


def an_entry(n: int, **changes: Unpack[EntryChanges]) -> Entry:
    return changed(Entry(FIRST + n, IDS.of(FIRST + n), "mail", 10000), changes)


def a_claim(n: int, *, id: str | None = None, attempt: int = 1, epoch: int = 1) -> Claim:  # noqa: A002
    return Claim(FIRST + n, id or IDS.of(FIRST + n), attempt, epoch)


def a_report(
    claim: Claim, state: State = State.SUCCESS, run_state: str = "", *, at: float, **changes: Unpack[ReportChanges]
) -> Report:
    return changed(Report(claim, "mail", state, run_state or state.word, at), changes)


def an_ended(
    n: int, state: State = State.SUCCESS, run_state: str = "", *, at: float, epoch: int = 1, **changes: Unpack[EndedChanges]
) -> Accepted:
    """Job n, claimed at `at` and ended a second later: the changes named `end_…` are its report's, the others the job's own."""
    of_end = {name.removeprefix("end_"): value for name, value in changes.items() if name.startswith("end_")}
    of_job = {name: value for name, value in changes.items() if name != "id" and not name.startswith("end_")}
    job = changed(a_job(n, id=changes.get("id"), claimed_at=at), of_job)
    job.end = changed(a_report(Claim(job.order, job.id, 1, epoch), state, run_state, at=at + 1), of_end)
    job.end.type = job.type
    return job


def without_end(job: Accepted) -> Accepted:
    job = copy.copy(job)
    job.end = None
    return job


def unbegun(run: Run, *, at: float, state: State | None = None, **changes: Unpack[ReportChanges]) -> Report:
    """The report that `run` never began; its job waits on, or has ended as `state`."""
    end = State(run.waited_as) if state is None else state
    return changed(a_report(run.claim, end, at=at, returned=run.returned, has_begun=False), changes)


def numbers(found: list[Entry] | list[Run] | list[JobRecord]) -> list[int]:
    return [(one.claim.order if isinstance(one, Run) else one.order) - FIRST for one in found]


async def state_of(store: Store, n: int) -> State | None:
    """The state of job n; None: there is none."""
    record = await store.job(IDS.of(FIRST + n))
    return None if record is None else record.state


class StoreContract:
    @pytest.fixture
    def reopen(self, store: Store, make_store: MakeStore) -> Reopen:
        async def reopen() -> tuple[Store, StoreInfo]:
            await store.close()
            again = make_store()
            return again, await again.open(JOURNAL, NODE)

        return reopen

    @pytest.fixture
    def run_one(self, store: Store, insert: Insert, now: float) -> RunOne:
        async def run_one(n: int = 0, **changes: Unpack[JobChanges]) -> Run:
            await insert(a_job(n, **changes))
            (run,) = await store.claim([an_entry(n)], "w1", now)
            return run

        return run_one

    async def test_new_store_knows_nothing(self, make_store: MakeStore) -> None:
        assert await make_store().open(JOURNAL, NODE) == StoreInfo(epoch=1, fed_seq=0, last_order=0, store_id=ANY)

    async def test_reopened_store_has_a_later_epoch_and_the_same_progress(self, insert: Insert, reopen: Reopen) -> None:
        await insert(*some_jobs(3), fed_seq=7)
        _, info = await reopen()
        assert info == StoreInfo(epoch=2, fed_seq=7, last_order=FIRST + 2, store_id=ANY)

    async def test_last_order_outlives_its_record(self, store: Store, run_one: RunOne, reopen: Reopen, now: float) -> None:
        run = await run_one()
        await store.report([a_report(run.claim, at=now, drop_at=now)])
        await store.sweep(now, 10, FIRST + 1)
        _, info = await reopen()
        assert info.last_order == FIRST

    async def test_node_of_another_journal_is_refused(self, store: Store, make_store: MakeStore) -> None:
        await store.close()
        with pytest.raises(StoreCorruptError, match="belongs to journal"):
            await make_store().open("f" * 32, NODE)

    async def test_records_survive_reopening(self, store: Store, insert: Insert, reopen: Reopen) -> None:
        await insert(a_job(0, expire_at=5e9, options=b'{"retries":3}'))
        before = await store.job(IDS.of(FIRST))
        again, _ = await reopen()
        assert await again.job(IDS.of(FIRST)) == before

    async def test_close_is_idempotent_and_tolerates_never_opened(self, store: Store, make_store: MakeStore) -> None:
        await make_store().close()
        await store.close()
        await store.close()

    async def test_closed_store_refuses(self, store: Store) -> None:
        await store.close()
        with pytest.raises(StoreUnavailableError):
            await store.counts()

    async def test_close_finishes_what_was_asked(self, store: Store, make_store: MakeStore, now: float) -> None:
        asked = asyncio.ensure_future(store.insert(some_jobs(5), 1, "w1", now))
        await asyncio.sleep(0)
        await store.close()
        assert await asked == []

    async def test_plain_job_is_new_and_keeps_its_bytes(self, store: Store, insert: Insert) -> None:
        assert await insert(a_job(0, data=b' {"a" : "\xc3\xa9"}')) == []
        record = await store.job(IDS.of(FIRST))
        assert record is not None
        assert (record.state, record.data, record.attempt, record.runs) == (State.NEW, b' {"a" : "\xc3\xa9"}', 0, [])
        assert (record.accepted_at, record.due_at, record.prio) == (FIRST / 1e6, 0.0, 10000)

    async def test_acceptance_is_told_by_the_clock_of_then_where_the_order_was_ahead_of_it(
        self, store: Store, insert: Insert
    ) -> None:
        at = FIRST / 1e6 - 7200.5
        await insert(a_job(0, accepted_at=at), a_job(1, id="mine", accepted_at=at), a_job(2))
        told = [record.accepted_at for record in await listed(store)]
        assert told == [at, at, (FIRST + 2) / 1e6]

    async def test_every_field_is_kept(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0, id="mine", due_at=now + 0.123456, expire_at=now + 9.654321, options=b'{"ttr":5}', prio=2**32 - 1))
        record = await store.job("mine")
        assert record is not None
        assert (record.due_at, record.expire_at, record.prio) == (now + 0.123456, now + 9.654321, 2**32 - 1)
        assert (record.options, record.state, record.id) == (b'{"ttr":5}', State.DELAYED, "mine")

    @pytest.mark.parametrize("count", [1, 5, 255, 256, 257, 1000])
    async def test_batches_of_any_size_are_stored_whole(self, store: Store, insert: Insert, count: int) -> None:
        await insert(*some_jobs(count), *[a_job(2000 + n, id=f"id-{n}") for n in range(count)])
        assert await store.counts() == {"mail": {State.NEW: 2 * count}}
        assert len(await store.ready("mail", None, 5000)) == 2 * count

    async def test_known_order_changes_nothing(self, store: Store, insert: Insert) -> None:
        await insert(a_job(0), a_job(1))
        assert await insert(a_job(1, data=b"2"), a_job(2)) == [FIRST + 1]
        record = await store.job(IDS.of(FIRST + 1))
        assert record is not None
        assert record.data == b'{"n":1}'
        assert await store.counts() == {"mail": {State.NEW: 3}}

    async def test_known_id_changes_nothing(self, store: Store, insert: Insert) -> None:
        await insert(a_job(0, id="mine"))
        assert await insert(a_job(1, id="mine"), a_job(2, id="other")) == [FIRST + 1]
        assert numbers(await store.ready("mail", None, 9)) == [0, 2]

    async def test_same_id_twice_in_a_batch_is_stored_once(self, store: Store, insert: Insert) -> None:
        assert await insert(a_job(0, id="mine"), a_job(1, id="mine"), a_job(2)) == [FIRST + 1]
        assert await store.counts() == {"mail": {State.NEW: 2}}

    async def test_same_order_twice_in_a_batch_is_stored_once(self, store: Store, insert: Insert) -> None:
        assert await insert(a_job(0), a_job(0)) == [FIRST]
        assert await store.counts() == {"mail": {State.NEW: 1}}

    async def test_given_id_that_was_made_for_another_job_is_known(self, store: Store, insert: Insert) -> None:
        assert await insert(a_job(0), a_job(1, id=IDS.of(FIRST))) == [FIRST + 1]
        assert await insert(a_job(2, id=IDS.of(FIRST))) == [FIRST + 2]
        assert await insert(a_job(3, id=IDS.of(FIRST + 77))) == []

    async def test_given_id_hides_the_made_one(self, store: Store, insert: Insert) -> None:
        await insert(a_job(0, id="mine"))
        assert await store.job(IDS.of(FIRST)) is None

    async def test_ended_job_is_still_known(self, store: Store, insert: Insert, run_one: RunOne, now: float) -> None:
        run = await run_one()
        await store.report([a_report(run.claim, at=now, drop_at=now)])
        assert await store.job(run.claim.id) is None
        assert await insert(a_job(0)) == [FIRST]

    async def test_claimed_job_is_stored_running(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0, claimed_at=now), a_job(1, id="mine", claimed_at=now, expire_at=now + 5))
        record = await store.job("mine")
        assert record is not None
        assert (record.state, record.attempt, record.runs[0].worker, record.runs[0].started_at) == (
            State.PROCESSING,
            1,
            "w1",
            now,
        )
        assert await store.report([a_report(a_claim(0), at=now), a_report(a_claim(1, id="mine"), at=now)]) == [True, True]

    @pytest.mark.parametrize("shape", [{}, {"id": "mine"}, {"data": b"1" * (BULK_BYTES + 1)}, {"options": b'{"ttr":5}'}])
    @pytest.mark.parametrize("has_ended", [False, True])
    async def test_claimed_job_is_shown_to_run_where_it_says_and_else_here(
        self, store: Store, insert: Insert, now: float, shape: JobChanges, has_ended: bool
    ) -> None:
        def own(n: int, worker: str | None) -> JobChanges:
            named: JobChanges = {"id": f"mine{n}"} if "id" in shape else {}
            return {**shape, **named, "worker": worker}

        def made(n: int, worker: str | None) -> Accepted:
            if has_ended:
                return an_ended(n, at=now, **own(n, worker))
            return changed(a_job(n, **own(n, worker)), {"claimed_at": now})

        jobs = [made(n, worker) for n, worker in enumerate(["far", None, "other", "far"])]
        await insert(a_job(9, **own(9, "nobody")), *jobs)
        shown = [await store.job(job.id) for job in jobs]
        assert [record and [run.worker for run in record.runs] for record in shown] == [["far"], ["w1"], ["other"], ["far"]]
        waiting = await store.job("mine9" if "id" in shape else IDS.of(FIRST + 9))
        assert waiting is not None
        assert (waiting.state, waiting.runs) == (State.NEW, [])

    async def test_fed_seq_moves_with_the_rows_and_never_back(self, store: Store, insert: Insert, reopen: Reopen) -> None:
        await insert(a_job(0), fed_seq=9)
        await insert(fed_seq=11)
        await insert(a_job(1), fed_seq=4)
        assert await store.sync() == 11
        assert (await reopen())[1].fed_seq == 11

    async def test_bulk_data_comes_back_whole(self, store: Store, insert: Insert, now: float) -> None:
        big = bytes(range(256)) * 40
        await insert(a_job(0), a_job(1, data=big), a_job(2, data=b"x" * BULK_BYTES), a_job(3, data=big[::-1], claimed_at=now))
        record = await store.job(IDS.of(FIRST + 3))
        assert record is not None
        assert record.data == big[::-1]
        runs = await store.claim([an_entry(2), an_entry(1), an_entry(0)], "w1", now)
        assert [run.data for run in runs] == [b"x" * BULK_BYTES, big, b'{"n":0}']

    async def test_bulk_data_of_a_known_id_is_not_stored(self, store: Store, insert: Insert) -> None:
        await insert(a_job(0, id="mine", data=b"1" * 2000))
        assert await insert(a_job(1, id="mine", data=b"2" * 2000)) == [FIRST + 1]
        record = await store.job("mine")
        assert record is not None
        assert record.data == b"1" * 2000

    async def test_claim_grants_ready_jobs_in_entry_order(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*some_jobs(3, options=b'{"ttr":1}'))
        runs = await store.claim([an_entry(2, handle="h"), an_entry(0)], "w1", now)
        assert numbers(runs) == [2, 0]
        assert runs[0] == Run(
            Claim(FIRST + 2, IDS.of(FIRST + 2), 1, 1), "mail", 10000, b'{"n":2}', b'{"ttr":1}', started_at=now, handle="h"
        )

    async def test_nothing_asked_is_nothing_done(self, store: Store, now: float) -> None:
        assert (await store.claim([], "w1", now), await store.report([]), await store.insert([], 0, "w1", now)) == ([], [], [])

    async def test_claim_passes_over_what_is_not_ready(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0, claimed_at=now), a_job(1, due_at=now + 5), a_job(2))
        assert numbers(await store.claim([an_entry(n) for n in (0, 1, 2, 99)], "w1", now)) == [2]

    async def test_claim_does_not_ask_whether_a_job_may_run(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0, expire_at=now - 5))
        (run,) = await store.claim([an_entry(0)], "w1", now)
        assert run.expire_at == now - 5

    async def test_job_is_granted_once(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0))
        granted = await asyncio.gather(*(store.claim([an_entry(0), an_entry(0)], "w1", now) for _ in range(3)))
        assert [len(runs) for runs in granted] == [1, 0, 0]

    async def test_run_carries_counters_and_expiry(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one(expire_at=now + 100.123456)
        again = run
        for n in range(1, 10):
            counts = min(n, 2), min(max(n - 2, 0), 3), max(n - 5, 0)
            waiting = a_report(again.claim, State.RETRY, "fail", at=now)
            waiting.failures, waiting.ghosts, waiting.interrupted = counts
            await store.report([waiting])
            (again,) = await store.claim([an_entry(0)], "w2", now + 1)
            assert (again.claim.attempt, again.failures, again.ghosts, again.interrupted) == (n + 1, *counts)
        assert (again.expire_at, again.started_at) == (now + 100.123456, now + 1)

    async def test_record_inserted_before_is_seen_by_ready(self, store: Store, now: float) -> None:
        _, found = await asyncio.gather(store.insert(some_jobs(2), 1, "w1", now), store.ready("mail", None, 9))
        assert numbers(found) == [0, 1]

    async def test_success_ends_the_job(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        assert await store.report([a_report(run.claim, at=now + 1, drop_at=now + 9, result=b'{"r":1}')]) == [True]
        record = await store.job(run.claim.id)
        assert record is not None
        assert (record.state, record.result, record.ended_at, record.drop_at) == (State.SUCCESS, b'{"r":1}', now + 1, now + 9)
        assert [(one.attempt, one.worker, one.state, one.ended_at) for one in record.runs] == [(1, "w1", "success", now + 1)]

    async def test_final_failure_keeps_its_reason_and_the_runs_own_word(
        self, store: Store, run_one: RunOne, now: float
    ) -> None:
        run = await run_one()
        await store.report([a_report(run.claim, State.FAIL, "ghost", at=now, error="gone", ghosts=11)])
        record = await store.job(run.claim.id)
        assert record is not None
        assert (record.state, record.error, record.ghosts, record.drop_at) == (State.FAIL, "gone", 11, None)
        assert (record.runs[0].state, record.runs[0].error) == ("ghost", "gone")

    async def test_many_equal_and_unequal_reports_in_one_batch(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*some_jobs(700, claimed_at=now))
        reports = [a_report(a_claim(n), at=now) for n in range(600)]
        for n in range(0, 600, 2):
            reports[n].result = b"%d" % n
        reports += [a_report(a_claim(n), State.RETRY, "fail", at=now, due_at=now + n) for n in range(600, 700)]
        assert await store.report(reports) == [True] * 700
        assert await store.counts() == {"mail": {State.SUCCESS: 600, State.RETRY: 100}}
        record = await store.job(IDS.of(FIRST + 598))
        assert record is not None
        assert record.result == b"598"
        assert await store.next_due_at() == now + 600

    @pytest.fixture
    def end_at(self, store: Store, now: float) -> EndAt:
        """Store and end a job with the id `mine`, or of our making, whose record is over at `drop_at`."""

        async def end_at(drop_at: float | None, n: int = 0, **changes: Unpack[JobChanges]) -> Run:
            of_job: JobChanges = {"accepted_at": now, **changes}
            job = a_job(n, **of_job)
            await store.insert([job], 0, "w1", now)
            (run,) = await store.claim([an_entry(n, id=job.id)], "w1", now)
            await store.report([a_report(run.claim, at=now, drop_at=drop_at)])
            return run

        return end_at

    @pytest.mark.parametrize("how", ["plain", "claimed", "long"])
    @pytest.mark.parametrize("id_", ["mine", None])
    async def test_record_that_is_over_makes_room_for_a_new_job(
        self, store: Store, end_at: EndAt, now: float, how: str, id_: str | None
    ) -> None:
        run = await end_at(now, id=id_, data=b"1" * (BULK_BYTES + 1))
        job_id = run.claim.id
        assert await store.job(job_id) is None
        data = b"2" * (BULK_BYTES + 1) if how == "long" else b"2"
        again = a_job(9, id=job_id, data=data, accepted_at=now, claimed_at=now if how == "claimed" else 0.0)
        assert await store.insert([again], 1, "w1", now) == []
        assert await store.report([a_report(run.claim, State.RETRY, "fail", at=now)]) == [False]
        record = await store.job(job_id)
        assert record is not None
        state = State.PROCESSING if how == "claimed" else State.NEW
        assert (record.order, record.state, record.data, record.attempt) == (FIRST + 9, state, data, int(how == "claimed"))
        assert await store.counts() == {"mail": {state: 1}}
        if how != "claimed":
            (second,) = await store.claim([an_entry(9, id=job_id)], "w1", now)
            assert (second.data, second.attempt) == (data, 1)

    @pytest.mark.parametrize("id_", ["mine", None])
    async def test_record_that_is_not_over_is_there_and_known(
        self, store: Store, end_at: EndAt, now: float, id_: str | None
    ) -> None:
        run = await end_at(now + 5, id=id_)
        again = a_job(9, id=run.claim.id, accepted_at=now + 4)
        assert await store.insert([again], 1, "w1", now) == [FIRST + 9]
        record = await store.job(run.claim.id)
        assert record is not None
        assert (record.order, record.state) == (FIRST, State.SUCCESS)

    async def test_record_for_ever_and_job_that_waits_or_runs_are_known(
        self, store: Store, end_at: EndAt, insert: Insert, now: float
    ) -> None:
        await end_at(None, id="mine")
        await insert(a_job(1, id="waits"), a_job(2, id="runs", claimed_at=now))
        again = [a_job(n, id=id_, accepted_at=5e9) for n, id_ in ((7, "mine"), (8, "waits"), (9, "runs"))]
        assert sorted(await store.insert(again, 1, "w1", 5e9)) == [FIRST + 7, FIRST + 8, FIRST + 9]

    @pytest.mark.parametrize("id_", ["mine", None])
    async def test_replay_brings_nothing_back_in_the_place_of_what_came_after_it(
        self, store: Store, end_at: EndAt, now: float, id_: str | None
    ) -> None:
        old = a_job(0, id=id_, accepted_at=now)
        dup = a_job(1, id=old.id, accepted_at=now)
        run = await end_at(now + 1, id=id_)
        assert await store.insert([dup], 1, "w1", now) == [FIRST + 1]
        new = a_job(2, id=run.claim.id, accepted_at=now + 2, data=b"new")
        assert sorted(await store.insert([old, dup, new], 1, "w1", now + 2)) == [FIRST, FIRST + 1]
        for drop_at in (None, now + 3):
            assert sorted(await store.insert([old, dup, new], 1, "w1", now + 9)) == [FIRST, FIRST + 1, FIRST + 2]
            record = await store.job(old.id)
            if drop_at is None:
                assert record is not None
                assert (record.order, record.state, record.data) == (FIRST + 2, State.NEW, b"new")
                (run,) = await store.claim([an_entry(2, id=old.id)], "w1", now + 2)
                await store.report([a_report(run.claim, at=now + 3, drop_at=now + 3)])
        assert (await store.counts())["mail"] == {State.SUCCESS: 1}

    async def test_only_the_first_of_two_takes_the_room_of_a_record_that_is_over(
        self, store: Store, end_at: EndAt, now: float
    ) -> None:
        await end_at(now, id="mine")
        twice = [a_job(n, id="mine", accepted_at=now, data=b"%d" % n) for n in (4, 5)]
        assert await store.insert(twice, 1, "w1", now) == [FIRST + 5]
        record = await store.job("mine")
        assert record is not None
        assert record.data == b"4"

    async def test_batch_of_new_known_and_over_ids_is_told_apart(
        self, store: Store, end_at: EndAt, insert: Insert, now: float
    ) -> None:
        await insert(a_job(100, id="waits"))
        for n in range(20):
            await end_at(now if n % 2 else now + 60, n, id=f"id{n}")
        batch = [a_job(200 + n, id=f"id{n}", accepted_at=now) for n in range(30)] + [a_job(300, id="waits"), a_job(301)]
        known = [FIRST + 200 + n for n in range(0, 20, 2)] + [FIRST + 300]
        assert sorted(await store.insert(batch, 1, "w1", now)) == known
        assert (await store.counts())["mail"] == {State.SUCCESS: 10, State.NEW: 22}

    async def test_nothing_stored_makes_room_for_an_adopted_job(self, store: Store, end_at: EndAt, now: float) -> None:
        await end_at(now, id="mine")
        assert await store.insert([a_job(5, id="mine", accepted_at=now + 9, adopted=True)], 1, "w1", now + 9) == [FIRST + 5]
        assert await store.insert([a_job(6, id="new", accepted_at=now + 9, adopted=True)], 1, "w1", now + 9) == []

    async def test_trimmed_record_makes_room_as_well(self, store: Store, end_at: EndAt, now: float) -> None:
        await end_at(None, id="mine")
        assert await store.trim_successes(0, 10, FIRST + 1) == 1
        assert await store.job("mine") is None
        assert await store.insert([a_job(1, id="mine")], 1, "w1", now) == []

    @pytest.mark.parametrize(
        "end",
        [
            pytest.param({}, id="success"),
            pytest.param({"end_drop_at": 5e9}, id="kept for a time"),
            pytest.param({"end_result": b'{"r":1}', "end_drop_at": 5e9}, id="result"),
            pytest.param({"end_result": b"7" * (LISTED_BYTES + 1)}, id="result too long for a listing"),
            pytest.param({"end_result": b"9" * 5000}, id="long result"),
            pytest.param({"end_error": "but"}, id="success with an error"),
            pytest.param({"end_failures": 1, "end_ghosts": 2, "end_interrupted": 3}, id="counters"),
            pytest.param({"end_interrupted": 1}, id="one counter"),
            pytest.param({"run_state": "again"}, id="another word"),
            pytest.param({"state": State.FAIL}, id="fail without a reason"),
            pytest.param({"state": State.FAIL, "end_error": "no", "end_failures": 1, "end_drop_at": 5e9}, id="fail"),
            pytest.param({"state": State.FAIL, "run_state": "ghost", "end_error": "gone", "end_ghosts": 11}, id="ghost"),
        ],
    )
    @pytest.mark.parametrize(
        "shape",
        [
            pytest.param({}, id="plain"),
            pytest.param({"options": b'{"retries":3}'}, id="options"),
            pytest.param({"id": True}, id="given id"),
            pytest.param({"data": b"1" * 5000}, id="long data"),
            pytest.param({"data": b"1" * 5000, "id": True, "options": b'{"retries":3}'}, id="all"),
            pytest.param({"expire_at": 5e9}, id="expiring"),
            pytest.param({"accepted_at": FIRST / 1e6 - 7200.5}, id="accepted at another time"),
            pytest.param({"prio": 0, "type": "resize"}, id="other type and priority"),
        ],
    )
    async def test_job_stored_with_its_end_is_as_if_it_had_been_reported(
        self, store: Store, insert: Insert, read_raw: ReadRaw, now: float, shape: dict[str, Any], end: dict[str, Any]
    ) -> None:
        at = now - 0.123456
        in_two, at_once = (
            an_ended(n, at=at, **end, **{**shape, "id": f"mine{n}" if "id" in shape else None}) for n in range(2)
        )
        assert in_two.end is not None
        assert await insert(without_end(in_two)) == []
        assert await store.report([in_two.end]) == [True]
        assert await insert(at_once) == []
        want, found = [await store.job(job.id) for job in (in_two, at_once)]
        assert want is not None
        assert found is not None
        assert (found.order, found.id, found.data) == (at_once.order, at_once.id, at_once.data)
        if "accepted_at" not in shape:
            want.accepted_at = found.accepted_at
        want.order, want.id, want.data = found.order, found.id, found.data
        assert found == want
        assert await read_raw(store, 1) == await read_raw(store, 0)
        assert await store.counts() == {at_once.type: {found.state: 2}}

    async def test_job_stored_with_its_end_is_over_for_everybody(
        self, store: Store, insert: Insert, reopen: Reopen, now: float
    ) -> None:
        await insert(an_ended(0, at=now), an_ended(1, at=now, id="mine", expire_at=now + 5, end_result=b"1"))
        assert await store.ready("mail", None, 9) == []
        assert (await store.next_due_at(), await store.next_expire_at()) == (None, None)
        assert await store.claim([an_entry(0), an_entry(1, id="mine")], "w2", now) == []
        again, info = await reopen()
        assert info.last_order == FIRST + 1
        assert await again.orphans(9) == []
        assert await again.counts() == {"mail": {State.SUCCESS: 2}}
        ended = await listed(again, Filter(states=frozenset({State.SUCCESS})))
        assert [(one.id, [run.state for run in one.runs]) for one in ended] == [
            (IDS.of(FIRST), ["success"]),
            ("mine", ["success"]),
        ]

    @pytest.mark.parametrize("shape", [{}, {"id": "mine"}, {"end_result": b"1"}], ids=["plain", "given id", "result"])
    async def test_report_of_an_end_that_was_stored_with_its_job_is_a_repeated_one(
        self, store: Store, insert: Insert, now: float, shape: dict[str, Any]
    ) -> None:
        job = an_ended(0, at=now, **shape)
        assert job.end is not None
        await insert(job)
        before = await store.job(job.id)
        late = a_report(job.end.claim, State.FAIL, at=now + 5, error="late")
        waiting = a_report(job.end.claim, State.RETRY, "again", at=now)
        other = a_report(Claim(job.order, job.id, 2, 1), at=now)
        assert await store.report([job.end]) == [True]
        assert await store.report([late, waiting, other, job.end]) == [True, False, False, True]
        assert await store.job(job.id) == before
        assert await store.counts() == {"mail": {State.SUCCESS: 1}}

    @pytest.mark.parametrize("shape", [{}, {"end_result": b"9" * 5000}, {"options": b"{}"}], ids=["plain", "result", "options"])
    async def test_end_of_a_known_job_changes_nothing(
        self, store: Store, insert: Insert, end_at: EndAt, now: float, shape: dict[str, Any]
    ) -> None:
        await insert(a_job(0), a_job(1, due_at=now + 9), a_job(2, claimed_at=now), a_job(3, id="mine"))
        await end_at(now + 9, 4)
        ids = [*(IDS.of(FIRST + n) for n in (0, 1, 2, 4)), "mine"]
        before, counted = [await store.job(id_) for id_ in ids], await store.counts()
        again = [an_ended(n, State.FAIL, at=now, **shape) for n in (0, 1, 2, 4)] + [an_ended(9, at=now, id="mine", **shape)]
        assert sorted(await insert(*again)) == [FIRST + n for n in (0, 1, 2, 4, 9)]
        assert await insert(again[0], an_ended(10, at=now, **shape)) == [FIRST]
        assert [await store.job(id_) for id_ in ids] == before
        counted["mail"][State.SUCCESS] += 1
        assert await store.counts() == counted
        assert await store.report([a_report(a_claim(2), at=now)]) == [True]

    async def test_one_of_two_equal_jobs_of_a_batch_is_stored_with_its_end(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        twice = [an_ended(0, at=now, end_drop_at=5e9), an_ended(0, State.FAIL, at=now)]
        same_id = [an_ended(n, state, at=now, id="mine", end_drop_at=5e9) for n, state in ((1, State.FAIL), (2, State.SUCCESS))]
        assert sorted(await insert(*twice, *same_id)) == [FIRST, FIRST + 2]
        assert await store.counts() == {"mail": {State.SUCCESS: 1, State.FAIL: 1}}

    @pytest.mark.parametrize("id_", ["mine", None])
    @pytest.mark.parametrize("shape", [{}, {"options": b"{}", "data": b"1" * 5000}], ids=["plain", "full"])
    async def test_job_stored_as_over_makes_room_for_the_next_of_its_id(
        self, store: Store, insert: Insert, now: float, id_: str | None, shape: dict[str, Any]
    ) -> None:
        first = an_ended(0, at=now, id=id_, end_drop_at=now + 3, **shape)
        early, late, last = (
            a_job(n, id=first.id, accepted_at=now + at, data=b"2" * 5000) for n, at in ((1, 2), (2, 3), (3, 9))
        )
        batch = [first, early, late, last]
        assert sorted(await insert(*batch)) == [FIRST + 1, FIRST + 3]
        assert sorted(await insert(*map(without_end, batch))) == [FIRST + n for n in range(4)]
        record = await store.job(first.id)
        assert record is not None
        assert (record.order, record.state, record.data) == (FIRST + 2, State.NEW, b"2" * 5000)
        assert await store.counts() == {"mail": {State.NEW: 1}}

    async def test_jobs_of_one_id_that_are_each_over_when_the_next_comes_are_all_new(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        batch = [an_ended(n, at=now + n, id="mine", accepted_at=now + n, end_drop_at=now + n + 1) for n in range(5)]
        assert await insert(*batch, a_job(5, id="mine", accepted_at=now + 9)) == []
        record = await store.job("mine")
        assert record is not None
        assert (record.order, record.state) == (FIRST + 5, State.NEW)
        assert await store.counts() == {"mail": {State.NEW: 1}}

    @pytest.mark.parametrize("count", [1, 5, 255, 257, 600])
    async def test_batches_of_jobs_with_and_without_ends_are_stored_whole(
        self, store: Store, insert: Insert, now: float, count: int
    ) -> None:
        shapes: list[Callable[[int], Accepted]] = [
            lambda n: a_job(n),
            lambda n: a_job(n, due_at=now + 9),
            lambda n: a_job(n, claimed_at=now),
            lambda n: an_ended(n, at=now, end_drop_at=now + 60 + n),
            lambda n: an_ended(n, at=now, end_result=b"%d" % n, data=b"1" * 2000),
            lambda n: an_ended(n, State.FAIL, at=now, end_error=f"no {n}", id=f"mine{n}", type="resize"),
        ]
        batch = [shape(len(shapes) * n + m) for n in range(count) for m, shape in enumerate(shapes)]
        assert await insert(*batch, fed_seq=3) == []
        wanted = {
            "mail": {State.NEW: count, State.DELAYED: count, State.PROCESSING: count, State.SUCCESS: 2 * count},
            "resize": {State.FAIL: count},
        }
        async with asyncio.timeout(10):  # a server of a fleet may be telling its own of them meanwhile
            while await store.counts() != wanted:  # noqa: ASYNC110 - it has no event that a test could await
                await asyncio.sleep(0.05)
        last = len(batch) - 1
        records = [await store.job(id_) for id_ in (IDS.of(FIRST + last - 2), IDS.of(FIRST + last - 1), f"mine{last}")]
        assert [(one.drop_at, one.result, one.error) for one in records if one is not None] == [
            (now + 60 + last - 2, None, None),
            (None, b"%d" % (last - 1), None),
            (None, None, f"no {last}"),
        ]
        assert sorted(await insert(*batch)) == [job.order for job in batch]
        assert await store.sync() == 3

    async def test_jobs_stored_with_their_ends_are_swept_and_trimmed(self, store: Store, insert: Insert, now: float) -> None:
        keeps = [now, now + 9, None, now, now]
        await insert(*(an_ended(n, at=now - 2, end_drop_at=at) for n, at in enumerate(keeps)))
        await insert(an_ended(5, State.FAIL, at=now - 2, id="mine", data=b"1" * 2000, end_drop_at=now), a_job(6))
        assert await store.sweep(now, 9, FIRST + 4) == 2
        assert await store.sweep(now, 9, FIRST + 9) == 2
        assert await self._left(store) == [1, 2, 6]
        assert await store.trim_successes(1, 9, FIRST + 9) == 1
        assert await self._left(store) == [2, 6]
        assert await store.counts() == {"mail": {State.SUCCESS: 1, State.NEW: 1}}

    async def test_times_of_waiting_jobs_can_be_changed_unless_they_have_changed_already(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        both, due, expiry = (now + 7205.5, now + 9000.5), (now + 7205.5, None), (0.0, now + 9000.5)
        jobs = [a_job(n, due_at=at, expire_at=end) for n, (at, end) in enumerate([both, expiry, due, due, expiry])]
        jobs[4].claimed_at = now
        await insert(*jobs)
        times = [(0, both, now + 5, now + 9), (1, expiry, 0.0, now + 8), (2, due, now + 6, None), (3, both, now, None)]
        times.append((4, expiry, 0.0, now + 1))
        await store.reschedule([Rescheduled(FIRST + n, IDS.of(FIRST + n), were, at, end) for n, were, at, end in times])
        await store.reschedule([])
        records = await listed(store)
        assert [(record.due_at, record.expire_at) for record in records] == [
            (now + 5, now + 9), (0.0, now + 8), (now + 6, None), due, expiry,
        ]  # fmt: skip
        assert (await store.next_due_at(), await store.next_expire_at()) == (now + 5, now + 8)
        assert numbers(await store.wake(now + 6, 9)) == [0, 2]
        runs = await store.claim([an_entry(n) for n in range(3)], "w1", now + 7)
        assert [(run.claim.order - FIRST, run.expire_at) for run in runs] == [(0, now + 9), (1, now + 8), (2, None)]

    async def test_a_record_that_was_altered_does_not_pass_once_its_times_are_changed(
        self, store: Store, insert: Insert, damage: Damage, now: float
    ) -> None:
        await insert(*(a_job(n, expire_at=4e9, options=b'{"retries":8}') for n in range(3)))
        await damage(store, 0, expire_at=5e9)
        await damage(store, 1, data=b"7")
        ends = [5e9, 4e9, 4e9]
        await store.reschedule([Rescheduled(FIRST + n, IDS.of(FIRST + n), (0.0, end), 0.0, 3e9) for n, end in enumerate(ends)])
        assert numbers(await store.claim([an_entry(n) for n in range(3)], "w1", now)) == [2]

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({}, id="plain"),
            pytest.param({"id": "mine", "options": b'{"retries":8,"prio":5}', "expire_at": 4e9 + 0.123456}, id="options"),
            pytest.param({"data": b"1" * (BULK_BYTES + 1)}, id="long"),
            pytest.param({"data": b"1" * 300_000, "id": "theirs"}, id="longer"),
            pytest.param({"prio": 2**32 - 1}, id="the last"),
        ],
    )
    async def test_a_run_that_is_given_back_may_give_its_job_another_priority(
        self, store: Store, insert: Insert, reopen: Reopen, now: float, changes: dict[str, Any]
    ) -> None:
        job = a_job(0, **changes)
        await insert(job)
        (run,) = await store.claim([an_entry(0, id=job.id)], "w1", now)
        for attempt, prio in enumerate([0, 2**32 - 1, 10_000], 1):
            waiting = a_report(run.claim, State.RETRY, "interrupted", at=now, interrupted=attempt, prio=prio)
            assert await store.report([waiting]) == [True]
            assert [(entry.prio, entry.order) for entry in await store.ready("mail", None, 9)] == [(prio, FIRST)]
            entry = an_entry(0, prio=prio, id=run.claim.id)
            (run,) = await store.claim([entry], "w2", now + attempt)
            assert (run.prio, run.claim.attempt, run.data) == (prio, attempt + 1, changes.get("data", b'{"n":0}'))
            record = await store.job(run.claim.id)
            assert record is not None
            assert (record.prio, record.options) == (prio, changes.get("options"))
        again, _ = await reopen()
        (orphan,) = await again.orphans(9)
        assert (orphan.prio, orphan.claim) == (10_000, run.claim)

    async def test_priorities_of_a_batch_are_each_their_own_and_wait_with_their_jobs(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        await insert(*some_jobs(5))
        runs = await store.claim([an_entry(n) for n in range(5)], "w1", now)
        prios = [7, None, 3, 7, None]
        ends = [
            a_report(run.claim, State.RETRY, "interrupted", at=now, prio=prio, due_at=now + 5 if n in (3, 4) else 0.0)
            for n, (run, prio) in enumerate(zip(runs, prios, strict=True))
        ]
        assert await store.report(ends) == [True] * 5
        assert [(entry.prio, entry.order - FIRST) for entry in await store.ready("mail", None, 9)] == [
            (3, 2),
            (7, 0),
            (10_000, 1),
        ]
        assert [entry.prio for entry in await store.wake(now + 6, 9)] == [7, 10_000]
        assert await store.report(ends) == [False] * 5
        assert len(await store.claim([an_entry(n) for n in range(5)], "w1", now + 7)) == 5

    async def test_a_record_that_was_altered_does_not_pass_once_its_priority_is_changed(
        self, store: Store, insert: Insert, damage: Damage, now: float
    ) -> None:
        await insert(*(a_job(n, expire_at=4e9, options=b'{"retries":8}') for n in range(4)))
        runs = await store.claim([an_entry(n) for n in range(4)], "w1", now)
        await damage(store, 0, expire_at=5e9)
        await damage(store, 1, data=b"7")
        await damage(store, 2, type="mall")
        await store.report([a_report(run.claim, State.RETRY, "interrupted", at=now, prio=5) for run in runs])
        assert numbers(await store.claim([an_entry(n) for n in range(4)], "w1", now)) == [3]

    async def test_claim_given_back_leaves_no_trace(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0), a_job(1, due_at=now + 5), a_job(2))
        (first,) = await store.claim([an_entry(2)], "w1", now)
        await store.report([a_report(first.claim, State.RETRY, "fail", at=now + 1, due_at=now + 5, failures=1, error="no")])
        await store.wake(now + 5, 10)
        before = [await store.job(IDS.of(FIRST + n)) for n in range(3)]
        runs = await store.claim([an_entry(n) for n in range(3)], "w2", now + 6)
        assert [(run.attempt, State(run.waited_as)) for run in runs] == [(1, State.NEW), (1, State.DELAYED), (2, State.RETRY)]
        returned = [unbegun(run, at=now + 7) for run in runs]
        assert await store.report(returned) == [True] * 3
        assert [await store.job(IDS.of(FIRST + n)) for n in range(3)] == before
        assert await store.counts() == {"mail": {State.NEW: 1, State.DELAYED: 1, State.RETRY: 1}}
        assert numbers(await store.ready("mail", None, 10)) == [0, 1, 2]

    async def test_no_stale_report_matches_after_a_claim_was_given_back(
        self, store: Store, run_one: RunOne, now: float
    ) -> None:
        first = await run_one(0)
        await store.report([unbegun(first, at=now)])
        (second,) = await store.claim([an_entry(0)], "w1", now)
        assert second.claim != first.claim
        assert (second.attempt, second.claim.epoch) == (1, first.claim.epoch)
        late = [unbegun(first, at=now), a_report(first.claim, at=now), a_report(first.claim, State.RETRY, "fail", at=now)]
        assert await store.report(late) == [False] * 3
        assert await store.report([a_report(second.claim, at=now, returned=second.returned)]) == [True]
        record = await store.job(first.claim.id)
        assert record is not None
        assert (record.state, record.attempt, [run.attempt for run in record.runs]) == (State.SUCCESS, 1, [1])

    async def test_new_claimed_job_given_back_is_new_also_if_it_was_stored_as_claimed(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        await insert(a_job(0, claimed_at=now), a_job(1, id="mine", claimed_at=now))
        claims = [a_claim(0), a_claim(1, id="mine")]
        assert await store.report([a_report(one, State.NEW, at=now, has_begun=False) for one in claims]) == [True] * 2
        for job_id in (IDS.of(FIRST), "mine"):
            record = await store.job(job_id)
            assert record is not None
            assert (record.state, record.attempt, record.runs) == (State.NEW, 0, [])

    async def test_runs_keep_their_numbers_whatever_was_given_back_between(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        await insert(a_job(0))
        for number in range(1, 106):
            (run,) = await store.claim([an_entry(0)], f"gone{number}", now)
            if number % 2:
                await store.report([unbegun(run, at=now)])
                (run,) = await store.claim([an_entry(0)], f"w{number}", now)
            assert run.attempt == number
            await store.report([a_report(run.claim, State.RETRY, "fail", at=now, returned=run.returned)])
        record = await store.job(IDS.of(FIRST))
        assert record is not None
        assert record.attempt == 105
        assert all(run.worker.endswith(str(run.attempt)) for run in record.runs)
        assert [run.attempt for run in record.runs][-99:] == list(range(7, 106))
        (run,) = await store.claim([an_entry(0)], "w106", now)
        await store.report([unbegun(run, at=now)])
        again = await store.job(IDS.of(FIRST))
        assert again is not None
        assert (again.attempt, again.runs[-1]) == (105, record.runs[-1])

    @pytest.mark.parametrize("drop_at", [None, 5e9])
    async def test_claimed_job_whose_time_was_over_has_ended_without_a_run(
        self, store: Store, run_one: RunOne, now: float, drop_at: float | None
    ) -> None:
        run = await run_one(0)
        end = unbegun(run, at=now + 1, state=State.FAIL, error="expired", drop_at=drop_at)
        assert await store.report([end]) == [True]
        assert await store.report([end]) == [True]
        assert await store.report([unbegun(run, at=now + 1)]) == [False]
        record = await store.job(IDS.of(FIRST))
        assert record is not None
        assert (record.state, record.error, record.attempt, record.runs) == (State.FAIL, "expired", 0, [])
        assert (record.ended_at, record.drop_at) == (now + 1, drop_at)
        assert await store.counts() == {"mail": {State.FAIL: 1}}

    async def test_a_due_time_lets_a_job_wait_though_its_run_ended_later_by_the_clock(
        self, store: Store, run_one: RunOne, now: float
    ) -> None:
        run = await run_one(0)
        await store.report([a_report(run.claim, State.RETRY, "fail", at=now + 7200, due_at=now + 30)])
        assert await store.ready("mail", None, 10) == []
        assert numbers(await store.wake(now + 30, 10)) == [0]

    async def test_repeated_final_report_is_true_and_changes_nothing(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        await store.report([a_report(run.claim, at=now)])
        assert await store.report([a_report(run.claim, State.FAIL, at=now + 5, error="late")]) == [True]
        record = await store.job(run.claim.id)
        assert record is not None
        assert (record.state, record.ended_at, record.error) == (State.SUCCESS, now, None)
        assert await store.counts() == {"mail": {State.SUCCESS: 1}}

    async def test_same_report_twice_in_a_batch_counts_once(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        final, waiting = a_report(run.claim, at=now), a_report(run.claim, State.RETRY, "again", at=now)
        assert await store.report([final, final, waiting]) == [True, True, False]
        assert await store.counts() == {"mail": {State.SUCCESS: 1}}

    async def test_report_after_giving_back_is_stale(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        waiting = a_report(run.claim, State.RETRY, "again", at=now)
        assert await store.report([waiting, waiting, a_report(run.claim, at=now)]) == [True, False, False]

    @pytest.mark.parametrize("fence", [(0, 1), (2, 1), (1, 0), (1, 2)])
    async def test_other_attempts_and_epochs_are_stale(
        self, store: Store, run_one: RunOne, now: float, fence: tuple[int, int]
    ) -> None:
        run = await run_one()
        stale = Claim(run.claim.order, run.claim.id, *fence)
        assert await store.report([a_report(stale, at=now)]) == [False]
        assert await store.counts() == {"mail": {State.PROCESSING: 1}}

    async def test_stale_report_does_not_hold_up_its_neighbours(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*some_jobs(3, claimed_at=now))
        claims = [a_claim(0), a_claim(1, attempt=7), a_claim(2), a_claim(99)]
        assert await store.report([a_report(claim, at=now) for claim in claims]) == [True, False, True, False]
        assert await store.counts() == {"mail": {State.SUCCESS: 2, State.PROCESSING: 1}}

    async def test_waiting_job_goes_to_ready_or_later(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*some_jobs(2, claimed_at=now))
        claims = [a_claim(n) for n in (0, 1)]
        await store.report(
            [
                a_report(claim, State.RETRY, "fail", at=now, due_at=due)
                for claim, due in zip(claims, (0.0, now + 9), strict=True)
            ]
        )
        assert numbers(await store.ready("mail", None, 9)) == [0]
        assert await store.next_due_at() == now + 9

    async def test_earlier_runs_are_kept_with_their_errors(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        await store.report([a_report(run.claim, State.RETRY, "fail", at=now + 1, error='a "b"\nc')])
        (second,) = await store.claim([an_entry(0)], "w2", now + 2)
        record = await store.job(run.claim.id)
        assert record is not None
        assert [(one.attempt, one.worker, one.state, one.error) for one in record.runs] == [
            (1, "w1", "fail", 'a "b"\nc'),
            (2, "w2", "processing", None),
        ]
        await store.report([a_report(second.claim, at=now + 3)])
        record = await store.job(run.claim.id)
        assert record is not None
        assert (record.error, record.runs[1].state) == (None, "success")

    async def test_newest_hundred_runs_are_kept(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        for _ in range(120):
            await store.report([a_report(run.claim, State.RETRY, "again", at=now)])
            (run,) = await store.claim([an_entry(0)], "w1", now)
        await store.report([a_report(run.claim, at=now)])
        record = await store.job(run.claim.id)
        assert record is not None
        assert [one.attempt for one in record.runs] == list(range(22, 122))

    async def test_ready_is_in_order_of_priority_then_age(self, store: Store, insert: Insert) -> None:
        await insert(a_job(0), a_job(1, prio=5), a_job(2), a_job(3, prio=20000), a_job(4, type="other", prio=0))
        assert numbers(await store.ready("mail", None, 9)) == [1, 0, 2, 3]
        assert numbers(await store.ready("mail", (10000, FIRST), 2)) == [2, 3]
        assert numbers(await store.ready("mail", None, 1)) == [1]

    async def test_numbers_are_plain_however_large(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0, prio=2**32 - 1))
        (entry,) = await store.ready("mail", None, 9)
        (run,) = await store.claim([entry], "w1", now)
        record = await store.job(entry.id)
        assert record is not None
        seen = [entry.order, entry.prio, run.claim.order, run.claim.epoch, run.prio, record.order, record.prio, record.attempt]
        assert {type(number) for number in seen} == {int}

    async def test_ready_names_given_ids(self, store: Store, insert: Insert) -> None:
        await insert(a_job(0, id="mine"), a_job(1))
        assert [entry.id for entry in await store.ready("mail", None, 9)] == ["mine", IDS.of(FIRST + 1)]

    async def test_ready_and_wake_show_options_and_short_data_on_demand(self, store: Store, insert: Insert, now: float) -> None:
        for due_at, job in ((0.0, 0), (now + 5, 10)):
            await insert(
                a_job(job, due_at=due_at, options=b'{"ttr":9}', data=b'"\xc3\xa9"'),
                a_job(job + 1, due_at=due_at, data=b"2" * 900),
                a_job(job + 2, due_at=due_at, data=b"3" * (BULK_BYTES + 1)),
                a_job(job + 3, due_at=due_at, data=b"4"),
            )
        shown = [(b'{"ttr":9}', b'"\xc3\xa9"'), (None, None), (None, None), (None, b"4")]
        found = await store.ready("mail", None, 9, 899)
        assert [(entry.options, entry.data) for entry in found] == shown
        found = await store.wake(now + 5, 9, 899)
        assert [(entry.options, entry.data) for entry in sorted(found, key=lambda entry: entry.order)] == shown
        assert {(entry.options, entry.data) for entry in await store.ready("mail", None, 9)} == {(None, None)}

    async def test_a_store_has_a_name_for_ever(self, make_store: MakeStore) -> None:
        names = []
        for store in (make_store(), make_store()):
            names.append((await store.open(JOURNAL, NODE)).store_id)
            await store.close()
        assert names[0] == names[1] != ""

    async def test_wake_moves_what_is_due_earliest_first(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*(a_job(n, due_at=now + 10 - n) for n in range(5)))
        assert await store.next_due_at() == now + 6
        assert numbers(await store.wake(now + 9, 2)) == [4, 3]
        assert numbers(await store.wake(now + 9, 9)) == [2, 1]
        assert numbers(await store.ready("mail", None, 9)) == [1, 2, 3, 4]
        assert await store.next_due_at() == now + 10

    async def test_nothing_later_is_due_never(self, store: Store) -> None:
        assert await store.next_due_at() is None
        assert await store.next_expire_at() is None

    async def test_expire_ends_waiting_jobs_only(self, store: Store, insert: Insert, now: float) -> None:
        await insert(
            a_job(0, expire_at=now + 1), a_job(1, due_at=now + 50, expire_at=now + 2, id="mine"), a_job(2, expire_at=now + 9)
        )
        await insert(a_job(3, expire_at=now + 1, claimed_at=now))
        assert await store.next_expire_at() == now + 1
        assert await store.expire(now + 5, 9, 60.0) == [IDS.of(FIRST), "mine"]
        record = await store.job("mine")
        assert record is not None
        assert (record.state, record.error, record.ended_at, record.drop_at) == (State.FAIL, "expired", now + 5, now + 65)
        assert record.runs == []
        assert await store.next_expire_at() == now + 9

    async def test_expired_job_is_kept_as_it_says_itself_then_its_type_then_all(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        own = {0: b'{"keep":7}', 1: b'{"keep":-1}', 2: b'{"ttr":1}', 3: None}
        await insert(
            *(a_job(n, expire_at=now + n, options=options) for n, options in own.items()), a_job(4, expire_at=now, type="b")
        )
        await store.expire(now + 5, 9, None, {"b": 3.0, "mail": 2.0})
        drops = [record.drop_at for record in await listed(store)]
        assert drops == [now + 12, None, now + 7, now + 7, now + 8]

    async def test_own_runs_are_no_orphans(self, store: Store, run_one: RunOne) -> None:
        await run_one()
        assert await store.orphans(9) == []

    async def test_runs_of_an_earlier_epoch_are_orphans_and_can_be_reported(
        self, store: Store, run_one: RunOne, reopen: Reopen, now: float
    ) -> None:
        run = await run_one(data=b"x" * 3000)
        again, _ = await reopen()
        assert await again.orphans(9) == [run]
        assert await again.report([a_report(run.claim, State.GHOST, "ghost", at=now, ghosts=1)]) == [True]
        assert await again.orphans(9) == []
        (granted,) = await again.claim([an_entry(0)], "w2", now)
        assert (granted.claim.attempt, granted.claim.epoch) == (2, 2)
        assert await again.report([a_report(run.claim, at=now)]) == [False]

    @pytest.mark.parametrize(
        "change",
        [
            {"type": "mall"},
            {"prio": 10001},
            {"data": b'{"n":8}'},
            {"options": b'{"retries":9}'},
            {"options": None},
            {"options": b'{"retries":'},
            {"expire_at": 5e9},
            {"expire_at": None},
        ],
        ids=str,
    )
    async def test_a_record_that_was_altered_never_runs_and_says_so(
        self, store: Store, insert: Insert, damage: Damage, now: float, change: dict[str, object]
    ) -> None:
        await insert(a_job(0, expire_at=4e9, options=b'{"retries":8}'), a_job(1))
        await damage(store, 0, **change)
        assert numbers(await store.claim([an_entry(0), an_entry(1)], "w1", now, 60.0)) == [1]
        record = await store.job(IDS.of(FIRST))
        assert record is not None
        assert (record.state, record.data, record.error) == (State.FAIL, b"null", DAMAGED)
        assert (record.ended_at, record.drop_at) == (now, now + 60)
        assert numbers(await store.claim([an_entry(0)], "w1", now)) == []

    async def test_plain_record_that_was_altered_never_runs(
        self, store: Store, insert: Insert, damage: Damage, now: float
    ) -> None:
        await insert(*some_jobs(3))
        await damage(store, 0, type="male")
        await damage(store, 1, data=b'{"n":0}')
        assert numbers(await store.claim([an_entry(n) for n in range(3)], "w1", now)) == [2]
        record = await store.job(IDS.of(FIRST))
        assert record is not None
        assert (record.state, record.drop_at) == (State.FAIL, None)

    async def test_long_data_that_was_altered_never_runs(
        self, store: Store, insert: Insert, damage: Damage, now: float
    ) -> None:
        await insert(a_job(0, data=b"1" * 3000), a_job(1, data=b"2" * 3000))
        await damage(store, 0, bulk=b"2" * 3000)
        assert numbers(await store.claim([an_entry(0), an_entry(1)], "w1", now, 60.0)) == [1]
        record = await store.job(IDS.of(FIRST))
        assert record is not None
        assert (record.state, record.error, record.drop_at) == (State.FAIL, DAMAGED, now + 60)

    async def test_totals_stay_right_when_a_type_was_altered(
        self, store: Store, insert: Insert, damage: Damage, clock: FakeClock, now: float
    ) -> None:
        await insert(*some_jobs(3), a_job(3, type="b"))
        await damage(store, 0, type="mall")
        await store.claim([an_entry(n) for n in range(2)], "w1", now)
        await self.settle_totals(store, clock)
        counts = await store.counts()
        found = {(type_, state): n for type_, states in counts.items() for state, n in states.items() if n}
        records = await listed(store)
        assert found == Counter((record.type, record.state) for record in records)

    async def settle_totals(self, store: Store, clock: FakeClock) -> None:
        """Have an engine count anew that does so later."""

    @pytest.mark.parametrize("way", ["claimed", "stored as claimed"])
    async def test_a_held_run_is_adopted_under_the_claim_it_has(
        self, store: Store, insert: Insert, reopen: Reopen, now: float, way: str
    ) -> None:
        await insert(a_job(0, claimed_at=now if way == "stored as claimed" else 0.0, held=True), a_job(1), a_job(2, id="mine"))
        entries = [an_entry(0), an_entry(1), an_entry(2, id="mine")]
        runs = await store.claim(entries, "w1", now, None, held=True)
        held = [*([first_run(a_job(0, claimed_at=now, held=True), 1)] if way == "stored as claimed" else []), *runs]
        assert [run.held for run in held] == [True] * 3
        again, _ = await reopen()
        orphans = sorted(await again.orphans(9), key=lambda run: run.claim.order)
        assert [(run.claim, run.held) for run in orphans] == [(run.claim, True) for run in held]
        assert await again.adopt(orphans) == [True] * 3
        assert await again.orphans(9) == []
        assert await again.report([a_report(run.claim, at=now) for run in orphans[:2]]) == [True] * 2
        assert await again.adopt(orphans[:1]) == [False]

    async def test_a_record_tells_which_boot_has_claimed_the_run_in_progress(
        self, store: Store, insert: Insert, reopen: Reopen, now: float
    ) -> None:
        await insert(a_job(0, id="mine"), a_job(1, id="yours"))
        (run,) = await store.claim([an_entry(0, id="mine")], "w1", now)
        for name, epoch in (("mine", run.claim.epoch), ("yours", None)):
            record = await store.job(name)
            assert record is not None
            assert record.epoch == epoch
        again, _ = await reopen()
        assert await again.report([a_report(run.claim, State.GHOST, "ghost", at=now, ghosts=1)]) == [True]
        (later,) = await again.claim([an_entry(0, id="mine")], "w1", now)
        record = await again.job("mine")
        assert record is not None
        assert record.epoch == later.claim.epoch > run.claim.epoch

    async def test_adopted_runs_are_orphans_again_of_the_next_boot(
        self, store: Store, insert: Insert, reopen: Reopen, now: float
    ) -> None:
        await insert(a_job(0), a_job(1))
        (held,) = await store.claim([an_entry(0)], "w1", now, None, held=True)
        (other,) = await store.claim([an_entry(1)], "w1", now)
        again, _ = await reopen()
        found = await again.orphans(9)
        assert {run.claim.id: run.held for run in found} == {held.claim.id: True, other.claim.id: False}
        assert await again.adopt([run for run in found if run.held]) == [True]
        assert await again.orphans(9) == [other]
        assert await again.report([a_report(other.claim, State.GHOST, "ghost", at=now, ghosts=1)]) == [True]

    async def test_a_job_whose_held_run_is_over_is_claimed_as_any_other(
        self, store: Store, insert: Insert, reopen: Reopen, now: float
    ) -> None:
        await insert(a_job(0))
        (held,) = await store.claim([an_entry(0)], "w1", now, None, held=True)
        assert await store.report([a_report(held.claim, State.RETRY, "fail", at=now, failures=1)]) == [True]
        (run,) = await store.claim([an_entry(0)], "w1", now)
        again, _ = await reopen()
        assert [orphan.held for orphan in await again.orphans(9)] == [run.held] == [False]

    async def test_orphan_that_was_altered_ends(
        self, store: Store, run_one: RunOne, reopen: Reopen, damage: Damage, now: float
    ) -> None:
        await run_one(0)
        whole = await run_one(1)
        await damage(store, 0, data=b'{"n":1}')
        again, _ = await reopen()
        assert await again.orphans(1, 60.0) + await again.orphans(9, 60.0) == [whole] * 2
        record = await again.job(IDS.of(FIRST))
        assert record is not None
        assert (record.state, record.error, record.drop_at) == (State.FAIL, DAMAGED, now + 60)

    async def test_job_shows_no_altered_data(self, store: Store, insert: Insert, damage: Damage) -> None:
        await insert(a_job(0), a_job(1, data=b"1" * 3000))
        await damage(store, 0, data=b'{"n":1}')
        await damage(store, 1, type="mall")
        for n in (0, 1):
            record = await store.job(IDS.of(FIRST + n))
            assert record is not None
            assert (record.state, record.data, record.error) == (State.NEW, b"null", DAMAGED)
        record = (await listed(store))[0]
        assert (record.data, record.error) == (b"null", DAMAGED)

    async def test_damaged_options_end_nothing_but_their_job(
        self, store: Store, insert: Insert, damage: Damage, now: float
    ) -> None:
        await insert(a_job(0, expire_at=now, options=b'{"keep":7}'), a_job(1, expire_at=now))
        await damage(store, 0, options=b'{"keep":')
        assert len(await store.expire(now, 9, 60.0)) == 2

    @pytest.mark.parametrize("most_bytes", [None, FEW_BYTES])
    async def test_claim_leaves_what_would_be_too_much_data(
        self, store: Store, insert: Insert, now: float, monkeypatch: pytest.MonkeyPatch, most_bytes: int | None
    ) -> None:
        if most_bytes is None:
            monkeypatch.setattr(base, "DATA_BYTES", FEW_BYTES)
        sizes = [2000, 3, 2500, 900, 2000, 3, 900]
        await insert(*(a_job(n, data=b"1" * size) for n, size in enumerate(sizes)))
        left, taken = [an_entry(n, handle=n) for n in range(7)], list[Run]()
        while left:
            granted = await store.claim(left, "w1", now, most_bytes=most_bytes)
            assert left[0].order == granted[0].claim.order
            assert sum(len(run.data) for run in granted[1:]) <= FEW_BYTES
            taken += granted
            assert {entry.handle for entry in granted.left} == set(range(7)) - set(numbers(taken))
            for entry in granted.left:
                record = await store.job(entry.id)
                assert record is not None
                assert (record.state, record.attempt) == (State.NEW, 0)
            left = list(granted.left)
        assert sorted(numbers(taken)) == list(range(7))
        assert [run.claim.attempt for run in taken] == [1] * 7
        assert [len(run.data) for run in sorted(taken, key=lambda run: run.claim.order)] == sizes

    async def test_one_jobs_data_is_never_too_much(
        self, store: Store, insert: Insert, reopen: Reopen, now: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(base, "DATA_BYTES", 2000)
        await insert(*(a_job(n, data=b"1" * size) for n, size in enumerate((1500, 3000, 1200))))
        granted = await store.claim([an_entry(n) for n in (9, 1, 0, 2)], "w1", now)
        assert (numbers(granted), len(granted.left)) == ([1], 2)
        granted += await store.claim(granted.left, "w1", now)
        again, _ = await reopen()
        found = await again.orphans(9)
        assert sum(sorted(len(run.data) for run in found)[:-1]) <= 2000
        await again.report([a_report(run.claim, State.GHOST, "ghost", at=now) for run in found])
        assert sorted(numbers(found + await again.orphans(9))) == sorted(numbers(granted)) == [0, 1]

    async def test_ready_and_wake_show_no_more_data_than_fits(
        self, store: Store, insert: Insert, now: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(base, "DATA_BYTES", FEW_BYTES)
        await insert(a_job(0, data=b"1" * 600), a_job(1, data=b"1" * 400), a_job(2, data=b"1" * 600, due_at=now + 1))
        assert [entry.data and len(entry.data) for entry in await store.ready("mail", None, 10, 900)] == [None, 400]
        assert [entry.data for entry in await store.wake(now + 1, 10, 900)] == [None]

    async def test_unknown_job_is_none(self, store: Store) -> None:
        assert await store.job("nobody") is None
        assert await store.job(IDS.of(5)) is None

    async def test_record_is_gone_at_its_drop_at(self, store: Store, run_one: RunOne, clock: FakeClock, now: float) -> None:
        run = await run_one()
        await store.report([a_report(run.claim, at=now, drop_at=now + 5)])
        assert await store.job(run.claim.id) is not None
        clock.advance(5)
        assert await store.job(run.claim.id) is None
        assert await listed(store) == []

    async def test_one_question_tells_which_jobs_have_ended(
        self, store: Store, insert: Insert, run_one: RunOne, now: float
    ) -> None:
        run = await run_one()
        await store.report([a_report(run.claim, at=now, drop_at=now, result=b'"%b"' % (b"x" * 2 * BULK_BYTES))])
        await insert(a_job(1), a_job(2, id="mine", given_id=True, data=b"9" * BULK_BYTES))
        looked = await store.look([run.claim.id, IDS.of(FIRST + 1), "mine", "nobody"])
        assert looked.there == {run.claim.id, IDS.of(FIRST + 1), "mine"}
        assert looked.over == {run.claim.id}
        assert await store.job(run.claim.id) is None
        (ended,) = looked.ended
        assert (ended.id, ended.state, ended.data) == (run.claim.id, State.SUCCESS, None)
        assert ended.result is not None
        assert len(ended.result) == 2 * BULK_BYTES + 2
        assert (await store.look([])).there == set()

    async def test_one_question_brings_no_data(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*(a_job(n, data=b'"%b"' % (b"x" * MIB)) for n in range(24)))
        runs = await store.claim([an_entry(n) for n in range(12)], "w", now)
        await store.report([a_report(run.claim, at=now) for run in runs])
        del runs
        tracemalloc.start()
        try:
            looked = await store.look([IDS.of(FIRST + n) for n in range(24)])
            most_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert (len(looked.there), len(looked.ended)) == (24, 12)
        assert most_bytes < 4 * MIB

    async def test_one_question_does_not_bring_too_many_results(
        self, store: Store, insert: Insert, now: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for engine in ("mongo", "sqlite"):
            monkeypatch.setattr(f"kqs.store.{engine}.records.MOST_ENDS", 2)
        await insert(*some_jobs(3))
        runs = await store.claim([an_entry(number) for number in range(3)], "w", now)
        await store.report([a_report(run.claim, at=now) for run in runs])
        looked = await store.look([run.claim.id for run in runs])
        assert (len(looked.there), len(looked.ended), len(looked.over)) == (3, 2, 0)

    async def test_jobs_are_listed_by_order_in_pages(self, store: Store, insert: Insert) -> None:
        await insert(*some_jobs(5))
        first, after = await store.page(EVERYTHING, None, 2)
        then, end = await store.page(EVERYTHING, after, 9)
        assert (numbers(first), numbers(then), end) == ([0, 1], [2, 3, 4], None)
        newest, _ = await store.page(EVERYTHING, FIRST + 3, 2, newest_first=True)
        assert numbers(newest) == [2, 1]

    async def test_a_listing_leaves_long_data_out(self, store: Store, insert: Insert) -> None:
        await insert(a_job(0, data=b"9" * BULK_BYTES), a_job(1, data=b"9" * (LISTED_BYTES + 1)))
        found = await listed(store)
        assert [record.data and len(record.data) for record in found] == [BULK_BYTES, None]

    async def test_a_listing_shows_the_last_run_only(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0))
        for state in (State.RETRY, State.SUCCESS):
            (run,) = await store.claim([an_entry(0)], "w1", now)
            await store.report([a_report(run.claim, state, at=now)])
        (record,) = await listed(store)
        assert [(run.attempt, run.state) for run in record.runs] == [(2, "success")]

    async def test_jobs_are_filtered_by_type_and_state(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0), a_job(1, type="b"), a_job(2, due_at=now + 9), a_job(3, type="b", due_at=now + 9))
        for type_, state, wanted in [
            ("b", None, [1, 3]),
            (None, State.DELAYED, [2, 3]),
            ("b", State.NEW, [1]),
            ("c", None, []),
        ]:
            states = None if state is None else frozenset({state})
            assert numbers(await listed(store, Filter(type=type_, states=states))) == wanted

    async def test_counts_follow_every_change(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*some_jobs(4), a_job(4, type="b", due_at=now + 9), a_job(5, claimed_at=now))
        await store.claim([an_entry(0)], "w1", now)
        await store.report([a_report(a_claim(0), at=now)])
        counts = await store.counts()
        assert {state: n for state, n in counts["mail"].items() if n} == {State.NEW: 3, State.PROCESSING: 1, State.SUCCESS: 1}
        assert counts["b"] == {State.DELAYED: 1}

    async def _end(self, store: Store, now: float, **drop_at: float | None) -> None:
        """End jobs 0, 1, … with these drop_at."""
        await store.insert(some_jobs(len(drop_at), claimed_at=now), 1, "w1", now)
        reports = [a_report(a_claim(n), at=now, drop_at=at) for n, at in enumerate(drop_at.values())]
        await store.report(reports)

    async def _left(self, store: Store) -> list[int]:
        return [record.order - FIRST for record in await listed(store)]

    async def test_sweep_deletes_what_is_over(self, store: Store, insert: Insert, now: float) -> None:
        await self._end(store, now, a=now + 1, b=now + 2, c=None, d=now + 9)
        await insert(a_job(4))
        assert await store.sweep(now + 5, 9, FIRST + 99) == 2
        assert await self._left(store) == [2, 3, 4]
        assert await insert(a_job(0)) == []

    async def test_sweep_spares_what_the_journal_may_replay(self, store: Store, now: float) -> None:
        await self._end(store, now, a=now + 1, b=now + 1, c=now + 1)
        assert await store.sweep(now + 5, 9, FIRST + 1) == 1
        assert await self._left(store) == [1, 2]

    async def test_sweep_stops_at_its_limit(self, store: Store, now: float) -> None:
        await self._end(store, now, a=now, b=now, c=now)
        assert [await store.sweep(now, 2, FIRST + 9) for _ in range(3)] == [2, 1, 0]

    async def test_trim_keeps_the_newest_successes(self, store: Store, insert: Insert, now: float) -> None:
        await self._end(store, now, a=now + 9, b=now + 8, c=None, d=now + 7)
        await insert(a_job(9))
        assert await store.trim_successes(2, 99, FIRST + 99) == 2
        assert await self._left(store) == [0, 2, 9]
        assert await store.trim_successes(2, 99, FIRST + 99) == 0
        assert await store.trim_successes(0, 1, FIRST + 99) == 1
        assert await store.trim_successes(0, 99, FIRST + 99) == 1

    async def test_trim_spares_failures_and_what_may_be_replayed(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*some_jobs(3, claimed_at=now))
        states = [State.FAIL, State.SUCCESS, State.SUCCESS]
        await store.report([a_report(a_claim(n), state, at=now) for n, state in enumerate(states)])
        assert await store.trim_successes(0, 99, FIRST + 2) == 1
        assert await self._left(store) == [0, 2]

    async def test_cancelled_caller_does_not_withdraw_its_operation(self, store: Store, now: float) -> None:
        asked = asyncio.ensure_future(store.insert(some_jobs(3), 1, "w1", now))
        await asyncio.sleep(0)
        asked.cancel()
        assert len(await store.ready("mail", None, 9)) == 3

    async def test_sync_answers_the_durable_fed_seq(self, store: Store, insert: Insert) -> None:
        assert await store.sync() == 0
        await insert(a_job(0), fed_seq=3)
        assert [await store.sync(), await store.sync()] == [3, 3]

    async def test_progress_is_shown_and_goes_to_the_next_attempt(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        assert run.progress is None
        assert await store.save([Progress(run.claim, b'{"at":1}')], durable=False) == [True]
        assert await store.save([Progress(run.claim, b'{"at":2}')], durable=True) == [True]
        assert await progress_of(store) == b'{"at":2}'
        await store.report([a_report(run.claim, State.RETRY, "fail", at=now)])
        assert await progress_of(store) == b'{"at":2}'
        (again,) = await store.claim([an_entry(0)], "w1", now)
        assert again.progress == b'{"at":2}'
        assert await progress_of(store) == b'{"at":2}'

    async def test_a_job_without_progress_runs_beside_one_with_it(self, store: Store, run_one: RunOne, now: float) -> None:
        runs = [await run_one(n) for n in range(3)]
        await store.save([Progress(runs[1].claim, b"7")], durable=False)
        await store.report([a_report(run.claim, State.RETRY, "fail", at=now) for run in runs])
        again = await store.claim([an_entry(n) for n in range(3)], "w1", now)
        assert [run.progress for run in again] == [None, b"7", None]

    async def test_the_last_progress_of_a_batch_counts(self, store: Store, run_one: RunOne) -> None:
        run = await run_one()
        saved = [Progress(run.claim, b"%d" % n) for n in range(3)]
        assert await store.save(saved, durable=False) == [True] * 3
        assert await progress_of(store) == b"2"

    async def test_nothing_saved_is_nothing(self, store: Store) -> None:
        assert await store.save([], durable=False) == []
        assert await store.save([], durable=True) == []

    @pytest.mark.parametrize("is_other", [{"attempt": 2}, {"epoch": 2}])
    async def test_progress_of_any_other_claim_is_stale(self, store: Store, run_one: RunOne, is_other: dict[str, Any]) -> None:
        run = await run_one()
        await store.save([Progress(run.claim, b"1")], durable=False)
        stale = Progress(msgspec.structs.replace(run.claim, **is_other), b"2")
        assert await store.save([stale, Progress(a_claim(9), b"3")], durable=False) == [False, False]
        assert await store.save([stale, Progress(run.claim, b"4")], durable=False) == [False, True]
        assert await progress_of(store) == b"4"

    @pytest.mark.parametrize("state", [State.SUCCESS, State.FAIL, State.RETRY])
    async def test_progress_of_a_run_that_is_over_is_stale(
        self, store: Store, run_one: RunOne, now: float, state: State
    ) -> None:
        run = await run_one()
        await store.save([Progress(run.claim, b"1")], durable=False)
        await store.report([a_report(run.claim, state, at=now)])
        assert await store.save([Progress(run.claim, b"2")], durable=False) == [False]
        assert await progress_of(store) == b"1"

    async def test_progress_is_taken_back(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        assert await store.save([Progress(run.claim, NO_PROGRESS)], durable=False) == [True]
        await store.save([Progress(run.claim, b"1")], durable=False)
        assert await store.save([Progress(run.claim, NO_PROGRESS)], durable=False) == [True]
        assert await progress_of(store) is None
        await store.report([a_report(run.claim, State.RETRY, "fail", at=now)])
        (again,) = await store.claim([an_entry(0)], "w1", now)
        assert again.progress is None

    @pytest.mark.parametrize("state", [State.SUCCESS, State.FAIL, State.RETRY, State.GHOST])
    @pytest.mark.parametrize("before", [None, b"1"])
    @pytest.mark.parametrize(("said", "after"), [(b"[2]", b"[2]"), (NO_PROGRESS, None)])
    async def test_a_report_brings_progress(
        self, store: Store, run_one: RunOne, now: float, state: State, before: bytes | None, said: bytes, after: bytes | None
    ) -> None:
        run = await run_one()
        if before is not None:
            await store.save([Progress(run.claim, before)], durable=False)
        assert await store.report([a_report(run.claim, state, at=now, progress=said)]) == [True]
        assert await progress_of(store) == after

    @pytest.mark.parametrize(("said", "after"), [(b"[2]", b"[2]"), (NO_PROGRESS, None)])
    async def test_a_run_that_never_began_may_bring_progress(
        self, store: Store, run_one: RunOne, now: float, said: bytes, after: bytes | None
    ) -> None:
        run = await run_one()
        await store.save([Progress(run.claim, b"1")], durable=False)
        assert await store.report([unbegun(run, at=now, progress=said)]) == [True]
        assert await progress_of(store) == after
        (again,) = await store.claim([an_entry(0)], "w1", now)
        assert again.progress == after

    async def test_a_stale_report_brings_none(self, store: Store, run_one: RunOne, now: float) -> None:
        run, other = await run_one(0), await run_one(1)
        await store.save([Progress(run.claim, b"1")], durable=False)
        stale = a_report(a_claim(0, attempt=2), State.RETRY, at=now, progress=b"2")
        assert await store.report([stale, a_report(other.claim, State.RETRY, at=now, progress=b"3")]) == [False, True]
        assert (await progress_of(store), await progress_of(store, 1)) == (b"1", b"3")

    async def test_progress_goes_with_its_job(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0, id="mine"))
        (run,) = await store.claim([an_entry(0, id="mine")], "w1", now)
        assert await store.save([Progress(run.claim, b"1")], durable=False) == [True]
        await store.report([a_report(run.claim, State.FAIL, at=now, drop_at=now)])
        assert await store.sweep(now, 10, FIRST + 9) == 1
        await insert(a_job(5, id="mine"))
        (again,) = await store.claim([an_entry(5, id="mine")], "w1", now)
        assert again.progress is None

    async def test_a_new_job_in_the_place_of_an_old_one_has_none(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0, id="mine"))
        (run,) = await store.claim([an_entry(0, id="mine")], "w1", now)
        assert await store.save([Progress(run.claim, b"1")], durable=False) == [True]
        await store.report([a_report(run.claim, State.FAIL, at=now, drop_at=now)])
        assert await insert(a_job(5, id="mine", accepted_at=now + 1)) == []
        record = await store.job("mine")
        assert record is not None
        assert (record.order, record.progress) == (FIRST + 5, None)

    async def test_progress_outlives_the_server(self, store: Store, run_one: RunOne, reopen: Reopen, now: float) -> None:
        run, held = await run_one(0), await run_one(1)
        await store.save([Progress(one.claim, b"1") for one in (run, held)], durable=True)
        again, _ = await reopen()
        orphans = await again.orphans(9)
        assert {one.progress for one in orphans} <= {b"1", NO_PROGRESS}
        await again.report([a_report(one.claim, State.GHOST, at=now) for one in orphans])
        runs = await again.claim([an_entry(0), an_entry(1)], "w2", now)
        assert [one.progress for one in runs] == [b"1", b"1"]

    async def test_an_adopted_run_goes_on_saving(self, store: Store, insert: Insert, reopen: Reopen, now: float) -> None:
        await insert(a_job(0))
        (run,) = await store.claim([an_entry(0)], "w1", now, held=True)
        await store.save([Progress(run.claim, b"1")], durable=False)
        again, _ = await reopen()
        assert await again.adopt(await again.orphans(9)) == [True]
        assert await progress_of(again) == b"1"
        assert await again.save([Progress(run.claim, b"2")], durable=False) == [True]
        assert await progress_of(again) == b"2"

    async def test_a_claim_that_is_given_back_keeps_it(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        await store.save([Progress(run.claim, b"1")], durable=False)
        await store.report([a_report(run.claim, State.RETRY, "fail", at=now)])
        (again,) = await store.claim([an_entry(0)], "w1", now)
        await store.report([unbegun(again, at=now)])
        (third,) = await store.claim([an_entry(0)], "w1", now)
        assert third.progress == b"1"

    async def test_a_listing_shows_short_progress(self, store: Store, run_one: RunOne) -> None:
        values = [b'"' + b"x" * (length - 2) + b'"' for length in (LISTED_BYTES, LISTED_BYTES + 1, MAX_PROGRESS_BYTES)]
        for n, value in enumerate(values):
            run = await run_one(n)
            await store.save([Progress(run.claim, value)], durable=False)
        await run_one(3)
        records = await listed(store)
        assert [record.progress for record in records] == [values[0], None, None, None]
        assert await progress_of(store, 2) == values[2]

    async def test_many_save_at_a_time(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*some_jobs(700))
        runs = await store.claim([an_entry(n) for n in range(700)], "w1", now)
        assert await store.save([Progress(run.claim, b"%d" % n) for n, run in enumerate(runs)], durable=False) == [True] * 700
        assert await store.report([a_report(run.claim, State.GHOST, at=now) for run in runs]) == [True] * 700
        again = await store.claim([an_entry(n) for n in range(700)], "w1", now)
        assert [run.progress for run in again] == [b"%d" % n for n in range(700)]

    async def test_a_type_is_suspended_until_it_is_resumed(self, store: Store) -> None:
        assert await store.suspended() == {}
        assert await store.suspend("mail", 7.5)
        assert not await store.suspend("mail", 8.5)
        assert await store.suspend("é $x.y", 9.0)
        assert await store.suspended() == {"mail": 7.5, "é $x.y": 9.0}
        assert await store.resume("mail")
        assert not await store.resume("mail")
        assert await store.suspended() == {"é $x.y": 9.0}

    async def test_a_type_stays_suspended_over_a_restart(self, store: Store, reopen: Reopen) -> None:
        await store.suspend("mail", 7.5)
        await store.suspend("video", 7.5)
        await store.resume("video")
        again, _ = await reopen()
        assert await again.suspended() == {"mail": 7.5}

    @pytest.mark.parametrize("topic", list(Topic))
    async def test_what_is_said_of_a_type_is_kept_until_it_is_taken_back(
        self, topic: Topic, store: Store, reopen: Reopen
    ) -> None:
        other = next(one for one in Topic if one is not topic)
        assert await store.said(topic) == {}
        assert not await store.say(topic, "mail", b'{"rate":5}')
        assert await store.say(topic, "mail", b'{"rate":6}')
        assert not await store.say(topic, "\u00e9 $x.y", b"{}")
        assert not await store.say(topic, "", b"{}")
        assert not await store.say(other, "mail", b"{}")
        again, _ = await reopen()
        assert await again.said(topic) == {"mail": b'{"rate":6}', "\u00e9 $x.y": b"{}", "": b"{}"}
        assert await again.say(topic, "mail", None)
        assert not await again.say(topic, "mail", None)
        assert await again.said(topic) == {"\u00e9 $x.y": b"{}", "": b"{}"}
        assert await again.said(other) == {"mail": b"{}"}

    async def test_a_suspended_type_changes_nothing_of_its_jobs(self, store: Store, insert: Insert, now: float) -> None:
        await store.suspend("mail", now)
        await insert(a_job(0))
        assert [entry.order for entry in await store.ready("mail", None, 9)] == [FIRST]
        assert len(await store.claim([an_entry(0)], "w1", now)) == 1

    async def test_a_type_has_subscribers_until_they_leave(self, store: Store, reopen: Reopen) -> None:
        assert await store.subscriptions() == {}
        pairs = [("mail", "b"), ("mail", "a"), ("é $x.y", "mail"), ("mail", "a")]
        assert [await store.subscribe(*pair) for pair in pairs] == [True, True, True, False]
        again, _ = await reopen()
        assert await again.subscriptions() == {"mail": ["a", "b"], "é $x.y": ["mail"]}
        assert [await again.unsubscribe("mail", one) for one in ("a", "a", "c")] == [True, False, False]
        assert await again.subscriptions() == {"mail": ["b"], "é $x.y": ["mail"]}

    async def test_what_comes_before_a_job_is_counted_up_to_a_bound(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*(a_job(n, prio=9000 if n < 3 else 10_000) for n in range(10)), a_job(10, type="video"))
        await insert(a_job(11, due_at=now + 100))
        await store.claim([an_entry(4)], "w1", now)
        ranks = [(9000, FIRST), (9000, FIRST + 2), (10_000, FIRST + 3), (10_000, FIRST + 9), (10_000, FIRST + 11)]
        assert [await store.before("mail", rank, 100) for rank in ranks] == [0, 2, 3, 8, 9]
        assert [await store.before("mail", ranks[-1], most) for most in (1, 3, 4, 8, 9)] == [1, 3, 4, 8, 9]
        assert await store.before("nobody", ranks[-1], 100) == 0

    async def test_the_oldest_ready_job_of_a_type_is_found_at_any_of_so_many_priorities(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        await insert(*(a_job(20 - n, prio=n) for n in range(10)), a_job(0, prio=10, due_at=now + 100))
        await insert(a_job(30, type="video"), a_job(31, type="video"), a_job(32, type='é "x"', accepted_at=1234.5))
        types = ["mail", "video", 'é "x"', "nobody"]
        oldest = await store.oldest(types, 99)
        assert oldest == {"mail": (FIRST + 11) / 1e6, "video": (FIRST + 30) / 1e6, 'é "x"': 1234.5}
        assert [(await store.oldest(["mail"], prios))["mail"] for prios in (1, 3)] == [(FIRST + 20) / 1e6, (FIRST + 18) / 1e6]
        await store.claim([an_entry(30, type="video"), an_entry(31, type="video")], "w1", now)
        assert (await store.oldest(types, 99)).keys() == {"mail", 'é "x"'}
        await insert(*(a_job(100 + n, type="many", prio=1 + n // 30) for n in range(60)), a_job(50, type="many", prio=3))
        assert [(await store.oldest(["many"], prios))["many"] - FIRST / 1e6 for prios in (2, 3)] == [
            pytest.approx(100 / 1e6, abs=1e-6),
            pytest.approx(50 / 1e6, abs=1e-6),
        ]
        assert await store.oldest([], 9) == {}

    async def test_the_first_in_line_are_the_oldest_ready_ones_of_a_type(
        self, store: Store, insert: Insert, now: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await insert(*(a_job(n, prio=10 - n) for n in range(5)), a_job(5, id="mine"), a_job(6, due_at=now + 100))
        await insert(a_job(7, type="video"))
        await store.claim([an_entry(1, prio=9)], "w1", now)
        ids = [*(IDS.of(FIRST + n) for n in (0, 2, 3, 4)), "mine"]
        for prios in (99, 2):
            monkeypatch.setattr(base, "LINE_PRIOS", prios)
            assert [await store.first_in_line("mail", most) for most in (1, 3, 9)] == [ids[:1], ids[:3], ids]
        assert await store.first_in_line("nobody", 9) == []

    async def test_of_watched_types_it_is_told_how_many_wait(self, make_store: MakeStore, now: float) -> None:
        told: list[Waiting] = []

        def orders() -> list[int]:
            return sorted(job.order - FIRST for waiting in told for job in waiting.taken)

        async def opened() -> Store:
            store = make_store()
            store.on_waiting = told.append
            store.watch(["mail", "parcel"])
            await store.open(JOURNAL, NODE)
            return store

        store = await opened()
        await store.insert([*some_jobs(4), a_job(4, due_at=now + 9), a_job(5, type="video")], 1, "w1", now)
        assert (told[-1].counts["mail"], orders()) == (5, [0, 1, 2, 3, 4])
        await store.insert([a_job(6, id=IDS.of(FIRST)), a_job(7, claimed_at=now), a_job(8)], 2, "w1", now)
        assert (told[-1].counts["mail"], orders()) == (6, [0, 1, 2, 3, 4, 6, 7, 8])
        runs = await store.claim([an_entry(n) for n in range(3)], "w1", now)
        assert told[-1].counts["mail"] == 3
        await store.report([a_report(runs[0].claim, State.RETRY, at=now), a_report(runs[1].claim, at=now)])
        assert told[-1].counts["mail"] == 4
        await store.close()
        told.clear()
        await opened()
        assert [(waiting.counts["mail"], waiting.counts.get("parcel", 0), waiting.taken) for waiting in told[-1:]] == [
            (4, 0, ANY)
        ]
        assert orders() == []


async def progress_of(store: Store, n: int = 0) -> bytes | None:
    found = [record for record in [await store.job(IDS.of(FIRST + n)), await store.job("mine")] if record is not None]
    return found[0].progress
