from __future__ import annotations

import asyncio

import pytest

from kqs.outcome import Ok
from kqs.outpost.child import WearingSource
from tests.support.turning import idle
from tests.unit.outpost.conftest import Post, a_run


class Worn:
    def __init__(self, post: Post, most: int) -> None:
        self.count = 0
        self.source = post.source = WearingSource(post.line, post.clock, post.supervisor, most, self._note)

    def _note(self) -> None:
        self.count += 1


@pytest.fixture
async def worn(post: Post) -> Worn:
    worn = Worn(post, 2)
    await post.start(room=5)
    return worn


async def test_so_many_runs_begin_and_the_others_are_given_back(post: Post, worn: Worn) -> None:
    runs = await post.given(*(a_run(number) for number in range(1, 5)))
    assert [worn.source.may_begin(run) for run in runs] == [True, True, False, False]
    assert worn.count == 1
    assert await post.called("release") == [[{"run": "token-3", "begun": False}, {"run": "token-4", "begun": False}]]


async def test_a_run_that_is_lost_before_it_begins_wears_nothing(post: Post, worn: Worn) -> None:
    runs = await post.given(a_run(1), a_run(2), a_run(3))
    worn.source.give_back(runs[0])
    assert [worn.source.may_begin(run) for run in runs] == [False, True, True]
    assert worn.source.begun_count == 2


async def test_worn_it_asks_for_no_more(post: Post, worn: Worn) -> None:
    asked = len(await post.called("work"))
    for run in await post.given(a_run(1), a_run(2)):
        assert worn.source.may_begin(run)
        worn.source.end(run, Ok())
    post.consumer.free(3)
    await post.called("finish")
    assert len(post.calls("work")) == asked


async def test_without_a_bound_any_number_begins(post: Post) -> None:
    worn = Worn(post, 0)
    await post.start(room=50)
    assert all(worn.source.may_begin(run) for run in await post.given(*(a_run(number) for number in range(50))))
    assert worn.count == 0


async def test_reports_gather_while_enough_runs_wait_and_go_at_once_with_the_last(post: Post) -> None:
    worn = Worn(post, 0)
    await post.start(room=50)
    runs = await post.given(*(a_run(number) for number in range(30)))
    left = len(runs)
    worn.source.waiting_count = lambda: left
    await idle()  # what the delivery had to say is said
    for run in runs[:10]:  # in turns of their own, but within the time
        left -= 1
        assert worn.source.may_begin(run)
        worn.source.end(run, Ok())
        await asyncio.sleep(0)
    (first,) = await post.called("finish")
    assert len(first) == 10
    left = 0
    assert worn.source.may_begin(runs[10])
    worn.source.end(runs[10], Ok())
    await asyncio.sleep(0)
    assert worn.source._timer is None
    assert len((await post.called("finish", 2))[1]) == 1
