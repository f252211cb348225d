from __future__ import annotations

import itertools

import pytest
from structlog.testing import capture_logs

from kqs.broker.beanstalkd.availability import REFUSED_S, TRANSITIONS, Availability, Event, State
from kqs.wire.beanstalk.values import Buried, Reply, Word


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def availability(clock: Clock) -> Availability:
    return Availability("here:1", clock)


def happen(availability: Availability, event: Event, clock: Clock) -> None:
    match event:
        case Event.REACHED:
            availability.reached()
        case Event.LOST:
            availability.lost("reset")
        case Event.REFUSED:
            availability.refused(Word.OUT_OF_MEMORY)
        case Event.RESTED:
            clock.now += REFUSED_S
        case Event.DRAINS:
            availability.polled(is_draining=True)
        case Event.DRAINS_NOT:
            availability.polled(is_draining=False)


def test_whatever_happens_goes_by_the_table_and_keeps_what_it_promises() -> None:
    for events in itertools.product(Event, repeat=4):
        clock = Clock()
        availability = Availability("here:1", clock)
        state, has_session = State.AWAY, False
        for event in events:
            if event is Event.REACHED and has_session:
                continue
            happen(availability, event, clock)
            state = TRANSITIONS[state].get(event, state)
            has_session = {Event.REACHED: True, Event.LOST: False}.get(event, has_session)
            assert availability.state is state, events
            assert (state is not State.AWAY) == has_session
            assert availability.takes_puts == (state is State.TAKING)
            assert (availability.problem is None) == (state is State.TAKING)


def test_every_state_can_be_left_and_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {after for row in TRANSITIONS.values() for after in row.values()} == set(State)


def test_it_is_away_until_it_has_been_reached(availability: Availability) -> None:
    assert availability.problem == "beanstalkd here:1 is away: not reached yet"
    availability.reached()
    assert availability.problem is None


def test_why_it_is_away_is_told_from_the_moment_that_it_is(availability: Availability) -> None:
    availability.reached()
    availability.lost("reset by {peer}")
    assert availability.problem == "beanstalkd here:1 is away: reset by {peer}"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Word.OUT_OF_MEMORY, "OUT_OF_MEMORY"),
        (Word.JOB_TOO_BIG, "JOB_TOO_BIG"),
        (Buried(7), "BURIED, out of memory or its binlog fails"),
    ],
)
def test_one_that_refuses_is_left_alone_for_a_while(availability: Availability, clock: Clock, reply: Reply, words: str) -> None:
    availability.reached()
    availability.refused(reply)
    assert availability.problem == f"beanstalkd here:1: it refuses jobs: {words}"
    clock.now += REFUSED_S / 2
    availability.refused(reply)
    clock.now += REFUSED_S - 0.1
    assert not availability.takes_puts
    clock.now += 0.1
    assert availability.takes_puts


def test_one_that_drains_is_not_said_to_refuse(availability: Availability) -> None:
    availability.reached()
    availability.refused(Word.DRAINING)
    availability.refused(Word.OUT_OF_MEMORY)
    assert availability.problem == "beanstalkd here:1 is draining: it takes no new jobs"


def test_a_refusal_that_comes_late_changes_nothing_of_why_it_is_away(availability: Availability) -> None:
    availability.reached()
    availability.lost("reset")
    availability.refused(Word.OUT_OF_MEMORY)
    assert availability.problem == "beanstalkd here:1 is away: reset"
    availability.reached()
    assert availability.takes_puts


def test_refusals_are_told_once_and_are_over_when_it_has_taken_jobs_again(availability: Availability, clock: Clock) -> None:
    with capture_logs() as logs:
        availability.reached()
        for _ in range(3):
            availability.refused(Word.OUT_OF_MEMORY)
            availability.polled(is_draining=False)
            clock.now += REFUSED_S
        availability.polled(is_draining=False)
        clock.now += REFUSED_S + 0.1
        availability.polled(is_draining=False)
    told = [(line["event"], line["server"]) for line in logs]
    assert told == [("beanstalkd refuses jobs", "here:1"), ("beanstalkd takes jobs again", "here:1")]
