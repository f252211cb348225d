import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from kqs.cli import run
from kqs.cli.exits import exit_code_of
from kqs.client import CallTimeoutError, ConnectionLostError, UnreachableError
from kqs.errors import (
    ERROR_CODES,
    CallError,
    ExitCode,
    JournalCorruptError,
    JournalFailedError,
    JournalLockedError,
    JournalVersionError,
    StartupError,
)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CallError("no", "bad_job"), 1),
        (CallError("full", "no_space"), 75),
        (CallError("?", "journal_failed"), 74),
        (click.UsageError("what?"), 2),
        (click.exceptions.Exit(0), 0),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (StartupError("config", ExitCode.CONFIG), 78),
        (JournalCorruptError("0.kqj:12 rot"), 65),
        (JournalVersionError("newer"), 65),
        (JournalLockedError("held"), 75),
        (JournalFailedError("eio"), 74),
        (UnreachableError("nobody"), 69),
        (ConnectionLostError("gone"), 69),
        (CallTimeoutError("late"), 75),
        (FileNotFoundError(2, "No such file or directory", "x"), 74),
    ],
)
def test_each_trouble_has_its_exit_code(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code


@pytest.mark.parametrize("code", ERROR_CODES)
def test_every_refusal_ends_with_a_documented_code(code: str) -> None:
    assert exit_code_of(CallError("x", code)) in set(ExitCode)


def test_trouble_is_one_safe_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code_of(CallError("a\nb\x1b[2J", "bad_job"))
    assert capsys.readouterr().err == "kqs: bad_job: a\\nb\\x1b[2J\n"


@pytest.mark.parametrize("arguments", [["job", "a\udcff"], ["makerpc", "\udcff"]])
def test_argument_that_is_no_text_is_told(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(arguments) == ExitCode.USAGE
    assert capsys.readouterr().err == "kqs: an argument is not UTF-8\n"


def test_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code_of(FileNotFoundError(2, "No such file or directory", "x.jsonl"))
    assert capsys.readouterr().err == "kqs: x.jsonl: no such file or directory\n"


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        exit_code_of(ZeroDivisionError())


def test_the_manual_has_the_same_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    table = re.findall(r"^\| (\d+) \| (.*) \|$", page, re.M)
    assert table == [(str(int(code)), code.meaning) for code in ExitCode]


LOGS_THEN_SAYS = """
from kqs import log
from kqs.cli.exits import say
from kqs.config.sections import LogSection

log.configure(LogSection())
for number in range(1000):
    log.get_logger("kqs").warning("before", number=number)
say("what ends it")
"""


def test_what_ends_a_command_stands_behind_what_was_logged_before() -> None:
    done = subprocess.run([sys.executable, "-c", LOGS_THEN_SAYS], capture_output=True, text=True, timeout=60, check=True)
    *logged, last = done.stderr.splitlines()
    assert (len(logged), last) == (1000, "kqs: what ends it")
