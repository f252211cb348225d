"""Rates and times by type, as batches bring them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from msgspec.structs import replace

from kqs.job import Accepted, Report, Run, instant_of
from kqs.queue import meter
from kqs.queue.meter import Meter, Rate, Times
from kqs.states import State
from tests.support.clock import FakeClock
from tests.support.jobs import NOW, ORDER, a_run, an_accepted


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metered(clock: FakeClock) -> Meter:
    return Meter(clock.monotonic)


def rates(metered: Meter, which: str, type_: str = "mail") -> list[float]:
    found: list[float] = metered.shown(type_)[f"{which}_per_s"]
    return found


def an_end(run: Run, took_s: float = 1.0, state: State = State.SUCCESS, **changes: Any) -> tuple[Run, Report]:
    report = Report(run.claim, run.type, state, "success", run.started_at + took_s)
    for name, value in changes.items():
        setattr(report, name, value)
    return run, report


def ended_at_once(number: int, waited_s: float, took_s: float) -> Accepted:
    job = an_accepted(number)
    job.claimed_at = instant_of(job.order) + waited_s
    job.end = Report(a_run(number).claim, "mail", State.SUCCESS, "success", job.claimed_at + took_s)
    return job


def test_a_steady_stream_is_told_as_what_it_is_from_its_beginning(metered: Meter, clock: FakeClock) -> None:
    for _ in range(1000):
        clock.advance(1)
        metered.stored([an_accepted(number) for number in range(5)])
        assert all(4 <= rate <= 10 for rate in rates(metered, "in"))
    assert rates(metered, "in") == [pytest.approx(5, rel=0.02)] * 3


def test_what_came_long_ago_counts_no_more(metered: Meter, clock: FakeClock) -> None:
    clock.advance(1000)
    metered.stored([an_accepted(number) for number in range(600)])
    assert rates(metered, "in") == [pytest.approx(600 / window, rel=0.2) for window in (60, 300, 900)]
    for after_s, none in ((75, 1), (240, 2), (600, 3)):
        clock.advance(after_s)
        told = rates(metered, "in")
        assert told[:none] == [0.0] * none
        assert all(told[none:])


def test_of_a_type_that_had_no_jobs_nothing_is_told(metered: Meter) -> None:
    nothing = {"in_per_s": [0.0, 0.0, 0.0], "out_per_s": [0.0, 0.0, 0.0], "wait_s": None, "run_s": None}
    assert metered.shown("mail") == nothing
    assert not metered.types


def test_a_rate_keeps_no_more_slots_than_it_needs() -> None:
    rate = Rate()
    for slot in range(10_000):
        rate.add(1, slot)
    assert len(rate._counts) == 91


def test_times_are_told_up_to_a_fifth_too_long() -> None:
    times, seen = Times(), sorted(random.Random(7).lognormvariate(0, 2) for _ in range(5000))
    assert times.quantiles() is None
    for seconds in seen:
        times.add(seconds)
    told = times.quantiles()
    assert told is not None
    for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        exact = seen[int(share * len(seen)) - 1]
        assert exact * 0.99 <= told[name] <= exact * 1.2


@pytest.mark.parametrize("seconds", [-5.0, 0.0, 0.0009, 0.001])
def test_what_is_too_short_to_tell_is_a_millisecond(seconds: float) -> None:
    times = Times()
    times.add(seconds)
    assert times.quantiles() == {"p50": 0.001, "p95": 0.001, "p99": 0.001}


def test_the_newest_times_count_most() -> None:
    times = Times()
    for seconds in (1.0, 8.0):
        for _ in range(3 * meter.MOST_SAMPLES):
            times.add(seconds)
    told = times.quantiles()
    assert told is not None
    assert told["p50"] == pytest.approx(8.0, rel=0.2)
    assert times._count < meter.MOST_SAMPLES


def test_jobs_that_are_stored_with_their_end_come_and_end(metered: Meter, clock: FakeClock) -> None:
    clock.advance(100)
    metered.stored([ended_at_once(1, 0.2, 2.0), an_accepted(2), an_accepted(3, "video")])
    assert rates(metered, "in")[0] == pytest.approx(2 / 60, rel=0.2)
    assert rates(metered, "out")[0] == pytest.approx(1 / 60, rel=0.2)
    assert rates(metered, "out", "video")[0] == 0
    found = metered.shown("mail")
    assert found["run_s"] == {"p50": 2.05, "p95": 2.05, "p99": 2.05}
    assert found["wait_s"]["p50"] == pytest.approx(0.2, rel=0.2)


def test_reports_end_jobs_or_not_and_time_runs_that_began(metered: Meter, clock: FakeClock) -> None:
    clock.advance(100)
    first, again = a_run(1), a_run(2, attempt=2)
    metered.reported(
        [
            an_end(first, 1.0),
            an_end(again, 4.0, State.RETRY),
            an_end(a_run(3), 0.0, State.NEW, has_begun=False),
            an_end(replace(a_run(4), waited_as=State.DELAYED), 1.0, State.FAIL),
        ]
    )
    found = metered._types["mail"]
    assert rates(metered, "out")[0] == pytest.approx(2 / 60, rel=0.2)
    assert (found.ran._count, found.waited._count) == (3, 1)
    assert metered.shown("mail")["wait_s"]["p50"] == pytest.approx(max(0.001, NOW - instant_of(ORDER + 1)), rel=0.2)


def test_large_batches_are_timed_by_sample_and_counted_whole(metered: Meter, clock: FakeClock) -> None:
    clock.advance(100)
    metered.reported([an_end(a_run(number)) for number in range(5000)])
    found = metered._types["mail"]
    assert 0 < found.ran._count <= meter.SAMPLES
    assert sum(found.ended._counts.values()) == 5000


def test_types_without_end_take_no_memory_without_end(metered: Meter) -> None:
    metered.stored([an_accepted(number, f"t{number}") for number in range(meter.MAX_TYPES)])
    metered.stored([an_accepted(0, "t0"), an_accepted(1, "new")])
    assert len(metered.types) == meter.MAX_TYPES
    assert "t0" in metered.types
    assert "t1" not in metered.types
