"""What all connections together have sent that was not run yet, and who must go when that is too much.

Unfinished lines and lines that wait to be run are bounded apart from each other, so that neither takes the place of the
other. Of unfinished lines, the one without progress for longest goes first: who keeps sending is not among them. Of those
that wait, first go those whose peers take no answers, so that theirs could wait for ever; then whoever has most of them
waiting, but for single lines and inserts, whose turn comes by itself; and then who came last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Protocol

from kqs.rpc.answers import STALLED_S

#: A line of up to so many bytes, everybody may have.
SHORT_BYTES = 4 * 1024

clock = time.monotonic


class Sender(Protocol):
    """A connection, as seen from here."""

    @property
    def open_bytes(self) -> int:
        """Return how much of an unfinished line it holds."""
        ...

    @property
    def waiting_bytes(self) -> int:
        """Return how much it holds of lines that wait to be run."""
        ...

    @property
    def has_many_waiting(self) -> bool:
        """Tell whether that is more than one line, and not inserts that wait for the journal."""
        ...

    @property
    def is_inserting(self) -> bool:
        """Tell whether it waits for the journal."""
        ...

    @property
    def taken_bytes(self) -> int:
        """Return how many bytes of answers its peer has taken so far."""
        ...


class Lines:
    """See the module docstring. Owned by the loop thread.

    open_bytes, waiting_bytes: over all connections, which keep them. senders: the connections. turn_away: closes one, `busy`;
    of_line: for its unfinished line.
    """

    def __init__(self, limit_bytes: int, waiting_limit_bytes: int) -> None:
        self.open_bytes = 0
        self.waiting_bytes = 0
        self.senders: Collection[Sender] = ()
        self.turn_away: Callable[[Sender, bool], None] = lambda sender, of_line: None
        self._limit_bytes = limit_bytes
        self._waiting_limit_bytes = waiting_limit_bytes
        self._long: dict[Sender, None] = {}  # whose line is long and unfinished; the longest without progress first
        self._blocked: dict[Sender, tuple[int, float]] = {}  # what each had taken, and since when no more; the longest first

    @property
    def is_too_much(self) -> bool:
        """Tell whether somebody must go."""
        return self.open_bytes > self._limit_bytes or self.waiting_bytes > self._waiting_limit_bytes

    def note_open(self, sender: Sender, *, has_progressed: bool) -> None:
        """Take note of a sender's unfinished line, or that it has none any more."""
        is_long = sender.open_bytes > SHORT_BYTES
        if has_progressed or not is_long:
            self._long.pop(sender, None)
        if is_long:
            self._long.setdefault(sender)

    def note_blocked(self, sender: Sender) -> None:
        """Take note of a sender whose peer must take answers first."""
        self._blocked[sender] = (sender.taken_bytes, clock())

    def note_free(self, sender: Sender) -> None:
        """Take note that it has."""
        self._blocked.pop(sender, None)

    def leave(self, sender: Sender) -> None:
        """Forget a connection."""
        self._long.pop(sender, None)
        self._blocked.pop(sender, None)

    def make_room(self, sender: Sender) -> None:
        """Turn away who must go. sender: who received last."""
        while self.open_bytes > self._limit_bytes and self._long:
            longest = next(iter(self._long))
            del self._long[longest]
            self.turn_away(longest, True)
        if self.waiting_bytes > self._waiting_limit_bytes:
            self._turn_away_stalled()
        if self.waiting_bytes > self._waiting_limit_bytes:
            self._turn_away_greatest()
        if self.waiting_bytes > self._waiting_limit_bytes and sender.waiting_bytes > SHORT_BYTES and not sender.is_inserting:
            self.turn_away(sender, False)

    def _turn_away_stalled(self) -> None:
        now = clock()
        while self._blocked and self.waiting_bytes > self._waiting_limit_bytes:
            sender, (taken, since) = next(iter(self._blocked.items()))
            if since > now - STALLED_S:
                return
            del self._blocked[sender]
            if sender.taken_bytes != taken:
                self.note_blocked(sender)
            elif sender.waiting_bytes:
                self.turn_away(sender, False)

    def _turn_away_greatest(self) -> None:
        """Make so much room that this is not looked for again soon."""
        greatest = sorted(
            (sender for sender in self.senders if sender.has_many_waiting), key=lambda one: one.waiting_bytes, reverse=True
        )
        for sender in greatest:
            if self.waiting_bytes <= self._waiting_limit_bytes * 3 // 4:
                break
            self.turn_away(sender, False)
