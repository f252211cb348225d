"""What an insert needs of the journal and of the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from kqs.inserter.questions import Question
from kqs.journal.format import Record
from kqs.options import Job


class VerdictsPort(Protocol):
    """The part of the queue that is asked whether jobs are new."""

    def check_room(self, count: int) -> None:
        """Raise CallError, busy, if there are too many questions for one about so many jobs more."""
        ...

    def ask(self, question: Question) -> None:
        """Take a question about jobs that the journal is about to flush."""
        ...

    def flushed(self, question: Question) -> None:
        """Take in that the jobs are kept: the question must be answered within bounds from now on."""
        ...

    def withdraw(self, question: Question) -> None:
        """Forget a question: its jobs are not kept."""
        ...


class BoundsPort(Protocol):
    """The part of the queue that is asked whether more jobs may wait."""

    @property
    def limits(self) -> Mapping[str, int]:
        """Return how many, by type; empty: any number of any may."""
        ...

    def has_room(self, jobs: Sequence[Job]) -> bool:
        """Tell whether all these may be taken in."""
        ...

    def enter(self, jobs: Sequence[Job], copies: Sequence[str] = (), *, is_forced: bool = False) -> Mapping[str, int]:
        """Count jobs that are about to be journaled; return what `leave` needs.

        Args: copies: the types of copies of these. is_forced: even if they are too many.

        Raises: CallError: busy; they are too many.
        """
        ...

    def leave(self, counts: Mapping[str, int]) -> None:
        """Forget jobs that are not journaled after all."""
        ...


class JournalPort(Protocol):
    """The part of the journal that an insert touches."""

    def append(self, record: Record) -> None:
        """Take one record for the next flush; `record.done` is called on the loop thread after it.

        Raises: JournalError: nothing was taken, `done` will not be called. The error's `code` is the answer.
        """
        ...

    def flush_if_alone(self) -> None:
        """Flush a lone record now, if that looks best; `record.done` may be called before this returns."""
        ...
