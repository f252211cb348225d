"""What a server and its helper processes say to each other, as bytes. Pure.

    frame = length of the rest: 4 bytes, big-endian | kind: 1 byte | body
    ORDER = length of the header: 4 bytes | header: JSON | the job's data
    ENDED = exit code, negative for a signal: 4 bytes | flags: 1 byte | length of the output: 4 bytes | output | errors
    UNSTARTED = errno: 4 bytes | at what: UTF-8
    PROGRESS = what a command says of it, at most one byte longer than may be kept; what may not be is told for the log
    READY, KILL = the minder's process: decimal digits

Both ends are of one version: the server starts the other from its own files.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Any, NamedTuple

from kqs.minding.command import Command
from kqs.minding.limits import Limits

#: the descriptor under which a keeper finds the socket to its server
CONTROL = 3

#: the longest progress that is kept; kqs.job has the same bound, which cannot be imported from here
PROGRESS_BYTES = 16 * 1024

_LENGTH = struct.Struct("!I")
_ENDED = struct.Struct("!iBI")
_ERRNO = struct.Struct("!i")
_HEAD_BYTES = _LENGTH.size + 1

_FLOODED = 1
_CUT = 2


class Kind(IntEnum):
    """What a frame is."""

    ORDER = 1  # to a minder: run this
    END = 2  # to a minder: end what you run, and report; a child process is asked to at first, and killed the second time
    READY = 3  # from a minder: it takes orders
    ENDED = 4  # from a minder: the command has ended, and nothing is left of it
    UNSTARTED = 5  # from a minder: the command could not be started
    FORK = 6  # to the keeper: fork a minder, for the channel whose end comes with this
    KILL = 7  # to the keeper: kill a minder
    PROGRESS = 8  # from a minder: how far the command is, as it says


class Order(NamedTuple):
    """A command to run, and a job for it."""

    command: Command
    environ: dict[str, str]
    data: bytes


class Ended(NamedTuple):
    """How a command has ended. code: negative for the signal that killed it. is_flooded: it wrote more than it may.

    is_cut: `errors` is only the end of what it wrote to stderr.
    """

    code: int
    is_flooded: bool
    is_cut: bool
    output: bytes
    errors: bytes


class Unstarted(NamedTuple):
    """Why a command was not started. step: at what it failed."""

    errno: int
    step: str


def encoded(kind: Kind, *parts: bytes) -> bytes:
    """Return a frame."""
    return b"".join((_LENGTH.pack(1 + sum(map(len, parts))), bytes((kind,)), *parts))


def encode_order(order: Order) -> bytes:
    """Return the frame of an order."""
    header = json.dumps(order[:-1]).encode()
    return encoded(Kind.ORDER, _LENGTH.pack(len(header)), header, order.data)


def decode_order(body: bytes) -> Order:
    """Return what `encode_order` was given."""
    (length,) = _LENGTH.unpack_from(body)
    start = _LENGTH.size + length
    said: list[Any]
    said, environ = json.loads(body[_LENGTH.size : start])
    command = Command._make(said)
    return Order(command._replace(limits=Limits(*command.limits)), environ, body[start:])


def encode_report(report: Ended | Unstarted) -> bytes:
    """Return the frame of a report."""
    if isinstance(report, Unstarted):
        return encoded(Kind.UNSTARTED, _ERRNO.pack(report.errno), report.step.encode(errors="replace"))
    flags = _FLOODED * report.is_flooded | _CUT * report.is_cut
    return encoded(Kind.ENDED, _ENDED.pack(report.code, flags, len(report.output)), report.output, report.errors)


def decode_report(kind: int, body: bytes) -> Ended | Unstarted:
    """Return what `encode_report` was given."""
    if kind == Kind.UNSTARTED:
        (number,) = _ERRNO.unpack_from(body)
        return Unstarted(number, body[_ERRNO.size :].decode())
    code, flags, length = _ENDED.unpack_from(body)
    end = _ENDED.size + length
    return Ended(code, bool(flags & _FLOODED), bool(flags & _CUT), body[_ENDED.size : end], body[end:])


class FrameReader:
    """Makes frames of what comes in, however it is cut."""

    def __init__(self) -> None:
        self._data = bytearray()

    def receive_data(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the frames that are complete now, as kind and body."""
        self._data += data
        frames, at = [], 0
        while len(self._data) >= at + _HEAD_BYTES:
            (length,) = _LENGTH.unpack_from(self._data, at)
            end = at + _LENGTH.size + length
            if len(self._data) < end:
                break
            frames.append((self._data[at + _LENGTH.size], bytes(self._data[at + _HEAD_BYTES : end])))
            at = end
        del self._data[:at]
        return frames
