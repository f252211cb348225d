import pytest

from kqs.states import ENDED, TRANSITIONS, WAITING, Event, IllegalTransitionError, State, next_state, waiting_count


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(State)


def test_waiting_and_ended_states_and_processing_are_all_states() -> None:
    assert WAITING | ENDED | {State.PROCESSING} == set(State)


@pytest.mark.parametrize("state", sorted(WAITING))
def test_only_a_claim_starts_a_run(state: State) -> None:
    assert [event for event in Event if TRANSITIONS[state].get(event) is State.PROCESSING] == [Event.CLAIM]


def test_of_jobs_counted_by_state_those_wait_that_neither_run_nor_have_ended() -> None:
    assert waiting_count({state: 10**state for state in State}) == 11011
    assert waiting_count({State.PROCESSING: 7}) == 0


def test_a_success_is_final() -> None:
    for event in Event:
        with pytest.raises(IllegalTransitionError, match=f"{event.name} is illegal for a job that is success"):
            next_state(State.SUCCESS, event)


@pytest.mark.parametrize("state", [State.FAIL, State.CANCELLED])
def test_what_failed_or_was_cancelled_can_only_be_revived(state: State) -> None:
    assert list(TRANSITIONS[state]) == [Event.REVIVE]


def test_numbers_of_states_never_change() -> None:
    assert [(state.word, state.value) for state in State] == [
        ("new", 0),
        ("delayed", 1),
        ("processing", 2),
        ("retry", 3),
        ("ghost", 4),
        ("success", 5),
        ("fail", 6),
        ("cancelled", 7),
    ]
