"""Pauses between tries."""

from __future__ import annotations

from kqs.pauses import Pauses


def test_each_pause_is_twice_as_long_up_to_a_most_until_it_works() -> None:
    pauses = Pauses(0.1, 0.5)
    assert [pauses.next_s() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    pauses.begin_anew()
    assert [pauses.next_s() for _ in range(2)] == [0.1, 0.2]


def test_spread_ones_are_shares_of_the_same_from_a_half_on() -> None:
    found = []
    for _ in range(100):
        pauses = Pauses(1.0, 8.0)
        found.append([pauses.next_spread_s() for _ in range(5)])
    for shares, whole in zip(zip(*found, strict=True), (1.0, 2.0, 4.0, 8.0, 8.0), strict=True):
        assert whole / 2 <= min(shares) < max(shares) <= whole
