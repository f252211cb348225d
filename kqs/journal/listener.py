"""Who hears of the journal's batches, and may claim what is in them. All in the loop thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from kqs.journal.format import Record


class Listener(Protocol):
    """Hears of each batch: `before_flush`, then exactly one of `flushed` and `failed`, whatever happens in between.

    One batch at a time, in the order of append: no other is heard of between the two. What a method raises is told to
    `on_fault`, for the node to stop, and changes nothing for the records.
    """

    def before_flush(self, batch: list[Record]) -> None:
        """Take in that `batch` is about to be flushed.

        It may set `claimed` on any of the records, which then say so on disk: all jobs of theirs begin attempt 1 when the
        batch is flushed. If this raises, none is claimed, and the batch is flushed all the same.
        """

    def during_flush(self, batch: list[Record]) -> None:
        """Prepare what `flushed` will need. It is not called if `before_flush` has raised, or the write fails.

        The disk works meanwhile: what takes 40 us on the loop costs nothing.
        """

    def flushed(self, batch: list[Record]) -> None:
        """Take in that `batch` is durable; its records have their `seq`.

        Their `done` was called, so that answers go first; of a batch with claimed records it is called after this: runs do.
        """

    def failed(self, batch: list[Record]) -> None:
        """Take in that `batch` may or may not survive, so that nothing of it runs here; its `done` is called after this."""

    def give_up(self) -> None:
        """Let go of whatever waits for news of a batch: a method of the listener has raised, so they may never come."""


class Nobody:
    """A listener that claims nothing."""

    def before_flush(self, batch: list[Record]) -> None:
        """See `Listener`."""

    def during_flush(self, batch: list[Record]) -> None:
        """See `Listener`."""

    def flushed(self, batch: list[Record]) -> None:
        """See `Listener`."""

    def failed(self, batch: list[Record]) -> None:
        """See `Listener`."""

    def give_up(self) -> None:
        """See `Listener`."""


class Hearing:
    """Tells a listener what it is promised, whatever it raises."""

    def __init__(self, on_fault: Callable[[BaseException], None]) -> None:
        self._on_fault = on_fault
        self._offered: list[Record] | None = None
        self._may_prepare = False
        self.listener: Listener = Nobody()

    def offer(self, batch: list[Record]) -> None:
        """Let the listener claim of `batch` what it will; `prepare` follows, while the disk has it in hand."""
        self._offered, self._may_prepare = batch, True
        try:
            self.listener.before_flush(batch)
        except Exception as error:
            for record in batch:
                record.claimed = False
            self._may_prepare = False
            self._give_up(error)

    def prepare(self) -> None:
        """Let the listener prepare for the offered batch, which is neither flushed nor failed."""
        if self._offered is None or not self._may_prepare:
            return
        try:
            self.listener.during_flush(self._offered)
        except Exception as error:
            self._give_up(error)

    def flushed(self, batch: list[Record]) -> None:
        """Tell that the offered batch is durable."""
        self._offered = None
        try:
            self.listener.flushed(batch)
        except Exception as error:
            self._give_up(error)

    def failed(self) -> None:
        """Tell that the batch that was offered, if any was, has failed."""
        if self._offered is None:
            return
        batch, self._offered = self._offered, None
        try:
            self.listener.failed(batch)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._on_fault(error)
        try:
            self.listener.give_up()
        except Exception as another:
            self._on_fault(another)
