"""When a disk is too full to accept more. Pure.

Every byte the store has not taken yet will stand twice there, in its WAL and in its file, each time with what pages and indexes
add to it: so the backlog counts three times against the free space.
Refusing begins below the low-water mark and ends above the high-water mark, so that it does not flutter.
"""

from __future__ import annotations

#: the high-water mark lies above the low one by this share of min_free_bytes
_HYSTERESIS_SHARE = 0.25
#: so many bytes of the store for one of the backlog
_TAKES = 3
#: with less free than this, jobs could be accepted for which the store finds no room to run them
LEAST_FREE_BYTES = 2 * 1024 * 1024


def kept_free_bytes(min_free_bytes: int) -> int:
    """Return how much stays free where `min_free_bytes` are to: at least the least."""
    return max(min_free_bytes, LEAST_FREE_BYTES)


class SpaceGauge:
    """Call from one thread. min_free_bytes: what is to stay free when the whole backlog has been stored."""

    def __init__(self, min_free_bytes: int) -> None:
        self._min_free_bytes = kept_free_bytes(min_free_bytes)
        self.free_bytes = -1
        #: with fewer free, records are refused; while they are, from so many free on they no longer are
        self.needed_bytes = self._min_free_bytes
        self.is_low = False

    def update(self, free_bytes: int, backlog_bytes: int, owed_bytes: int = 0) -> None:
        """Take in a new measurement. owed_bytes: what the store may need for what it has already."""
        self.free_bytes = free_bytes
        low_mark = self._min_free_bytes + _TAKES * backlog_bytes + owed_bytes
        high_mark = low_mark + int(self._min_free_bytes * _HYSTERESIS_SHARE)
        self.is_low = free_bytes < (high_mark if self.is_low else low_mark)
        self.needed_bytes = high_mark if self.is_low else low_mark
