"""A conversation with beanstalkd that brings out every reply to our commands that it can be brought to, and its transcript.

`python -m tests.support.beanstalk_script FILE` records it anew from the beanstalkd that is installed.
"""

from __future__ import annotations

import ast
import socket
import sys
from pathlib import Path

from kqs.wire.beanstalk.commands import (
    Bury,
    Command,
    Delete,
    Ignore,
    ListTubes,
    Put,
    Release,
    ReserveWithTimeout,
    Stats,
    StatsTube,
    Use,
    Watch,
)

#: (connection, command), one after the other, on a fresh server with `-z 100`
SCRIPT: list[tuple[int, Command]] = [
    (0, ListTubes()),
    (0, Ignore("default")),
    (0, Use("kq-mail")),
    (0, Put(10, 0, 60, b"\r\nfirst\r\n")),
    (0, Put(5, 0, 60, b"")),
    (0, Put(5, 3600, 60, b"late")),
    (0, Put(0, 0, 0, b"x" * 100)),
    (0, Put(0, 0, 0, b"x" * 101)),
    (1, ReserveWithTimeout(0)),
    (1, Watch("kq-mail")),
    (1, Ignore("default")),
    (1, ReserveWithTimeout(0)),
    (1, ReserveWithTimeout(0)),
    (1, ReserveWithTimeout(1)),
    (1, Release(2, 7, 0)),
    (1, Release(2, 7, 0)),
    (0, Delete(2)),
    (1, Bury(1, 9)),
    (1, Bury(1, 9)),
    (0, StatsTube("kq-mail")),
    (0, StatsTube("kq-none")),
    (1, ReserveWithTimeout(0)),
    (0, Delete(1)),
    (0, Delete(1)),
    (0, Stats()),
]


def record(port: int) -> list[tuple[bytes, bytes]]:
    """Hold the conversation; return what was sent and answered."""
    peers = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(2)]
    transcript = []
    for connection, command in SCRIPT:
        sent = command.encode()
        peers[connection].sendall(sent)
        # every answer fits one segment
        transcript.append((sent, peers[connection].recv(65536)))
    for peer in peers:
        peer.close()
    return transcript


def write_transcript(path: Path, transcript: list[tuple[bytes, bytes]]) -> None:
    """Write one line each way."""
    path.write_text("".join(f"> {sent!r}\n< {answer!r}\n" for sent, answer in transcript))


def read_transcript(path: Path) -> list[tuple[bytes, bytes]]:
    """Return what `write_transcript` wrote."""
    lines = [ast.literal_eval(line[2:]) for line in path.read_text().splitlines()]
    return list(zip(lines[::2], lines[1::2], strict=True))


if __name__ == "__main__":
    from tests.support.beanstalkd import running_beanstalkd

    with running_beanstalkd("-z", "100") as server:
        write_transcript(Path(sys.argv[1]), record(server.port))
