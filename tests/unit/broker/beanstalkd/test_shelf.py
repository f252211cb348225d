from __future__ import annotations

import pytest

from kqs.broker.beanstalkd.shelf import Shelf, Shelves
from tests.support.ready_jobs import an_entry


@pytest.fixture
async def shelf() -> Shelf:
    return Shelf("mail", "kq-mail")


def put(shelf: Shelf, *numbers: int, refused: int = 0) -> None:
    entries = [an_entry(number) for number in numbers]
    shelf.end_put(shelf.begin_put(entries), entries[:refused])


async def test_what_is_put_counts_at_once_and_what_is_refused_no_more(shelf: Shelf) -> None:
    begun = shelf.begin_put([an_entry(1), an_entry(2)])
    assert (shelf.count, shelf.is_settled) == (2, False)
    shelf.end_put(begun, [an_entry(1)])
    assert (shelf.known, shelf.is_settled) == ({2}, True)


async def test_a_job_of_others_is_a_hint_of_more(shelf: Shelf) -> None:
    put(shelf, 1)
    shelf.note_taken(1, "id-1")
    assert not shelf.may_have(0.0)
    shelf.note_taken(7, "id-7")
    assert shelf.may_have(0.0)
    shelf.note_empty(shelf.settled_count)
    assert not shelf.may_have(0.0)


async def test_jobs_that_are_not_to_be_had_have_vanished_until_restored(shelf: Shelf) -> None:
    put(shelf, 1, 2)
    shelf.note_empty(shelf.settled_count)
    assert (shelf.may_have(0.0), shelf.count) == (False, 2)
    shelf.note_taken(1, "id-1")
    shelf.restore()
    assert shelf.known == {2}


async def test_an_empty_answer_from_before_a_put_says_nothing_of_it(shelf: Shelf) -> None:
    asked = shelf.settled_count
    put(shelf, 1)
    shelf.note_empty(asked)
    assert shelf.may_have(0.0)


async def test_it_rests_while_a_put_is_under_way(shelf: Shelf) -> None:
    begun = shelf.begin_put([an_entry(1)])
    shelf.note_empty(None)
    assert shelf.is_resting
    assert not shelf.may_have(0.0)
    assert list(shelf.unanswered_puts) == [begun]
    shelf.end_put(begun, [])
    assert shelf.may_have(0.0)


async def test_a_paused_tube_is_asked_when_it_goes_on(shelf: Shelf) -> None:
    put(shelf, 1)
    shelf.asleep_until = 5.0
    assert not shelf.may_have(4.9)
    assert shelf.may_have(5.0)


async def test_the_youngest_are_left_when_others_took_the_foremost(shelf: Shelf) -> None:
    put(shelf, 1, 2, 3)
    shelf.keep_last(1)
    assert shelf.known == {3}
    shelf.keep_last(0)
    assert not shelf.known


async def test_idle_shelves_are_forgotten() -> None:
    shelves = Shelves("eu")
    put(shelves.of("mail"), 1)
    shelves.of("video").begin_put([])
    shelves.of("idle")
    shelves.forget_idle()
    assert [shelf.tube for shelf in shelves] == ["eu;kq-mail", "eu;kq-video"]
    assert shelves.get("idle") is None
    assert shelves.clear() == ["mail", "video"]
    assert list(shelves) == []


async def test_numbers_are_known_of_what_is_here(shelf: Shelf) -> None:
    put(shelf, 1, 2, 3)
    for number in (1, 2, 3, 9):
        shelf.note_put(an_entry(number), 100 + number)
    shelf.note_taken(2, "id-2")
    shelf.note_gone(an_entry(3))
    assert (shelf.numbers, shelf.known) == ({"id-1": 101}, {1})


async def test_numbers_of_what_others_took_are_not_kept_for_ever(shelf: Shelf) -> None:
    for number in range(5000):
        put(shelf, number)
        shelf.note_put(an_entry(number), number)
        shelf.keep_last(0)
    assert len(shelf.numbers) <= 1010
