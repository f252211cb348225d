"""The states of a job, and the one table of what may follow each.

Every change of state goes through `next_state`.

               accept                claim                      ok
    (journal) ───────▶ new|delayed ───────▶ processing ────────────────▶ success
                          ▲  retry|ghost ──▶   │  │  final, expire, out of tries
                          │       ▲  ▲         │  └────────────────────▶ fail ──┐
                          │       │  └── ghost─┤                                │ retry (by hand)
                          │       └─── again/fail                               │
                          └──────── interrupt ─┘◀────────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum


class State(IntEnum):
    """A job's state. The numbers are stored: never renumber, only add."""

    NEW = 0
    DELAYED = 1
    PROCESSING = 2
    RETRY = 3
    GHOST = 4
    SUCCESS = 5
    FAIL = 6
    CANCELLED = 7

    @property
    def word(self) -> str:
        """Return the state's name on the wire."""
        return self.name.lower()


WAITING = frozenset({State.NEW, State.DELAYED, State.RETRY, State.GHOST})
ENDED = frozenset({State.SUCCESS, State.FAIL, State.CANCELLED})
STATES_BY_WORD = {state.word: state for state in State}


def waiting_count(counts: Mapping[State, int]) -> int:
    """Return how many of these jobs, counted by state, wait."""
    return sum([counts.get(state, 0) for state in WAITING])


class Event(IntEnum):
    """What can happen to a job."""

    CLAIM = 0  # a run starts
    OK = 1  # the handler succeeded
    AGAIN = 2  # the handler asked for another run, at no cost
    RETRY = 3  # the handler failed and tries are left
    FAIL = 4  # the handler failed for good, or no tries are left
    GHOST = 5  # nobody reported before ttr, or the worker died; ghost runs are left
    GHOSTED_OUT = 6  # as above, but none is left
    INTERRUPT = 7  # a stopping worker gave it back, at no cost
    EXPIRE = 8  # `expire` ran out while it waited
    CANCEL = 9  # its owner called it off
    REVIVE = 10  # its owner asked for a full new set of tries


_FROM_WAITING = {
    Event.CLAIM: State.PROCESSING,
    Event.EXPIRE: State.FAIL,
    Event.CANCEL: State.CANCELLED,
}

#: The only table of transitions; whatever is not in it is illegal.
TRANSITIONS: dict[State, dict[Event, State]] = {
    State.NEW: _FROM_WAITING,
    State.DELAYED: _FROM_WAITING,
    State.RETRY: _FROM_WAITING,
    State.GHOST: _FROM_WAITING,
    State.PROCESSING: {
        Event.OK: State.SUCCESS,
        Event.AGAIN: State.RETRY,
        Event.RETRY: State.RETRY,
        Event.FAIL: State.FAIL,
        Event.GHOST: State.GHOST,
        Event.GHOSTED_OUT: State.FAIL,
        Event.INTERRUPT: State.RETRY,
        Event.EXPIRE: State.FAIL,
        Event.CANCEL: State.CANCELLED,
    },
    State.SUCCESS: {},
    State.FAIL: {Event.REVIVE: State.RETRY},
    State.CANCELLED: {Event.REVIVE: State.RETRY},
}


class IllegalTransitionError(AssertionError):
    """A bug: an event that the table does not allow in that state."""


def next_state(state: State, event: Event) -> State:
    """Return the state that `event` leads to from `state`.

    Raises: IllegalTransitionError: the table has no such step.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise IllegalTransitionError(f"{event.name} is illegal for a job that is {state.word}") from None
