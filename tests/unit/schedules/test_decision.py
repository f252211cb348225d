from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kqs.options import CatchUp, Overlap
from kqs.schedules.calendar import Every
from kqs.schedules.decision import LATE_S, MOST_CAUGHT_UP, Decision, decide

HOURLY = Every(3600.0, 0.0)
BASE = 36_000.0  # an instant of it


def test_nothing_is_decided_before_an_instant_has_come() -> None:
    assert decide(HOURLY, "one", "allow", BASE, BASE + 3599.9) == Decision([], BASE)


def test_tick_in_time_is_inserted() -> None:
    for catch_up in ("one", "skip", "all"):
        assert decide(HOURLY, catch_up, "allow", BASE, BASE + 3600) == Decision([BASE + 3600], BASE)
        assert decide(HOURLY, catch_up, "allow", BASE, BASE + 3600 + LATE_S) == Decision([BASE + 3600], BASE)


def test_late_tick_is_inserted_only_to_catch_up() -> None:
    late = BASE + 3600 + LATE_S + 0.1
    assert decide(HOURLY, "skip", "allow", BASE, late) == Decision([], BASE + 3600, missed=1)
    assert decide(HOURLY, "one", "allow", BASE, late) == Decision([BASE + 3600], BASE)


def test_of_several_the_last_makes_up_for_the_others() -> None:
    late = BASE + 5 * 3600 + 1800
    assert decide(HOURLY, "one", "allow", BASE, late) == Decision([BASE + 5 * 3600], BASE + 4 * 3600, missed=4)
    assert decide(HOURLY, "skip", "allow", BASE, late) == Decision([], BASE + 5 * 3600, missed=5)
    assert decide(HOURLY, "all", "allow", BASE, late) == Decision([BASE + n * 3600 for n in range(1, 6)], BASE)


def test_tick_in_time_is_inserted_also_after_missed_ones() -> None:
    now = BASE + 5 * 3600 + 1
    assert decide(HOURLY, "skip", "allow", BASE, now) == Decision([BASE + 5 * 3600], BASE + 4 * 3600, missed=4)


def test_catching_up_has_an_end_and_tells_the_rest() -> None:
    decision = decide(HOURLY, "all", "allow", BASE, BASE + 5000 * 3600)
    assert decision.insert == [BASE + n * 3600 for n in range(5001 - MOST_CAUGHT_UP, 5001)]
    assert (decision.passed_at, decision.missed) == (BASE + (5000 - MOST_CAUGHT_UP) * 3600, 5000 - MOST_CAUGHT_UP)


def test_no_tick_while_the_last_job_goes_on() -> None:
    now = BASE + 3600
    assert decide(HOURLY, "one", "skip", BASE, now, is_busy=True) == Decision([], now, skipped=1)
    assert decide(HOURLY, "one", "skip", BASE, now, is_busy=False) == Decision([now], BASE)
    assert decide(HOURLY, "one", "allow", BASE, now, is_busy=True) == Decision([now], BASE)
    assert decide(HOURLY, "one", "skip", BASE, now + 7200, is_busy=True) == Decision([], now + 7200, missed=2, skipped=1)
    assert decide(HOURLY, "all", "skip", BASE, now + 7200) == Decision([now + 7200], now + 3600, missed=2)


def test_clock_that_was_set_back_decides_nothing_twice() -> None:
    assert decide(HOURLY, "all", "allow", BASE, BASE - 86_400) == Decision([], BASE)


@settings(max_examples=100)
@given(
    st.floats(0.5, 500.0),
    st.sampled_from(["one", "skip", "all"]),
    st.sampled_from(["allow", "skip"]),
    st.lists(st.tuples(st.floats(-300.0, 3000.0), st.booleans()), max_size=30),
)
def test_each_instant_is_inserted_once_or_told(
    every: float, catch_up: CatchUp, overlap: Overlap, steps: list[tuple[float, bool]]
) -> None:
    """Whatever the clock does, as its owner applies what is decided."""
    calendar = Every(every, 1000.0)
    passed_at = now = latest = 1000.0
    inserted: list[float] = []
    missed = skipped = 0
    for step, is_busy in steps:
        now += step
        latest = max(latest, now)
        decision = decide(calendar, catch_up, overlap, passed_at, now, is_busy=is_busy)
        assert all(at > decision.passed_at >= passed_at for at in decision.insert)
        inserted += decision.insert
        missed += decision.missed
        skipped += decision.skipped
        passed_at = max(decision.passed_at, *decision.insert, passed_at)
        assert passed_at <= max(now, latest)
    assert inserted == sorted(set(inserted))
    assert len(inserted) + missed + skipped == calendar.count(1000.0, passed_at)
