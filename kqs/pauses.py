"""How long to wait between two tries of what may be away for long: twice as long after each, up to a most."""

from __future__ import annotations

import random

#: between two tries of a store that refuses, or of a journal's disk, in s: the first wait, which doubles, and the longest, by
#: which it is noticed late at most that it is back
STORE_FIRST_S = 0.05
STORE_LONGEST_S = 5.0
#: between two tries to connect to a server of KQS, in s: the first wait, which doubles, and the longest
SERVER_FIRST_S = 0.05
SERVER_LONGEST_S = 5.0


class Pauses:
    """The pauses of one who tries until it works. Times in s."""

    __slots__ = ("_first_s", "_longest_s", "_next_s")

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s

    def next_s(self) -> float:
        """Return how long to wait now, which makes the next one longer."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, self._longest_s)
        return pause_s

    def next_spread_s(self) -> float:
        """Return a random share of that, from a half on: all who lost the same server must not come back to it at once."""
        return self.next_s() * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def begin_anew(self) -> None:
        """Begin with the first again: it has worked."""
        self._next_s = self._first_s
