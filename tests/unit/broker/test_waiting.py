from __future__ import annotations

from kqs.broker.waiting import NOTHING, WHOLE, Waiting
from tests.support.ready_jobs import an_entry, orders


def test_entries_out_of_order_come_out_in_order() -> None:
    waiting = Waiting(100, WHOLE)
    waiting.add([an_entry(5), an_entry(3), an_entry(9), an_entry(1, prio=5), an_entry(4)])
    assert orders(waiting.take(2)) == [1, 3]
    assert orders(waiting.take(9)) == [4, 5, 9]


def test_a_repeated_entry_is_no_error() -> None:
    waiting = Waiting(100, WHOLE)
    waiting.add([an_entry(5), an_entry(3), an_entry(3), an_entry(5)])
    assert orders(waiting.take(4)) == [3, 3, 5, 5]


def test_an_emptied_line_takes_any_rank_in_its_fast_path() -> None:
    waiting = Waiting(100, WHOLE)
    waiting.add([an_entry(5)])
    waiting.take(1)
    waiting.add([an_entry(2)])
    assert not waiting._heap


def test_the_worst_go_when_there_are_too_many() -> None:
    waiting = Waiting(2, WHOLE)
    waiting.add([an_entry(number) for number in (5, 1, 4, 2, 3)])
    assert waiting.horizon == (10_000, 2)
    assert waiting.is_partial
    assert orders(waiting.take(9)) == [1, 2]


def test_what_lies_beyond_the_horizon_is_dropped_and_what_lies_within_is_kept() -> None:
    waiting = Waiting(10, (10_000, 5))
    waiting.add([an_entry(6), an_entry(4), an_entry(5), an_entry(7, prio=1)])
    assert orders(waiting.take(9)) == [7, 4, 5]


def test_an_unread_line_keeps_nothing() -> None:
    waiting = Waiting(10, NOTHING)
    waiting.add([an_entry(0, prio=0)])
    assert len(waiting) == 0
