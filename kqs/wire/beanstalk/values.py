"""What a beanstalkd may say to `commands`, as values."""

from __future__ import annotations

from enum import Enum

import msgspec


class Word(Enum):
    """A reply that is a word alone. The last group may answer any command."""

    DELETED = b"DELETED"
    RELEASED = b"RELEASED"
    BURIED = b"BURIED"  # to `bury` as asked; to `release` because memory ran out

    NOT_FOUND = b"NOT_FOUND"
    NOT_IGNORED = b"NOT_IGNORED"
    TIMED_OUT = b"TIMED_OUT"
    DEADLINE_SOON = b"DEADLINE_SOON"
    DRAINING = b"DRAINING"
    EXPECTED_CRLF = b"EXPECTED_CRLF"
    JOB_TOO_BIG = b"JOB_TOO_BIG"

    OUT_OF_MEMORY = b"OUT_OF_MEMORY"
    INTERNAL_ERROR = b"INTERNAL_ERROR"
    BAD_FORMAT = b"BAD_FORMAT"
    UNKNOWN_COMMAND = b"UNKNOWN_COMMAND"


#: may answer any command
ANYTIME = frozenset({Word.OUT_OF_MEMORY, Word.INTERNAL_ERROR, Word.BAD_FORMAT, Word.UNKNOWN_COMMAND})


class Inserted(msgspec.Struct, frozen=True, gc=False):
    """`put` succeeded. id: the server's own, unique in one life of it (or of its binlog)."""

    id: int


class Buried(msgspec.Struct, frozen=True, gc=False):
    """`put` left the job buried: memory or the binlog failed. Nobody reserves it: not a success."""

    id: int


class Reserved(msgspec.Struct, frozen=True, gc=False):
    """A job, reserved for this connection."""

    id: int
    body: bytes


class Using(msgspec.Struct, frozen=True, gc=False):
    """The tube that puts go to."""

    tube: str


class Watching(msgspec.Struct, frozen=True, gc=False):
    """How many tubes are watched."""

    count: int


class Ok(msgspec.Struct, frozen=True, gc=False):
    """Data in YAML; see `stats` and `names`."""

    body: bytes

    def stats(self) -> dict[str, str]:
        """Return the data as names and values; what is no `name: value` line is passed over."""
        pairs = (line.partition(": ") for line in self.body.decode("utf-8", "replace").splitlines())
        return {name: value.strip('"') for name, colon, value in pairs if colon}

    def names(self) -> list[str]:
        """Return the data as a list of names."""
        lines = self.body.decode("utf-8", "replace").splitlines()
        return [line[2:].strip('"') for line in lines if line.startswith("- ")]


Reply = Word | Inserted | Buried | Reserved | Using | Watching | Ok
#: what a command may be answered with: single words, and types of replies
Kinds = frozenset[Word | type[msgspec.Struct]]
