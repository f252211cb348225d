"""What one peer has sent that was not run yet: an unfinished line, and pieces of whole lines in their order. No I/O.

All of it is counted with what all others have sent (kqs.rpc.lines), and so is what is worked on, until that is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from kqs.rpc.lines import Lines
from kqs.wire.call import BadLine, Call
from kqs.wire.lines import LineBuffer, TooLong

#: A chunk that is longer begins with a long line, which is decoded in steps: one read more than everybody's right.
LONG_CHUNK_BYTES = 320 * 1024
#: What is not all inserts is run in pieces of about this size, since a decoded call takes many times its bytes, and one that
#: must wait is kept decoded.
PIECE_BYTES = 8 * 1024
_CALL_BYTES = 256  # what a decoded call takes


class SingleLines(NamedTuple):
    """Lines of a piece that must be run one by one."""

    lines: bytes


class Rest(NamedTuple):
    """Calls of a piece that were decoded and must wait. size: of what they take in memory, in bytes."""

    calls: Sequence[Call | BadLine]
    size: int


#: bytes: whole lines, as they came. TooLong: one over the limit.
Piece = bytes | TooLong | SingleLines | Rest


class Received:
    """See the module docstring.

    pieces: what is to be run, the next one first. worked_on_bytes: how long that was which is worked on. is_counted: `count`
    has found something.
    """

    def __init__(self, max_line_bytes: int, lines: Lines) -> None:
        """Args: lines: with which it counts."""
        self.pieces: deque[Piece] = deque()
        self.worked_on_bytes = 0
        self.is_counted = False
        self._max_line_bytes = max_line_bytes
        self._buffer = LineBuffer(max_line_bytes)
        self._lines = lines
        self._counted_open_bytes = 0
        self._counted_waiting_bytes = 0

    @property
    def open_bytes(self) -> int:
        """Return how many bytes of an unfinished line are held."""
        return self._buffer.buffered_bytes

    @property
    def waiting_bytes(self) -> int:
        """Return how many bytes of lines wait to be run, or are worked on and not long, as `count` last saw them."""
        return self._counted_waiting_bytes

    @property
    def has_many_pieces(self) -> bool:
        """Tell whether more than one piece waits to be run."""
        return len(self.pieces) > 1

    @property
    def has_much(self) -> bool:
        """Tell whether more than a little is to be run."""
        pieces = self.pieces
        return len(pieces) > 1 or (bool(pieces) and _size_of(pieces[0]) > PIECE_BYTES)

    def receive_data(self, data: bytes) -> None:
        """Take what arrived."""
        self.pieces.extend(self._buffer.receive_data(data))

    def put_back(self, piece: Piece) -> None:
        """Have a piece, or what is left of it, run next."""
        self.pieces.appendleft(piece)

    def put_back_calls(self, calls: Sequence[Call | BadLine], size: int) -> None:
        """Have decoded calls run next. size: of what they came in, in bytes."""
        self.put_back(Rest(calls, size + _CALL_BYTES * len(calls)))

    def cut_up(self, chunk: bytes) -> bool:
        """Have a chunk of many lines run next, in several pieces; False, with nothing done, if it is one already."""
        if len(chunk) <= PIECE_BYTES:
            return False
        pieces = []
        at = 0
        while at < len(chunk):
            end = chunk.rfind(b"\n", at, at + PIECE_BYTES) + 1 or chunk.index(b"\n", at) + 1
            pieces.append(chunk[at:end])
            at = end
        if len(pieces) == 1:
            return False
        self.pieces.extendleft(reversed(pieces))
        return True

    def drop(self) -> None:
        """Let go of all of it."""
        self.pieces.clear()
        self.drop_line()

    def drop_line(self) -> None:
        """Let go of the unfinished line."""
        self._buffer = LineBuffer(self._max_line_bytes)
        self.count()

    def count(self) -> None:
        """Have what is held counted with that of all others.

        A long line that is worked on still counts as it did before its end came, which is when it can be turned away.
        """
        if not (self.is_counted or self.pieces or self._buffer.open_line or self.worked_on_bytes):
            return
        open_bytes = self._buffer.buffered_bytes
        waiting_bytes = sum(map(_size_of, self.pieces)) if self.pieces else 0
        if self.worked_on_bytes > LONG_CHUNK_BYTES:
            open_bytes += self.worked_on_bytes
        else:
            waiting_bytes += self.worked_on_bytes
        self._lines.open_bytes += open_bytes - self._counted_open_bytes
        self._lines.waiting_bytes += waiting_bytes - self._counted_waiting_bytes
        self._counted_open_bytes, self._counted_waiting_bytes = open_bytes, waiting_bytes
        self.is_counted = bool(open_bytes or waiting_bytes)


def _size_of(piece: Piece) -> int:
    if isinstance(piece, bytes):
        return len(piece)
    if isinstance(piece, SingleLines):
        return len(piece.lines)
    return piece.size if isinstance(piece, Rest) else 0
