"""What is printed in a process that runs users' code."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from kqs.process.descriptors import print_whole_lines
from tests.support.serving import SERVE_ENVIRON

PRINTS = """
import sys
from kqs.process.descriptors import print_whole_lines

print_whole_lines()
for stream in (sys.stdout, sys.stderr):
    print("one", 1, file=stream)
    print("two", file=stream, end="")
    print("", "lines", file=stream)
"""


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_a_printed_line_is_one_write_as_it_ends(unbuffered: str) -> None:
    reading, writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # of which each read gives one write
    with reading:
        with writing:
            environ = SERVE_ENVIRON | {"PYTHONUNBUFFERED": unbuffered}
            command = (sys.executable, "-c", PRINTS)
            subprocess.run(command, env=environ, stdout=writing.fileno(), stderr=subprocess.STDOUT, timeout=60, check=True)
        assert list(iter(lambda: reading.recv(100), b"")) == 2 * [b"one 1\n", b"two lines\n"]


def test_a_stream_of_users_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", object())
    print_whole_lines()
