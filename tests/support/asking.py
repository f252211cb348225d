"""A client as plain as netcat: lines to a real server, and what it answers."""

from __future__ import annotations

import json
import math
import operator
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.support.serving import Served

T = TypeVar("T")

WITHIN_S = 30
_LOOK_AGAIN_S = 0.02
_TAIL_CHARS = 3000


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
        if not line.endswith(b"\n"):
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
def peer_of(server: Served, within_s: float = WITHIN_S) -> Iterator[Peer]:
    """Yield a connection that waits so long for each answer."""
    peer = Peer(socket.create_connection(("127.0.0.1", server.port), timeout=within_s))
    try:
        yield peer
    finally:
        peer.close()


def ask(server: Served, name: str, argument: object = None, within_s: float = WITHIN_S) -> Any:
    """Return the result of one call on a connection of its own.

    Raises: RefusedError: the server answered with an error. EOFError, OSError: it is gone, or does not answer in time.
    """
    with peer_of(server, within_s) as peer:
        return peer.call(name, argument)


def eventually(look: Callable[[], T], wanted: Callable[[T], object], within_s: float = WITHIN_S, what: str = "as wanted") -> T:
    """Look until what is seen is as wanted, and return it; for what has no event that a test could await.

    what: says what is wanted, where it never comes.
    """
    deadline = time.monotonic() + within_s
    while not wanted(seen := look()):
        assert time.monotonic() < deadline, f"after {within_s} s not {what}: {seen!r}"
        time.sleep(_LOOK_AGAIN_S)
    return seen


@contextmanager
def telling(server: Served) -> Iterator[None]:
    """Have whatever goes wrong in the block tell what the server said last."""
    try:
        yield
    except Exception as error:
        error.add_note(f"it said:\n{server.log.read_text()[-_TAIL_CHARS:]}")
        raise


def until(server: Served, within_s: float = WITHIN_S, **wanted: float) -> dict[str, float]:
    """Ask for stats until they are as wanted."""
    return _await_stats(server, within_s, operator.eq, wanted, str(wanted))


def until_at_least(server: Served, within_s: float = WITHIN_S, **least: float) -> dict[str, float]:
    """Ask for stats until each is at least so much."""
    return _await_stats(server, within_s, operator.ge, least, f"at least {least}")


def _await_stats(
    server: Served, within_s: float, fits: Callable[[float, float], bool], wanted: Mapping[str, float], what: str
) -> dict[str, float]:
    with telling(server), peer_of(server) as peer:
        found: dict[str, float] = eventually(
            lambda: peer.call("stats"),
            lambda seen: all(fits(seen.get(name, math.nan), value) for name, value in wanted.items()),
            within_s,
            what,
        )
    return found


def until_said(server: Served, text: str) -> None:
    """Return when the server's log has `text`."""
    eventually(server.log.read_text, lambda said: text in said)
