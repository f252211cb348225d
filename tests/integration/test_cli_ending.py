"""Commands that are ended by a signal: their terminal has its cursor, and nothing that they have started goes on."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.asking import eventually
from tests.support.serving import SERVE_ENVIRON
from tests.support.terminal import OnTerminal

KQS = (sys.executable, "-m", "kqs")
#: what a terminal is told to hide its cursor, to draw a line anew, and to show its cursor
HIDDEN, ANEW, SHOWN = b"\x1b[?25l", b"\x1b[2K", b"\x1b[?25h"
ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
#: says who it is, and goes on whatever it hears
PROGRAM = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""


@pytest.fixture
def deaf() -> Iterator[str]:
    """Return the address of a server that takes connections, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def ended_on_a_terminal(number: signal.Signals, server: str, *arguments: str) -> tuple[int, bytes]:
    """Run a command that shows on a terminal how far it is, and end it; return its exit code, and what it shows after that."""
    command = OnTerminal(server, *arguments)
    command.read_until(lambda shown: ANEW in shown.partition(HIDDEN)[2])
    command.process.send_signal(number)
    return command.read_to_the_end(), command.shown.rpartition(HIDDEN)[2]


@pytest.mark.parametrize("number", ENDING)
def test_a_bulk_verb_gives_the_cursor_back(deaf: str, number: signal.Signals) -> None:
    code, shown = ended_on_a_terminal(number, deaf, "cancel", "--type", "mail", "--yes")
    assert code == 130
    assert SHOWN in shown


@pytest.mark.parametrize("number", ENDING)
def test_so_does_the_insert_of_a_file(deaf: str, tmp_path: Path, number: signal.Signals) -> None:
    jobs = tmp_path / "jobs"
    jobs.write_text('{"type":"mail"}\n')
    code, shown = ended_on_a_terminal(number, deaf, "insert", "--file", str(jobs))
    assert code == 130
    assert SHOWN in shown


@pytest.mark.parametrize("number", ENDING)
def test_a_measurement_stops_its_server(tmp_path: Path, number: signal.Signals) -> None:
    environ = SERVE_ENVIRON | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([*KQS, "bench", "insert", "--count", "10000000"], env=environ, stdout=subprocess.DEVNULL)
    eventually(lambda: list(tmp_path.glob("kqs-bench-*/journal/*")), bool)
    process.send_signal(number)
    assert process.wait(60) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ENDING)
def test_a_trial_ends_the_program_that_is_tried(tmp_path: Path, number: signal.Signals) -> None:
    told = tmp_path / "pid"
    command = [*KQS, "conformance", "client", "--within", "60", "--", sys.executable, "-c", PROGRAM, str(told)]
    process = subprocess.Popen(command, env=SERVE_ENVIRON, stdout=subprocess.DEVNULL)
    eventually(lambda: told.exists() and told.read_text(), bool)
    process.send_signal(number)
    assert process.wait(60) == 130
    assert not Path(f"/proc/{told.read_text()}").exists()
