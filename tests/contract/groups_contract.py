"""What kqs.store.base.Store promises about groups, as tests. An engine's subclass supplies `make_store`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Unpack

import pytest

from kqs.filter import Filter
from kqs.job import Accepted, After, Entry
from kqs.states import WAITING, State
from kqs.store import base
from kqs.store import change as changing
from kqs.store.base import Store, Verb
from kqs.store.rotation import Terms, Turn, Turned
from tests.contract.change_contract import change
from tests.contract.changes import JobChanges
from tests.contract.store_contract import FIRST, IDS, JOURNAL, NODE, MakeStore, a_job, a_report, an_entry, numbers


def of(group: str | None, /, *orders: int, **changes: Unpack[JobChanges]) -> list[Accepted]:
    of_job: JobChanges = {"group": group, **changes}
    return [a_job(n, **of_job) for n in orders]


class GroupsContract:
    async def in_turn(
        self,
        store: Store,
        turn: Turn = Turn(),  # noqa: B008 - it cannot be changed
        count: int = 100,
        *,
        weights: Mapping[str, int] | None = None,
        most: Mapping[str, int] | None = None,
        passed: list[int] | None = None,
        plain: int = 0,
    ) -> Turned:
        orders = frozenset(FIRST + n for n in passed or ())
        return await store.in_turn("mail", turn, count, Terms(weights or {}, most or {}, orders, plain))

    async def test_groups_have_their_turns_one_after_the_other(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, 1, 2), *of("b", 3, 4, 5), *of("c", 6)], 1, "w", now)
        found = await self.in_turn(store, count=6)
        assert numbers(found.entries) == [0, 3, 6, 1, 4]  # as many of each group as all could need
        assert [entry.group for entry in found.entries] == ["a", "b", "c", "a", "b"]
        assert found.turn == Turn("b", 0)

    async def test_the_next_look_goes_on_behind_the_last_turn(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, 1), *of("b", 2, 3), *of("c", 4)], 1, "w", now)
        turn, seen = Turn(), list[int]()
        for _ in range(5):
            found = await self.in_turn(store, turn, 1)
            (entry,) = found.entries
            await store.claim([entry], "w", now)
            seen += numbers([entry])
            turn = found.turn
        assert seen == [0, 2, 4, 1, 3]
        assert await self.in_turn(store, turn) == Turned([], 0, turn, True)

    @pytest.mark.parametrize("count", [1, 3, 5])
    async def test_few_groups_of_many_jobs_stand_among_many_of_few(self, store: Store, now: float, count: int) -> None:
        lengths = {"a": 1, "b": 90, "c": 1, "d": 2, "e": 8}
        jobs = {name: [100 * at + n for n in range(length)] for at, (name, length) in enumerate(lengths.items())}
        await store.insert([job for name, orders in jobs.items() for job in of(name, *orders)], 1, "w", now)
        expected = [orders[n] for n in range(5) for orders in jobs.values() if n < len(orders)]
        turn, seen = Turn(), list[int]()
        while len(seen) < len(expected):
            found = await self.in_turn(store, turn, count)
            assert len(found.entries) == count
            await store.claim(found.entries, "w", now)
            seen += numbers(found.entries)
            turn = found.turn
        assert seen[: len(expected)] == expected

    async def test_no_group_has_a_second_turn_before_another_has_its_first(self, store: Store, now: float) -> None:
        groups, jobs = 100, 4
        names = [f"g{n:03}" for n in range(groups)]
        await store.insert(
            [job for at, n in enumerate(names) for job in of(n, *range(jobs * at, jobs * (at + 1)))], 1, "w", now
        )
        await store.insert(of("last", groups * jobs), 2, "w", now)
        turn, seen, count = Turn(), list[Entry](), 3 * groups
        while len(seen) < count:
            found = await self.in_turn(store, turn, count - len(seen), passed=numbers(seen))
            seen += found.entries
            turn = found.turn
        assert [entry.group for entry in seen] == [*names, "last", *names, *names[: groups - 1]]

    async def test_within_a_group_priority_counts_then_age(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, 1), *of("a", 2, prio=5), *of("b", 3)], 1, "w", now)
        assert numbers((await self.in_turn(store)).entries) == [2, 3, 0, 1]

    async def test_a_group_has_as_many_in_its_turn_as_it_weighs(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, 1, 2, 3, 4, 5), *of("b", 6, 7, 8)], 1, "w", now)
        weights = {"a": 3}
        found = await self.in_turn(store, count=8, weights=weights)
        assert numbers(found.entries) == [0, 1, 2, 6, 3, 4, 5, 7]
        turn, seen = Turn(), list[int]()
        for _ in range(8):
            one = await self.in_turn(store, turn, 1, weights=weights, passed=seen)
            seen += numbers(one.entries)
            turn = one.turn
        assert seen == [0, 1, 2, 6, 3, 4, 5, 7]

    async def test_those_without_a_group_are_one_group(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, 1), *of("b", 2, 3), *of(None, 4, 5)], 1, "w", now)
        found = await self.in_turn(store, count=6, plain=6)
        assert (numbers(found.entries), found.plain) == ([0, 2, 1, 3], 2)
        assert numbers(await store.ready("mail", None, 10)) == [4, 5]
        plain_only = await self.in_turn(store, Turn("b"), 1, plain=6)
        assert (plain_only.entries, plain_only.plain, plain_only.turn) == ([], 1, Turn("", 0))

    async def test_what_is_on_its_way_is_passed(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, 1, 2), *of("b", 3)], 1, "w", now)
        assert numbers((await self.in_turn(store, passed=[0, 3])).entries) == [1, 2]

    async def test_a_group_that_may_have_no_more_is_left_out(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, 1, 2), *of("b", 3, 4), *of("c", 5)], 1, "w", now)
        assert numbers((await self.in_turn(store, most={"a": 0, "b": 1})).entries) == [3, 5]
        assert numbers((await self.in_turn(store, count=1, most={"a": 0})).entries) == [3]
        assert (await self.in_turn(store, most=dict.fromkeys("abc", 0))).is_all

    async def test_a_claimed_job_is_in_no_line_and_comes_back_to_it(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, 1), *of("b", 2)], 1, "w", now)
        run, other = await store.claim([an_entry(0), an_entry(2)], "w", now)
        assert (run.group, other.group) == ("a", "b")
        assert numbers((await self.in_turn(store)).entries) == [1]
        again = a_report(run.claim, State.RETRY, "again", at=now)
        unbegun = a_report(other.claim, State.NEW, at=now, has_begun=False)
        assert await store.report([again, unbegun]) == [True, True]
        assert numbers((await self.in_turn(store)).entries) == [0, 2, 1]
        assert await store.ready("mail", None, 10) == []

    async def test_a_job_that_comes_back_is_before_those_that_came_later(self, store: Store, now: float) -> None:
        await store.insert(of("a", 0, 1, 2), 1, "w", now)
        assert numbers((await self.in_turn(store)).entries) == [0, 1, 2]
        first, second = await store.claim([an_entry(0), an_entry(1)], "w", now)
        assert numbers((await self.in_turn(store)).entries) == [2]
        assert await store.report([a_report(second.claim, State.RETRY, "again", at=now)]) == [True]
        assert numbers((await self.in_turn(store)).entries) == [1, 2]
        assert await store.report([a_report(first.claim, State.RETRY, "again", at=now, prio=20000)]) == [True]
        assert numbers((await self.in_turn(store)).entries) == [1, 2, 0]

    async def test_a_job_that_is_to_come_back_later_stands_by_its_new_priority(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, 1), *of("b", 2)], 1, "w", now)
        (run,) = await store.claim([an_entry(0)], "w", now)
        assert await store.report([a_report(run.claim, State.RETRY, "again", at=now, due_at=now + 5, prio=20000)]) == [True]
        (woken,) = await store.wake(now + 5, 10)
        assert (numbers([woken]), woken.prio) == ([0], 20000)
        assert numbers((await self.in_turn(store)).entries) == [1, 2, 0]

    async def test_who_comes_later_with_a_better_priority_is_first(self, store: Store, now: float) -> None:
        await store.insert(of("a", 0, 1), 1, "w", now)
        assert numbers((await self.in_turn(store, count=1)).entries) == [0]
        await store.insert([*of("a", 2, prio=5), *of("a", 3)], 2, "w", now)
        assert numbers((await self.in_turn(store)).entries) == [2, 0, 1, 3]

    async def test_who_waited_for_another_is_met_in_a_line_that_was_looked_at(self, store: Store, now: float) -> None:
        parent = a_job(0)
        await store.insert([parent, *of("a", 1, after=After((parent.id,))), *of("a", 2)], 1, "w", now)
        assert numbers((await self.in_turn(store)).entries) == [2]
        (run,) = await store.claim([an_entry(0)], "w", now)
        assert await store.report([a_report(run.claim, at=now)]) == [True]
        await store.follow(now, None)
        assert numbers((await self.in_turn(store)).entries) == [1, 2]

    async def test_who_was_cancelled_or_deleted_has_no_turn(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, 1, 2, 3), *of("b", 4)], 1, "w", now)
        assert numbers((await self.in_turn(store, count=2)).entries) == [0, 4]
        await change(store, Verb.CANCEL, Filter(ids=(IDS.of(FIRST), IDS.of(FIRST + 4))), now=now)
        await change(store, Verb.DELETE, Filter(ids=(IDS.of(FIRST + 2),)), now=now)
        assert numbers((await self.in_turn(store)).entries) == [1, 3]

    async def test_jobs_are_claimed_in_any_order(self, store: Store, now: float) -> None:
        await store.insert(of("a", *range(8)), 1, "w", now)
        for taken, left in (((3, 1), [0, 2, 4, 5, 6, 7]), ((7, 0), [2, 4, 5, 6]), ((2, 4, 5, 6), [])):
            await self.in_turn(store, count=4)
            await store.claim([an_entry(n) for n in taken], "w", now)
            assert numbers((await self.in_turn(store)).entries) == left

    async def test_a_job_comes_to_its_line_when_it_is_due(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, due_at=now + 5), *of("b", 1)], 1, "w", now)
        assert numbers((await self.in_turn(store)).entries) == [1]
        (woken,) = await store.wake(now + 5, 10)
        assert (numbers([woken]), woken.group) == ([0], "a")
        assert numbers((await self.in_turn(store)).entries) == [0, 1]
        assert await store.ready("mail", None, 10) == []

    async def test_a_job_that_is_called_for_its_resource_comes_to_its_line(self, store: Store, now: float) -> None:
        called: list[Entry] = []
        store.on_called = called.extend
        await store.insert(of("a", 0, resource="r"), 1, "w", now)
        (run,) = await store.claim([an_entry(0)], "w", now)
        await store.insert(of("b", 1, resource="r"), 2, "w", now)
        called.clear()
        assert await store.report([a_report(run.claim, at=now)]) == [True]
        assert [(*numbers([entry]), entry.group) for entry in called] == [(1, "b")]
        assert numbers((await self.in_turn(store)).entries) == [1]

    async def test_changes_find_what_stands_in_lines(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, 1), *of("b", 2), *of(None, 3)], 1, "w", now)
        done = await change(store, Verb.CANCEL, Filter(type="mail", states=WAITING), now=now)
        assert sorted(done.numbers) == [0, 1, 2, 3]
        assert (await self.in_turn(store)).entries == []

    async def test_slices_of_a_change_go_on_from_group_to_group(
        self, store: Store, now: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(changing, "SLICE", 2)
        names = [f"g{n % 7}" for n in range(30)]
        await store.insert([a_job(n, group=name, prio=n % 3) for n, name in enumerate(names)], 1, "w", now)
        looked_at = await change(store, Verb.DELETE, Filter(type="mail", states=WAITING), now=now, is_dry=True)
        assert sorted(looked_at.numbers) == list(range(30))
        assert sorted((await change(store, Verb.DELETE, Filter(states=WAITING), now=now)).numbers) == list(range(30))

    async def test_a_retried_job_comes_to_the_tail_of_its_line(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, 1)], 1, "w", now)
        (run,) = await store.claim([an_entry(0)], "w", now)
        await store.report([a_report(run.claim, State.FAIL, at=now)])
        done = await change(store, Verb.RETRY, now=now + 1, first_order=FIRST + 100)
        assert [(entry.order - FIRST, entry.group) for entry in done.ready] == [(100, "a")]
        assert [entry.order - FIRST for entry in (await self.in_turn(store)).entries] == [1, 100]

    async def test_looks_make_no_tasks_that_a_handler_could_find_or_refuse(self, store: Store, now: float) -> None:
        def refuse(*_: Any, **__: Any) -> asyncio.Task[Any]:
            raise ZeroDivisionError

        await store.insert([*of("a", 0, 1), *of("b", 2, 3)], 1, "w", now)
        loop = asyncio.get_running_loop()
        loop.set_task_factory(refuse)
        try:
            assert await store.grouped_types(["mail", "other"]) == ["mail"]
            assert list(await store.oldest(["mail", "other"], 1)) == ["mail"]
            assert numbers((await self.in_turn(store)).entries) == [0, 2, 1, 3]
        finally:
            loop.set_task_factory(None)

    async def test_it_is_told_of_which_types_there_are_lines(self, store: Store, now: float) -> None:
        assert await store.grouped_types(["mail", "other"]) == []
        await store.insert([*of("a", 0), *of(None, 1, type="other")], 1, "w", now)
        assert await store.grouped_types(["mail", "other", "third"]) == ["mail"]

    async def test_before_counts_within_the_group(self, store: Store, now: float) -> None:
        await store.insert([*of("a", 0, 1, 2), *of("a", 3, prio=1), *of("b", 4), *of(None, 5, 6)], 1, "w", now)
        assert await store.before("mail", (10000, FIRST + 2), 10, "a") == 3
        assert await store.before("mail", (10000, FIRST + 4), 10, "b") == 0
        assert await store.before("mail", (10000, FIRST + 6), 10) == 1

    async def test_the_oldest_may_stand_in_a_line(self, store: Store, now: float) -> None:
        await store.insert(
            [*of("b", 0, accepted_at=5.0), *of("a", 1, accepted_at=7.0), *of(None, 2, accepted_at=9.0)], 1, "w", now
        )
        assert await store.oldest(["mail", "other"], 1) == {"mail": 7.0}  # of so many groups
        assert await store.oldest(["mail", "other"], 16) == {"mail": 5.0}
        await store.claim([an_entry(1)], "w", now)
        assert await store.oldest(["mail", "other"], 1) == {"mail": 5.0}

    async def test_the_first_in_line_are_the_oldest_of_all_groups_whatever_their_priority(
        self, store: Store, now: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        late = [*of("a", 6, prio=1), *of("b", 4), *of(None, 2), *of("c", 3), *of("c", 5, prio=8)]
        await store.insert([*of("a", 0, prio=9), *of("b", 1, prio=9), *late, *of("d", 7, type="other")], 1, "w", now)
        for lines in (99, 3, 1):
            monkeypatch.setattr(base, "LINE_PRIOS", lines)
            for most in (1, 3, 9):
                assert await store.first_in_line("mail", most) == [IDS.of(FIRST + n) for n in range(min(most, 7))]
        await store.claim([an_entry(n) for n in (0, 1, 3)], "w", now)
        for lines in (99, 1):
            monkeypatch.setattr(base, "LINE_PRIOS", lines)
            assert await store.first_in_line("mail", 3) == [IDS.of(FIRST + n) for n in (2, 4, 5)]

    async def test_a_record_tells_its_group_over_a_restart(self, make_store: MakeStore, now: float) -> None:
        store = make_store()
        await store.open(JOURNAL, NODE)
        await store.insert([*of("a", 0), *of(None, 1)], 1, "w", now)
        await store.close()
        again = make_store()
        await again.open(JOURNAL, NODE)
        records = [await again.job(IDS.of(FIRST + n)) for n in (0, 1)]
        assert [record and record.group for record in records] == ["a", None]
        assert numbers((await self.in_turn(again)).entries) == [0]
