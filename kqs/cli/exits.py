"""Which trouble ends a command with which exit code, and the line on stderr that tells it."""

from __future__ import annotations

import os
import sys

import click

from kqs.errors import (
    PASSING_CODES,
    CallError,
    ExitCode,
    JournalCorruptError,
    JournalError,
    JournalLockedError,
    JournalVersionError,
    StartupError,
)

_BY_CALL_CODE = dict.fromkeys(PASSING_CODES, ExitCode.TEMPORARY) | {"journal_failed": ExitCode.IO_FAILED}

#: a group without a command is its help; none in an older click, which prints it itself
_HELP_INSTEAD: type[click.UsageError] | tuple[()] = getattr(click.exceptions, "NoArgsIsHelpError", ())


def exit_code_of(error: BaseException) -> int:
    """Say on stderr what went wrong, where there is somebody to tell, and return the exit code.

    Raises: whatever is none of the known troubles, since it is a bug.
    """
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return ExitCode.INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # the interpreter flushes stdout once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    if isinstance(error, click.UsageError):
        _tell_usage(error)
        return ExitCode.USAGE
    # bytes of the command line that are no text came as halves of surrogate pairs
    if isinstance(error, UnicodeEncodeError) and error.encoding == "utf-8":
        say("an argument is not UTF-8")
        return ExitCode.USAGE
    code, message = _judge(error)
    say(message)
    return code


def say(message: str, command: str = "kqs") -> None:
    """Write one line to stderr, behind what was logged."""
    from kqs.words.printable import printable

    if (log := sys.modules.get("kqs.log")) is not None:  # else nothing was, and to import it takes longer than most commands
        log.flush()
    click.echo(f"{command}: {printable(message)}", err=True)


def _tell_usage(error: click.UsageError) -> None:
    if isinstance(error, _HELP_INSTEAD):
        error.show()
        return
    message = " ".join(error.format_message().split()).removesuffix(".")  # some list choices, one a line
    if error.ctx is None:  # which option lacks a value click knows, but not of which command
        say(message)
    else:
        command = error.ctx.command_path
        say(f"{message} (see {command} --help)", command)


def _judge(error: BaseException) -> tuple[ExitCode, str]:
    if isinstance(error, CallError):
        return _BY_CALL_CODE.get(error.call_code, ExitCode.REFUSED), f"{error.call_code}: {error}"
    if isinstance(error, StartupError):
        return error.exit_code, str(error)
    if isinstance(error, JournalLockedError):
        return ExitCode.TEMPORARY, str(error)
    if isinstance(error, (JournalCorruptError, JournalVersionError)):
        return ExitCode.DATA_DAMAGED, str(error)
    if isinstance(error, JournalError):
        return ExitCode.IO_FAILED, str(error)
    return _judge_client(error)


def _judge_client(error: BaseException) -> tuple[ExitCode, str]:
    # the client, and asyncio with it, is imported late: many commands need neither
    if "kqs.client" in sys.modules:
        from kqs.client import CallTimeoutError, ConnectionLostError

        if isinstance(error, CallTimeoutError):
            return ExitCode.TEMPORARY, str(error)
        if isinstance(error, ConnectionLostError):
            return ExitCode.UNAVAILABLE, str(error)
    if isinstance(error, OSError):
        from kqs.reasons import reason_of

        where = f"{error.filename}: " if error.filename else ""
        return ExitCode.IO_FAILED, f"{where}{reason_of(error)}"
    raise error
