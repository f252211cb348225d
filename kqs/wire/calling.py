"""The calling side of qrpc (docs/protocol.md), sans I/O: calls to lines, bytes to answers."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import Raw

from kqs.errors import ERROR_CODES, CallError


class Trouble(msgspec.Struct, gc=False):
    """The `e` of an answer."""

    message: str = ""
    code: str = "internal"

    def error(self) -> CallError:
        """Return what the caller of a refused call gets. A code of a newer server becomes `internal`."""
        if self.code in ERROR_CODES:
            return CallError(self.message, self.code)
        return CallError(f"{self.code}: {self.message}", "internal")


class Answer(msgspec.Struct, gc=False):
    """One answer. id: None when the server could not tell which call it answers. s: `ok` comes before the `end`."""

    id: int | None = None
    m: Raw = Raw(b"null")
    e: Trouble | None = None
    s: str = "end"


#: A longer line is no answer: it holds a job's data at most, of a line of up to 512 MiB, with its result of up to 16.
MAX_ANSWER_BYTES = 1 << 30

_decode_answer = msgspec.json.Decoder(Answer).decode


def call_line(number: int, name: bytes, arg: bytes) -> bytes:
    """Return the line of a call. name: as JSON. arg: JSON without a newline."""
    return b'{"v":1,"id":%d,"n":%b,"m":%b}\n' % (number, name, arg)


class AnswerReader:
    """Cuts received bytes into answers. A part of a line waits in pieces, so that a long one costs no more than its length."""

    def __init__(self, max_answer_bytes: int = MAX_ANSWER_BYTES) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0

    def receive_data(self, data: bytes) -> Iterator[Answer]:
        """Yield the answers that `data` completes.

        Raises: msgspec.MsgspecError: this is no server of ours; the connection is of no more use.
        """
        if b"\n" not in data:
            self._wait_with(data)
            return
        if self._pieces:
            data = b"".join([*self._pieces, data])
            self._pieces, self._pieces_bytes = [], 0
        *lines, rest = data.split(b"\n")
        for line in lines:
            yield _decode_answer(line)
        if rest:
            self._wait_with(rest)

    def _wait_with(self, part: bytes) -> None:
        """Keep a part of a line. Raises: msgspec.DecodeError: its end need not be waited for."""
        self._pieces.append(part)
        self._pieces_bytes += len(part)
        if self._pieces_bytes > self._max_answer_bytes:
            raise msgspec.DecodeError(f"it has no end after {self._max_answer_bytes} bytes")
