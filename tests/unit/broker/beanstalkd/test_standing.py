from __future__ import annotations

import itertools

import pytest
from structlog.testing import capture_logs

from kqs.broker.beanstalkd.standing import REFUSED_S, TRANSITIONS, Event, Standing, State
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
def standing(clock: Clock) -> Standing:
    return Standing("here:1", clock)


def happen(standing: Standing, event: Event, clock: Clock) -> None:
    match event:
        case Event.REACHED:
            standing.reached()
        case Event.LOST:
            standing.lost("reset")
        case Event.REFUSED:
            standing.refused(Word.OUT_OF_MEMORY)
        case Event.RESTED:
            clock.now += REFUSED_S
        case Event.DRAINS:
            standing.polled(is_draining=True)
        case Event.DRAINS_NOT:
            standing.polled(is_draining=False)


def test_whatever_happens_goes_by_the_table_and_keeps_what_it_promises() -> None:
    for events in itertools.product(Event, repeat=4):
        clock = Clock()
        standing = Standing("here:1", clock)
        state, has_session = State.AWAY, False
        for event in events:
            if event is Event.REACHED and has_session:
                continue
            happen(standing, event, clock)
            state = TRANSITIONS[state].get(event, state)
            has_session = {Event.REACHED: True, Event.LOST: False}.get(event, has_session)
            assert standing.state is state, events
            assert (state is not State.AWAY) == has_session
            assert standing.takes_puts == (state is State.TAKING)
            assert (standing.problem is None) == (state is State.TAKING)


def test_every_state_can_be_left_and_reached() -> None:
    assert set(TRANSITIONS) == set(State)
    assert {after for row in TRANSITIONS.values() for after in row.values()} == set(State)


def test_it_is_away_until_it_has_been_reached(standing: Standing) -> None:
    assert standing.problem == "beanstalkd here:1 is away: not reached yet"
    standing.reached()
    assert standing.problem is None


def test_why_it_is_away_is_told_from_the_moment_that_it_is(standing: Standing) -> None:
    standing.reached()
    standing.lost("reset by {peer}")
    assert standing.problem == "beanstalkd here:1 is away: reset by {peer}"


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Word.OUT_OF_MEMORY, "OUT_OF_MEMORY"),
        (Word.JOB_TOO_BIG, "JOB_TOO_BIG"),
        (Buried(7), "BURIED, out of memory or its binlog fails"),
    ],
)
def test_one_that_refuses_is_left_alone_for_a_while(standing: Standing, clock: Clock, reply: Reply, words: str) -> None:
    standing.reached()
    standing.refused(reply)
    assert standing.problem == f"beanstalkd here:1: it refuses jobs: {words}"
    clock.now += REFUSED_S / 2
    standing.refused(reply)
    clock.now += REFUSED_S - 0.1
    assert not standing.takes_puts
    clock.now += 0.1
    assert standing.takes_puts


def test_one_that_drains_is_not_said_to_refuse(standing: Standing) -> None:
    standing.reached()
    standing.refused(Word.DRAINING)
    standing.refused(Word.OUT_OF_MEMORY)
    assert standing.problem == "beanstalkd here:1 is draining: it takes no new jobs"


def test_a_refusal_that_comes_late_changes_nothing_of_why_it_is_away(standing: Standing) -> None:
    standing.reached()
    standing.lost("reset")
    standing.refused(Word.OUT_OF_MEMORY)
    assert standing.problem == "beanstalkd here:1 is away: reset"
    standing.reached()
    assert standing.takes_puts


def test_refusals_are_told_once_and_are_over_when_it_has_taken_jobs_again(standing: Standing, clock: Clock) -> None:
    with capture_logs() as logs:
        standing.reached()
        for _ in range(3):
            standing.refused(Word.OUT_OF_MEMORY)
            standing.polled(is_draining=False)
            clock.now += REFUSED_S
        standing.polled(is_draining=False)
        clock.now += REFUSED_S + 0.1
        standing.polled(is_draining=False)
    told = [(line["event"], line["server"]) for line in logs]
    assert told == [("beanstalkd refuses jobs", "here:1"), ("beanstalkd takes jobs again", "here:1")]
