from __future__ import annotations

import pytest

from kqs.handlers import Ok
from kqs.outpost.child import WearingSource
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
    assert await post.called("release") == [[{"run": "token-3"}, {"run": "token-4"}]]


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
