"""Who hears of the journal's batches, and may claim what is in them. Called in the loop thread."""

from __future__ import annotations

from typing import Protocol

from kqs.journal.format import Record


class Listener(Protocol):
    """Hears of each batch twice: `before_flush`, then exactly one of `flushed` and `failed`, whatever happens in between.

    One batch at a time, in the order of append: no other is heard of between the two. What a method raises is told to
    `on_fault`, for the node to stop, and changes nothing for the records.
    """

    def before_flush(self, batch: list[Record]) -> None:
        """Take in that `batch` is about to be flushed, now on the loop (`alone` is set then) or in the flush thread.

        It may set `claimed` on any of the records, which then say so on disk: all jobs of theirs begin attempt 1 when the
        batch is flushed. If this raises, none is claimed, and the batch is flushed all the same.
        """

    def flushed(self, batch: list[Record]) -> None:
        """Take in that `batch` is durable; its records have their `seq`, and their `done` was called."""

    def failed(self, batch: list[Record]) -> None:
        """Take in that `batch` may or may not survive, so that nothing of it runs here; its `done` is called after this."""


class Nobody:
    """A listener that claims nothing."""

    def before_flush(self, batch: list[Record]) -> None:
        """See `Listener`."""

    def flushed(self, batch: list[Record]) -> None:
        """See `Listener`."""

    def failed(self, batch: list[Record]) -> None:
        """See `Listener`."""
