from __future__ import annotations

from kqs.journal.space import SpaceGauge


def test_it_refuses_below_the_low_mark_and_accepts_above_the_high_one() -> None:
    gauge = SpaceGauge(1000)
    seen = []
    for free in (1000, 999, 1000, 1249, 1250, 1000):
        gauge.update(free, 0)
        seen.append(gauge.is_low)
    assert seen == [False, True, True, True, False, False]


def test_it_says_how_many_bytes_would_do() -> None:
    gauge = SpaceGauge(1000)
    needed = []
    for free in (1500, 1499, 1749, 1750, 1500):
        gauge.update(free, 500)
        needed.append(gauge.needed_bytes)
    assert needed == [1500, 1750, 1750, 1500, 1500]


def test_every_byte_of_the_backlog_needs_another_in_the_store() -> None:
    gauge = SpaceGauge(1000)
    gauge.update(1500, 501)
    assert gauge.is_low


def test_no_minimum_never_refuses() -> None:
    gauge = SpaceGauge(0)
    gauge.update(0, 1 << 30)
    assert not gauge.is_low
