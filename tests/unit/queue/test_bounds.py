"""How many jobs of a type may wait: the count of the door, and the oldest that make room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqs.config import TakingSection
from kqs.errors import CallError, StoreUnavailableError
from kqs.filter import Filter
from kqs.job import Accepted
from kqs.options import PlainJob
from kqs.queue import drops
from kqs.queue.bounds import Bounds
from kqs.states import State
from kqs.store import change
from kqs.store.base import Waiting
from tests.support.jobs import ORDER, an_accepted, listed
from tests.support.queueing import Rig

MOST = 3
OLDEST = {"mail": TakingSection(max_waiting=MOST, drop="oldest")}


def some(count: int, type_: str = "mail") -> list[PlainJob]:
    return [PlainJob(type_) for _ in range(count)]


def bounds(**taking: TakingSection) -> Bounds:
    made = Bounds(taking or {"mail": TakingSection(max_waiting=MOST)})
    made.first_order, made.is_known = ORDER, True
    return made


def test_a_type_without_a_limit_is_not_counted() -> None:
    assert bounds(mail=TakingSection(weight=2)).limits == {}
    assert bounds().enter(some(100, "video")) == {}


def test_an_array_is_taken_whole_or_not_at_all() -> None:
    door = bounds()
    door.enter(some(2))
    with pytest.raises(
        CallError, match="'mail' has max_waiting = 3: 2 of its jobs wait, and 2 more would be too many"
    ) as caught:
        door.enter(some(2) + some(5, "video"))
    assert (caught.value.call_code, door.waiting("mail"), door.refused["mail"]) == ("busy", 2, 2)
    door.enter(some(1))
    with pytest.raises(CallError, match="3 of its jobs wait; try again later"):
        door.enter(some(1))


def test_what_was_accepted_elsewhere_is_counted_and_never_refused() -> None:
    door = bounds()
    door.enter(some(5), is_forced=True)
    assert door.waiting("mail") == 5


def test_nothing_is_taken_before_it_is_known_what_waits() -> None:
    door = bounds()
    door.is_known = False
    with pytest.raises(CallError, match="is not known yet"):
        door.enter(some(1))
    assert not door.has_room(some(1))
    assert door.has_room(some(1, "video"))


def test_jobs_of_an_earlier_boot_are_counted_by_the_store_alone() -> None:
    door = bounds()
    door.stored(Waiting({"mail": 1}, [an_accepted(-1)]))
    door.begun([an_accepted(-2)])
    assert door.waiting("mail") == 1


STEPS = st.lists(st.tuples(st.sampled_from(["enter", "fail", "begin", "store", "claim", "end", "again"]), st.integers(1, 4)))


@given(STEPS)
def test_the_door_counts_what_waits_in_the_store_and_on_its_way(steps: list[tuple[str, int]]) -> None:
    """Whatever the order of steps, no job is counted twice or missed, and none passes the limit."""
    door = bounds()
    coming: list[Accepted] = []
    begun: list[Accepted] = []
    stored = running = 0
    number = 0
    for word, count in steps:
        if word in ("enter", "fail"):
            fits = len(coming) + stored + count <= MOST
            assert door.has_room(some(count)) is fits
            try:
                entered = door.enter(some(count))
            except CallError:
                assert not fits
                continue
            assert fits
            if word == "fail":
                door.leave(entered)
            else:
                coming += [an_accepted(number + n) for n in range(count)]
                number += count
        elif word == "begin":
            door.begun(coming[:count])
            begun += coming[:count]
            del coming[:count]
        elif word == "store":
            stored += len(coming)
            running += len(begun)
            door.stored(Waiting({"mail": stored}, begun + coming))
            coming, begun = [], []
        elif word == "claim":
            moved = min(count, stored)
            stored, running = stored - moved, running + moved
        elif word == "again":
            moved = min(count, running)
            stored, running = stored + moved, running - moved
        else:
            running -= min(count, running)
        if word in ("claim", "again"):
            door.stored(Waiting({"mail": stored}, []))
        assert door.waiting("mail") == len(coming) + stored


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    rig.taking = dict(OLDEST)
    await rig.start()
    yield rig
    await rig.stop()


async def waiting(rig: Rig, count: int) -> list[int]:
    """Return the numbers of the jobs that wait, when they are so many."""
    while True:
        records = await listed(rig.store, Filter(type="mail"))
        left = [record.order - ORDER for record in records if record.state is not State.CANCELLED]
        if len(left) <= count:
            return left


@pytest.mark.parametrize("slice_", [1, 500])
async def test_the_oldest_make_room_whatever_their_priority(rig: Rig, monkeypatch: pytest.MonkeyPatch, slice_: int) -> None:
    monkeypatch.setattr(change, "SLICE", slice_)
    await rig.accept(*(an_accepted(n, prio=100 - n) for n in range(6)), *(an_accepted(10 + n, "video") for n in range(6)))
    assert await waiting(rig, MOST) == [3, 4, 5]
    record = await rig.until(0, State.CANCELLED)
    assert record.error == "dropped: type 'mail' has max_waiting = 3, and drops the oldest"
    assert rig.queue.bounds.shown("mail") == {"max_waiting": MOST, "drop": "oldest", "refused": 0, "dropped": 3}
    assert (await rig.store.counts())["video"] == {State.NEW: 6}


async def test_where_none_is_ready_those_go_whose_time_comes_first(rig: Rig) -> None:
    at = rig.clock.now()
    await rig.accept(*(an_accepted(n, due_at=at + 100 - n) for n in range(5)), an_accepted(9))
    assert await waiting(rig, MOST) == [0, 1, 2]


async def test_a_start_goes_on_where_the_last_boot_has_ended(rig: Rig) -> None:
    await rig.stop()
    rig.taking = {}
    await rig.start()
    await rig.accept(*(an_accepted(n) for n in range(6)))
    await rig.stop()
    rig.taking = dict(OLDEST)
    await rig.start()
    assert await waiting(rig, MOST) == [3, 4, 5]


async def test_what_runs_is_not_dropped_and_counts_again_when_it_waits(rig: Rig) -> None:
    hand = rig.hand(2, "mail")
    await rig.accept(*(an_accepted(n) for n in range(5)))
    runs = [await hand.take(), await hand.take()]
    assert rig.queue.bounds.waiting("mail") == MOST
    for run in runs:
        rig.queue.runs.release(hand.leases[run.claim.id], delay_s=100)
    await rig.queue.settle()
    assert len(await waiting(rig, MOST)) == MOST


async def test_a_store_that_refuses_is_asked_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drops, "AGAIN_S", 0.0)
    first_in_line, refusals = rig.store.first_in_line, 2

    async def refusing(type_: str, most: int) -> list[str]:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise StoreUnavailableError("away")
        return await first_in_line(type_, most)

    monkeypatch.setattr(rig.store, "first_in_line", refusing)
    await rig.accept(*(an_accepted(n) for n in range(5)))
    assert await waiting(rig, MOST) == [2, 3, 4]
