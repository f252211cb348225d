"""Why the system refused something, in words."""

from __future__ import annotations

import errno
import socket

import pytest

from kqs.reasons import reason_of, reason_with_file

TWO = "Multiple exceptions: [Errno {}] Connect call failed ('::1', 1, 0, 0), [Errno {}] Connect call failed ('127.0.0.1', 1)"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/nope"), "no such file or directory"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"), "connection refused"),
        (OSError(errno.EHOSTUNREACH, "Connect call failed ('10.0.0.1', 1)"), "no route to host"),
        (OSError(TWO.format(errno.ECONNREFUSED, errno.ECONNREFUSED)), "connection refused"),
        (OSError(TWO.format(errno.ENETUNREACH, errno.ECONNREFUSED)), "network is unreachable, connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (OSError(errno.ENOSPC, "No space left on device: 4096 bytes"), "no space left on device: 4096 bytes"),
        (OSError("No thread can be started"), "no thread can be started"),
        (OSError(errno.EIO, "EIO"), "EIO"),
        (TimeoutError(), ""),
    ],
)
def test_a_reason_is_in_the_words_of_the_system_and_has_no_number(error: OSError, reason: str) -> None:
    assert reason_of(error) == reason


def test_a_file_is_named_where_the_error_is_about_one() -> None:
    assert reason_with_file(FileNotFoundError(errno.ENOENT, "No such file", "/nope")) == "no such file: /nope"
    assert reason_with_file(OSError(errno.EIO, "Input/output error")) == "input/output error"
