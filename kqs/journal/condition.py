"""Whether the journal accepts records, and if not, why and until when. Does nothing itself: `GroupCommit` asks the disk.

                CLOSED   OPEN       NO_SPACE   FAILED   BROKEN
    STARTED     OPEN
    LOW                  NO_SPACE
    ENOUGH                          OPEN
    FAILED               FAILED     FAILED
    REOPENED                                   OPEN
    BROKE       BROKEN   BROKEN     BROKEN     BROKEN
    STOPPED              CLOSED     CLOSED     CLOSED   CLOSED

What is blank changes nothing. Of a new segment the space is measured at once, so that FAILED leads to NO_SPACE over OPEN.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, StrEnum

from kqs.errors import JournalClosedError, JournalError, JournalFailedError, NoSpaceError
from kqs.journal.space import SpaceGauge
from kqs.log import get_logger
from kqs.pauses import Pauses
from kqs.reasons import reason_with_file
from kqs.trouble import Trouble

#: free bytes of the journal's disk, or why they are not known
Free = int | OSError

_log = get_logger("kqs.journal")


class Condition(StrEnum):
    """What the journal is doing. BROKEN: it met an error that nothing foresees, and the node must stop."""

    CLOSED = "closed"
    OPEN = "open"
    NO_SPACE = "no_space"
    FAILED = "failed"
    BROKEN = "broken"


class Event(Enum):
    """What changes the condition."""

    STARTED = "it has an open segment"
    LOW = "too little space is free"
    ENOUGH = "no longer too little"
    FAILED = "a write, a flush, a roll or a look failed"
    REOPENED = "it has a new segment"
    BROKE = "an error that nothing foresees"
    STOPPED = "nothing more is accepted"


_AFTER = {
    (Condition.CLOSED, Event.STARTED): Condition.OPEN,
    (Condition.OPEN, Event.LOW): Condition.NO_SPACE,
    (Condition.NO_SPACE, Event.ENOUGH): Condition.OPEN,
    (Condition.OPEN, Event.FAILED): Condition.FAILED,
    (Condition.NO_SPACE, Event.FAILED): Condition.FAILED,
    (Condition.FAILED, Event.REOPENED): Condition.OPEN,
    **{(condition, Event.BROKE): Condition.BROKEN for condition in Condition},
    **{(condition, Event.STOPPED): Condition.CLOSED for condition in Condition},
}


class Acceptance:
    """The condition, the reason for it, and how long to wait before the next attempt at a new segment."""

    #: waits before attempts at a new segment after a failure, in s: the first, doubling to the longest
    REOPEN_FIRST_S = 0.1
    REOPEN_LAST_S = 5.0

    def __init__(self, min_free_bytes: int, monotonic: Callable[[], float]) -> None:
        self.condition = Condition.CLOSED
        self.failures = 0
        #: an attempt was made after which nothing has been flushed yet
        self.backs_off = False
        self.space = SpaceGauge(min_free_bytes)
        self._failure = ""
        self._pauses = Pauses(self.REOPEN_FIRST_S, self.REOPEN_LAST_S)
        self._failing = Trouble(_log, "journal failed", "journal works again", monotonic, is_error=True)
        self._no_space = Trouble(
            _log, "journal refuses new jobs: the disk is nearly full", "journal accepts jobs again", monotonic, is_error=True
        )
        self._no_segment = Trouble(
            _log, "journal cannot begin a new segment, trying again", "journal has a new segment", monotonic
        )
        self._unmeasured = Trouble(
            _log, "free space of the journal's disk is unknown", "free space of the journal's disk is known", monotonic
        )

    def take(self, event: Event) -> bool:
        """Take `event` in; tell whether it changed the condition."""
        before = self.condition
        self.condition = _AFTER.get((before, event), before)
        return self.condition is not before

    def fail(self, error: BaseException | None) -> JournalFailedError:
        """Take in that an attempt at the disk failed; return what those hear whose records are not kept."""
        self.failures += 1
        self._failure = _told(error)
        self.take(Event.FAILED)
        return self._lost()

    def tell_failure(self, segment: str, records: int) -> None:
        """Tell in the log of the last failure, which so many records met."""
        self._failing.met(segment=segment, records=records, error=self._failure)

    def give_up(self, error: BaseException) -> JournalFailedError:
        """As `fail`, of an error that nothing foresees."""
        self._failure = f"{type(error).__name__}: {error}"
        self.take(Event.BROKE)
        return self._lost()

    def next_wait_s(self) -> float:
        """Return how long to wait before the next attempt, longer each time until something was flushed."""
        self.backs_off = True
        return self._pauses.next_s()

    def flushed(self) -> None:
        """Take in that a flush has succeeded."""
        self.backs_off = False
        self._pauses.begin_anew()

    def stay_failed(self, error: BaseException | None) -> None:
        """Take in that no new segment could be begun."""
        self._failure = _told(error)
        self._no_segment.met(error=self._failure)

    def reopen(self, segment: str) -> None:
        """Take in that there is a new segment."""
        if self.take(Event.REOPENED):
            self._no_segment.over()
            self._failing.over(segment=segment)

    def measure(self, free: Free, backlog_bytes: int, owed_bytes: int) -> None:
        """Take in how much space is free. A measurement that failed says nothing."""
        if isinstance(free, OSError):
            self._unmeasured.met(error=reason_with_file(free))
            return
        self._unmeasured.over()
        self.space.update(free, backlog_bytes, owed_bytes)
        self.take(Event.LOW if self.space.is_low else Event.ENOUGH)
        if self.condition is Condition.NO_SPACE:
            self._no_space.met(free_bytes=free, needed_bytes=self.space.needed_bytes)
        elif self.condition is Condition.OPEN:
            self._no_space.over(free_bytes=free)

    def refusal(self) -> JournalError:
        """Return what a new record is refused with."""
        if self.condition is Condition.NO_SPACE:
            free, needed = self.space.free_bytes, self.space.needed_bytes
            return NoSpaceError(f"{free} bytes are free on the journal's disk, {needed} are needed")
        if self.condition is Condition.FAILED:
            return JournalFailedError(f"the journal failed and is trying a new segment: {self._failure}")
        if self.condition is Condition.BROKEN:
            return JournalFailedError(f"the journal met an unexpected error: {self._failure}")
        return JournalClosedError("the journal is closed")

    def problems(self) -> list[str]:
        """Return what keeps new records out, one sentence each."""
        return [] if self.condition in (Condition.OPEN, Condition.CLOSED) else [str(self.refusal())]

    def _lost(self) -> JournalFailedError:
        return JournalFailedError(f"writing the journal failed: {self._failure}")


def _told(error: BaseException | None) -> str:
    if isinstance(error, OSError):
        return reason_with_file(error) or type(error).__name__
    return str(error) if isinstance(error, JournalError) else f"{type(error).__name__}: {error}"
