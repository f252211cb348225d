"""What kqs.store.base.Store promises of jobs that wait for others, and of batches. An engine's subclass supplies
`make_store`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, Unpack

import msgspec
import pytest

from kqs.filter import Filter
from kqs.job import Accepted, After, Entry, Members, Run, Tally
from kqs.states import WAITING, State
from kqs.store import change as changing
from kqs.store.base import Store, Verb
from tests.contract.change_contract import FRESH, change
from tests.contract.changes import EndedChanges, JobChanges
from tests.contract.store_contract import (
    FIRST,
    IDS,
    JOURNAL,
    NODE,
    Insert,
    MakeStore,
    a_job,
    a_report,
    an_ended,
    an_entry,
    numbers,
    state_of,
)
from tests.support.clock import FakeClock
from tests.support.jobs import EVERYTHING

#: the number of the first job that is retried, by its order
AGAIN = FRESH - FIRST
#: what job 0 may come to, but success
BAD_ENDS = ["fail", "cancelled", "deleted", "expired"]


def only(n: int) -> Filter:
    """What fits job n alone."""
    return Filter(ids=(IDS.of(FIRST + n),))


def after(*numbers: int, is_any_end: bool = False) -> After:
    """Job numbers as what another one waits for."""
    return After(tuple(IDS.of(FIRST + n) for n in numbers), is_any_end)


def a_then(n: int, last: int | None = None, **changes: Unpack[JobChanges]) -> Accepted:
    """Job n, the `then` of a batch whose last member is job `last`; None: of an open one."""
    members = Members(True) if last is None else Members(False, FIRST + last)
    of_job: JobChanges = {"members": members, **changes}
    return a_job(n, **of_job)


def a_member(n: int, then: int, *, in_record: bool = True, **changes: Unpack[JobChanges]) -> Accepted:
    batch_order = FIRST + then if in_record else 0
    of_job: JobChanges = {"batch": IDS.of(FIRST + then), "batch_order": batch_order, **changes}
    return a_job(n, **of_job)


def a_tally(then: int, count: int, *, is_open: bool = False, **ended: int) -> Tally:
    counts = {"success": 0, "fail": 0, "cancelled": 0, "deleted": 0, **ended}
    return Tally(IDS.of(FIRST + then), count, is_open=is_open, **counts)


#: jobs that wait for each other, as `a_family` makes them
FAMILY = tuple(IDS.of(FIRST + n) for n in range(20))


def a_family(now: float) -> list[Accepted]:
    """Some that wait for nobody, of which some are delayed, and children and grandchildren of theirs, as they were accepted."""
    parents = [a_job(n, due_at=now + 60 * (n % 2)) for n in range(5)]
    children = [a_job(n, after=after((n - 1) // 2, is_any_end=n % 5 == 0)) for n in range(5, len(FAMILY))]
    return [*parents, *children]


Reopen = Callable[[], Awaitable[Store]]
#: follows all ends; returns the numbers of those that failed by it
Follow = Callable[[], Awaitable[list[int]]]


class End(Protocol):
    """Ends job n in the way that is named."""

    async def __call__(self, n: int, how: str = "success") -> None: ...


class OrderContract:
    @pytest.fixture
    def reopen(self, store: Store, make_store: MakeStore) -> Reopen:
        async def reopen() -> Store:
            await store.close()
            again = make_store()
            await again.open(JOURNAL, NODE)
            return again

        return reopen

    @pytest.fixture
    def called(self, store: Store) -> list[Entry]:
        called: list[Entry] = []
        store.on_called = called.extend
        return called

    @pytest.fixture
    def follow(self, store: Store, now: float) -> Follow:
        """Follow all ends; return the numbers of those that failed by it."""

        async def follow() -> list[int]:
            failed: list[str] = []
            is_more = True
            while is_more:
                following = await store.follow(now, 60.0)
                failed += following.failed
                is_more = following.is_more
            orders = [IDS.order_of(id_) for id_ in failed]
            return sorted(order - FIRST for order in orders if order is not None)

        return follow

    @pytest.fixture
    def end(self, store: Store, now: float) -> End:
        async def end(n: int, how: str = "success") -> None:
            if how == "cancelled":
                await change(store, Verb.CANCEL, only(n), now=now)
            elif how == "deleted":
                await change(store, Verb.DELETE, only(n), now=now)
            elif how == "expired":
                assert await store.expire(now + 1000, 9, None) == [IDS.of(FIRST + n)]
            else:
                (run,) = await store.claim([an_entry(n)], "w1", now)
                state = State.SUCCESS if how == "success" else State.FAIL
                assert await store.report([a_report(run.claim, state, at=now)]) == [True]

        return end

    async def test_job_waits_for_another_and_is_called_when_that_has_succeeded(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry], now: float
    ) -> None:
        found = await insert(a_job(0), a_job(1, after=after(0), prio=7))
        assert found == []
        assert numbers(await store.ready("mail", None, 9)) == [0]
        assert await store.claim([an_entry(1)], "w1", now) == []
        record = await store.job(IDS.of(FIRST + 1))
        assert record is not None
        assert (record.state, record.after, list(record.awaits)) == (State.NEW, after(0), [IDS.of(FIRST)])
        told: list[bool] = []
        store.on_followed = lambda: told.append(True)
        await end(0)
        assert told == [True]
        assert await follow() == []
        assert called == [Entry(FIRST + 1, IDS.of(FIRST + 1), "mail", 7)]
        assert numbers(await store.claim([an_entry(1)], "w1", now)) == [1]
        record = await store.job(IDS.of(FIRST + 1))
        assert record is not None
        assert (record.after, list(record.awaits)) == (after(0), [])

    @pytest.mark.parametrize("newest_first", [False, True])
    @pytest.mark.parametrize("states", [None, frozenset({State.NEW})])
    async def test_job_that_waits_is_listed(
        self, store: Store, insert: Insert, states: frozenset[State] | None, newest_first: bool
    ) -> None:
        await insert(a_job(0, type="other"), a_job(1, after=after(0)), a_then(2, 3), a_member(3, 2, type="other"))
        records, _ = await store.page(Filter(type="mail", states=states), None, 9, newest_first=newest_first)
        assert sorted(record.order - FIRST for record in records) == [1, 2]

    async def test_job_waits_for_all(self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]) -> None:
        await insert(a_job(0), a_job(1), a_job(2, after=after(0, 1, 0)))
        await end(1)
        assert (await follow(), called) == ([], [])
        await end(0)
        assert (await follow(), numbers(called)) == ([], [2])

    async def test_what_has_succeeded_is_not_waited_for(
        self, store: Store, insert: Insert, end: End, follow: Follow, now: float
    ) -> None:
        await insert(a_job(0))
        await end(0)
        found = await insert(a_job(1, after=after(0)), an_ended(2, at=now), a_job(3, after=after(2)))
        assert set(found.parked) == set()
        assert numbers(await store.ready("mail", None, 9)) == [1, 3]

    async def test_new_job_that_waits_for_nothing_is_due_by_the_clock_of_its_insert(
        self, store: Store, insert: Insert, end: End, called: list[Entry], clock: FakeClock, now: float
    ) -> None:
        await insert(a_job(0))
        await end(0)
        clock.advance(5)  # the store was slow, or had much to do first
        await insert(a_job(1, after=after(0), due_at=now + 1))
        assert numbers(await store.ready("mail", None, 9)) == []
        assert numbers(await store.wake(now + 5, 9)) == [1]
        assert called == []

    @pytest.mark.parametrize("how", BAD_ENDS)
    @pytest.mark.parametrize("is_first", [True, False])
    async def test_bad_end_fails_who_waits_and_names_it(
        self, store: Store, insert: Insert, end: End, follow: Follow, now: float, how: str, is_first: bool
    ) -> None:
        await insert(a_job(0, expire_at=now + 500))
        if is_first:
            await end(0, how)
        await insert(a_job(1, after=after(0)), a_job(2, after=after(1)), a_job(3, after=after(0, is_any_end=True)))
        if not is_first:
            await end(0, how)
        assert await follow() == [1, 2]
        one, two = await store.job(IDS.of(FIRST + 1)), await store.job(IDS.of(FIRST + 2))
        assert one is not None
        assert two is not None
        assert (one.state, one.ended_at, one.drop_at) == (State.FAIL, now, now + 60)
        assert IDS.of(FIRST) in (one.error or "")
        assert IDS.of(FIRST + 1) in (two.error or "")
        assert 3 in numbers(await store.ready("mail", None, 9))
        assert (await store.counts())["mail"][State.FAIL] == 2 + (how in ("fail", "expired"))

    async def test_what_is_not_there_counts_as_deleted(self, store: Store, insert: Insert, follow: Follow) -> None:
        await insert(a_job(1, after=after(0)), a_job(2, after=after(0, is_any_end=True)))
        assert await follow() == [1]
        assert numbers(await store.ready("mail", None, 9)) == [2]

    async def test_success_stays_one_when_its_record_is_gone(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]
    ) -> None:
        await insert(a_job(0), a_job(1), a_job(2, after=after(0, 1)))
        await end(0)
        await end(0, "deleted")
        assert await follow() == []
        await end(1)
        assert (await follow(), numbers(called)) == ([], [2])

    async def test_due_time_counts_when_a_job_is_let_go(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry], now: float
    ) -> None:
        await insert(a_job(0), a_job(1, after=after(0), due_at=now + 60))
        assert await state_of(store, 1) is State.DELAYED
        assert await store.next_due_at() is None
        await end(0)
        following = await store.follow(now, None)
        assert following.due_at == now + 60
        assert called == []
        assert numbers(await store.wake(now + 60, 9)) == [1]

    async def test_due_time_that_has_come_meanwhile_is_no_wait(
        self, store: Store, insert: Insert, end: End, called: list[Entry], now: float
    ) -> None:
        await insert(a_job(0), a_job(1, after=after(0), due_at=now + 60))
        await end(0)
        assert (await store.follow(now + 61, None)).due_at is None
        assert numbers(called) == [1]

    @pytest.mark.parametrize("how", ["cancelled", "deleted", "expired"])
    async def test_waiting_job_ends_like_any_other(
        self, store: Store, insert: Insert, end: End, follow: Follow, now: float, how: str
    ) -> None:
        await insert(a_job(0), a_job(1, after=after(0), expire_at=now + 500), a_job(2, after=after(1)))
        await end(1, how)
        assert await follow() == [2]
        await end(0)
        assert await follow() == []
        assert await state_of(store, 1) in (State.CANCELLED, State.FAIL, None)

    async def test_child_whose_id_comes_twice_in_a_call_is_let_go(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]
    ) -> None:
        found = await insert(a_job(0), a_job(1, id="mine", after=after(0)), a_job(2, id="mine", after=after(0)))
        assert found == [FIRST + 2]
        await end(0)
        assert (await follow(), numbers(called)) == ([], [1])

    async def test_retried_child_asks_its_parents_again(
        self, store: Store, insert: Insert, end: End, follow: Follow, now: float
    ) -> None:
        await insert(a_job(0), a_job(1, after=after(0)))
        await end(0, "fail")
        assert await follow() == [1]
        await change(store, Verb.RETRY, only(1), now=now, first_order=FRESH)
        assert await follow() == [1]
        part = await change(store, Verb.RETRY, only(0), now=now, first_order=FRESH + 10)
        assert numbers(part.ready) == [AGAIN + 10]
        assert await state_of(store, 1) is State.FAIL  # it revives nobody
        part = await change(store, Verb.RETRY, only(1), now=now, first_order=FRESH + 20)
        assert part.ready == []
        assert await state_of(store, 1) is State.RETRY
        (run,) = await store.claim([an_entry(AGAIN + 10, id=IDS.of(FIRST))], "w1", now)
        await store.report([a_report(run.claim, at=now)])
        assert await follow() == []
        assert numbers(await store.ready("mail", None, 9)) == [AGAIN + 20]

    async def test_delay_of_a_retried_child_does_not_come_again_when_it_is_let_go(
        self, store: Store, insert: Insert, end: End, follow: Follow, now: float
    ) -> None:
        await insert(a_job(0), a_job(1, after=after(0), due_at=now + 60))
        await end(0, "fail")
        assert await follow() == [1]
        await change(store, Verb.RETRY, only(0), now=now, first_order=FRESH)
        await change(store, Verb.RETRY, only(1), now=now, first_order=FRESH + 10)
        (run,) = await store.claim([an_entry(AGAIN, id=IDS.of(FIRST))], "w1", now)
        await store.report([a_report(run.claim, at=now)])
        assert (await store.follow(now, None)).due_at is None
        assert numbers(await store.ready("mail", None, 9)) == [AGAIN + 10]

    @pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.DELETE])
    @pytest.mark.parametrize("wanted", [EVERYTHING, Filter(states=frozenset(WAITING)), Filter(ids=FAMILY)])
    async def test_jobs_that_wait_for_each_other_are_called_off_together(
        self,
        store: Store,
        insert: Insert,
        follow: Follow,
        called: list[Entry],
        now: float,
        monkeypatch: pytest.MonkeyPatch,
        verb: Verb,
        wanted: Filter,
    ) -> None:
        monkeypatch.setattr(changing, "SLICE", 3)
        monkeypatch.setattr(changing, "LOOKED", 100)
        await insert(*a_family(now))
        dry = await change(store, verb, wanted, now=now, is_dry=True)
        failed: list[int] = []

        async def follow_slice() -> None:
            failed.extend(await follow())

        done = await change(store, verb, wanted, now=now, between=follow_slice)
        assert (failed, called) == ([], [])
        assert done.numbers == dry.numbers
        assert sorted(done.numbers) == list(range(len(FAMILY)))

    async def test_who_failed_as_its_parent_was_cancelled_waits_again_with_it(
        self, store: Store, insert: Insert, end: End, follow: Follow, now: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(changing, "SLICE", 3)
        monkeypatch.setattr(changing, "LOOKED", 100)
        await insert(a_job(0), *(a_job(n, after=after((n - 1) // 2)) for n in range(1, 20)))
        await end(0, "cancelled")
        assert await follow() == list(range(1, 20))
        await change(store, Verb.RETRY, now=now, first_order=FRESH, between=follow)
        assert [await state_of(store, n) for n in range(20)] == [State.RETRY] * 20

    async def test_jobs_of_one_call_wait_for_each_other_in_any_order(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]
    ) -> None:
        await insert(
            a_job(0, after=after(1, 3)), a_job(1), a_job(2, after=After(("own",))), a_job(3, prio=3), a_job(4, id="own")
        )
        await end(1)
        await end(3)
        assert (await follow(), numbers(called)) == ([], [0])

    @pytest.mark.parametrize("own_id", [None, "mine"])
    async def test_joined_parent_is_the_job_that_it_is_joined_to(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry], own_id: str | None
    ) -> None:
        await insert(a_job(0, unique="k"))
        await insert(a_job(1, unique="k", id=own_id), a_job(2, after=After((own_id or IDS.of(FIRST + 1),))))
        assert await follow() == []
        await end(0)
        assert (await follow(), numbers(called)) == ([], [2])

    async def test_joined_parent_of_an_own_id_is_the_job_that_it_is_joined_to(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]
    ) -> None:
        await insert(a_job(0, unique="k"))
        await insert(a_job(1, id="mine", unique="k"), a_job(2, after=After(("mine",))))
        assert (await follow(), called) == ([], [])
        await end(0)
        assert (await follow(), numbers(called)) == ([], [2])

    @pytest.mark.parametrize("how", ["deleted", "retried"])
    async def test_end_that_is_not_followed_yet_does_not_count_for_who_comes_later(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry], now: float, how: str
    ) -> None:
        await insert(a_job(0, id="p"), a_job(1, after=After(("p",), True)))
        (run,) = await store.claim([an_entry(0, id="p")], "w1", now)
        await store.report([a_report(run.claim, State.FAIL, at=now)])
        if how == "retried":
            await change(store, Verb.RETRY, Filter(ids=("p",)), now=now, first_order=FRESH)
        else:
            await change(store, Verb.DELETE, Filter(ids=("p",)), now=now)
            await insert(a_job(2, id="p"))
        await insert(a_job(3, after=After(("p",), True)))
        assert (await follow(), numbers(called)) == ([], [1])
        record = await store.job(IDS.of(FIRST + 3))
        assert record is not None
        assert list(record.awaits) == ["p"]
        again = an_entry(2 if how == "deleted" else AGAIN, id="p")
        (run,) = await store.claim([again], "w1", now)
        await store.report([a_report(run.claim, State.FAIL, at=now)])
        assert (await follow(), numbers(called)) == ([], [1, 3])

    async def test_end_that_is_not_followed_yet_is_told_by_its_name(
        self, store: Store, insert: Insert, follow: Follow, now: float
    ) -> None:
        await insert(a_job(0, id="p"), a_job(1, after=After(("p",))))
        await change(store, Verb.DELETE, Filter(ids=("p",)), now=now)
        await insert(a_job(2, id="p"), a_job(3, after=After(("p",))))
        assert await follow() == [1]
        record = await store.job(IDS.of(FIRST + 1))
        assert record is not None
        assert record.error == "job p, which it waits for, was deleted, or is not known any more"

    async def test_child_with_a_resource_stands_in_line_when_it_is_let_go(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry], now: float
    ) -> None:
        await insert(a_job(0), a_job(1, after=after(0), resource="r"), a_job(2, resource="r"))
        assert numbers(await store.ready("mail", None, 9)) == [0, 2]
        (run,) = await store.claim([an_entry(2)], "w1", now)
        called.clear()
        await end(0)
        assert (await follow(), called) == ([], [])
        await store.report([a_report(run.claim, at=now)])
        assert numbers(called) == [1]

    async def test_child_with_a_group_is_let_go_into_its_line(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]
    ) -> None:
        await insert(a_job(0), a_job(1, after=after(0), group="g"))
        await end(0)
        await follow()
        assert called == [Entry(FIRST + 1, IDS.of(FIRST + 1), "mail", 10_000, group="g")]
        assert await store.grouped_types(["mail"]) == ["mail"]

    async def test_replay_changes_nothing(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]
    ) -> None:
        jobs = [a_job(0), a_job(1, after=after(0))]
        await insert(*jobs)
        await end(0)
        await follow()
        assert sorted(await insert(*jobs)) == [FIRST, FIRST + 1]
        assert (await follow(), numbers(called)) == ([], [1])

    async def test_what_is_left_of_many_is_known_to_the_next_boot(
        self, store: Store, insert: Insert, end: End, reopen: Reopen, now: float
    ) -> None:
        await insert(a_job(0), *[a_job(n, after=after(0)) for n in range(1, 2001)])
        await end(0, "fail")
        first = await store.follow(now, None)
        assert first.is_more
        assert 0 < len(first.failed) < 2000
        again = await reopen()
        count = len(first.failed)
        while (following := await again.follow(now, None)).is_more:
            assert len(following.failed) <= 1000
            count += len(following.failed)
        assert count + len(following.failed) == 2000
        assert await again.counts() == {"mail": {State.FAIL: 2001}}

    async def test_chain_fails_from_its_first_to_its_last(self, store: Store, insert: Insert, end: End, follow: Follow) -> None:
        await insert(a_job(0), *[a_job(n, after=after(n - 1)) for n in range(1, 300)])
        await end(0, "fail")
        assert await follow() == list(range(1, 300))

    async def test_then_runs_when_all_members_have_ended_and_is_told_how(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry], now: float
    ) -> None:
        await insert(a_then(0, 4), *[a_member(n, 0) for n in range(1, 5)])
        assert numbers(await store.ready("mail", None, 9)) == [1, 2, 3, 4]
        for n, how in enumerate(["success", "fail", "cancelled"], 1):
            await end(n, how)
        assert (await follow(), called) == ([], [])
        record = await store.job(IDS.of(FIRST))
        assert record is not None
        assert record.tally == a_tally(0, 4, success=1, fail=1, cancelled=1)
        member = await store.job(IDS.of(FIRST + 1))
        assert member is not None
        assert member.batch == IDS.of(FIRST)
        await end(4, "deleted")
        assert (await follow(), numbers(called)) == ([], [0])
        (run,) = await store.claim([an_entry(0)], "w1", now)
        assert msgspec.json.decode(run.batch or b"null") == {
            "id": IDS.of(FIRST),
            "count": 4,
            "success": 1,
            "fail": 1,
            "cancelled": 1,
            "deleted": 1,
        }

    async def test_batch_of_none_is_complete(self, store: Store, insert: Insert, follow: Follow, called: list[Entry]) -> None:
        await insert(a_then(0, 0))
        assert (await follow(), numbers(called)) == ([], [0])

    async def test_batch_is_not_complete_before_its_record_is_stored(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]
    ) -> None:
        await insert(a_then(0, 2), a_member(1, 0))
        await end(1)
        assert (await follow(), called) == ([], [])
        await insert(a_member(2, 0))
        await end(2)
        assert (await follow(), numbers(called)) == ([], [0])

    async def test_members_that_ended_before_they_were_stored_count(
        self, store: Store, insert: Insert, follow: Follow, called: list[Entry], now: float
    ) -> None:
        batch: EndedChanges = {"batch": IDS.of(FIRST), "batch_order": FIRST}
        await insert(a_then(0, 2), an_ended(1, at=now, **batch), an_ended(2, State.FAIL, at=now, **batch))
        assert (await follow(), numbers(called)) == ([], [0])
        record = await store.job(IDS.of(FIRST))
        assert record is not None
        assert record.tally == a_tally(0, 2, success=1, fail=1)

    async def test_open_batch_takes_members_until_it_is_closed(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]
    ) -> None:
        await insert(a_then(0))
        await insert(a_member(1, 0, in_record=False))
        await end(1)
        assert (await follow(), called) == ([], [])
        await insert(a_member(2, 0, in_record=False))
        ids = [IDS.of(FIRST), IDS.of(FIRST + 1), "nothing"]
        assert await store.batches(ids) == {IDS.of(FIRST): True}
        assert await store.close_batch(IDS.of(FIRST)) == a_tally(0, 2, success=1)
        assert await store.batches(ids) == {IDS.of(FIRST): False}
        assert (await follow(), called) == ([], [])
        await insert(a_member(3, 0, in_record=False))  # it was on its way as the batch was closed
        await end(2)
        assert (await follow(), called) == ([], [])
        await end(3)
        assert (await follow(), numbers(called)) == ([], [0])
        await insert(a_member(4, 0, in_record=False))
        late = await store.job(IDS.of(FIRST + 4))
        assert late is not None
        assert late.batch is None
        assert await store.close_batch(IDS.of(FIRST)) == a_tally(0, 3, success=3)
        assert (await follow(), numbers(called)) == ([], [0])
        assert await store.close_batch("nothing") is None

    async def test_sealed_batch_is_told_to_be_closed_and_takes_those_on_their_way(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]
    ) -> None:
        await insert(a_then(0), a_member(1, 0, in_record=False))
        assert await store.seal_batch(IDS.of(FIRST))
        assert await store.batches([IDS.of(FIRST)]) == {IDS.of(FIRST): False}
        await end(1)
        assert (await follow(), called) == ([], [])
        await insert(a_member(2, 0, in_record=False))
        await end(2)
        assert (await follow(), called) == ([], [])
        assert await store.close_batch(IDS.of(FIRST)) == a_tally(0, 2, success=2)
        assert (await follow(), numbers(called)) == ([], [0])
        assert await store.seal_batch(IDS.of(FIRST))
        assert await store.batches([IDS.of(FIRST)]) == {IDS.of(FIRST): False}
        assert not await store.seal_batch("nothing")

    async def test_closing_the_batch_last_completes_it(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]
    ) -> None:
        await insert(a_then(0), a_member(1, 0))
        await end(1)
        await store.close_batch(IDS.of(FIRST))
        assert (await follow(), numbers(called)) == ([], [0])

    async def test_retried_member_has_counted(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry], now: float
    ) -> None:
        await insert(a_then(0, 2), a_member(1, 0), a_member(2, 0))
        await end(1, "fail")
        await change(store, Verb.RETRY, only(1), now=now, first_order=FRESH)
        (run,) = await store.claim([an_entry(AGAIN, id=IDS.of(FIRST + 1))], "w1", now)
        await store.report([a_report(run.claim, at=now)])
        assert (await follow(), called) == ([], [])
        await end(2)
        assert (await follow(), numbers(called)) == ([], [0])
        record = await store.job(IDS.of(FIRST))
        assert record is not None
        assert record.tally == a_tally(0, 2, success=1, fail=1)

    async def test_deleted_member_that_has_ended_counts_once(
        self, store: Store, insert: Insert, end: End, follow: Follow
    ) -> None:
        await insert(a_then(0, 2), a_member(1, 0), a_member(2, 0))
        await end(1)
        await end(1, "deleted")
        record = await store.job(IDS.of(FIRST))
        assert record is not None
        assert record.tally == a_tally(0, 2, success=1)

    async def test_member_that_is_known_is_none(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]
    ) -> None:
        await insert(a_job(9, id="mine"))
        await insert(a_then(10, 12), a_member(11, 10), a_member(12, 10, id="mine"))
        await end(11)
        assert (await follow(), numbers(called)) == ([], [10])

    async def test_replay_of_a_batch_changes_nothing(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]
    ) -> None:
        jobs = [a_then(0, 2), a_member(1, 0), a_member(2, 0)]
        await insert(*jobs)
        await end(1)
        assert sorted(await insert(*jobs)) == [FIRST, FIRST + 1, FIRST + 2]
        assert (await follow(), called) == ([], [])
        await end(2)
        assert (await follow(), numbers(called)) == ([], [0])

    async def test_batch_under_an_id_that_is_known_makes_no_jobs(self, store: Store, insert: Insert) -> None:
        await insert(a_then(0, 1, id="b"), a_job(1, batch="b", batch_order=FIRST))
        found = await insert(a_then(2, 3, id="b"), a_job(3, batch="b", batch_order=FIRST + 2))
        assert sorted(found) == [FIRST + 2, FIRST + 3]
        await insert(a_job(4, id="c"))
        found = await insert(a_then(5, 6, id="c"), a_job(6, batch="c", batch_order=FIRST + 5))
        assert sorted(found) == [FIRST + 5, FIRST + 6]

    async def test_then_passes_no_job_of_its_id_that_comes_before_it(self, store: Store, insert: Insert) -> None:
        found = await insert(a_job(0, id="b"), a_then(1, 2, id="b"), a_job(2, batch="b", batch_order=FIRST + 1))
        assert sorted(found) == [FIRST + 1, FIRST + 2]
        assert (record := await store.job("b")) is not None
        assert (record.order, record.tally) == (FIRST, None)

    async def test_then_passes_no_job_of_its_key_that_comes_before_it(self, store: Store, insert: Insert) -> None:
        found = await insert(a_job(0, unique="k"), a_then(1, 2, unique="k"), a_member(2, 1))
        assert sorted(found) == [FIRST + 1, FIRST + 2]
        assert dict(found.joined) == {FIRST + 1: IDS.of(FIRST)}

    @pytest.mark.parametrize("taken", ["id", "key"])
    async def test_batch_that_was_not_begun_makes_no_jobs_of_what_comes_later_either(
        self, store: Store, insert: Insert, taken: str
    ) -> None:
        own: JobChanges = {"id": "b"} if taken == "id" else {"unique": "k"}
        batch = own.get("id", IDS.of(FIRST + 1))
        await insert(a_job(0, **own))
        assert sorted(await insert(a_then(1, 5, **own), a_job(2, batch=batch, batch_order=FIRST + 1))) == [FIRST + 1, FIRST + 2]
        for n in (3, 5):
            found = await insert(a_job(n - 1, batch=batch, batch_order=FIRST + 1), a_job(n, batch=batch, batch_order=FIRST + 1))
            assert sorted(found) == [FIRST + n - 1, FIRST + n]
        assert await insert(a_job(6)) == []

    async def test_batch_that_was_not_begun_is_made_whole_by_a_repeat_that_finds_its_key_free(
        self, store: Store, insert: Insert, end: End
    ) -> None:
        await insert(a_job(0, unique="k"))
        batch = [a_then(1, 3, unique="k"), a_member(2, 1), a_member(3, 1)]
        assert sorted(await insert(*batch[:2])) == [FIRST + 1, FIRST + 2]
        await end(0)
        assert await insert(*batch[:2]) == []
        assert await insert(*batch[2:]) == []
        record = await store.job(IDS.of(FIRST + 1))
        assert record is not None
        assert record.tally == a_tally(1, 2)

    async def test_members_of_a_deleted_batch_do_not_count_in_the_next_of_its_id(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry], now: float
    ) -> None:
        await insert(a_then(0, id="b"), a_job(1, batch="b"), a_job(2, batch="b"))
        await end(1)
        await change(store, Verb.DELETE, Filter(ids=("b",)), now=now)
        await insert(a_then(3, id="b"), a_job(4, batch="b"))
        await end(2)
        tally = await store.close_batch("b")
        assert tally == Tally("b", 1, 0, 0, 0, 0, is_open=False)
        assert (await follow(), called) == ([], [])
        await end(4)
        assert (await follow(), numbers(called)) == ([], [3])

    async def test_completed_batch_that_was_deleted_does_not_wake_the_next_of_its_id(
        self, store: Store, insert: Insert, follow: Follow, called: list[Entry], now: float
    ) -> None:
        await insert(a_then(0, id="b"))
        await store.close_batch("b")
        await change(store, Verb.DELETE, Filter(ids=("b",)), now=now)
        await insert(a_then(1, id="b"))
        assert (await follow(), called) == ([], [])

    async def test_then_that_was_cancelled_is_not_woken_and_waits_again_when_retried(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry], now: float
    ) -> None:
        await insert(a_then(0, 1), a_member(1, 0))
        await end(0, "cancelled")
        part = await change(store, Verb.RETRY, only(0), now=now, first_order=FRESH)
        assert part.ready == []
        await end(1)
        assert (await follow(), [entry.id for entry in called]) == ([], [IDS.of(FIRST)])
        (run,) = await store.claim(called, "w1", now)
        assert msgspec.json.decode(run.batch or b"null")["success"] == 1

    async def test_members_outlive_their_then(
        self, store: Store, insert: Insert, end: End, follow: Follow, called: list[Entry]
    ) -> None:
        await insert(a_then(0, 2), a_member(1, 0))
        await end(0, "deleted")
        assert await insert(a_member(2, 0)) == []
        await end(1)
        await end(2)
        assert (await follow(), called) == ([], [])

    async def test_batch_is_known_to_the_next_boot(
        self, store: Store, insert: Insert, end: End, reopen: Reopen, now: float
    ) -> None:
        await insert(a_then(0, 1), a_member(1, 0))
        await end(1)
        again = await reopen()
        called: list[Entry] = []
        again.on_called = called.extend
        await again.follow(now, None)
        assert numbers(called) == [0]
        (run,) = await again.claim(called, "w1", now)
        orphaned: Run = run
        await again.close()
        assert orphaned.batch is not None
