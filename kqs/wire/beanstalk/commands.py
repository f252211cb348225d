"""Every command of the protocol: a frozen value that encodes itself and knows what may answer it.

A number out of range or a name that is no legal tube name is refused here, as a ValueError: the server would answer
BAD_FORMAT, and after a malformed `put` it would take the body for commands.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from kqs.wire.beanstalk.values import Buried, Found, Inserted, Kicked, Kinds, Ok, Reply, Reserved, Using, Watching, Word

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
        """Tell whether a reply of a kind in `answers` can be to this very command: it is about the job or tube it names."""
        if isinstance(reply, (Reserved, Found)):
            return reply.id == getattr(self, "id", reply.id)
        return not isinstance(reply, Using) or reply.tube == getattr(self, "tube", reply.tube)


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


class Reserve(Command, frozen=True, gc=False):
    """Take a job from a watched tube, waiting for one as long as it takes."""

    verb: ClassVar[bytes] = b"reserve"
    answers: ClassVar[Kinds] = frozenset({Reserved, Word.TIMED_OUT, Word.DEADLINE_SOON})


class ReserveWithTimeout(Command, frozen=True, gc=False):
    """Take a job from a watched tube, waiting for one at most so long; 0 does not wait."""

    timeout_s: int
    verb: ClassVar[bytes] = b"reserve-with-timeout"
    answers: ClassVar[Kinds] = Reserve.answers


class ReserveJob(Command, frozen=True, gc=False):
    """Take this job. Heeds neither watch list nor pause."""

    id: int
    verb: ClassVar[bytes] = b"reserve-job"
    answers: ClassVar[Kinds] = frozenset({Reserved, Word.NOT_FOUND})


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


class Touch(Command, frozen=True, gc=False):
    """Start the ttr of a job reserved here anew."""

    id: int
    verb: ClassVar[bytes] = b"touch"
    answers: ClassVar[Kinds] = frozenset({Word.TOUCHED, Word.NOT_FOUND})


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


class Peek(Command, frozen=True, gc=False):
    """Look at a job."""

    id: int
    verb: ClassVar[bytes] = b"peek"
    answers: ClassVar[Kinds] = frozenset({Found, Word.NOT_FOUND})


class PeekReady(Command, frozen=True, gc=False):
    """Look at the next ready job of the used tube."""

    verb: ClassVar[bytes] = b"peek-ready"
    answers: ClassVar[Kinds] = Peek.answers


class PeekDelayed(Command, frozen=True, gc=False):
    """Look at the delayed job of the used tube that is ready first."""

    verb: ClassVar[bytes] = b"peek-delayed"
    answers: ClassVar[Kinds] = Peek.answers


class PeekBuried(Command, frozen=True, gc=False):
    """Look at the buried job of the used tube that is kicked first."""

    verb: ClassVar[bytes] = b"peek-buried"
    answers: ClassVar[Kinds] = Peek.answers


class Kick(Command, frozen=True, gc=False):
    """Make up to `bound` buried jobs of the used tube ready, or delayed ones if none is buried."""

    bound: int
    verb: ClassVar[bytes] = b"kick"
    answers: ClassVar[Kinds] = frozenset({Kicked})


class KickJob(Command, frozen=True, gc=False):
    """Make a buried or delayed job ready."""

    id: int
    verb: ClassVar[bytes] = b"kick-job"
    answers: ClassVar[Kinds] = frozenset({Word.KICKED, Word.NOT_FOUND})


class StatsJob(Command, frozen=True, gc=False):
    """Ask what is known of a job."""

    id: int
    verb: ClassVar[bytes] = b"stats-job"
    answers: ClassVar[Kinds] = frozenset({Ok, Word.NOT_FOUND})


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


class ListTubeUsed(Command, frozen=True, gc=False):
    """Ask which tube puts go to."""

    verb: ClassVar[bytes] = b"list-tube-used"
    answers: ClassVar[Kinds] = frozenset({Using})


class ListTubesWatched(Command, frozen=True, gc=False):
    """Ask for the names of the watched tubes."""

    verb: ClassVar[bytes] = b"list-tubes-watched"
    answers: ClassVar[Kinds] = frozenset({Ok})


class PauseTube(Command, frozen=True, gc=False):
    """Let nobody reserve from a tube for `delay_s`."""

    tube: str
    delay_s: int
    verb: ClassVar[bytes] = b"pause-tube"
    answers: ClassVar[Kinds] = frozenset({Word.PAUSED, Word.NOT_FOUND})


class Quit(Command, frozen=True, gc=False):
    """Have the server close the connection. Never answered."""

    verb: ClassVar[bytes] = b"quit"
    answers: ClassVar[Kinds] = frozenset()
