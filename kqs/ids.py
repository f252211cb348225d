"""Job ids made by the server: time-ordered, unique over servers, only ever growing.

An order is a 64-bit count of microseconds since 1970 that no two jobs of one server share. The id is the order in 13
hexadecimal digits, a dash, and the server's 8-digit node, which is drawn once with its journal. Sorting ids sorts by
acceptance; `order_of` gets the order back, so a store needs no index for ids the server made.

Orders never go back, and clocks do: once a clock was ahead, orders count on from there. So no other time is taken from one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

ID_PATTERN = re.compile(r"[A-Za-z0-9._:-]{1,200}\Z")
#: how far another server's clock may be behind ours, in s: twice what is documented
MAX_SKEW_S = 120.0
#: no clock is believed beyond this order, in the year 2100: the 13 digits must last for all jobs that are still to come
MAX_CLOCK_ORDER = 4_102_444_800_000_000
#: the last digits of orders, for all that have the same ones before them: made once, since to write 13 takes longer than all
#: else that is done for the answer to an insert
_LOW_BITS = 8
_LOW = [f"{low:02x}" for low in range(1 << _LOW_BITS)]
_LOW_BYTES = [text.encode() for text in _LOW]
_MADE = re.compile(r"([0-9a-f]{13})-([0-9a-f]{8})\Z")


def microseconds(now: float) -> int:
    """Return wall time as whole microseconds since 1970, at least 1, whatever a clock may say."""
    return min(max(int(now * 1_000_000), 1), 2**63 - 1)


def is_made(job_id: str) -> bool:
    """Tell whether an id looks like those that servers make, none of which is ever made for another job."""
    return _MADE.match(job_id) is not None


def digits_of(first: int, count: int) -> Iterator[tuple[bytes, Sequence[bytes]]]:
    """Yield the 13 digits of `count` orders from `first` on: what some of them begin with, and how each of these ends."""
    for high, low in _halves(first, count):
        yield b"%011x" % high, _LOW_BYTES[low]


def _halves(first: int, count: int) -> Iterator[tuple[int, slice]]:
    end = first + count
    while first < end:
        high = first >> _LOW_BITS
        start = high << _LOW_BITS
        stop = min(end, start + (1 << _LOW_BITS))
        yield high, slice(first - start, stop - start)
        first = stop


class Ids:
    """Hands out orders and names them. Call from one thread."""

    def __init__(self, node: str, last_order: int = 0) -> None:
        """Args: node: 8 hex digits. last_order: the highest order handed out before (any clock may have run back)."""
        assert re.fullmatch("[0-9a-f]{8}", node), node
        self.node = node
        self.last_order = last_order
        self.suffix = f"-{node}"

    def take(self, count: int, now: float) -> int:
        """Return the first of `count` consecutive new orders; `now` is wall time in s."""
        first = max(min(int(now * 1_000_000), MAX_CLOCK_ORDER), self.last_order + 1)
        self.last_order = first + count - 1
        return first

    def of(self, order: int) -> str:
        """Return the id that stands for `order`."""
        return f"{order:013x}{self.suffix}"

    def of_each(self, first: int, count: int) -> list[str]:
        """Return the ids of `count` orders from `first` on."""
        if count == 1:
            return [self.of(first)]
        suffix, ids = self.suffix, list[str]()
        for high, low in _halves(first, count):
            head = f"{high:011x}"
            ids += [f"{head}{text}{suffix}" for text in _LOW[low]]
        return ids

    def order_of(self, job_id: str) -> int | None:
        """Return the order in an id this server made, else None."""
        match = _MADE.match(job_id)
        return int(match[1], 16) if match and match[2] == self.node else None

    def node_of(self, job_id: str) -> str | None:
        """Return the node in an id that some server made, else None."""
        match = _MADE.match(job_id)
        return match[2] if match else None

    def is_ours_unmade(self, job_id: str) -> bool:
        """Tell whether a client's `job_id` is one that this server has yet to make."""
        order = self.order_of(job_id)
        return order is not None and order > self.last_order

    def may_be_unmade(self, job_id: str, now: float) -> bool:
        """Tell whether a client's `job_id` is one that some server may have yet to make. `now`: wall time in s."""
        match = _MADE.match(job_id)
        if match is None:
            return False
        made = self.last_order if match[2] == self.node else int((now - MAX_SKEW_S) * 1_000_000) - 1
        return int(match[1], 16) > made
