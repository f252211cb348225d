"""The commands that are sent: each a frozen value that encodes itself and knows what may answer it.

A number out of range or a name that is no legal tube name is refused here, as a ValueError: the server would answer
BAD_FORMAT, and after a malformed `put` it would take the body for commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from kqs.wire.beanstalk.values import Buried, Inserted, Kinds, Ok, Reply, Reserved, Using, Watching, Word

MAX_U32 = 2**32 - 1
MAX_U64 = 2**64 - 1
MAX_TUBE_BYTES = 200

_TUBE = re.compile(r"[A-Za-z0-9+/;.$_()][A-Za-z0-9+/;.$_()-]{0,199}")


def _u32(number: int) -> bytes:
    if not 0 <= number <= MAX_U32:
        raise ValueError(f"expected a number from 0 to {MAX_U32}, got {number}")
    return b"%d" % number


def _id(number: int) -> bytes:
    if not 0 <= number <= MAX_U64:
        raise ValueError(f"expected a job id from 0 to {MAX_U64}, got {number}")
    return b"%d" % number


def _tube(name: str) -> bytes:
    if not _TUBE.fullmatch(name):
        raise ValueError(f"not a tube name: {name!r}")
    return name.encode()


_PARAMETERS: dict[str, Callable[[Any], bytes]] = {"id": _id, "tube": _tube}


class Command(msgspec.Struct, frozen=True, gc=False):
    """What all commands have; the fields of each are its parameters, in order.

    verb: its name. answers: what may answer it, besides `values.ANYTIME`.
    """

    verb: ClassVar[bytes]
    answers: ClassVar[Kinds]

    def encode(self) -> bytes:
        """Return the bytes to send. Raises: ValueError: a parameter that the server would refuse as BAD_FORMAT."""
        parts = [_PARAMETERS.get(name, _u32)(getattr(self, name)) for name in self.__struct_fields__]
        return b" ".join([self.verb, *parts]) + b"\r\n"

    def fits(self, reply: Reply) -> bool:
        """Tell whether a reply of a kind in `answers` can be to this very command: it names nothing else."""
        return True


class Put(Command, frozen=True, gc=False):
    """Insert a job into the used tube. prio: less is sooner. delay_s: before it is ready. ttr_s: from 1 (0 counts as 1)."""

    prio: int
    delay_s: int
    ttr_s: int
    body: bytes
    verb: ClassVar[bytes] = b"put"
    answers: ClassVar[Kinds] = frozenset({Inserted, Buried, Word.EXPECTED_CRLF, Word.JOB_TOO_BIG, Word.DRAINING})

    def encode(self) -> bytes:
        """See Command.encode."""
        front = _u32(self.prio), _u32(self.delay_s), _u32(self.ttr_s), len(self.body), self.body
        return b"put %b %b %b %d\r\n%b\r\n" % front


class Use(Command, frozen=True, gc=False):
    """Say which tube the following puts go to."""

    tube: str
    verb: ClassVar[bytes] = b"use"
    answers: ClassVar[Kinds] = frozenset({Using})

    def fits(self, reply: Reply) -> bool:
        """See Command.fits."""
        return isinstance(reply, Using) and reply.tube == self.tube


class ReserveWithTimeout(Command, frozen=True, gc=False):
    """Take a job from a watched tube, waiting for one at most so long; 0 does not wait."""

    timeout_s: int
    verb: ClassVar[bytes] = b"reserve-with-timeout"
    answers: ClassVar[Kinds] = frozenset({Reserved, Word.TIMED_OUT, Word.DEADLINE_SOON})


class Delete(Command, frozen=True, gc=False):
    """Remove a job: one reserved here, or one that nobody has reserved."""

    id: int
    verb: ClassVar[bytes] = b"delete"
    answers: ClassVar[Kinds] = frozenset({Word.DELETED, Word.NOT_FOUND})

    def encode(self) -> bytes:
        """See Command.encode."""
        return b"delete %b\r\n" % _id(self.id)


class Release(Command, frozen=True, gc=False):
    """Give back a job reserved here, to be ready after `delay_s`."""

    id: int
    prio: int
    delay_s: int
    verb: ClassVar[bytes] = b"release"
    answers: ClassVar[Kinds] = frozenset({Word.RELEASED, Word.BURIED, Word.NOT_FOUND})


class Bury(Command, frozen=True, gc=False):
    """Set aside a job reserved here, until it is kicked."""

    id: int
    prio: int
    verb: ClassVar[bytes] = b"bury"
    answers: ClassVar[Kinds] = frozenset({Word.BURIED, Word.NOT_FOUND})


class Watch(Command, frozen=True, gc=False):
    """Reserve from this tube too."""

    tube: str
    verb: ClassVar[bytes] = b"watch"
    answers: ClassVar[Kinds] = frozenset({Watching})


class Ignore(Command, frozen=True, gc=False):
    """Reserve from this tube no more; the last one watched cannot be ignored."""

    tube: str
    verb: ClassVar[bytes] = b"ignore"
    answers: ClassVar[Kinds] = frozenset({Watching, Word.NOT_IGNORED})


class StatsTube(Command, frozen=True, gc=False):
    """Ask what is known of a tube."""

    tube: str
    verb: ClassVar[bytes] = b"stats-tube"
    answers: ClassVar[Kinds] = frozenset({Ok, Word.NOT_FOUND})


class Stats(Command, frozen=True, gc=False):
    """Ask what is known of the server."""

    verb: ClassVar[bytes] = b"stats"
    answers: ClassVar[Kinds] = frozenset({Ok})


class ListTubes(Command, frozen=True, gc=False):
    """Ask for the names of all tubes."""

    verb: ClassVar[bytes] = b"list-tubes"
    answers: ClassVar[Kinds] = frozenset({Ok})
