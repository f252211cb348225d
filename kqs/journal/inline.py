"""Whether a lone record is flushed on the loop, and whether it waits for the end of its tick. Pure.

A flush in the thread costs two hops, about 0.1 ms; company in a batch is worth more than that as soon as there is any.
"""

from __future__ import annotations

#: a lone record is flushed on the loop while flushes take less than this, in s: the loop can spare no more, and the hops
#: would be a tenth of it
FLUSH_S = 0.001
#: a flush of more bytes says nothing about the flush of a lone job, and none so long is made on the loop
SMALL_BYTES = 16384
#: the weight of each flush in their mean: one that was held up is forgotten by a dozen others
FLUSH_WEIGHT = 0.2
#: so many ticks in a row with one record make the next lone ones go without waiting for their tick's end, all but each
#: `PROBE_EVERY`th: a second client must be noticed, or every insert of many would have a flush of its own. It takes 10 ms
LONE_TICKS = 16
PROBE_EVERY = 32


class Inline:
    """Observes flushes and ticks, and decides."""

    def __init__(self) -> None:
        self._flush_s = 0.0
        self._lone_ticks = 0

    def observe(self, size: int, took_s: float) -> None:
        """Take in how long a flush of `size` bytes took."""
        if size < SMALL_BYTES:
            self._flush_s += FLUSH_WEIGHT * (took_s - self._flush_s)

    def end_tick(self, *, is_lone: bool) -> None:
        """Take in what a tick has brought, if anything: one record, or more."""
        self._lone_ticks = self._lone_ticks + 1 if is_lone else 0

    def decide(self, size: int) -> bool:
        """Tell whether to flush a lone record, a frame of `size` bytes, on the loop."""
        return size < SMALL_BYTES and self._flush_s < FLUSH_S

    def goes_at_once(self, size: int) -> bool:
        """As `decide`, for a lone job that just came; False if it waits for company."""
        if self._lone_ticks < LONE_TICKS:
            return False
        self._lone_ticks += 1
        return self._lone_ticks % PROBE_EVERY != 0 and size < SMALL_BYTES and self._flush_s < FLUSH_S
