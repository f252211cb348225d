"""Every promise of Store.change and Store.page, and what becomes of cancelled runs, as a test; mixed into StoreContract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import pytest

from kqs.filter import Filter, Pattern
from kqs.job import NO_PROGRESS, Entry, JobRecord, Progress, Run
from kqs.states import WAITING, State
from kqs.store import change as changing
from kqs.store.base import DAMAGED, Change, Changed, Spans, Store, Verb
from tests.contract.store_contract import (
    BULK_BYTES,
    FIRST,
    IDS,
    Damage,
    Insert,
    MakeStore,
    Reopen,
    RunOne,
    a_claim,
    a_job,
    a_report,
    an_ended,
    an_entry,
    numbers,
    some_jobs,
    unbegun,
)
from tests.support.clock import FakeClock
from tests.support.jobs import EVERYTHING, listed

#: orders that retried jobs get
FRESH = FIRST + 1_000_000
ABOVE_ALL = FIRST + 10**12


class Done(msgspec.Struct):
    """What all slices of a change did together."""

    changed: list[Changed] = []
    skipped: list[str] = []
    ready: list[Any] = []
    slices: int = 0
    expire_at: list[float | None] = []

    @property
    def numbers(self) -> list[int]:
        return [one.order - FIRST for one in self.changed]


async def change(
    store: Store,
    verb: Verb,
    wanted: Filter = EVERYTHING,
    *,
    now: float,
    between: Callable[[], Awaitable[object]] | None = None,
    **changes: Any,
) -> Done:
    """Do all slices. between: called after each of them."""
    first_order = changes.pop("first_order", FRESH)
    asked = Change(verb, wanted, now, **{"before_order": ABOVE_ALL, **changes})
    done, after = Done(), None
    while True:
        part = await store.change(asked, after, first_order)
        done.changed += part.changed
        done.skipped += part.skipped
        done.ready += part.ready
        done.expire_at.append(part.expire_at)
        done.slices += 1
        if between is not None:
            await between()
        first_order += changing.SLICE
        after = part.next
        if after is None:
            return done
        assert done.slices < 1000


async def states(store: Store) -> dict[str, dict[State, int]]:
    return {type_: {state: n for state, n in found.items() if n} for type_, found in (await store.counts()).items()}


async def known(store: Store, job_id: str) -> JobRecord:
    record = await store.job(job_id)
    assert record is not None
    return record


def of_ids(*ns: int) -> Filter:
    return Filter(ids=tuple(IDS.of(FIRST + n) for n in ns))


WAIT = frozenset(WAITING)


class PageContract:
    async def various(self, store: Store, insert: Insert, now: float) -> None:
        """Job n is what the tests below say of it."""
        await insert(
            a_job(0),
            a_job(1, type="b", options=b'{"prio":"high"}', prio=9000),
            a_job(2, due_at=now + 9),
            a_job(3, type="b", due_at=now + 9),
            a_job(4),
            an_ended(5, at=now - 1),
            an_ended(6, State.FAIL, at=now - 1, type="b"),
            an_ended(7, State.FAIL, at=now - 1, end_drop_at=now + 9),
            a_job(8),
            a_job(9, data=b"1" * BULK_BYTES + b'"needle"'),
            a_job(10, id="mine", accepted_at=FIRST / 1e6 - 1000, data=b'{"key":"needle"}'),
        )
        (run,) = await store.claim([an_entry(8)], "w1", now)
        await store.report([a_report(run.claim, State.RETRY, "fail", at=now, error="oops")])
        await store.claim([an_entry(4)], "w1", now)

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (Filter(), range(11)),
            (Filter(type="b"), [1, 3, 6]),
            (Filter(type="b", states=WAIT), [1, 3]),
            (Filter(states=frozenset({State.FAIL, State.PROCESSING})), [4, 6, 7]),
            (Filter(ids=("mine", IDS.of(FIRST + 3), IDS.of(FIRST + 6), "none"), states=WAIT), [3, 10]),
            (Filter(match=Pattern("needle")), [9, 10]),
            (Filter(accepted_before=FIRST / 1e6 - 500), [10]),
            (Filter(states=frozenset()), []),
        ],
    )
    @pytest.mark.parametrize("newest_first", [False, True])
    @pytest.mark.parametrize("small", [False, True])
    async def test_pages_show_what_fits_in_order(
        self,
        store: Store,
        insert: Insert,
        now: float,
        monkeypatch: pytest.MonkeyPatch,
        wanted: Filter,
        expected: Iterable[int],
        newest_first: bool,
        small: bool,
    ) -> None:
        await self.various(store, insert, now)
        if small:
            monkeypatch.setattr(changing, "LOOKED", 3)
            monkeypatch.setattr(changing, "LOOKED_BYTES", 100)
        found: list[JobRecord] = []
        after: int | None = None
        for _ in range(100):
            records, after = await store.page(wanted, after, 2, newest_first=newest_first)
            assert len(records) <= 2
            found += records
            if after is None:
                break
        assert after is None
        assert [record.order - FIRST for record in found] == sorted(expected, reverse=newest_first)
        shown = {record.id: record for record in await listed(store)}
        assert found == [shown[record.id] for record in found]

    async def test_page_shows_no_record_that_is_over(self, store: Store, insert: Insert, now: float) -> None:
        await insert(an_ended(0, at=now - 20, end_drop_at=now - 10), a_job(1))
        records, after = await store.page(EVERYTHING, None, 9)
        assert ([record.order - FIRST for record in records], after) == ([1], None)


async def retried_and_failed_again(asked: Store, other: Store, now: float) -> list[int]:
    """Retry all that has failed, by one server, while another has each fail again at once, by a clock that is ahead.

    Returns: which were retried.
    """
    retry, retried, after, first_order = Change(Verb.RETRY, EVERYTHING, now, FRESH), list[int](), None, FRESH
    while True:
        part = await asked.change(retry, after, first_order)
        retried += [one.order - FIRST for one in part.changed]
        for run in await other.claim(part.ready, "w1", now):
            assert await other.report([a_report(run.claim, State.FAIL, at=now + 5)]) == [True]
        after, first_order = part.next, first_order + 1
        if after is None:
            return retried


class ChangeContract(PageContract):
    async def test_cancelled_waiting_job_has_ended(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0), a_job(1, due_at=now + 60), a_job(2))
        done = await change(store, Verb.CANCEL, of_ids(0, 1), now=now, keep=Spans(60.0))
        assert {(one.id, one.type, one.prio, one.state, one.claim) for one in done.changed} == {
            (IDS.of(FIRST), "mail", 10000, State.NEW, None),
            (IDS.of(FIRST + 1), "mail", 10000, State.DELAYED, None),
        }
        for n in (0, 1):
            record = await known(store, IDS.of(FIRST + n))
            assert (record.state, record.error, record.ended_at, record.drop_at) == (
                State.CANCELLED,
                "cancelled",
                now,
                now + 60,
            )
            assert record.runs == []
        assert numbers(await store.ready("mail", None, 9)) == [2]
        assert await store.wake(now + 99, 9) == []
        assert await states(store) == {"mail": {State.NEW: 1, State.CANCELLED: 2}}
        assert await store.claim([an_entry(0)], "w1", now) == []

    async def test_cancelled_job_is_kept_as_it_says_itself_then_its_type_then_all(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        own = {0: b'{"keep":7}', 1: b'{"keep":-1}', 2: b'{"ttr":1}', 3: None}
        await insert(*(a_job(n, options=options) for n, options in own.items()), a_job(4, type="b"))
        await change(store, Verb.CANCEL, now=now, keep=Spans(None, {"mail": 2.0, "c": 3.0}))
        drops = [record.drop_at for record in await listed(store)]
        assert drops == [now + 7, None, now + 2, now + 2, None]

    async def test_cancelled_job_does_not_expire(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0, expire_at=now + 1))
        await change(store, Verb.CANCEL, now=now)
        assert await store.next_expire_at() is None
        assert await store.expire(now + 9, 9, None) == []

    async def test_ended_jobs_cannot_be_cancelled(self, store: Store, insert: Insert, now: float) -> None:
        await insert(an_ended(0, at=now), an_ended(1, State.FAIL, at=now), a_job(2))
        await change(store, Verb.CANCEL, of_ids(2), now=now)
        before = await listed(store)
        assert (await change(store, Verb.CANCEL, now=now + 5)).changed == []
        assert await listed(store) == before

    async def test_cancelled_running_job_goes_on_and_is_marked(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        (one,) = (await change(store, Verb.CANCEL, now=now + 1)).changed
        assert (one.id, one.state, one.claim) == (run.claim.id, State.PROCESSING, run.claim)
        record = await known(store, run.claim.id)
        assert (record.state, record.cancel_at, record.ended_at) == (State.PROCESSING, now + 1, None)
        assert await states(store) == {"mail": {State.PROCESSING: 1}}
        assert [record.cancel_at for record in await listed(store)] == [now + 1]

    async def test_it_is_cancelled_once(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        await change(store, Verb.CANCEL, now=now + 1)
        assert (await change(store, Verb.CANCEL, now=now + 2)).changed == []
        assert (await known(store, run.claim.id)).cancel_at == now + 1

    @pytest.mark.parametrize(
        ("state", "word"), [(State.RETRY, "fail"), (State.GHOST, "ghost"), (State.FAIL, "fail"), (State.RETRY, "again")]
    )
    @pytest.mark.parametrize("error", [None, "oops"])
    async def test_run_of_a_cancelled_job_ends_it_as_cancelled_and_not_otherwise(
        self, store: Store, run_one: RunOne, now: float, state: State, word: str, error: str | None
    ) -> None:
        run = await run_one()
        await change(store, Verb.CANCEL, now=now + 1)
        assert await store.report([a_report(run.claim, state, word, at=now + 2, error=error)]) == [None]
        assert (await known(store, run.claim.id)).state is State.PROCESSING
        report = a_report(run.claim, State.CANCELLED, at=now + 2, error="cancelled", drop_at=now + 9)
        assert await store.report([report]) == [True]
        record = await known(store, run.claim.id)
        assert (record.state, record.cancel_at, record.ended_at, record.drop_at) == (
            State.CANCELLED,
            None,
            now + 2,
            now + 9,
        )
        assert [one.state for one in record.runs] == ["cancelled"]
        assert await states(store) == {"mail": {State.CANCELLED: 1}}

    async def test_success_on_its_way_is_one(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        await change(store, Verb.CANCEL, now=now + 1)
        assert await store.report([a_report(run.claim, at=now + 2)]) == [True]
        record = await known(store, run.claim.id)
        assert (record.state, record.cancel_at) == (State.SUCCESS, None)

    async def test_run_of_a_cancelled_job_that_never_began_ends_it_too(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        await change(store, Verb.CANCEL, now=now + 1)
        assert await store.report([unbegun(run, at=now + 2)]) == [None]
        report = unbegun(run, at=now + 2, state=State.CANCELLED, error="cancelled")
        assert await store.report([report]) == [True]
        record = await known(store, run.claim.id)
        assert (record.state, record.cancel_at, record.runs, record.attempt) == (State.CANCELLED, None, [], 0)

    async def test_others_of_one_batch_are_reported_as_ever(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*some_jobs(4))
        runs = await store.claim([an_entry(n) for n in range(4)], "w1", now)
        await change(store, Verb.CANCEL, of_ids(1), now=now)
        reports = [a_report(run.claim, State.RETRY, "fail", at=now + 1, error="oops", failures=1) for run in runs]
        reports[3] = a_report(a_claim(3, attempt=7), State.FAIL, at=now)
        assert await store.report(reports) == [True, None, True, False]
        assert numbers(await store.ready("mail", None, 9)) == [0, 2]

    async def test_stale_report_of_a_cancelled_job_is_stale(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        await change(store, Verb.CANCEL, now=now)
        assert await store.report([a_report(a_claim(0, attempt=2), State.RETRY, "fail", at=now)]) == [False]
        await store.report([a_report(run.claim, State.CANCELLED, at=now)])
        assert await store.report([a_report(run.claim, State.RETRY, "fail", at=now)]) == [False]

    async def test_cancel_holds_over_a_restart(self, store: Store, run_one: RunOne, reopen: Reopen, now: float) -> None:
        run = await run_one()
        await change(store, Verb.CANCEL, now=now)
        again, _ = await reopen()
        (orphan,) = await again.orphans(9)
        assert (orphan.claim, orphan.is_cancelled) == (run.claim, True)
        assert await again.report([a_report(run.claim, State.GHOST, "ghost", at=now)]) == [None]
        assert await again.report([a_report(run.claim, State.CANCELLED, "ghost", at=now)]) == [True]

    async def test_retried_job_waits_with_all_its_tries(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        report = a_report(
            run.claim, State.FAIL, at=now + 1, error="oops", failures=3, ghosts=2, interrupted=1, drop_at=now + 99
        )
        await store.report([report])
        (one,) = (await change(store, Verb.RETRY, now=now + 2)).changed
        assert (one.id, one.state, one.claim, one.attempt) == (run.claim.id, State.FAIL, None, 1)
        record = await known(store, run.claim.id)
        assert (record.state, record.due_at, record.error, record.ended_at, record.drop_at) == (
            State.RETRY,
            0,
            None,
            None,
            None,
        )
        assert (record.attempt, record.failures, record.ghosts, record.interrupted) == (1, 0, 0, 0)
        assert [(one.attempt, one.state, one.error, one.worker) for one in record.runs] == [(1, "fail", "oops", "w1")]
        assert await states(store) == {"mail": {State.RETRY: 1}}

    async def test_a_retried_job_keeps_its_earlier_runs(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        await store.report([a_report(run.claim, State.RETRY, "fail", at=now + 1, error="first")])
        (run,) = await store.claim([an_entry(0)], "w2", now + 1)
        await store.report([a_report(run.claim, State.FAIL, "ghost", at=now + 2, error="second")])
        done = await change(store, Verb.RETRY, now=now + 3)
        (run,) = await store.claim(done.ready, "w3", now + 4)
        assert run.claim.attempt == 3
        await store.report([a_report(run.claim, at=now + 5)])
        record = await known(store, run.claim.id)
        assert [(one.attempt, one.state, one.error, one.worker, one.started_at, one.ended_at) for one in record.runs] == [
            (1, "fail", "first", "w1", now, now + 1),
            (2, "ghost", "second", "w2", now + 1, now + 2),
            (3, "success", None, "w3", now + 4, now + 5),
        ]
        assert record.id == IDS.of(FIRST)

    async def test_retried_job_stands_at_the_tail_of_its_priority(self, store: Store, insert: Insert, now: float) -> None:
        ended = [an_ended(n, State.FAIL, at=now, id=id_) for n, id_ in ((0, None), (1, "mine"))]
        await insert(*ended, a_job(2), a_job(3, prio=9000), a_job(4))
        done = await change(store, Verb.RETRY, now=now + 2)
        assert [one.order - FIRST for one in done.changed] == [0, 1]
        assert [(entry.order, entry.id, entry.type, entry.prio) for entry in done.ready] == [
            (FRESH, IDS.of(FIRST), "mail", 10000),
            (FRESH + 1, "mine", "mail", 10000),
        ]
        entries = await store.ready("mail", None, 9)
        assert [entry.id for entry in entries] == [
            IDS.of(FIRST + 3),
            IDS.of(FIRST + 2),
            IDS.of(FIRST + 4),
            IDS.of(FIRST),
            "mine",
        ]
        runs = await store.claim(entries, "w1", now + 3)
        assert [run.claim.id for run in runs] == [entry.id for entry in entries]
        assert [run.data for run in runs] == [b'{"n":%d}' % n for n in (3, 2, 4, 0, 1)]

    async def test_what_is_accepted_later_comes_after_it(self, store: Store, insert: Insert, now: float) -> None:
        await insert(an_ended(0, State.FAIL, at=now))
        await change(store, Verb.RETRY, now=now + 1, first_order=FIRST + 5)
        await insert(a_job(6))
        assert [entry.id for entry in await store.ready("mail", None, 9)] == [IDS.of(FIRST), IDS.of(FIRST + 6)]

    async def test_its_id_and_acceptance_stay(self, store: Store, insert: Insert, reopen: Reopen, now: float) -> None:
        await insert(an_ended(0, State.FAIL, at=now), an_ended(1, State.FAIL, at=now, id="mine", accepted_at=now - 500))
        before = {record.id: record.accepted_at for record in await listed(store)}
        await change(store, Verb.RETRY, now=now + 1)
        again, info = await reopen()
        assert info.last_order >= FRESH + 1
        assert {record.id: record.accepted_at for record in await listed(again)} == before

    async def test_replay_of_its_insert_changes_nothing(self, store: Store, insert: Insert, now: float) -> None:
        await insert(an_ended(0, State.FAIL, at=now), an_ended(1, State.FAIL, at=now, id="mine"))
        await change(store, Verb.RETRY, now=now + 1)
        assert sorted(await insert(a_job(0), a_job(1, id="mine"))) == [FIRST, FIRST + 1]
        assert await states(store) == {"mail": {State.RETRY: 2}}

    async def test_the_id_of_a_retried_job_stays_taken(self, store: Store, insert: Insert, now: float) -> None:
        await insert(an_ended(0, State.FAIL, at=now))
        await change(store, Verb.RETRY, now=now + 1)
        assert await insert(a_job(9, id=IDS.of(FIRST))) == [FIRST + 9]

    async def test_retried_job_may_fail_and_be_retried_again(self, store: Store, insert: Insert, now: float) -> None:
        await insert(an_ended(0, State.FAIL, at=now, options=b'{"ttr":5}'))
        for turn in range(1, 4):
            done = await change(store, Verb.RETRY, now=now + turn, first_order=FRESH + turn)
            (run,) = await store.claim(done.ready, "w1", now + turn)
            assert (run.claim.attempt, run.options, run.data) == (turn + 1, b'{"ttr":5}', b'{"n":0}')
            assert await store.report([a_report(run.claim, State.FAIL, at=now + turn, error="oops")]) == [True]
        assert len((await known(store, IDS.of(FIRST))).runs) == 4

    async def test_retried_job_has_its_unique_key_again(self, store: Store, insert: Insert, now: float) -> None:
        await insert(an_ended(0, State.FAIL, at=now, unique="k"))
        assert await insert(a_job(1, unique="k", expire_at=now + 5)) == []
        await store.expire(now + 5, 9, 0.0)
        await change(store, Verb.RETRY, wanted=Filter(ids=(IDS.of(FIRST),)), now=now + 6)
        found = await insert(a_job(9, unique="k"))
        assert (found, found.joined) == ([FIRST + 9], {FIRST + 9: IDS.of(FIRST)})

    async def test_expiry_counts_anew_and_delay_does_not_come_again(self, store: Store, insert: Insert, now: float) -> None:
        own = {0: b'{"expire":7,"delay":50}', 1: b'{"ttr":1}', 2: None}
        jobs = [a_job(n, expire_at=now + 1, options=options, due_at=now + 50) for n, options in own.items()]
        await insert(*jobs, a_job(3, type="b"), a_job(4, type="c", expire_at=now + 1))
        await change(store, Verb.CANCEL, now=now)
        done = await change(store, Verb.RETRY, now=now + 100, expire=Spans(None, {"mail": 2.0, "b": 3.0}))
        assert {record.id: record.expire_at for record in await listed(store)} == {
            IDS.of(FIRST): now + 107,
            IDS.of(FIRST + 1): now + 102,
            IDS.of(FIRST + 2): now + 102,
            IDS.of(FIRST + 3): now + 103,
            IDS.of(FIRST + 4): None,
        }
        assert done.expire_at == [now + 102]
        assert await store.next_expire_at() == now + 102
        runs = await store.claim(done.ready, "w1", now + 101)
        assert len(runs) == 5
        assert len(await store.expire(now + 200, 9, None)) == 0

    async def test_expired_job_can_be_retried(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0, expire_at=now + 1))
        await store.expire(now + 2, 9, None)
        await change(store, Verb.RETRY, now=now + 3)
        record = await known(store, IDS.of(FIRST))
        assert (record.state, record.runs, record.expire_at) == (State.RETRY, [], None)

    @pytest.mark.parametrize("size", [3, BULK_BYTES * 3])
    async def test_data_result_and_progress_go_along(self, store: Store, run_one: RunOne, now: float, size: int) -> None:
        run = await run_one(data=b"7" * size, options=b'{"ttr":5}')
        await store.save([Progress(run.claim, b'{"done":3}')], durable=False)
        await store.report([a_report(run.claim, State.FAIL, at=now + 1, error="oops")])
        done = await change(store, Verb.RETRY, now=now + 2)
        record = await known(store, run.claim.id)
        assert (record.data, record.progress, record.result) == (b"7" * size, b'{"done":3}', None)
        (run,) = await store.claim(done.ready, "w1", now + 3)
        assert (run.data, run.progress) == (b"7" * size, b'{"done":3}')
        await store.report([a_report(run.claim, at=now + 4, progress=NO_PROGRESS)])
        assert (await known(store, run.claim.id)).progress is None

    async def test_only_failed_and_cancelled_jobs_are_retried(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*some_jobs(3), an_ended(3, at=now), an_ended(4, State.FAIL, at=now), a_job(5, due_at=now + 9))
        await store.claim([an_entry(0)], "w1", now)
        await change(store, Verb.CANCEL, of_ids(1), now=now)
        done = await change(store, Verb.RETRY, now=now + 2)
        assert sorted(done.numbers) == [1, 4]
        assert done.skipped == []

    async def test_what_fails_after_it_was_asked_for_is_not_retried(
        self, store: Store, insert: Insert, clock: FakeClock, now: float
    ) -> None:
        await insert(an_ended(0, State.FAIL, at=now), an_ended(1, State.FAIL, at=now + 5))
        clock.advance(6)
        assert (await change(store, Verb.RETRY, now=now + 2)).numbers == [0]

    async def test_what_failed_by_a_clock_that_was_ahead_is_retried_and_once(
        self, store: Store, insert: Insert, now: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(changing, "SLICE", 1)
        await insert(*(an_ended(n, State.FAIL, at=now + 5) for n in range(3)))
        assert await retried_and_failed_again(store, store, now) == [0, 1, 2]

    async def test_damaged_job_is_found_when_it_runs_again(
        self, store: Store, insert: Insert, damage: Damage, now: float
    ) -> None:
        await insert(*(an_ended(n, State.FAIL, at=now) for n in range(3)))
        await damage(store, 1, data=b'{"n":8}')
        done = await change(store, Verb.RETRY, now=now + 2)
        assert numbers(await store.claim(done.ready, "w1", now + 3)) == [FRESH - FIRST, FRESH + 2 - FIRST]
        record = await known(store, IDS.of(FIRST + 1))
        assert (record.state, record.error) == (State.FAIL, DAMAGED)

    async def test_retried_jobs_come_as_the_broker_shows_them(self, store: Store, insert: Insert, now: float) -> None:
        data = {0: b'"short"', 1: b"1" * 50}
        await insert(*(an_ended(n, State.FAIL, at=now, data=value, options=b'{"ttr":5}') for n, value in data.items()))
        dry = await change(store, Verb.RETRY, now=now + 2, body_bytes=20, is_dry=True)
        assert dry.ready == []
        done = await change(store, Verb.RETRY, now=now + 2, body_bytes=20)
        assert [(entry.options, entry.data) for entry in done.ready] == [(b'{"ttr":5}', b'"short"'), (b'{"ttr":5}', None)]

    async def test_deleted_jobs_are_gone(self, store: Store, insert: Insert, now: float) -> None:
        await insert(
            a_job(0, data=b"1" * 3 * BULK_BYTES), a_job(1, due_at=now + 9), an_ended(2, at=now), an_ended(3, State.FAIL, at=now)
        )
        await insert(a_job(4, type="b", expire_at=now + 5))
        done = await change(store, Verb.DELETE, now=now + 2)
        assert sorted(done.numbers) == [0, 1, 2, 3, 4]
        assert await listed(store) == []
        assert await states(store) == {}
        assert await store.ready("mail", None, 9) == []
        assert await store.next_due_at() is None
        assert await store.next_expire_at() is None
        assert await store.claim([an_entry(0)], "w1", now) == []
        assert await store.job(IDS.of(FIRST)) is None

    async def test_replay_does_not_bring_back_what_was_deleted(
        self, store: Store, make_store: MakeStore, now: float, reopen: Reopen
    ) -> None:
        await store.insert(some_jobs(3), 3, "w1", now)
        await change(store, Verb.DELETE, now=now)
        _, info = await reopen()
        assert info.fed_seq == 3  # what lies before is never replayed

    async def test_running_job_is_not_deleted(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        done = await change(store, Verb.DELETE, now=now)
        assert (done.changed, done.skipped) == ([], [run.claim.id])
        assert await store.report([a_report(run.claim, at=now)]) == [True]

    async def test_running_job_is_deleted_by_force(self, store: Store, run_one: RunOne, now: float) -> None:
        run = await run_one()
        await store.save([Progress(run.claim, b"3")], durable=False)
        done = await change(store, Verb.DELETE, now=now, is_forced=True)
        assert [(one.claim, one.state) for one in done.changed] == [(run.claim, State.PROCESSING)]
        assert await store.job(run.claim.id) is None
        assert await store.report([a_report(run.claim, at=now)]) == [False]
        assert await store.report([a_report(run.claim, State.RETRY, "fail", at=now)]) == [False]
        assert await states(store) == {}

    async def test_id_of_a_deleted_job_is_free(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0, id="mine"))
        await change(store, Verb.DELETE, Filter(ids=("mine",)), now=now)
        assert await insert(a_job(1, id="mine")) == []
        assert (await known(store, "mine")).data == b'{"n":1}'

    async def test_what_is_gone_is_no_error(self, store: Store, insert: Insert, now: float) -> None:
        await insert(an_ended(0, at=now - 20, end_drop_at=now - 10), a_job(1))
        wanted = Filter(ids=(IDS.of(FIRST), "never", IDS.of(FIRST + 77), IDS.of(FIRST + 1), IDS.of(FIRST + 1)))
        for verb in (Verb.DELETE, Verb.CANCEL, Verb.RETRY):
            done = await change(store, verb, wanted, now=now, is_dry=True)
            assert done.numbers == ([] if verb is Verb.RETRY else [1])

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (Filter(), range(11)),
            (Filter(type="b"), [1, 3, 6]),
            (Filter(type="b", states=WAIT), [1, 3]),
            (Filter(states=WAIT), [0, 1, 2, 3, 8, 9, 10]),
            (Filter(states=frozenset({State.NEW})), [0, 1, 9, 10]),
            (Filter(states=frozenset({State.RETRY, State.DELAYED})), [2, 3, 8]),
            (Filter(type="mail", states=frozenset({State.DELAYED})), [2]),
            (Filter(states=frozenset({State.PROCESSING})), [4]),
            (Filter(states=frozenset({State.PROCESSING, State.NEW}), type="mail"), [0, 4, 9, 10]),
            (Filter(states=frozenset({State.FAIL})), [6, 7]),
            (Filter(states=frozenset({State.FAIL, State.SUCCESS}), type="mail"), [5, 7]),
            (Filter(ids=("mine", IDS.of(FIRST + 3), IDS.of(FIRST + 6)), states=WAIT), [3, 10]),
            (Filter(accepted_before=FIRST / 1e6 - 500), [10]),
            (Filter(match=Pattern("needle")), [9, 10]),
            (Filter(match=Pattern('^{"n":[0-3]}$'), type="mail"), [0, 2]),
            (Filter(match=Pattern("needle"), ids=("mine", IDS.of(FIRST))), [10]),
            (Filter(states=frozenset()), []),
            (Filter(type="none"), []),
        ],
    )
    @pytest.mark.parametrize("small", [False, True])
    async def test_jobs_that_fit_are_met_once(
        self,
        store: Store,
        insert: Insert,
        now: float,
        monkeypatch: pytest.MonkeyPatch,
        wanted: Filter,
        expected: Iterable[int],
        small: bool,
    ) -> None:
        await self.various(store, insert, now)
        if small:
            monkeypatch.setattr(changing, "SLICE", 2)
            monkeypatch.setattr(changing, "LOOKED", 3)
            monkeypatch.setattr(changing, "LOOKED_BYTES", 100)
        for is_dry in (True, False):
            done = await change(store, Verb.DELETE, wanted, now=now, is_forced=True, is_dry=is_dry)
            assert sorted(done.numbers) == sorted(expected)
        left = {record.order - FIRST for record in await listed(store)}
        assert left == set(range(11)) - set(expected)
        assert sum(sum(found.values()) for found in (await states(store)).values()) == len(left)

    @pytest.mark.parametrize("verb", list(Verb))
    async def test_dry_change_changes_nothing(self, store: Store, insert: Insert, now: float, verb: Verb) -> None:
        await self.various(store, insert, now)
        before, counts = await listed(store), await states(store)
        dry = await change(store, verb, now=now + 1, is_dry=True)
        assert await listed(store) == before
        assert await states(store) == counts
        done = await change(store, verb, now=now + 1)
        assert (done.changed, done.skipped) == (dry.changed, dry.skipped)
        assert done.changed

    async def test_resource_is_the_jobs_own(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*(a_job(n, resource=resource) for n, resource in enumerate(["r", "s", None])))
        assert (await change(store, Verb.DELETE, Filter(resource="r"), now=now)).numbers == [0]

    async def test_jobs_of_later_orders_are_passed_over(self, store: Store, insert: Insert, now: float) -> None:
        await insert(*some_jobs(4))
        done = await change(store, Verb.DELETE, now=now, before_order=FIRST + 2)
        assert done.numbers == [0, 1]

    async def test_slices_are_bounded(self, store: Store, insert: Insert, now: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(changing, "SLICE", 10)
        monkeypatch.setattr(changing, "LOOKED", 100)
        await insert(*some_jobs(95))
        for verb, states_ in ((Verb.CANCEL, WAIT), (Verb.RETRY, None), (Verb.DELETE, WAIT)):
            asked = Change(verb, Filter(type="mail", states=states_), now + 1, ABOVE_ALL)
            after, count, orders = None, 0, FRESH + 1000 * verb
            while True:
                part = await store.change(asked, after, orders)
                assert len(part.changed) <= 10
                orders += 10
                count += len(part.changed)
                after = part.next
                if after is None:
                    break
            assert count == 95
        assert await listed(store) == []

    async def test_running_jobs_that_are_passed_over_do_not_stop_it(
        self, store: Store, insert: Insert, now: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(changing, "SLICE", 3)
        monkeypatch.setattr(changing, "LOOKED", 4)
        await insert(*some_jobs(20))
        await store.claim([an_entry(n) for n in range(0, 20, 2)], "w1", now)
        done = await change(store, Verb.DELETE, now=now)
        assert (len(done.changed), len(done.skipped), len(set(done.skipped))) == (10, 10, 10)

    async def test_shared_due_times_and_ends_are_no_hindrance(
        self, store: Store, insert: Insert, now: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(changing, "SLICE", 2)
        monkeypatch.setattr(changing, "LOOKED", 2)
        await insert(*(a_job(n, due_at=now + 9, type="ab"[n % 2]) for n in range(9)))
        await insert(*(an_ended(n, State.FAIL, at=now - 9, type="ab"[n % 2], end_drop_at=now + n // 4) for n in range(10, 19)))
        assert len((await change(store, Verb.DELETE, Filter(type="a", states=WAIT), now=now, is_dry=True)).changed) == 5
        fails = Filter(type="a", states=frozenset({State.FAIL}))
        assert len((await change(store, Verb.RETRY, fails, now=now, is_dry=True)).changed) == 5
        assert len((await change(store, Verb.RETRY, fails, now=now)).changed) == 5

    async def test_nothing_is_cancelled_elsewhere_of_what_runs_nowhere(self, store: Store) -> None:
        assert (await store.news()).claims == []

    async def needing(self, store: Store, insert: Insert, now: float) -> tuple[Run, list[Entry]]:
        """Jobs 0 to 3 need the same resource, which 0 has; the others are parked."""
        called: list[Entry] = []
        store.on_called = called.extend
        await insert(*(a_job(n, resource="r") for n in range(4)))
        (run,) = await store.claim([an_entry(n) for n in range(4)], "w1", now)
        assert run.claim.order == FIRST
        called.clear()
        return run, called

    @pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.DELETE])
    async def test_parked_jobs_are_changed_as_others_that_wait(
        self, store: Store, insert: Insert, now: float, verb: Verb
    ) -> None:
        run, called = await self.needing(store, insert, now)
        done = await change(store, verb, Filter(type="mail", states=WAIT), now=now + 1)
        assert (sorted(done.numbers), done.skipped) == ([1, 2, 3], [])
        await store.report([a_report(run.claim, at=now + 2)])
        assert called == []

    async def test_next_is_called_when_who_was_called_is_cancelled(self, store: Store, insert: Insert, now: float) -> None:
        run, called = await self.needing(store, insert, now)
        await store.report([a_report(run.claim, at=now + 1)])
        assert numbers(called) == [1]
        await change(store, Verb.CANCEL, of_ids(1), now=now + 1)
        assert numbers(called) == [1, 2]
        await change(store, Verb.DELETE, of_ids(2), now=now + 1)
        assert numbers(called) == [1, 2, 3]

    async def test_deleted_run_keeps_its_resource_until_it_is_over(self, store: Store, insert: Insert, now: float) -> None:
        run, called = await self.needing(store, insert, now)
        await change(store, Verb.DELETE, of_ids(0), now=now + 1, is_forced=True)
        await change(store, Verb.DELETE, of_ids(1), now=now + 1)
        await store.call_on(now + 9)
        assert called == []
        assert await store.holder("r") == (run.claim.id, now)
        assert await store.report([a_report(run.claim, at=now + 2)]) == [False]
        assert numbers(called) == [2]
        assert await store.holder("r") is None
        assert numbers(await store.claim([an_entry(2)], "w1", now + 2)) == [2]

    async def test_run_that_never_began_gives_the_resource_back_though_its_job_was_deleted(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        run, called = await self.needing(store, insert, now)
        await change(store, Verb.DELETE, of_ids(0), now=now + 1, is_forced=True)
        assert await store.report([a_report(run.claim, State.NEW, at=now + 2, has_begun=False)]) == [False]
        assert numbers(called) == [1]

    async def test_new_job_with_the_id_of_a_deleted_one_and_another_resource_has_nothing_of_its_run(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        called: list[Entry] = []
        store.on_called = called.extend
        await insert(a_job(0, id="x", resource="r"), a_job(1, resource="r"))
        (run,) = await store.claim([an_entry(0, id="x"), an_entry(1)], "w1", now)
        await change(store, Verb.DELETE, Filter(ids=("x",)), now=now + 1, is_forced=True)
        await insert(a_job(9, id="x", resource="s"), a_job(10, resource="s"))
        (new,) = await store.claim([an_entry(9, id="x"), an_entry(10)], "w1", now + 1)
        called.clear()
        assert await store.report([a_report(run.claim, at=now + 2)]) == [False]
        assert numbers(called) == [1]
        assert await store.holder("s") == (new.claim.id, now + 1)
        assert await store.report([a_report(new.claim, at=now + 2)]) == [True]
        assert numbers(called) == [1, 10]

    async def test_new_job_with_the_id_of_a_deleted_one_waits_for_its_run(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        called: list[Entry] = []
        store.on_called = called.extend
        await insert(a_job(0, id="x", resource="r"))
        (run,) = await store.claim([an_entry(0, id="x")], "w1", now)
        called.clear()
        await change(store, Verb.DELETE, Filter(ids=("x",)), now=now + 1, is_forced=True)
        await insert(a_job(9, id="x", resource="r"))
        assert await store.claim([an_entry(9, id="x")], "w1", now + 1) == []
        assert called == []
        assert await store.report([a_report(run.claim, at=now + 2)]) == [False]
        assert numbers(called) == [9]
        (again,) = await store.claim(called, "w1", now + 2)
        assert await store.report([a_report(run.claim, at=now + 2)]) == [False]
        assert await store.holder("r") == (again.claim.id, now + 2)

    async def test_cancelled_run_keeps_its_resource_until_it_is_over(self, store: Store, insert: Insert, now: float) -> None:
        run, called = await self.needing(store, insert, now)
        await change(store, Verb.CANCEL, of_ids(0), now=now + 1)
        assert called == []
        assert await store.report([a_report(run.claim, State.RETRY, "fail", at=now + 2)]) == [None]
        assert called == []
        assert await store.report([a_report(run.claim, State.CANCELLED, at=now + 2)]) == [True]
        assert numbers(called) == [1]

    async def test_retried_jobs_stand_in_line_for_their_resource(self, store: Store, insert: Insert, now: float) -> None:
        run, called = await self.needing(store, insert, now)
        await change(store, Verb.CANCEL, of_ids(1, 2), now=now + 1)
        done = await change(store, Verb.RETRY, now=now + 2)
        assert (sorted(done.numbers), done.ready, called) == ([1, 2], [], [])
        order = []
        for _ in range(3):
            await store.report([a_report(run.claim, at=now + 3)])
            (run,) = await store.claim([called.pop()], "w1", now + 3)
            order.append(run.claim.id)
        assert order == [IDS.of(FIRST + n) for n in (3, 1, 2)]
        await change(store, Verb.CANCEL, of_ids(2), now=now + 3)
        await store.report([a_report(run.claim, State.CANCELLED, at=now + 4)])
        await change(store, Verb.RETRY, of_ids(2), now=now + 5, first_order=FRESH + 9)
        assert [entry.id for entry in called] == [IDS.of(FIRST + 2)]
        assert [run.resource for run in await store.claim(called, "w1", now + 5)] == ["r"]


__all__ = ["ChangeContract", "PageContract"]
