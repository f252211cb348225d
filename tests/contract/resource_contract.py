"""What kqs.store.base.Store promises about resources, as tests. An engine's subclass supplies `make_store` and `settle`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Unpack

import pytest

from kqs.job import Accepted, Entry, Report, Run
from kqs.states import State
from kqs.store.base import CALL_S, DAMAGED, Known, Store
from tests.contract.changes import EndChanges, EntryChanges, JobChanges, changed
from tests.contract.store_contract import (
    FIRST,
    IDS,
    JOURNAL,
    NODE,
    Damage,
    MakeStore,
    a_claim,
    a_job,
    a_report,
    an_entry,
    numbers,
    state_of,
)
from tests.support.clock import FakeClock


class Calls(list[Entry]):
    """The jobs that a store has called."""

    def take(self) -> list[int]:
        taken = numbers(self)
        self.clear()
        return taken


def needing(*orders: int, **changes: Unpack[JobChanges]) -> list[Accepted]:
    of_job: JobChanges = {"resource": "r", **changes}
    return [a_job(n, **of_job) for n in orders]


class ResourceContract:
    @pytest.fixture
    def calls(self, store: Store) -> Calls:
        calls = Calls()
        store.on_called = calls.extend
        return calls

    @pytest.fixture
    def reopen(self, store: Store, make_store: MakeStore, calls: Calls) -> Callable[[], Awaitable[Store]]:
        async def reopen() -> Store:
            await store.close()
            calls.clear()
            again = make_store()
            await again.open(JOURNAL, NODE)
            again.on_called = calls.extend
            return again

        return reopen

    async def insert(self, store: Store, calls: Calls, jobs: list[Accepted], fed_seq: int, worker: str, now: float) -> Known:
        """Insert jobs. An engine may call jobs as it stores them: that says no more than that they are ready."""
        known = await store.insert(jobs, fed_seq, worker, now)
        calls.clear()
        return known

    async def begin(self, store: Store, calls: Calls, jobs: list[Accepted], now: float) -> list[int]:
        """Insert claimed jobs, and claim those that are called instead; return which run then."""
        known = await store.insert(jobs, 1, "w", now)
        waiting = {*known, *known.parked}
        entries, calls[:] = list(calls), []
        claimed = await store.claim(entries, "w", now)
        return sorted([*(job.order - FIRST for job in jobs if job.order not in waiting), *numbers(claimed)])

    async def claimed(self, store: Store, *orders: int, now: float, **changes: Unpack[EntryChanges]) -> list[Run]:
        return await store.claim([an_entry(n, **changes) for n in orders], "w", now)

    async def end(self, store: Store, run: Run, now: float, **changes: Unpack[EndChanges]) -> None:
        state, run_state = changes.get("state", State.SUCCESS), changes.get("run_state", "")
        report = changed(a_report(run.claim, state, run_state, at=now, type=run.type), changes)
        assert await store.report([report]) == [True]

    async def test_one_of_a_batch_is_granted_the_first_by_rank(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        await self.insert(
            store, calls, [*needing(0, 1), *needing(2, prio=5), *needing(3, resource="s"), a_job(4)], 1, "w", clock.now()
        )
        runs = await self.claimed(store, 4, 1, 0, 3, 2, now=clock.now())
        assert {run.resource for run in runs} == {"r", "s", None}
        assert sorted(numbers(runs)) == [2, 3, 4]
        assert await self.claimed(store, 0, 1, 2, 3, 4, now=clock.now()) == []
        assert calls == []

    async def test_the_next_is_called_when_the_run_is_over(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        now = clock.now()
        await self.insert(store, calls, needing(0), 1, "w", now)
        (run,) = await self.claimed(store, 0, now=now)
        await self.insert(store, calls, [*needing(1), *needing(2, prio=5)], 2, "w", now)
        assert await self.claimed(store, 1, 2, now=now) == []
        for following in (2, 1):
            await self.end(store, run, now)
            assert calls.take() == [following]
            (run,) = await self.claimed(store, following, now=now)
        await self.end(store, run, now)
        assert calls == []
        assert await store.holder("r") is None

    @pytest.mark.parametrize(
        "changes",
        [
            {"state": State.FAIL, "error": "no"},
            {"state": State.RETRY, "run_state": "again", "due_at": 5e9},
            {"state": State.GHOST, "due_at": 5e9, "ghosts": 1},
            {"state": State.CANCELLED},
            {"state": State.SUCCESS, "result": b"1"},
        ],
    )
    async def test_it_is_free_however_the_run_ends(
        self, store: Store, calls: Calls, clock: FakeClock, changes: EndChanges
    ) -> None:
        now = clock.now()
        await self.insert(store, calls, needing(0, 1), 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, now=now)
        await self.end(store, run, now, **changes)
        assert calls.take() == [1]
        assert numbers(await self.claimed(store, 1, now=now)) == [1]

    async def test_a_run_that_never_began_gives_it_back(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        now = clock.now()
        await self.insert(store, calls, [*needing(0, prio=9), *needing(1)], 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, now=now)
        await self.end(store, run, now, state=State.NEW, has_begun=False)
        assert calls.take() == [0]  # it is the first still
        (run,) = await self.claimed(store, 0, 1, now=now)
        assert run.attempt == 1
        await self.end(store, run, now, state=State.FAIL, has_begun=False, error="expired", returned=run.returned)
        assert calls.take() == [1]

    async def test_who_waits_again_at_once_is_called_in_its_turn(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        now = clock.now()
        await self.insert(store, calls, needing(0), 1, "w", now)
        (run,) = await self.claimed(store, 0, now=now)
        await self.end(store, run, now, state=State.RETRY, run_state="again")
        assert calls.take() == [0]  # nobody else waits there
        (run,) = await self.claimed(store, 0, now=now)
        await self.insert(store, calls, [*needing(1), *needing(2, prio=5)], 2, "w", now)
        assert await self.claimed(store, 1, 2, now=now) == []
        await self.end(store, run, now, state=State.RETRY, run_state="again")
        assert calls.take() == [2]
        assert await self.claimed(store, 0, 1, now=now) == []
        (run,) = await self.claimed(store, 2, now=now)
        await self.end(store, run, now)
        assert calls.take() == [0]

    async def test_its_place_in_line_follows_the_priority_it_is_given_back_with(
        self, store: Store, calls: Calls, clock: FakeClock
    ) -> None:
        now = clock.now()
        await self.insert(store, calls, needing(0, 1), 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, now=now)
        await self.end(store, run, now, state=State.RETRY, run_state="interrupted", interrupted=1, prio=20000)
        assert calls.take() == [1]
        (run,) = await self.claimed(store, 1, now=now)
        await self.end(store, run, now)
        assert calls.take() == [0]
        (run,) = await self.claimed(store, 0, now=now)
        assert run.resource == "r"
        record = await store.job(run.claim.id)
        assert record is not None
        assert (record.prio, record.resource, record.error) == (20000, "r", None)

    async def test_stored_and_claimed_at_once(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        now = clock.now()
        jobs = [*needing(0, 1, claimed_at=now), *needing(2, prio=20000), a_job(3, claimed_at=now)]
        assert await self.begin(store, calls, jobs, now) == [0, 3]
        assert await self.claimed(store, 0, 1, 2, 3, now=now) == []
        assert await self.begin(
            store, calls, [*needing(4, claimed_at=now), *needing(5, claimed_at=now, resource="s")], now
        ) == [5]
        assert [await state_of(store, n) for n in range(6)] == [
            *(State.PROCESSING, State.NEW, State.NEW, State.PROCESSING, State.NEW, State.PROCESSING)
        ]
        assert calls == []
        assert (await store.counts())["mail"] == {State.PROCESSING: 3, State.NEW: 3}
        holder = await store.holder("r")
        assert holder is not None
        assert (holder.id, holder.since) == (IDS.of(FIRST), now)
        assert await store.report([a_report(a_claim(n), at=now) for n in (0, 5)]) == [True, True]
        assert calls.take() == [1]

    async def test_it_tells_whose_turn_it_is(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        now = clock.now()

        async def turn(n: int) -> str | None:
            record = await store.job(IDS.of(FIRST + n))
            assert record is not None
            first = await store.turn(record)
            return None if first is None else f"{first.id} {first.type}"

        await self.insert(store, calls, [*needing(0), *needing(1, type="fax"), *needing(2, 3), a_job(4)], 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, 2, 3, now=now)
        assert [await turn(n) for n in range(5)] == [None] * 5
        await self.end(store, run, now)
        assert calls.take() == [1]
        assert [await turn(n) for n in range(1, 5)] == [None, f"{IDS.of(FIRST + 1)} fax", f"{IDS.of(FIRST + 1)} fax", None]
        clock.advance(CALL_S)
        await store.call_on(clock.now())
        assert calls.take() == [2]
        assert [await turn(n) for n in range(1, 5)] == [None, None, f"{IDS.of(FIRST + 1)} fax", None]

    async def test_jobs_with_ids_of_their_own(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        now = clock.now()
        assert await self.begin(store, calls, [a_job(0, id="mine", resource="r", claimed_at=now)], now) == [0]
        jobs = [a_job(1, id="mine", resource="s", claimed_at=now), *needing(2, resource="s", claimed_at=now)]
        assert 1 not in await self.begin(store, calls, jobs, now)
        await self.claimed(store, 2, now=now)
        assert await state_of(store, 2) is State.PROCESSING
        holder = await store.holder("r")
        assert holder is not None
        assert holder.id == "mine"

    async def test_a_replay_changes_nothing(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        now = clock.now()
        jobs = needing(0, 1, claimed_at=now)
        assert await self.begin(store, calls, jobs, now) == [0]
        known = await store.insert(jobs, 1, "w", now)
        assert sorted(order - FIRST for order in known) == [0, 1]
        assert not known.parked
        assert await self.claimed(store, 0, 1, now=now) == []
        assert await store.report([a_report(a_claim(0), at=now)]) == [True]
        assert numbers(calls) == [1]

    async def test_what_has_ended_before_it_is_stored_needs_none(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        now = clock.now()
        (job,) = needing(0, claimed_at=now)
        job.end = a_report(a_claim(0), at=now)
        assert 1 in await self.begin(store, calls, [job, *needing(1, claimed_at=now)], now)
        assert [await state_of(store, n) for n in (0, 1)] == [State.SUCCESS, State.PROCESSING]

    async def test_what_is_delayed_has_no_turn_before_it_is_due(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        now = clock.now()
        await self.insert(store, calls, [*needing(0, due_at=now + 5), *needing(1, prio=20000)], 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, now=now)
        assert numbers([run]) == [1]
        clock.advance(5)
        assert numbers(await store.wake(clock.now(), 9)) == [0]
        assert await self.claimed(store, 0, now=clock.now()) == []
        assert await store.wake(clock.now() + 99, 9) == []
        assert await store.next_due_at() is None
        await self.end(store, run, clock.now())
        assert calls.take() == [0]
        assert numbers(await self.claimed(store, 0, now=clock.now())) == [0]

    async def test_the_first_of_all_may_be_one_that_is_delayed(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        now = clock.now()
        await self.insert(store, calls, needing(0, due_at=now + 5), 1, "w", now)
        await store.wake(now + 5, 10)
        assert [run.resource for run in await self.claimed(store, 0, now=now + 5)] == ["r"]

    async def test_a_parked_job_that_expires_leaves_the_line(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        now = clock.now()
        await self.insert(store, calls, [*needing(0, 2), *needing(1, expire_at=now + 5)], 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, 2, now=now)
        assert await store.next_expire_at() == now + 5
        assert await store.expire(now + 5, 9, None) == [IDS.of(FIRST + 1)]
        await self.end(store, run, now)
        assert calls.take() == [2]

    async def test_a_called_job_that_expires_is_followed_by_the_next(
        self, store: Store, calls: Calls, clock: FakeClock
    ) -> None:
        now = clock.now()
        await self.insert(store, calls, [*needing(0, 2), *needing(1, expire_at=now + 5)], 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, 2, now=now)
        await self.end(store, run, now)
        assert calls.take() == [1]
        await store.expire(now + 5, 9, None)
        await store.call_on(now + 5)
        assert calls.take() == [2]
        assert numbers(await self.claimed(store, 2, now=now)) == [2]

    async def test_while_others_are_parked_only_the_called_one_is_granted(
        self, store: Store, calls: Calls, clock: FakeClock
    ) -> None:
        now = clock.now()
        await self.insert(store, calls, needing(0, 1, 2), 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, 2, now=now)
        await self.end(store, run, now)
        assert calls.take() == [1]
        await self.insert(store, calls, needing(3, prio=1), 2, "w", now)
        assert await self.claimed(store, 3, 2, now=now) == []
        assert numbers(await self.claimed(store, 3, 1, 2, now=now)) == [1]

    async def test_who_was_ready_before_the_called_ones_comes_before_them(
        self, store: Store, calls: Calls, clock: FakeClock
    ) -> None:
        now = clock.now()
        await self.insert(store, calls, needing(0), 1, "w", now)
        await self.insert(store, calls, needing(1, 2), 2, "w", now)
        (run,) = await self.claimed(store, 0, now=now)
        assert await self.claimed(store, 1, 2, now=now) == []
        await self.end(store, run, now)
        assert calls.take() == [1]

    async def test_who_stood_in_line_is_not_overtaken_by_one_on_its_way_to_a_lane(
        self, store: Store, calls: Calls, clock: FakeClock
    ) -> None:
        now = clock.now()
        await self.insert(store, calls, [*needing(0, 1), *needing(2, due_at=now + 1)], 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, now=now)
        assert numbers(await store.wake(now + 1, 9)) == [2]
        await self.end(store, run, now)
        assert calls.take() == [1]
        assert await self.claimed(store, 2, now=now) == []
        (run,) = await self.claimed(store, 1, now=now)
        await self.end(store, run, now)
        assert calls.take() == [2]

    @pytest.mark.parametrize("claimed_first", [[2], [2, 1], [1, 2]])
    async def test_a_better_one_on_its_way_to_a_lane_comes_before_who_is_called(
        self, store: Store, calls: Calls, clock: FakeClock, claimed_first: list[int]
    ) -> None:
        now = clock.now()
        await self.insert(store, calls, [*needing(0, 1), *needing(2, due_at=now + 1, prio=5)], 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, now=now)
        assert numbers(await store.wake(now + 1, 9)) == [2]
        await self.end(store, run, now)
        assert calls.take() == [1]
        (run,) = await self.claimed(store, *claimed_first, now=now)
        assert numbers([run]) == [2]
        assert await self.claimed(store, 1, now=now) == []
        await self.end(store, run, now)
        assert calls.take() == [1]
        assert numbers(await self.claimed(store, 1, now=now)) == [1]

    async def test_it_comes_before_all_who_are_called_or_waits_like_them(
        self, store: Store, calls: Calls, clock: FakeClock
    ) -> None:
        now = clock.now()
        await self.insert(store, calls, needing(0), 1, "w", now)
        (run,) = await self.claimed(store, 0, now=now)
        jobs = [*needing(1, prio=5, type="idle"), *needing(2), *needing(3, due_at=now + 1, prio=7)]
        await self.insert(store, calls, jobs, 2, "w", now)
        assert await self.claimed(store, 1, 2, now=now) == []
        assert numbers(await store.wake(now + 1, 9)) == [3]
        await self.end(store, run, now)
        assert calls.take() == [1]
        clock.advance(CALL_S)
        await store.call_on(clock.now())
        assert calls.take() == [2]
        assert numbers(await self.claimed(store, 3, 2, now=now)) == [2]

    async def test_a_type_that_nobody_takes_stops_no_others(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        now = clock.now()
        jobs = [*needing(0), *needing(1, 2, type="idle"), *needing(3, type="busy"), *needing(4, type="busy")]
        await self.insert(store, calls, jobs, 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, 2, 3, 4, now=now)
        await self.end(store, run, now)
        assert calls.take() == [1]
        at = await store.call_on(now)
        assert calls.take() == []
        assert at is not None
        assert at <= now + CALL_S
        clock.advance(CALL_S)
        await store.call_on(clock.now())
        assert calls.take() == [3]
        (run,) = await self.claimed(store, 3, now=clock.now(), type="busy")
        await self.end(store, run, clock.now())
        assert calls.take() == [4]  # at once: job 1 has been called all the time
        (run,) = await self.claimed(store, 1, now=clock.now(), type="idle")  # who comes first has it
        assert numbers([run]) == [1]
        assert await self.claimed(store, 4, now=clock.now(), type="busy") == []
        await self.end(store, run, clock.now())
        assert calls.take() == [2]

    async def test_as_many_types_are_called_as_were_called_in_vain(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        jobs = [*needing(0), *(job for n in range(1, 12) for job in needing(n, type=f"idle-{n:02}"))]
        await self.insert(store, calls, jobs, 1, "w", clock.now())
        (run,) = await self.claimed(store, *range(12), now=clock.now())
        await self.end(store, run, clock.now())
        assert calls.take() == [1]
        for called in ([2], [3, 4], [5, 6, 7, 8], [9, 10, 11], []):
            clock.advance(CALL_S)
            await store.call_on(clock.now())
            assert calls.take() == called

    async def test_a_new_type_comes_by_when_others_were_called_in_vain(
        self, store: Store, calls: Calls, clock: FakeClock
    ) -> None:
        now = clock.now()
        await self.insert(store, calls, [*needing(0), *needing(1, 2, type="idle")], 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, 2, now=now)
        await self.end(store, run, now)
        assert calls.take() == [1]
        clock.advance(CALL_S)
        await store.call_on(clock.now())
        assert calls.take() == []
        await self.insert(store, calls, needing(3), 2, "w", clock.now())
        granted = await self.claimed(store, 3, now=clock.now())
        if not granted:
            clock.advance(CALL_S)
            await store.call_on(clock.now())
            assert calls.take() == [3]
            granted = await self.claimed(store, 3, now=clock.now())
        assert numbers(granted) == [3]

    async def test_a_restart_leaves_it_with_the_run_until_that_is_given_back(
        self, store: Store, calls: Calls, clock: FakeClock, reopen: Callable[[], Awaitable[Store]]
    ) -> None:
        now = clock.now()
        await self.insert(store, calls, [*needing(0, 1), a_job(2)], 1, "w", now)
        await self.claimed(store, 0, 1, 2, now=now)
        again = await reopen()
        await again.call_on(now)
        assert calls == []
        orphans = await again.orphans(9)
        assert {(n, run.resource) for n, run in zip(numbers(orphans), orphans, strict=True)} == {(0, "r"), (2, None)}
        reports = [a_report(run.claim, State.GHOST, at=now, due_at=now + 9, ghosts=1) for run in orphans]
        assert await again.report(reports) == [True, True]
        assert calls.take() == [1]
        assert numbers(await self.claimed(again, 1, now=now)) == [1]

    async def test_who_waits_again_as_the_first_thing_after_a_restart_is_called(
        self, store: Store, calls: Calls, clock: FakeClock, reopen: Callable[[], Awaitable[Store]]
    ) -> None:
        now = clock.now()
        await self.insert(store, calls, needing(0, 1), 1, "w", now)
        await self.claimed(store, 0, 1, now=now)
        again = await reopen()
        (run,) = await again.orphans(9)
        assert await again.report([a_report(run.claim, State.GHOST, at=now, ghosts=1)]) == [True]
        assert calls.take() == [0]

    async def test_what_was_called_before_a_restart_is_called_again(
        self, store: Store, calls: Calls, clock: FakeClock, reopen: Callable[[], Awaitable[Store]]
    ) -> None:
        now = clock.now()
        await self.insert(store, calls, needing(0, 1, 2), 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, 2, now=now)
        await self.end(store, run, now)
        assert calls.take() == [1]
        again = await reopen()
        ready = numbers(await again.ready("mail", None, 9))
        granted = await self.claimed(again, *ready, now=now) if ready else []
        while not granted:
            await again.call_on(clock.now())
            granted = await self.claimed(again, *calls.take(), now=now)
            clock.advance(CALL_S)
        assert numbers(granted) in ([1], [2])
        await self.end(again, granted[0], now)
        (left,) = calls.take()
        assert {left, *numbers(granted)} == {1, 2}

    async def test_a_held_run_keeps_it_over_a_restart(
        self, store: Store, calls: Calls, clock: FakeClock, reopen: Callable[[], Awaitable[Store]]
    ) -> None:
        now = clock.now()
        await self.insert(store, calls, needing(0, 1), 1, "w", now)
        await store.claim([an_entry(0), an_entry(1)], "w", now, held=True)
        again = await reopen()
        (run,) = await again.orphans(9)
        assert await again.adopt([run]) == [True]
        await again.call_on(now)
        assert await self.claimed(again, 1, now=now) == []
        assert calls == []
        await self.end(again, run, now)
        assert calls.take() == [1]

    async def test_a_damaged_job_gives_way(self, store: Store, calls: Calls, clock: FakeClock, damage: Damage) -> None:
        now = clock.now()
        await self.insert(store, calls, needing(0, 1, 2), 1, "w", now)
        (run,) = await self.claimed(store, 0, 1, 2, now=now)
        await damage(store, 1, data=b'{"n":2}')
        await self.end(store, run, now)
        assert calls.take() == [1]
        assert await self.claimed(store, 1, now=now) == []
        await store.call_on(now + CALL_S)
        assert calls.take() == [2]
        assert await state_of(store, 1) is State.FAIL

    @pytest.mark.parametrize("resource", ["s", None])
    async def test_a_damaged_resource_is_no_other_one(
        self, store: Store, calls: Calls, clock: FakeClock, damage: Damage, resource: str | None
    ) -> None:
        await self.insert(store, calls, needing(0), 1, "w", clock.now())
        await damage(store, 0, resource=resource)
        assert await self.claimed(store, 0, now=clock.now()) == []
        record = await store.job(IDS.of(FIRST))
        assert record is not None
        assert (record.state, record.error) == (State.FAIL, DAMAGED)

    async def test_many_resources_and_many_parked(self, store: Store, calls: Calls, clock: FakeClock) -> None:
        now = clock.now()
        jobs = [job for n in range(0, 900, 3) for job in needing(n, n + 1, n + 2, resource=f"r{n}", claimed_at=now)]
        assert await self.begin(store, calls, jobs, now) == list(range(0, 900, 3))
        reports: list[Report] = [a_report(a_claim(n), at=now) for n in range(0, 900, 3)]
        assert await store.report(reports) == [True] * 300
        assert sorted(calls.take()) == list(range(1, 900, 3))
        runs = await self.claimed(store, *range(900), now=now)
        assert sorted(numbers(runs)) == list(range(1, 900, 3))
