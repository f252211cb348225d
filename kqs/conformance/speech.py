"""What a program says, and how it is answered, in the dialect it speaks. Pure."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec

from kqs.wire import dialect, qrpc
from kqs.wire.call import BadLine, Call, Dialect
from kqs.wire.lines import DEFAULT_LINE_BYTES, LineBuffer, TooLong

_encode = msgspec.json.Encoder().encode


class Speech:
    """The lines of one connection."""

    def __init__(self) -> None:
        self._lines = LineBuffer(DEFAULT_LINE_BYTES)
        self._last = Dialect.QRPC

    def receive_data(self, data: bytes) -> list[Call | BadLine]:
        """Return the calls that `data` completes, and what is none."""
        heard: list[Call | BadLine] = []
        for chunk in self._lines.receive_data(data):
            if isinstance(chunk, TooLong):
                heard.append(BadLine("too_large", "the line is too long", dialect=self._last))
                continue
            for line in chunk.split(b"\n")[:-1]:
                for call in dialect.decode_any(line, self._last):
                    self._last = call.dialect
                    heard.append(_alone(call))
        return heard


def _alone(call: Call | BadLine) -> Call | BadLine:
    """Refuse the members of batches: their answers would have to wait for each other."""
    if call.batch < 0:
        return call
    return BadLine("unsupported", "this server takes no batches", call.id, call.dialect)


def answer(call: Call, result: Any) -> bytes:
    """Return the line of an answer; nothing for a notification."""
    return dialect.end(call, _encode(result))


def event(call: Call, value: Any) -> bytes:
    """Return the line of an intermediate answer."""
    return dialect.progress(call, _encode(value))


def refusal(call: Call | BadLine, code: str, message: str) -> bytes:
    """Return the line of an error."""
    return dialect.error(call, code, message)


def unnamed(call: Call, code: str, message: str) -> bytes:
    """Return the line of an error that does not say which call it means."""
    return dialect.error(BadLine(code, message, dialect=call.dialect), code, message)


def turned_away(code: str) -> bytes:
    """Return the line for a connection that is closed before anything was asked."""
    return qrpc.error(None, code, "this server is full, or stops")


def in_pieces(line: bytes, count: int) -> list[bytes]:
    """Cut a line so that the last piece is its newline, and characters of several bytes are cut through if there are any."""
    size = max(1, -(-(len(line) - 1) // count))
    within_characters = {at for at, byte in enumerate(line) if 0x80 <= byte < 0xC0}
    cuts = {*range(0, len(line), size), *within_characters, len(line) - 1, len(line)}
    return [line[start:end] for start, end in pairwise(sorted(cuts))]
