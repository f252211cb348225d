from __future__ import annotations

import math

import pytest

from kqs.feeder import waiting
from kqs.feeder.waiting import Waiting


def test_a_store_that_has_all_leaves_nothing_waiting() -> None:
    seen = Waiting()
    seen.flushed(0, 1, now=5.0)
    assert seen.age_s(1, 1, now=9.0) == 0.0


def test_the_age_is_that_of_the_first_record_that_is_not_fed() -> None:
    seen = Waiting()
    for seq in range(5):
        seen.flushed(seq, 10, now=float(seq))
    assert [seen.age_s(fed, 5, now=10.0) for fed in (0, 1, 4)] == [10.0, 9.0, 6.0]


def test_records_flushed_within_a_moment_have_the_age_of_the_first() -> None:
    seen = Waiting()
    seen.flushed(0, 1, now=1.0)
    seen.flushed(1, 1, now=1.001)
    assert seen.age_s(1, 2, now=2.0) == 1.0


def test_what_an_earlier_boot_left_has_waited_for_ever() -> None:
    seen = Waiting(durable_seq=4)
    seen.flushed(4, 1, now=1.0)
    assert [seen.age_s(fed, 5, now=2.0) for fed in (0, 3, 4)] == [math.inf, math.inf, 1.0]


def test_it_counts_the_jobs_that_came_since_it_was_asked() -> None:
    seen = Waiting()
    seen.flushed(0, 3, now=1.0)
    seen.flushed(1, 4, now=2.0)
    assert [seen.take_jobs(), seen.take_jobs()] == [7, 0]


def test_a_store_that_is_away_for_long_takes_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Waiting()
    for seq in range(3 * waiting._MAX_MARKS):
        seen.flushed(seq, 1, now=float(seq))
    assert len(seen._marks) == waiting._MAX_MARKS
    assert seen.age_s(0, 3 * waiting._MAX_MARKS, now=3.0 * waiting._MAX_MARKS) == waiting._MAX_MARKS
