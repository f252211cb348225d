"""Everything that can go wrong, as one tree.

Each class has a stable `code`, which is what a peer sees on the wire; `ERROR_CODES` below is the closed list that
docs/protocol.md prints. Two branches matter to a connection:

    KqsError
    ├── CallError        one call was refused: answer it, keep the connection
    ├── ProtocolError    the peer can no longer be understood: answer if possible, close
    ├── StartupError     the daemon cannot start: one line on stderr and `exit_code`
    └── StoreError, BrokerError, JournalError ...   local trouble, translated at the edge that meets it
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Self

#: code -> what it means. After `journal_failed` and `internal` a refused insert may have been kept, and run all the same.
ERROR_CODES: dict[str, str] = {
    "bad_json": "the line is not JSON (UTF-8, no NaN, no lone surrogates, at most 64 levels deep)",
    "bad_call": "the line is JSON but no call, or its argument does not fit the call",
    "unknown_call": "no call has this name",
    "bad_job": "a job was refused; the message names the field and, in an array, the job",
    "too_large": "the line is longer than max_line_bytes, its array has too many calls, jobs or runs, "
    "a run's progress is too long, or the answers to a batch are",
    "busy": "a limit of the server was reached; try again later",
    "draining": "the server is stopping and takes no new jobs",
    "no_space": "the journal's disk is nearly full; nothing was kept, try again later",
    "journal_failed": "writing the journal failed; the job may or may not run: insert it again under the same id",
    "not_found": "there is no such job, or no such call to withdraw",
    "duplicate": "the job was to be refused if one with its type and `unique` key waits already, and one does",
    "running": "the job runs, and a running job is not deleted unless `force` says so",
    "deleted": "the job was deleted before it ended",
    "cancelled": "the job was cancelled by its owner",
    "stale": "a touch, release or report names a run that is over; nothing was changed",
    "job_failed": "the job that was waited for has failed for good; the message is its last error",
    "timeout": "the time given with the call is over",
    "unauthorized": "this call needs a token",
    "forbidden": "the token does not allow this call",
    "unsupported": "the field or call is known, but not by this version",
    "internal": "a fault of the server; its log has the details under the id in the message",
}

#: those that say nothing of what was asked, but of how the server is just now: it may be asked again
PASSING_CODES = frozenset({"busy", "draining", "no_space", "journal_failed", "timeout"})


class ExitCode(IntEnum):
    """What a process of KQS ends with, after sysexits(3). `meaning` is its line in the table of docs/cli.md."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        """Make the member of the number `value`."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    OK = 0, "it was done"
    REFUSED = 1, "the call was refused, `health` found something wrong, or a program under `conformance` broke a rule"
    USAGE = 2, "the command line cannot be understood"
    DATA_DAMAGED = (
        65,
        "the journal or the store is damaged, of a newer version, or not of the other; or a copy of the journal is in use",
    )
    UNAVAILABLE = 69, "no server answers, or takes the last reports of `kqs work`, or the port is in use"
    SOFTWARE = 70, "the server stopped because a part of it died, or could not stop in good order; its log says why"
    CANNOT_CREATE = 73, "the server cannot create its port or socket"
    IO_FAILED = (
        74,
        "a file or journal is not there, or cannot be read or written; "
        "or the system refuses the open files or threads of a start",
    )
    TEMPORARY = (
        75,
        "not now: the server is busy, full or stopping, or did not answer in time, or another one has the journal",
    )
    CONFIG = 78, "the configuration or a handler's module is wrong, or `--config` names no file"
    INTERRUPTED = (  # 128 + SIGINT, as shells say it
        130,
        "interrupted (Ctrl-C; SIGTERM or a hang-up where something is shown or was started), "
        "or what was asked was answered with no",
    )
    BROKEN_PIPE = 141, "whoever read the output went away"  # 128 + SIGPIPE


class KqsError(Exception):
    """Root of every error KQS raises on purpose."""

    code: ClassVar[str] = "internal"


class CallError(KqsError):
    """One call is refused with `code` and a message meant for the peer; nothing else is affected."""

    def __init__(self, message: str, code: str = "bad_call") -> None:
        assert code in ERROR_CODES, code
        super().__init__(message)
        self.call_code = code


class ProtocolError(KqsError):
    """The byte stream can no longer be trusted; the connection ends."""

    code = "bad_call"


class StartupError(KqsError):
    """The daemon cannot start. The message is one line for stderr, and the process ends with `exit_code`."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class JournalError(KqsError):
    """Any trouble with the journal."""

    code = "journal_failed"


class JournalFailedError(JournalError):
    """A write or flush failed after it began: the record may or may not survive."""

    code = "journal_failed"


class NoSpaceError(JournalError):
    """Refused before anything was written: the disk is below its low-water mark."""

    code = "no_space"


class JournalClosedError(JournalError):
    """Refused: the journal is closing or closed."""

    code = "draining"


class JournalCorruptError(JournalError):
    """Damage that no power cut explains. The message begins with `file:offset`."""

    code = "journal_failed"


class JournalVersionError(JournalError):
    """A segment was written by a newer major version; nothing was touched."""

    code = "journal_failed"


class JournalLockedError(JournalError):
    """Another live process holds the journal directory."""

    code = "journal_failed"


class StoreError(KqsError):
    """The store could not do a batch; nothing of that batch was done."""

    code = "internal"


class StoreUnavailableError(StoreError):
    """Passing trouble (disk full, locked, away): the same batch may succeed later."""

    code = "busy"


class StoreCorruptError(StoreError):
    """The store's file is damaged, belongs to another journal, or is of a newer version."""

    code = "internal"


class StoreDoubtError(StoreCorruptError):
    """An I/O error hit a commit, which may have taken effect or not: only a restart finds out, from journal and store."""

    code = "internal"


class BrokerError(KqsError):
    """The broker could not do a batch; the store still knows everything."""

    code = "internal"
