"""Bytes to replies, each given to the command that it answers.

A beanstalkd answers in the order asked, so the reader is told every command as it is sent. Three rules. A reply that
cannot belong to its command ends the stream: whatever follows could be credited to the wrong job. So does BAD_FORMAT, after
it has been handed on: the server may have taken a body for commands. What came before the fault stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from kqs.errors import ProtocolError
from kqs.wire.beanstalk.commands import MAX_TUBE_BYTES, MAX_U64, Command
from kqs.wire.beanstalk.values import (
    ANYTIME,
    Buried,
    Inserted,
    Ok,
    Reply,
    Reserved,
    Using,
    Watching,
    Word,
)

#: the longest reply line is USING with a tube's name; more is not a beanstalkd
MAX_LINE_BYTES: Final = len(b"USING \r\n") + MAX_TUBE_BYTES
#: the most that `max-job-size` can be
MAX_BODY_BYTES: Final = 2**30

_WORDS = {word.value: word for word in Word}
_NUMBERED: dict[bytes, Callable[[int], Reply]] = {
    b"INSERTED": Inserted,
    b"BURIED": Buried,
    b"WATCHING": Watching,
}


class DamagedBodyError(ProtocolError):
    """A body that does not end where its line says, as of a job that was read back from a torn binlog.

    job_id: the job's, by that line; None when the body is no job's.
    """

    def __init__(self, line: bytes, job_id: int | None) -> None:
        """Args: line: the one before the body."""
        super().__init__(f"a body that does not end where {line!r} says")
        self.job_id = job_id


class ReplyReader:
    """The replies of one connection. `fault`: why nothing more is read, or None."""

    def __init__(self, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        """Args: max_body_bytes: the largest body taken in, which is what one server can make us hold."""
        self._max_body_bytes = max_body_bytes
        self._expected: deque[Command] = deque()
        self._buffer = bytearray()
        self._wanted_bytes = 0  # until so many are there, the reply at the front is known to be cut short
        self.fault: ProtocolError | None = None

    @property
    def expected_count(self) -> int:
        """Return how many replies are still to come."""
        return len(self._expected)

    def expect(self, commands: Iterable[Command]) -> None:
        """Note commands, in the order they are sent."""
        self._expected.extend(commands)

    def receive_data(self, data: bytes) -> list[Reply]:
        """Take what arrived; return the replies that are complete, in the order of their commands. See `fault`."""
        replies: list[Reply] = []
        if self.fault is not None:
            return replies
        self._buffer += data
        if len(self._buffer) < self._wanted_bytes:
            return replies
        self._wanted_bytes = 0
        try:
            at = self._read(bytes(self._buffer), replies)
        except ProtocolError as fault:
            self.fault = fault
            self._buffer.clear()
        else:
            del self._buffer[:at]
        return replies

    def _read(self, data: bytes, replies: list[Reply]) -> int:
        """Read `data` from its start; return where the first incomplete reply begins."""
        expected, at = self._expected, 0
        while at < len(data):
            if not expected:
                raise ProtocolError(f"a reply that nobody asked for: {data[at : at + 40]!r}")
            end = data.find(b"\r\n", at, at + MAX_LINE_BYTES)
            if end < 0:
                if len(data) - at >= MAX_LINE_BYTES:
                    raise ProtocolError(f"a reply line without end: {data[at : at + 40]!r}")
                return at
            line = data[at:end]
            reply, size = self._parse(line)
            begin, after = end + 2, end + 2
            if size is not None:
                after = begin + size + 2
                if after > len(data):
                    self._check(reply, line)
                    self._wanted_bytes = after - at
                    return at
                if data[after - 2 : after] != b"\r\n":
                    raise DamagedBodyError(line, getattr(reply, "id", None))
                reply = _with_body(reply, data[begin : after - 2])
            self._check(reply, line)
            expected.popleft()
            replies.append(reply)
            at = after
            if reply is Word.BAD_FORMAT:
                raise ProtocolError("a command was refused as BAD_FORMAT, so what follows may answer anything")
        return at

    def _check(self, reply: Reply, line: bytes) -> None:
        command = self._expected[0]
        kind = reply if isinstance(reply, Word) else type(reply)
        if not (kind in ANYTIME or (kind in command.answers and command.fits(reply))):
            raise ProtocolError(f"{type(command).__name__} answered by {line!r}")

    def _parse(self, line: bytes) -> tuple[Reply, int | None]:
        """Return the reply that a line is, and the size of the body that follows, or None for none."""
        word, *rest = line.split(b" ")
        if not rest and word in _WORDS:
            return _WORDS[word], None
        if len(rest) == 1:
            if word in _NUMBERED:
                return _NUMBERED[word](_number(rest[0], line)), None
            if word == b"USING":
                return Using(rest[0].decode("ascii", "replace")), None
            if word == b"OK":
                return Ok(b""), self._size(rest[0], line)
        if len(rest) == 2 and word == b"RESERVED":
            return Reserved(_number(rest[0], line), b""), self._size(rest[1], line)
        raise ProtocolError(f"not a reply: {line!r}")

    def _size(self, text: bytes, line: bytes) -> int:
        size = _number(text, line)
        if size > self._max_body_bytes:
            raise ProtocolError(f"a body over {self._max_body_bytes} bytes: {line!r}")
        return size


def _with_body(reply: Reply, body: bytes) -> Reply:
    return Reserved(reply.id, body) if isinstance(reply, Reserved) else Ok(body)


def _number(text: bytes, line: bytes) -> int:
    # isdigit alone lets through any length, which int() takes quadratic time for
    if not text.isdigit() or len(text) > 20 or (number := int(text)) > MAX_U64:
        raise ProtocolError(f"not a number in {line!r}")
    return number
