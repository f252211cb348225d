from __future__ import annotations

from kqs.broker.beanstalkd.hand import HOLD_S, Hand
from tests.support.ready_jobs import an_entry, orders


def a_hand(*numbers: int, sorts: bool = False) -> Hand:
    hand = Hand(sorts=sorts)
    for number in numbers:
        hand.add(an_entry(number), float(number))
    return hand


def test_jobs_come_out_as_they_came_in() -> None:
    hand = a_hand(3, 1, 2)
    assert orders(hand.take({"mail"}, 2)) == [3, 1]
    assert "mail" in hand
    assert orders(hand.take({"mail"}, 2)) == [2]
    assert "mail" not in hand


def test_jobs_of_several_servers_come_out_by_rank() -> None:
    assert orders(a_hand(3, 1, 2, sorts=True).take({"mail"}, 2)) == [1, 2]


def test_only_the_types_asked_for_are_taken() -> None:
    hand = a_hand(1)
    hand.add(an_entry(2, "video"), 0.0)
    assert hand.count({"video", "other"}) == 1
    assert orders(hand.take({"video", "other"}, 5)) == [2]
    assert hand.count({"mail"}) == 1


def test_what_lies_too_long_is_stale() -> None:
    hand = a_hand(5, 1, 9)
    assert orders(hand.take_stale(5.0 + HOLD_S)) == [5, 1]
    assert orders(hand.take_stale(9.0)) == []
    assert orders(hand.take_stale(9.0 + HOLD_S)) == [9]
    assert "mail" not in hand
