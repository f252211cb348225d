from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kqs.feeder import pace
from kqs.feeder.pace import BATCH_JOBS, FLOOD_S, GATHER_S, LEAST_JOBS, MOST_REST_S, PASSED_BY_S, Speeds

FLOOD = Speeds(came_resting=14_000, resting_s=0.1, came_feeding=7_500, feeding_s=0.1, fed_jobs=8_000)
OPEN = FLOOD._replace(came_feeding=13_000)
TRICKLE = FLOOD._replace(came_resting=140, came_feeding=75)


@pytest.mark.parametrize(
    ("age_s", "speeds", "was_full", "rest_s"),
    [
        (0.0, Speeds(), False, GATHER_S),
        (0.04, OPEN, True, GATHER_S - 0.04),
        (0.2, OPEN, True, 0.0),
        (0.2, TRICKLE, True, 0.0),
        (float("inf"), OPEN, True, 0.0),
        (0.2, FLOOD, True, 3 * BATCH_JOBS * 0.1 / 8_000),
        (0.2, FLOOD, False, 0.0),
        (FLOOD_S, FLOOD, True, 0.0),
        (0.2, FLOOD._replace(feeding_s=60.0), True, MOST_REST_S),
    ],
)
def test_jobs_gather_for_a_moment_unless_inserts_would_suffer(
    age_s: float, speeds: Speeds, was_full: bool, rest_s: float
) -> None:
    assert pace.rest_s(age_s, speeds, was_full=was_full) == pytest.approx(rest_s)


@pytest.mark.parametrize(
    ("room", "age_s", "is_pouring", "is_ordered", "most"),
    [
        (300, 0.0, True, True, 300),
        (1, 0.0, True, True, LEAST_JOBS),
        (300, 2 * PASSED_BY_S, False, True, 300),
        (300, 2 * PASSED_BY_S, True, True, BATCH_JOBS),
        (300, 0.0, True, False, BATCH_JOBS),
    ],
)
def test_lanes_get_what_they_have_room_for_unless_something_may_overtake_it(
    room: int, age_s: float, is_pouring: bool, is_ordered: bool, most: int
) -> None:
    assert pace.most_jobs(room, age_s, int(is_pouring), is_ordered=is_ordered) == most


class Load:
    """Inserts at a rate, and a store that takes `commit_s` a batch and `job_s` a job: feeding as the feeder does, in no time.

    slowed: what remains of the inserts' rate while a batch is fed.
    """

    def __init__(self, rate: float, commit_s: float, job_s: float, slowed: float = 1.0) -> None:
        self.rate, self.commit_s, self.job_s, self.slowed = rate, commit_s, job_s, slowed
        self.now_s = self.waiting = self.fed_s = 0.0
        self.came: list[tuple[float, float]] = []  # when so many of all had come
        self.came_jobs = self.fed_jobs = 0.0
        self.worst_age_s = 0.0

    def pass_s(self, seconds: float, rate: float) -> int:
        """Let jobs come, 5 ms of them at a time, as a journal flushes them; return how many."""
        before, end_s = int(self.came_jobs), self.now_s + seconds
        while self.now_s < end_s:
            step_s = min(0.005, end_s - self.now_s)
            self.came_jobs += step_s * rate
            self.came.append((self.now_s, self.came_jobs))
            self.now_s += step_s
        return int(self.came_jobs) - before

    @property
    def age_s(self) -> float:
        while self.came and self.came[0][1] <= self.fed_jobs:
            self.came.pop(0)
        return self.now_s - self.came[0][0] if self.came else 0.0

    def run(self, seconds: float) -> None:
        speeds, batch = Speeds(), 0
        while self.now_s < seconds:
            self.worst_age_s = max(self.worst_age_s, self.age_s)
            rest_s = pace.rest_s(self.age_s, speeds, was_full=batch >= BATCH_JOBS)
            if rest_s:
                speeds = speeds.after_rest(self.pass_s(rest_s, self.rate), rest_s)
            batch = max(1, min(BATCH_JOBS, int(self.came_jobs - self.fed_jobs)))
            batch_s = self.commit_s + batch * self.job_s
            came = self.pass_s(batch_s, self.rate * self.slowed)
            self.fed_jobs, self.fed_s = self.fed_jobs + batch, self.fed_s + batch_s
            speeds = speeds.after_batch(came, batch_s, batch)


@settings(max_examples=50)
@given(st.floats(10, 300_000), st.floats(0.2, 0.9), st.floats(0.0, 0.02))
def test_no_job_waits_for_a_second_while_the_store_is_faster_than_the_inserts(
    rate: float, share: float, commit_s: float
) -> None:
    job_s = max(share / rate - commit_s / BATCH_JOBS, 1e-7)
    if (commit_s + BATCH_JOBS * job_s) * rate > 0.9 * BATCH_JOBS:
        return  # commits alone take too long
    load = Load(rate, commit_s, job_s)
    load.run(20)
    assert load.worst_age_s < 1.0


@settings(max_examples=20)
@given(st.floats(60_000, 300_000), st.floats(0.3, 0.7))
def test_a_flood_has_most_of_the_time(rate: float, slowed: float) -> None:
    load = Load(rate, 0.002, 1 / 110_000, slowed)
    load.run(5)
    assert load.fed_s / load.now_s < 0.4


@settings(max_examples=10)
@given(st.floats(30_000, 80_000), st.floats(0.3, 0.7))
def test_a_flood_without_end_does_not_wait_without_end(slowed_rate: float, slowed: float) -> None:
    load = Load(slowed_rate / slowed, 0.002, 1 / 110_000, slowed)
    load.run(60)
    assert load.age_s < 2 * FLOOD_S


def test_a_commit_that_the_disk_held_up_is_no_flood() -> None:
    speeds = Speeds()
    for _ in range(20):
        speeds = speeds.after_rest(1000, 0.01).after_batch(1000, 0.01, 1000)
    assert not speeds.after_batch(1000, 0.018, 1000).is_flood


def test_a_batch_that_the_store_refused_for_long_is_followed_by_no_long_rest() -> None:
    speeds = Speeds().after_rest(100_000, 1.0).after_batch(4000, 60.0, 4000)
    assert speeds.is_flood
    assert pace.rest_s(0.0, speeds, was_full=True) == pace.MOST_REST_S


@pytest.mark.parametrize(
    ("claims", "waiting_jobs", "is_soon"),
    [
        ([], 1_000_000, True),
        ([(4, 0.003)] * 3, 1_000_000, True),  # as good as nothing is known yet
        ([(400, 0.01)] * 20, 79_000, True),
        ([(400, 0.01)] * 20, 81_000, False),
        ([(1, 0.05)] * 10, 41, False),
        ([(1, 0.05)] * 10, 39, True),
        ([(1, 0.05), (1, 2 * pace.MOST_REST_S)], 1_000_000, True),
    ],
)
def test_what_waits_is_held_for_lanes_that_will_soon_have_taken_it(
    claims: list[tuple[int, float]], waiting_jobs: int, is_soon: bool
) -> None:
    drain = pace.Drain()
    for jobs, since_s in claims:
        drain = drain.after_claim(jobs, since_s)
    assert drain.is_soon(waiting_jobs) is is_soon
