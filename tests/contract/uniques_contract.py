"""What kqs.store.base.Store promises of unique keys. For an engine's subclass of StoreContract, which supplies the fixtures."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from kqs.job import Run
from kqs.states import State
from kqs.store.base import Known, Store, Verb
from tests.contract.change_contract import FRESH, change
from tests.contract.store_contract import FIRST, IDS, Insert, MakeStore, Reopen, RunOne, a_job, a_report, an_ended, an_entry
from tests.support.jobs import listed


def joined(found: Known) -> Mapping[int, str]:
    """Return whom jobs were joined to, by number; they are all that was refused."""
    assert sorted(found) == sorted(found.joined)
    return {order - FIRST: job_id for order, job_id in found.joined.items()}


class UniquesContract:
    async def test_second_waiting_job_of_a_key_is_joined_to_the_first(self, store: Store, insert: Insert) -> None:
        assert await insert(a_job(0, unique="k"), fed_seq=1) == []
        assert joined(await insert(a_job(1, unique="k"), a_job(2, unique="l"), fed_seq=2)) == {1: IDS.of(FIRST)}
        assert await store.job(IDS.of(FIRST + 1)) is None
        assert await store.counts() == {"mail": {State.NEW: 2}}
        assert len(await store.ready("mail", None, 9)) == 2

    async def test_key_is_its_records_and_its_types(self, store: Store, insert: Insert) -> None:
        assert await insert(a_job(0, unique="k"), a_job(1, unique="k", type="sms"), a_job(2)) == []
        assert await insert(a_job(3, unique="k", type="fax"), a_job(4), a_job(5, unique="K")) == []
        records = await listed(store)
        assert [record.unique for record in records] == ["k", "k", None, "k", None, "K"]
        one = await store.job(IDS.of(FIRST))
        assert one is not None
        assert one.unique == "k"

    async def test_of_several_in_a_batch_the_first_is_stored(self, store: Store, insert: Insert) -> None:
        found = await insert(*[a_job(n, unique=f"k{n % 2}") for n in range(10)], a_job(10))
        assert joined(found) == {n: IDS.of(FIRST + n % 2) for n in range(2, 10)}
        assert await store.counts() == {"mail": {State.NEW: 3}}

    async def test_claimed_job_is_first_of_its_batch_and_does_not_wait_afterwards(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        first = a_job(0, unique="k", claimed_at=now)
        assert joined(await insert(first, a_job(1, unique="k", claimed_at=now), a_job(2, unique="k"))) == {
            1: first.id,
            2: first.id,
        }
        assert await store.counts() == {"mail": {State.PROCESSING: 1}}
        assert await insert(a_job(3, unique="k")) == []

    async def test_job_that_is_stored_with_its_end_has_its_key_for_nobody_of_its_batch(
        self, store: Store, insert: Insert, now: float
    ) -> None:
        ended = an_ended(0, at=now, unique="k")
        assert joined(await insert(ended, a_job(1, unique="k"), a_job(2, unique="k"))) == {2: IDS.of(FIRST + 1)}

    @pytest.mark.parametrize("waits", ["ready", "later", "woken"])
    async def test_running_job_does_not_wait_and_a_delayed_one_does(
        self, store: Store, insert: Insert, now: float, waits: str
    ) -> None:
        await insert(a_job(0, unique="k", due_at=0.0 if waits == "ready" else now + 5))
        if waits == "woken":
            await store.wake(now + 5, 9)
        assert joined(await insert(a_job(1, unique="k"))) == {1: IDS.of(FIRST)}
        if waits == "later":
            await store.wake(now + 5, 9)
        assert len(await store.claim([an_entry(0)], "w", now)) == 1
        assert await insert(a_job(2, unique="k")) == []
        assert joined(await insert(a_job(3, unique="k"))) == {3: IDS.of(FIRST + 2)}

    @pytest.mark.parametrize("state", [State.RETRY, State.GHOST])
    @pytest.mark.parametrize("due_in_s", [0.0, 60.0])
    async def test_job_that_waits_again_has_its_key_again(
        self, store: Store, run_one: RunOne, insert: Insert, now: float, state: State, due_in_s: float
    ) -> None:
        run: Run = await run_one(0, unique="k")
        await store.report([a_report(run.claim, state, "fail", at=now, due_at=due_in_s and now + due_in_s)])
        assert joined(await insert(a_job(1, unique="k"))) == {1: run.claim.id}

    async def test_job_that_waits_again_stands_beside_one_that_was_made_meanwhile(
        self, store: Store, run_one: RunOne, insert: Insert, now: float
    ) -> None:
        run: Run = await run_one(0, unique="k")
        assert await insert(a_job(1, unique="k")) == []
        assert await store.report([a_report(run.claim, State.RETRY, "fail", at=now)]) == [True]
        assert joined(await insert(a_job(2, unique="k"))) == {2: IDS.of(FIRST)}
        assert len(await store.claim([an_entry(1)], "w", now)) == 1
        assert joined(await insert(a_job(3, unique="k"))) == {3: IDS.of(FIRST)}
        assert len(await store.claim([an_entry(0)], "w", now)) == 1
        assert await insert(a_job(4, unique="k")) == []

    async def test_run_that_never_began_leaves_its_job_waiting(
        self, store: Store, run_one: RunOne, insert: Insert, now: float
    ) -> None:
        run: Run = await run_one(0, unique="k")
        await store.report([a_report(run.claim, State.NEW, at=now, has_begun=False)])
        assert joined(await insert(a_job(1, unique="k"))) == {1: run.claim.id}

    @pytest.mark.parametrize("state", [State.SUCCESS, State.FAIL, State.CANCELLED])
    async def test_ended_job_does_not_wait(
        self, store: Store, run_one: RunOne, insert: Insert, now: float, state: State
    ) -> None:
        run: Run = await run_one(0, unique="k")
        await store.report([a_report(run.claim, state, at=now)])
        assert await insert(a_job(1, unique="k")) == []
        assert joined(await insert(a_job(2, unique="k"))) == {2: IDS.of(FIRST + 1)}

    @pytest.mark.parametrize("is_ended", [False, True])
    async def test_expired_job_does_not_wait_even_before_it_is_ended(
        self, store: Store, insert: Insert, now: float, is_ended: bool
    ) -> None:
        await insert(a_job(0, unique="k", expire_at=now))
        if is_ended:
            await store.expire(now, 9, None)
        assert await insert(a_job(1, unique="k")) == []
        assert joined(await insert(a_job(2, unique="k"))) == {2: IDS.of(FIRST + 1)}

    async def test_job_that_will_expire_waits(self, insert: Insert, now: float) -> None:
        await insert(a_job(0, unique="k", expire_at=now + 1))
        assert joined(await insert(a_job(1, unique="k"))) == {1: IDS.of(FIRST)}

    async def test_known_id_is_known_before_its_key_is_asked_for(
        self, store: Store, run_one: RunOne, insert: Insert, now: float
    ) -> None:
        await insert(a_job(0, id="mine", unique="k"), a_job(1, unique="l"))
        again = await insert(
            a_job(2, id="mine", unique="k"), a_job(3, id="mine", unique="l"), a_job(4, id=IDS.of(FIRST + 1), unique="l")
        )
        assert (sorted(again), again.joined) == ([FIRST + 2, FIRST + 3, FIRST + 4], {})

    async def test_job_of_a_known_id_does_not_have_its_key(
        self, store: Store, run_one: RunOne, insert: Insert, now: float
    ) -> None:
        run: Run = await run_one(0)
        await insert(a_job(1, id="mine"))
        found = await insert(a_job(2, id="mine", unique="k"), a_job(3, id=run.claim.id, unique="k"), a_job(4, unique="k"))
        assert (sorted(found), found.joined) == ([FIRST + 2, FIRST + 3], {})
        assert joined(await insert(a_job(5, id="other", unique="k"))) == {5: IDS.of(FIRST + 4)}
        assert await insert(a_job(6, id="other")) == []

    async def test_same_id_and_key_twice_in_a_batch_is_known(self, insert: Insert) -> None:
        found = await insert(a_job(0, id="mine", unique="k"), a_job(1, id="mine", unique="k"), a_job(2, id="other", unique="k"))
        assert (sorted(found), found.joined) == ([FIRST + 1, FIRST + 2], {FIRST + 2: "mine"})

    @pytest.mark.parametrize("batch", [1, 9])
    @pytest.mark.parametrize(
        ("jobs", "made", "joined_to"),
        [
            ("x:k x", "0", {}),
            ("x x:k", "0", {}),
            ("x:k x:l", "0", {}),
            ("x:k x x:l x y:l x:k y", "0 4", {}),
            ("a:k x:k x", "0 2", {1: "a"}),
            ("a:k x:k x:l x x:k", "0 2", {1: "a"}),
            ("x:w x:w x", "2", {0: "waits", 1: "waits"}),
            ("x:w x:v x:k", "2", {0: "waits", 1: "waits too"}),
            ("x:w y:v x:k y:k y", "2 4", {0: "waits", 1: "waits too", 3: "x"}),
            ("there:k there there:w x:k", "3", {}),
        ],
    )
    async def test_of_each_id_one_job_is_made_as_if_they_came_one_by_one(
        self, store: Store, insert: Insert, jobs: str, made: str, joined_to: dict[int, str], batch: int
    ) -> None:
        await insert(a_job(-3, id="there"), a_job(-2, id="waits", unique="w"), a_job(-1, id="waits too", unique="v"))
        given = []
        for number, (id_, _, key) in enumerate(one.partition(":") for one in jobs.split()):
            given.append(a_job(number, id=id_, unique=key or None, data=b"%d" % number))
        known: set[int] = set()
        joined: dict[int, str] = {}
        for begin in range(0, len(given), batch):
            found = await insert(*given[begin : begin + batch])
            assert len(set(found)) == len(found)
            known |= set(found)
            joined |= found.joined
        assert {number for number in range(len(given)) if FIRST + number not in known} == set(map(int, made.split()))
        assert {order - FIRST: job_id for order, job_id in joined.items()} == joined_to
        records = await listed(store)
        data = [record.data or b"" for record in records]
        assert sorted(one for one in data if one.isdigit()) == sorted(made.encode().split())

    async def test_hundreds_of_keys_under_one_id_are_decided_in_a_few_rounds(self, store: Store, insert: Insert) -> None:
        await insert(*[a_job(n, unique=f"k{n}") for n in range(200)])
        found = await insert(*[a_job(200 + n, id="x", unique=f"k{n}") for n in range(400)])
        assert len(found.joined) == 200
        assert len(found) == 399
        record = await store.job("x")
        assert record is not None
        assert record.unique == "k200"

    async def test_known_order_is_no_conflict(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0, unique="k"))
        again = await insert(a_job(0, unique="k"), a_job(1, unique="k"))
        assert (sorted(again), again.joined) == ([FIRST, FIRST + 1], {FIRST + 1: IDS.of(FIRST)})
        await store.claim([an_entry(0)], "w", now)
        again = await insert(a_job(0, unique="k"))
        assert (again, again.joined) == ([FIRST], {})
        assert await insert(a_job(2, unique="k")) == []

    async def test_id_that_makes_room_frees_its_key(self, store: Store, run_one: RunOne, insert: Insert, now: float) -> None:
        run: Run = await run_one(0, unique="k")
        await store.report([a_report(run.claim, at=now, drop_at=now)])
        again = a_job(9, id=run.claim.id, unique="k", accepted_at=now)
        assert await store.insert([again], 1, "w", now) == []
        assert joined(await store.insert([a_job(10, unique="k")], 1, "w", now)) == {10: again.id}

    async def test_swept_job_leaves_nothing(self, store: Store, run_one: RunOne, insert: Insert, now: float) -> None:
        run: Run = await run_one(0, unique="k")
        await store.report([a_report(run.claim, at=now, drop_at=now)])
        assert await store.sweep(now, 9, FIRST + 1) == 1
        assert await insert(a_job(1, unique="k")) == []
        assert joined(await insert(a_job(2, unique="k"))) == {2: IDS.of(FIRST + 1)}

    async def test_what_was_joined_is_fed_after_a_sync(self, store: Store, insert: Insert, reopen: Reopen, now: float) -> None:
        await insert(a_job(0, unique="k"), fed_seq=1)
        await insert(a_job(1, unique="k"), fed_seq=2)
        assert await store.sync() == 2
        again, info = await reopen()
        assert info.fed_seq == 2
        assert joined(await again.insert([a_job(2, unique="k")], 3, "w", now)) == {2: IDS.of(FIRST)}
        assert await again.counts() == {"mail": {State.NEW: 1}}

    async def test_keys_outlive_a_reopening(
        self, store: Store, run_one: RunOne, insert: Insert, reopen: Reopen, now: float
    ) -> None:
        run: Run = await run_one(0, unique="k")
        await insert(a_job(1, unique="l"))
        again, _ = await reopen()
        assert [orphan.claim for orphan in await again.orphans(9)] == [run.claim]
        await again.report([a_report(run.claim, State.GHOST, at=now)])
        found = await again.insert([a_job(2, unique="k"), a_job(3, unique="l")], 3, "w", now)
        assert joined(found) == {2: run.claim.id, 3: IDS.of(FIRST + 1)}

    async def test_many_inserts_at_once_make_one_job(self, store: Store, now: float) -> None:
        found = await asyncio.gather(*[store.insert([a_job(n, unique="k")], n, "w", now) for n in range(100)])
        (made,) = [n for n, one in enumerate(found) if not one]
        assert all(joined(one) == {n: IDS.of(FIRST + made)} for n, one in enumerate(found) if n != made)
        assert await store.counts() == {"mail": {State.NEW: 1}}

    async def test_job_that_waits_for_its_resource_waits(self, store: Store, insert: Insert, now: float) -> None:
        await insert(a_job(0, resource="r"))
        await store.claim([an_entry(0)], "w", now)
        found = await insert(a_job(1, unique="k", resource="r"), a_job(2, unique="k"))
        assert (list(found.parked), found.joined) == ([FIRST + 1], {FIRST + 2: IDS.of(FIRST + 1)})
        assert joined(await insert(a_job(3, unique="k", claimed_at=now))) == {3: IDS.of(FIRST + 1)}

    async def test_large_batches_of_keys_are_stored_whole(self, store: Store, insert: Insert, make_store: MakeStore) -> None:
        assert await insert(*[a_job(n, unique=f"k{n}") for n in range(1000)]) == []
        found = await insert(*[a_job(1000 + n, unique=f"k{n}") for n in range(1500)])
        assert len(joined(found)) == 1000
        assert await store.counts() == {"mail": {State.NEW: 1500}}


class ChangedUniquesContract:
    """As above, of what owners ask."""

    @pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.DELETE])
    async def test_cancelled_or_deleted_job_does_not_wait(self, store: Store, insert: Insert, now: float, verb: Verb) -> None:
        await insert(a_job(0, unique="k"))
        await change(store, verb, now=now)
        assert await insert(a_job(1, unique="k")) == []
        assert joined(await insert(a_job(2, unique="k"))) == {2: IDS.of(FIRST + 1)}

    async def test_retried_job_has_its_key_again_though_no_other_job_has_one(
        self, store: Store, run_one: RunOne, insert: Insert, reopen: Reopen, now: float
    ) -> None:
        run: Run = await run_one(0, unique="k")
        await store.report([a_report(run.claim, State.FAIL, at=now)])
        assert await insert(a_job(1, unique="k")) == []
        (other,) = await store.claim([an_entry(1)], "w", now)
        await store.report([a_report(other.claim, at=now, drop_at=now)])
        assert await store.sweep(now, 9, FIRST + 2) == 1
        again, _ = await reopen()
        await change(again, Verb.RETRY, now=now)
        assert joined(await again.insert([a_job(2, unique="k")], 3, "w", now)) == {2: run.claim.id}

    @pytest.mark.parametrize("is_used", [False, True])
    async def test_retried_job_has_its_key_again(
        self, store: Store, run_one: RunOne, insert: Insert, now: float, is_used: bool
    ) -> None:
        run: Run = await run_one(0, unique="k")
        await store.report([a_report(run.claim, State.FAIL, at=now)])
        if is_used:
            assert await insert(a_job(1, unique="k")) == []
            await store.claim([an_entry(1)], "w", now)
        await change(store, Verb.RETRY, now=now)
        assert joined(await insert(a_job(2, unique="k"), a_job(3, unique="k"))) == {2: run.claim.id, 3: run.claim.id}
        (again,) = await store.claim([an_entry(FRESH - FIRST, id=run.claim.id)], "w", now)
        assert again.claim.id == run.claim.id
        assert await insert(a_job(4, unique="k")) == []
        await store.report([a_report(again.claim, State.RETRY, "fail", at=now)])
        found = await insert(a_job(5, unique="k"))
        assert list(found.joined) == [FIRST + 5]
