"""Exit codes, after sysexits(3), and which trouble ends a command with which. docs/cli.md prints the table."""

from __future__ import annotations

import os
import sys

import click

from kqs.errors import (
    CallError,
    JournalCorruptError,
    JournalError,
    JournalLockedError,
    JournalVersionError,
    StartupError,
)

OK = 0
REFUSED = 1
USAGE = 2
DATA_DAMAGED = 65
UNAVAILABLE = 69
SOFTWARE = 70
CANNOT_CREATE = 73
IO_FAILED = 74
TEMPORARY = 75
CONFIG = 78
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
BROKEN_PIPE = 141  # 128 + SIGPIPE

EXIT_CODES = {
    OK: "it was done",
    REFUSED: "the call was refused, or `health` found something wrong",
    USAGE: "the command line cannot be understood",
    DATA_DAMAGED: "the journal or the store is damaged, or of a newer version",
    UNAVAILABLE: "no server answers, or the port is in use",
    SOFTWARE: "the server stopped because a part of it died; its log says why",
    CANNOT_CREATE: "the server cannot create its port or socket",
    IO_FAILED: "a file cannot be read or written",
    TEMPORARY: "not now: the server is busy, full or stopping, or did not answer in time, or another one has the journal",
    CONFIG: "the configuration is wrong",
    INTERRUPTED: "interrupted (Ctrl-C)",
    BROKEN_PIPE: "whoever read the output went away",
}

_BY_CALL_CODE = {
    "busy": TEMPORARY,
    "no_space": TEMPORARY,
    "draining": TEMPORARY,
    "timeout": TEMPORARY,
    "journal_failed": IO_FAILED,
}


def exit_code_of(error: BaseException) -> int:
    """Say on stderr what went wrong, where there is somebody to tell, and return the exit code.

    Raises: whatever is none of the known troubles, since it is a bug.
    """
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # the interpreter flushes stdout once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    code, message = _judge(error)
    say(message)
    return code


def say(message: str) -> None:
    """Write one line to stderr."""
    from kqs.printable import printable

    click.echo(f"kqs: {printable(message)}", err=True)


def _judge(error: BaseException) -> tuple[int, str]:
    if isinstance(error, CallError):
        return _BY_CALL_CODE.get(error.call_code, REFUSED), f"{error.call_code}: {error}"
    if isinstance(error, StartupError):
        return error.exit_code, str(error)
    if isinstance(error, JournalLockedError):
        return TEMPORARY, str(error)
    if isinstance(error, (JournalCorruptError, JournalVersionError)):
        return DATA_DAMAGED, str(error)
    if isinstance(error, JournalError):
        return IO_FAILED, str(error)
    return _judge_client(error)


def _judge_client(error: BaseException) -> tuple[int, str]:
    # the client, and asyncio with it, is imported late: many commands need neither
    if "kqs.client" in sys.modules:
        from kqs.client import CallTimeoutError, ConnectionLostError

        if isinstance(error, CallTimeoutError):
            return TEMPORARY, str(error)
        if isinstance(error, ConnectionLostError):
            return UNAVAILABLE, str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return IO_FAILED, f"{where}{(error.strerror or str(error)).lower()}"
    raise error
