"""Whether a small operation is done on the loop rather than in the store's thread. Pure.

Two hops between threads cost more than its transaction, 0.1 ms and more; but whatever is done on the loop, everybody waits for.
"""

from __future__ import annotations

#: an operation on the loop that took longer sends the next ones to the thread, in s and operations
SLOW_S = 0.002
AFTER_SLOW = 100
#: a durable one goes on the loop while such take less than this, in s: the hops would be a tenth of it
FLUSH_S = 0.001
#: and once the loop has been without one for so many times as long as the last took: all of them have a third of it at most,
#: and where ends come faster than that they gather in the thread
FREE_SHARES = 2


class Lone:
    """Observes operations, and decides. Times are of one monotonic clock, in s."""

    def __init__(self) -> None:
        self._to_thread = 0
        self._flush_s = 0.0
        self._free_from = 0.0

    def expect_slow(self) -> None:
        """Have nothing done on the loop for a while."""
        self._to_thread = AFTER_SLOW

    def decide(self, now: float, *, durable: bool) -> bool:
        """Tell whether to do a small operation on the loop, if nothing is before it. To be asked once for each."""
        if self._to_thread:
            self._to_thread -= 1
            return False
        return not durable or (self._flush_s < FLUSH_S and now >= self._free_from)

    def did(self, began: float, ended: float, *, durable: bool) -> None:
        """Take in how long one took that was done on the loop."""
        if durable:
            self.observe(ended - began)
            self._free_from = ended + FREE_SHARES * (ended - began)
        elif ended - began > SLOW_S:
            self._to_thread = AFTER_SLOW

    def observe(self, took_s: float) -> None:
        """Take in how long a small durable one took, wherever it was done."""
        self._flush_s += 0.2 * (took_s - self._flush_s)
