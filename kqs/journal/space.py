"""When a disk is too full to accept more. Pure.

Every byte the store has not taken yet needs a second one in the store, so the backlog counts against the free space.
Refusing begins below the low-water mark and ends above the high-water mark, so that it does not flutter.
"""

from __future__ import annotations

#: the high-water mark lies above the low one by this share of min_free_bytes
_HYSTERESIS_SHARE = 0.25


class SpaceGauge:
    """Call from one thread. min_free_bytes: what must stay free when the whole backlog has been stored; 0 never refuses."""

    def __init__(self, min_free_bytes: int) -> None:
        self._min_free_bytes = min_free_bytes
        self.free_bytes = -1
        #: with fewer free, records are refused; while they are, from so many free on they no longer are
        self.needed_bytes = min_free_bytes
        self.is_low = False

    def update(self, free_bytes: int, backlog_bytes: int) -> None:
        """Take in a new measurement of both."""
        self.free_bytes = free_bytes
        low_mark = self._min_free_bytes + backlog_bytes
        high_mark = low_mark + int(self._min_free_bytes * _HYSTERESIS_SHARE)
        self.is_low = self._min_free_bytes > 0 and free_bytes < (high_mark if self.is_low else low_mark)
        self.needed_bytes = high_mark if self.is_low else low_mark
