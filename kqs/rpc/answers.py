"""What all connections together have not taken of their answers, and what happens when that is too much.

An exact sum costs a look at every connection, so it is made only after as much was written as there was room for at the last
one. Beyond the limit the server is crowded: whoever holds answers is asked to take them before anything else is run for it,
no job is read and no long line is run for anybody; and who takes nothing for a while is cut off, who holds most first, until
there is much room. All else goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from kqs.supervisor import Judgement, Supervisor

#: How often a crowded server looks, and how long a connection may take nothing then, in s.
LOOK_S = 0.1
STALLED_S = 0.5
#: Untaken answers that are nobody's concern: those of any client that is about to read.
LITTLE_BYTES = 16 * 1024


class Holder(Protocol):
    """A connection, as seen from here."""

    @property
    def untaken_bytes(self) -> int:
        """Return how many bytes of answers are held for the peer."""
        ...

    @property
    def taken_bytes(self) -> int:
        """Return how many the peer has taken so far."""
        ...

    def abort(self) -> None:
        """Drop the peer at once."""
        ...


class Answers:
    """See the module docstring. Owned by the loop thread.

    holders: the connections. relieved: called when the server is crowded no more. cut_off: called with how many were.
    room: set while the server is not crowded.
    """

    def __init__(self, limit_bytes: int, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.holders: set[Holder] = set()
        self.relieved: Callable[[], None] = lambda: None
        self.cut_off: Callable[[int], None] = lambda count: None
        self.room = asyncio.Event()
        self.room.set()
        self._limit_bytes = limit_bytes
        self._enough_bytes = limit_bytes * 3 // 4
        self._kept_bytes = limit_bytes // 4
        self._at_most_bytes = 0
        self._stalled: dict[Holder, tuple[int, float]] = {}  # what each had taken, and since when no more than that
        self._timer: Judgement | None = None
        #: more is held than all may hold together
        self.is_crowded = False

    @property
    def untaken_bytes(self) -> int:
        """Return what is held over all connections."""
        return sum(holder.untaken_bytes for holder in self.holders)

    def note(self, size: int) -> None:
        """Take note that so many bytes of answers more are held, or were until they were taken."""
        self._at_most_bytes += size
        if self._at_most_bytes > self._limit_bytes and not self.is_crowded:
            self._at_most_bytes = self.untaken_bytes
            if self._at_most_bytes > self._enough_bytes:
                self.is_crowded = True
                self.room.clear()
                self._look()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.is_crowded = False

    def _look(self) -> None:
        """Cut off who stalls, and look again later if too much is held still."""
        now = asyncio.get_running_loop().time()
        held = sorted(
            ((size, holder) for holder in self.holders if (size := holder.untaken_bytes)),
            key=lambda one: one[0],
            reverse=True,
        )
        total = sum(size for size, _ in held)
        seen, self._stalled = self._stalled, {}
        aborted = 0
        for size, holder in held:
            taken = holder.taken_bytes
            before, since = seen.get(holder, (-1, now))
            if taken != before:
                since = now
            self._stalled[holder] = (taken, since)
            if total > self._kept_bytes and now - since >= STALLED_S:
                holder.abort()
                total -= size
                aborted += 1
        if aborted:
            self.cut_off(aborted)
        self._at_most_bytes = total
        if total > self._enough_bytes:
            self._timer = self._supervisor.judge_later(LOOK_S, "answers", self._look)
        else:
            self._timer = None
            self.is_crowded = False
            self._stalled.clear()
            self.room.set()
            self.relieved()
