"""How one beanstalkd stands, from which follow whether it may be given jobs and what is said to be wrong with it.

Invariants:

1. It is AWAY exactly while there is no session with it.
2. It may be given jobs in TAKING alone; in every state but AWAY, jobs are taken from it.
3. Every state but TAKING is a problem, and has its words from the moment it begins.
4. REFUSING ends by itself, `REFUSED_S` after the last refusal; DRAINING ends when its stats no longer say so.
5. What it refused in one session says nothing of the next.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from kqs.log import get_logger
from kqs.trouble import Trouble
from kqs.wire.beanstalk.values import Reply, Word

#: how long a server that refused a put is left alone
REFUSED_S = 2.0

_log = get_logger("kqs.broker")


class State(Enum):
    """What a beanstalkd is to us; the value says what is wrong, to be formatted with the address and the reason."""

    AWAY = "beanstalkd {address} is away: {reason}"
    TAKING = ""
    REFUSING = "beanstalkd {address}: it refuses jobs: {reason}"
    DRAINING = "beanstalkd {address} is draining: it takes no new jobs"


class Event(Enum):
    """What leads from one state to another."""

    REACHED = "a session has begun"
    LOST = "the session has ended, or could not begin"
    REFUSED = "a put was refused"
    RESTED = "it was left alone for long enough"
    DRAINS = "a put was answered so, or its stats say so"
    DRAINS_NOT = "its stats say so"


#: an event that is not in the row of a state leaves it as it is
TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    State.AWAY: {Event.REACHED: State.TAKING},
    State.TAKING: {Event.LOST: State.AWAY, Event.REFUSED: State.REFUSING, Event.DRAINS: State.DRAINING},
    State.REFUSING: {Event.LOST: State.AWAY, Event.RESTED: State.TAKING, Event.DRAINS: State.DRAINING},
    State.DRAINING: {Event.LOST: State.AWAY, Event.DRAINS_NOT: State.TAKING},
}


class Availability:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, address: str, now: Callable[[], float]) -> None:
        """Args: now: loop time."""
        self._address = address
        self._now = now
        self._state = State.AWAY
        self._refused_until = 0.0
        self._refusals = Trouble(_log, "beanstalkd refuses jobs", "beanstalkd takes jobs again")
        #: why it is AWAY or REFUSING
        self.reason = "not reached yet"

    @property
    def state(self) -> State:
        """Return how it stands now."""
        if self._state is State.REFUSING and self._refused_until <= self._now():
            self._move(Event.RESTED)
        return self._state

    @property
    def takes_puts(self) -> bool:
        """Tell whether it may be given jobs."""
        return self.state is State.TAKING

    @property
    def problem(self) -> str | None:
        """Return what is wrong, in words, or None."""
        return self.state.value.format(address=self._address, reason=self.reason) or None

    def _move(self, event: Event) -> None:
        self._state = TRANSITIONS[self._state].get(event, self._state)

    def reached(self) -> None:
        """Note that a session has begun."""
        self._refused_until = 0.0
        self._move(Event.REACHED)

    def lost(self, reason: str) -> None:
        """Note that the session has ended, or could not begin."""
        self.reason = reason
        self._move(Event.LOST)

    def refused(self, reply: Reply) -> None:
        """Note how it answered a put that it did not take."""
        if reply is Word.DRAINING:
            self._move(Event.DRAINS)
            return
        reason = reply.name if isinstance(reply, Word) else "BURIED, out of memory or its binlog fails"
        self._refusals.met(server=self._address, reason=f"it refuses jobs: {reason}")
        self._refused_until = self._now() + REFUSED_S
        self._move(Event.REFUSED)
        if self._state is State.REFUSING:
            self.reason = reason

    def polled(self, *, is_draining: bool) -> None:
        """Note what its stats say."""
        self._move(Event.DRAINS if is_draining else Event.DRAINS_NOT)
        if self._now() > self._refused_until + REFUSED_S:  # it has been sent jobs again, and refused none
            self._refusals.over(server=self._address)
