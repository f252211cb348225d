"""How many runs are claimed ahead of the lanes, by how long they take."""

from __future__ import annotations

import pytest

from kqs.queue.gate import AHEAD_S, TUNE_EVERY
from kqs.worker.ahead import MAX_AHEAD_PER_LANE, Ahead

LANES = 10


def tuned(*lengths_s: float) -> Ahead:
    """Runs of these lengths, as many of each as are looked at together."""
    ahead = Ahead(LANES)
    for length_s in lengths_s:
        ahead.begun_count += TUNE_EVERY
        ahead.busy_s += TUNE_EVERY * length_s
        assert ahead.begun_count >= ahead.tune_at
        before = ahead.count
        assert ahead.tune() == ahead.count - before
        assert ahead.begun_count < ahead.tune_at
    return ahead


@pytest.mark.parametrize(
    ("run_s", "count"), [(0.0, LANES * MAX_AHEAD_PER_LANE), (AHEAD_S / 4, 4 * LANES), (AHEAD_S, LANES), (LANES, 0)]
)
def test_as_many_are_claimed_as_lanes_get_through_in_a_while(run_s: float, count: int) -> None:
    assert tuned(run_s).count == count


def test_before_anything_is_known_none_is_claimed_ahead() -> None:
    ahead = Ahead(LANES)
    assert (ahead.count, ahead.worth) == (0, 1)


def test_one_long_look_does_not_end_it_and_several_do() -> None:
    assert tuned(0.001, AHEAD_S).count > LANES
    assert tuned(0.001, *[10.0] * 30).count == 0


def test_each_look_counts_what_came_since_the_last_and_a_quarter_of_all() -> None:
    assert tuned(AHEAD_S, *[0.0] * 8).count == int(LANES / 0.75**8)


@pytest.mark.parametrize(
    ("run_s", "worth"), [(LANES, 1), (AHEAD_S * LANES / 3, 1), (AHEAD_S, 1 + LANES // 4), (0.0, 1 + 4 * LANES)]
)
def test_the_more_are_claimed_ahead_the_more_room_is_worth_a_claim(run_s: float, worth: int) -> None:
    assert tuned(run_s).worth == worth


def test_it_takes_six_looks_at_short_runs_to_claim_ahead_again_of_those_that_hold_others_up() -> None:
    ahead = tuned(0.0)
    ahead.get_stuck()
    counts = []
    for _ in range(6):
        ahead.begun_count += TUNE_EVERY
        ahead.tune()
        counts.append(ahead.count)
    assert counts == [0, 0, 0, 0, 0, 1]


def test_none_is_claimed_ahead_of_runs_that_hold_others_up_until_they_are_short_again() -> None:
    ahead = tuned(0.0)
    assert ahead.get_stuck() == -LANES * MAX_AHEAD_PER_LANE
    assert (ahead.count, ahead.worth) == (0, 1)
    for _ in range(30):
        ahead.begun_count += TUNE_EVERY
        ahead.tune()
    assert ahead.count == LANES * MAX_AHEAD_PER_LANE


def test_runs_that_have_the_loop_for_themselves_wait_for_each_other_whatever_lanes_there_are() -> None:
    ahead = Ahead(LANES)
    ahead.begun_count, ahead.busy_s = TUNE_EVERY, TUNE_EVERY * 0.001
    ahead.tune(TUNE_EVERY * 0.001)
    assert ahead.count == round(AHEAD_S / 0.001)
    for _ in range(50):  # and others since, that wait
        ahead.begun_count += TUNE_EVERY
        ahead.busy_s += TUNE_EVERY * 0.001
        ahead.tune(TUNE_EVERY * 0.001)
    assert ahead.count == min(int(LANES * AHEAD_S / 0.001), LANES * MAX_AHEAD_PER_LANE)
