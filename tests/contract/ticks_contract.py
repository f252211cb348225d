"""What kqs.store.base.Store promises of schedules. For an engine's subclass of StoreContract, which supplies the fixtures."""

from __future__ import annotations

from typing import Unpack

import msgspec

from kqs.job import Accepted
from kqs.store.base import Passed, Schedule, Store
from kqs.store.ticks import Plan, tick_of
from tests.contract.changes import JobChanges, ScheduleChanges
from tests.contract.store_contract import FIRST, Insert, Reopen, a_job, a_report, an_entry, numbers


def a_schedule(name: str = "nightly", *, since: float, revision: int = 1, **changes: Unpack[ScheduleChanges]) -> Schedule:
    one = Schedule(name, Plan(job='{"type":"mail"}', every=60.0), "call", since, since, revision)
    return msgspec.structs.replace(one, **changes)


def a_tick(n: int, at: float, name: str = "nightly", **changes: Unpack[JobChanges]) -> Accepted:
    of_job: JobChanges = {"id": tick_of(name, at), "tick": at, **changes}
    return a_job(n, **of_job)


async def kept(store: Store, name: str = "nightly") -> Schedule:
    (one,) = await store.schedules([name])
    return one


class TicksContract:
    async def test_schedules_are_kept_by_name(self, store: Store, reopen: Reopen, now: float) -> None:
        assert await store.schedules() == []
        one, other = a_schedule(since=now), a_schedule("b", since=now, revision=2)
        assert await store.put_schedule(one) == one
        assert await store.put_schedule(other) == other
        assert await store.schedules() == [other, one]
        assert await store.schedules(["b", "none"]) == [other]
        again, _ = await reopen()
        assert await again.schedules() == [other, one]

    async def test_replaced_one_keeps_what_it_has_done(self, store: Store, insert: Insert, now: float) -> None:
        await store.put_schedule(a_schedule(since=now))
        await insert(a_tick(0, now + 60))
        await store.suspend_schedule("nightly", now + 70, 0.0)
        new = a_schedule(since=now + 80, revision=2, plan=Plan(job="{}", cron="@daily"))
        assert await store.put_schedule(new) == msgspec.structs.replace(
            new, passed_at=now + 60, tick_at=now + 60, suspended_at=now + 70
        )

    async def test_replaced_one_does_not_wait_for_a_clock_that_was_ahead(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        await store.put_schedule(a_schedule(since=now))
        await insert(a_tick(0, now + 1e6))
        assert (await store.put_schedule(a_schedule(since=now + 5, revision=2))).passed_at == 0.0

    async def test_one_that_another_server_has_too_goes_on_from_where_it_is(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        one = a_schedule(since=now, origin="config")
        await store.put_schedule(one, "aaaaaaaa")
        await insert(a_tick(0, now + 60))
        again = await store.put_schedule(one, "bbbbbbbb")
        assert (again.passed_at, again.tick_at) == (now + 60, now + 60)
        assert again.nodes == {"aaaaaaaa", "bbbbbbbb"}

    async def test_removed_one_is_gone(self, store: Store, now: float) -> None:
        await store.put_schedule(a_schedule(since=now))
        assert await store.remove_schedule("nightly") is True
        assert await store.remove_schedule("nightly") is False
        assert await store.schedules() == []

    async def test_one_of_the_config_stays_as_long_as_a_server_has_it(self, store: Store, now: float) -> None:
        one = a_schedule(since=now, origin="config")
        await store.put_schedule(one, "aaaaaaaa")
        assert (await store.put_schedule(one, "bbbbbbbb")).nodes == {"aaaaaaaa", "bbbbbbbb"}
        assert await store.remove_schedule("nightly", "cccccccc") is False
        assert await store.remove_schedule("nightly", "aaaaaaaa") is True
        assert (await kept(store)).nodes == {"bbbbbbbb"}
        assert await store.remove_schedule("nightly", "bbbbbbbb") is True
        assert await store.schedules() == []

    async def test_suspension_is_kept_and_ticks_count_from_its_end(self, store: Store, now: float) -> None:
        assert await store.suspend_schedule("nightly", now, 0.0) is None
        await store.put_schedule(a_schedule(since=now))
        assert (await store.suspend_schedule("nightly", now + 1, 0.0)) == a_schedule(since=now, suspended_at=now + 1)
        assert (await store.suspend_schedule("nightly", now + 2, 0.0)) == a_schedule(since=now, suspended_at=now + 1)
        resumed = msgspec.structs.replace(a_schedule(since=now), since=now + 3)
        assert (await store.suspend_schedule("nightly", None, now + 3)) == resumed
        assert (await store.suspend_schedule("nightly", None, now + 4)) == resumed

    async def test_stored_tick_moves_its_schedule_on(self, store: Store, insert: Insert, now: float) -> None:
        await store.put_schedule(a_schedule(since=now))
        await store.put_schedule(a_schedule("other", since=now))
        assert await insert(a_tick(0, now + 60), a_tick(1, now + 120), a_tick(2, now + 60, "other"), a_job(3)) == []
        assert await kept(store) == a_schedule(since=now, passed_at=now + 120, tick_at=now + 120)
        assert await kept(store, "other") == a_schedule("other", since=now, passed_at=now + 60, tick_at=now + 60)

    async def test_tick_is_stored_once_even_if_no_record_is_left(self, store: Store, insert: Insert, now: float) -> None:
        await store.put_schedule(a_schedule(since=now))
        await insert(a_tick(0, now + 60), a_tick(1, now + 120))
        runs = await store.claim([an_entry(0, id=tick_of("nightly", now + 60))], "w", now)
        await store.report([a_report(runs[0].claim, at=now, drop_at=now)])
        await store.sweep(now, 9, FIRST + 99)
        known = await insert(a_tick(5, now + 60), a_tick(6, now + 120), a_tick(7, now + 180), a_job(8))
        assert sorted(order - FIRST for order in known) == [5, 6]
        assert await kept(store) == a_schedule(since=now, passed_at=now + 180, tick_at=now + 180)

    async def test_tick_without_a_schedule_is_a_job_like_any_other(self, store: Store, insert: Insert, now: float) -> None:
        assert await insert(a_tick(0, now + 60)) == []
        assert sorted(await insert(a_tick(1, now + 60))) == [FIRST + 1]
        assert numbers(await store.ready("mail", None, 9)) == [0]

    async def test_replayed_tick_changes_nothing(self, store: Store, insert: Insert, reopen: Reopen, now: float) -> None:
        await store.put_schedule(a_schedule(since=now))
        await insert(a_tick(0, now + 60), a_tick(1, now + 120))
        again, _ = await reopen()
        await again.insert([a_tick(0, now + 60), a_tick(1, now + 120), a_tick(2, now + 180)], 1, "w", now)
        assert numbers(await again.ready("mail", None, 9)) == [0, 1, 2]

    async def test_client_may_have_taken_the_id_of_a_tick(self, store: Store, insert: Insert, now: float) -> None:
        await store.put_schedule(a_schedule(since=now))
        await insert(a_job(0, id=tick_of("nightly", now + 60)))
        assert sorted(await insert(a_tick(1, now + 60))) == [FIRST + 1]
        assert await insert(a_tick(2, now + 120)) == []

    async def test_instants_are_passed_without_a_job_by_whoever_knows_how_far_it_is(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        await store.put_schedule(a_schedule(since=now))
        first = Passed("nightly", 1, 0.0, now + 120, 2, 1)
        assert await store.pass_ticks([first, Passed("none", 1, 0.0, now, 1, 0)]) == [True, False]
        assert await kept(store) == a_schedule(since=now, passed_at=now + 120, missed=2, skipped=1)
        assert await store.pass_ticks([Passed("nightly", 1, 0.0, now + 180, 3, 0)]) == [False]
        assert await store.pass_ticks([Passed("nightly", 2, now + 120, now + 180, 3, 0)]) == [False]
        assert (await kept(store)).missed == 2
        assert sorted(await insert(a_tick(0, now + 120))) == [FIRST]

    async def test_changes_are_told_where_others_may_have_made_them(self, store: Store, insert: Insert, now: float) -> None:
        seen = {await store.schedule_changes()}
        for change in (
            lambda: store.put_schedule(a_schedule(since=now)),
            lambda: store.suspend_schedule("nightly", now, 0.0),
            lambda: store.suspend_schedule("nightly", None, now),
            lambda: store.remove_schedule("nightly"),
        ):
            await change()
            seen.add(await store.schedule_changes())
        assert len(seen) == (5 if store.is_shared else 1)
