"""A client as plain as netcat: lines to a real server, and what it answers."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.serving import Served

WITHIN_S = 30
_LOOK_AGAIN_S = 0.02


class RefusedError(Exception):
    """The server answered with an error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Peer:
    """One connection, one call at a time unless `send` and `receive` are used apart."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")

    def send(self, name: str, argument: object = None) -> None:
        self._connection.sendall(json.dumps({"n": name, "m": argument}).encode() + b"\n")

    def receive(self) -> Any:
        """Return the next answer's result. Raises: RefusedError: it is an error. EOFError: the server closed."""
        line = self._lines.readline()
        if not line:
            raise EOFError("the server closed the connection")
        answer = json.loads(line)
        if answer["s"] == "err":
            raise RefusedError(answer["e"]["code"], answer["e"]["message"])
        return answer["m"]

    def call(self, name: str, argument: object = None) -> Any:
        self.send(name, argument)
        return self.receive()

    def insert(self, type_: str, data: object = None, **options: object) -> str:
        job_id: str = self.call("insert", {"type": type_, "data": data, **options})
        return job_id

    def close(self) -> None:
        self._lines.close()
        self._connection.close()


@contextmanager
def peer_of(server: Served) -> Iterator[Peer]:
    peer = Peer(socket.create_connection(("127.0.0.1", server.port), timeout=WITHIN_S))
    try:
        yield peer
    finally:
        peer.close()


def ask(server: Served, name: str, argument: object = None) -> Any:
    """Return the result of one call on a connection of its own."""
    with peer_of(server) as peer:
        return peer.call(name, argument)


def eventually(look: Callable[[], Any], wanted: Callable[[Any], bool], within_s: float = WITHIN_S) -> Any:
    """Look until what is seen is as wanted, and return it; for what has no event that a test could await."""
    deadline = time.monotonic() + within_s
    while not wanted(seen := look()):
        assert time.monotonic() < deadline, f"after {within_s} s still {seen!r}"
        time.sleep(_LOOK_AGAIN_S)
    return seen


def until(server: Served, within_s: float = WITHIN_S, **wanted: float) -> dict[str, float]:
    """Ask for stats until they are as wanted."""
    with peer_of(server) as peer:
        found: dict[str, float] = eventually(
            lambda: {**dict.fromkeys(wanted), **peer.call("stats")},
            lambda seen: all(seen[name] == value for name, value in wanted.items()),
            within_s,
        )
    return found


def until_said(server: Served, text: str) -> None:
    """Return when the server's log has `text`."""
    eventually(server.log.read_text, lambda said: text in said)
