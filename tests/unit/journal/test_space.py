from __future__ import annotations

import pytest

from kqs.journal.space import LEAST_FREE_BYTES, SpaceGauge

MIB = 1 << 20
MIN = 4 * MIB


def test_it_refuses_below_the_low_mark_and_accepts_above_the_high_one() -> None:
    gauge = SpaceGauge(MIN)
    seen = []
    for free in (MIN, MIN - 1, MIN, 5 * MIB - 1, 5 * MIB, MIN):
        gauge.update(free, 0)
        seen.append(gauge.is_low)
    assert seen == [False, True, True, True, False, False]


def test_it_says_how_many_bytes_would_do() -> None:
    gauge = SpaceGauge(MIN)
    needed = []
    for free in (7 * MIB, 7 * MIB - 1, 8 * MIB - 1, 8 * MIB, 7 * MIB):
        gauge.update(free, MIB)
        needed.append(gauge.needed_bytes // MIB)
    assert needed == [7, 8, 8, 7, 7]


def test_what_the_store_will_need_counts_too() -> None:
    gauge = SpaceGauge(MIN)
    gauge.update(7 * MIB, MIB, 1)
    assert gauge.is_low


@pytest.mark.parametrize("minimum", [0, 1, LEAST_FREE_BYTES])
def test_the_least_that_works_is_always_kept(minimum: int) -> None:
    gauge = SpaceGauge(minimum)
    gauge.update(LEAST_FREE_BYTES, 0)
    assert not gauge.is_low
    gauge.update(LEAST_FREE_BYTES - 1, 0)
    assert gauge.is_low
