"""Cuts a byte stream into chunks of whole lines, with a limit on the line.

Only new bytes are searched and an open line is appended to in place, so input that drips in costs O(n). An over-long
line costs one mark: the rest of it is dropped as it arrives, and its neighbours survive. What stands after the last
newline when the input ends was never a line.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

#: the longest line, unless `[server] max_line_bytes` says otherwise; clients send none longer, as it would be refused
DEFAULT_LINE_BYTES = 16 * 1024 * 1024


class TooLong(Enum):
    """The mark that stands for a line over the limit."""

    TOO_LONG = "too long"


TOO_LONG: Final = TooLong.TOO_LONG


class LineBuffer:
    """The open line of one connection. open_line: what is held of it."""

    def __init__(self, max_line_bytes: int) -> None:
        """Args: max_line_bytes: the longest line passed on, without the LF or CR LF that ends it.

        It bounds what one peer can make the server remember.
        """
        self._limit = max_line_bytes
        self.open_line = bytearray()
        self._is_discarding = False

    @property
    def buffered_bytes(self) -> int:
        """Return how many bytes of an open line are held."""
        return len(self.open_line)

    def receive_data(self, data: bytes) -> list[bytes | TooLong]:
        """Take what arrived.

        Returns: in order, chunks of one or more whole lines, each ending with LF, as few as can be; and one TOO_LONG for
        each line over the limit, as soon as it is known to be.
        """
        if self._is_discarding:
            newline = data.find(b"\n")
            if newline < 0:
                return []
            self._is_discarding = False
            data = data[newline + 1 :]
        if not self.open_line and data.endswith(b"\n") and len(data) <= self._limit + 1:
            return [data]
        end = data.rfind(b"\n") + 1
        events = self._complete(data[:end]) if end else []
        if end < len(data):
            events += self._keep(data[end:])
        return events

    def _complete(self, data: bytes) -> list[bytes | TooLong]:
        if self.open_line:
            self.open_line += data
            data = bytes(self.open_line)
            self.open_line.clear()
        return [data] if len(data) <= self._limit + 1 else self._cut_out_long_lines(data)

    def _cut_out_long_lines(self, chunk: bytes) -> list[bytes | TooLong]:
        events: list[bytes | TooLong] = []
        passed = at = 0
        while at < len(chunk):
            end = chunk.index(b"\n", at) + 1
            ending = 2 if chunk.endswith(b"\r\n", at, end) else 1
            if end - at - ending > self._limit:
                if passed < at:
                    events.append(chunk[passed:at])
                events.append(TOO_LONG)
                passed = end
            at = end
        if passed < at:
            events.append(chunk[passed:])
        return events

    def _keep(self, piece: bytes) -> list[bytes | TooLong]:
        self.open_line += piece
        # a CR at the very end may yet turn out to belong to the newline
        if len(self.open_line) <= self._limit + piece.endswith(b"\r"):
            return []
        self.open_line.clear()
        self._is_discarding = True
        return [TOO_LONG]
