from __future__ import annotations

from typing import Any

import pytest

from kqs.trouble import TOLD_EVERY_S, Trouble
from tests.support.clock import FakeClock


class Lines:
    def __init__(self) -> None:
        self.said: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **details: Any) -> None:
        self.said.append((event, details))

    info = warning


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def trouble(lines: Lines, clock: FakeClock) -> Trouble:
    return Trouble(lines, "it fails", "it works", clock.monotonic)


def test_the_first_time_is_told_at_once(trouble: Trouble, lines: Lines) -> None:
    trouble.met(error="no")
    assert (lines.said, trouble.is_on) == ([("it fails", {"error": "no"})], True)


def test_many_times_are_told_now_and_then_with_their_number(trouble: Trouble, lines: Lines, clock: FakeClock) -> None:
    for _ in range(int(2.5 * TOLD_EVERY_S)):
        trouble.met(error="no")
        clock.advance(1)
    assert lines.said == [
        ("it fails", {"error": "no"}),
        ("it fails", {"error": "no", "times": TOLD_EVERY_S + 1, "for_s": TOLD_EVERY_S}),
        ("it fails", {"error": "no", "times": 2 * TOLD_EVERY_S + 1, "for_s": 2 * TOLD_EVERY_S}),
    ]


def test_its_end_is_told_once(trouble: Trouble, lines: Lines, clock: FakeClock) -> None:
    trouble.over()
    trouble.met()
    clock.advance(2.5)
    trouble.met()
    trouble.over(seq=7)
    trouble.over(seq=8)
    assert lines.said == [("it fails", {}), ("it works", {"seq": 7, "after_s": 2.5, "times": 2})]
    assert not trouble.is_on


def test_trouble_that_comes_and_goes_is_told_no_more_often(trouble: Trouble, lines: Lines, clock: FakeClock) -> None:
    for _ in range(int(TOLD_EVERY_S)):
        trouble.met()
        trouble.over()
        clock.advance(1)
    assert [event for event, _ in lines.said] == ["it fails", "it works"]
    trouble.met()
    trouble.over()
    assert [event for event, _ in lines.said] == ["it fails", "it works"] * 2
