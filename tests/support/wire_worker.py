"""A worker as plain as a script: lines to a real server, runs and answers back."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.asking import WITHIN_S, RefusedError
from tests.support.serving import Served

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close is a reset


class WireWorker:
    """One connection; calls have numbers, and what belongs to other calls than the one that is asked for is kept."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=WITHIN_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what stands is not answered at once
        self._lines = self.socket.makefile("rb")
        self._next_id = 0
        self._kept: list[dict[str, Any]] = []

    def send(self, name: str, argument: object = None) -> int:
        """Send a call; return its id."""
        self._next_id += 1
        self.say(self._next_id, name, argument)
        return self._next_id

    def say(self, call_id: int, name: str, argument: object = None) -> None:
        """Send a call by an id that may be another's."""
        self.socket.sendall(json.dumps({"id": call_id, "n": name, "m": argument}).encode() + b"\n")

    def next(self, call_id: int) -> Any:
        """Return the next answer to a call, an intermediate one too. Raises: RefusedError, EOFError."""
        for index, kept in enumerate(self._kept):
            if kept["id"] == call_id:
                return _result(self._kept.pop(index))
        while (answer := self.line())["id"] != call_id:
            self._kept.append(answer)
        return _result(answer)

    def line(self) -> dict[str, Any]:
        """Return whatever comes next."""
        line = self._lines.readline()
        if not line.endswith(b"\n"):
            raise EOFError("the server closed the connection")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def call(self, name: str, argument: object = None) -> Any:
        return self.next(self.send(name, argument))

    def reserve(self, *types: str, count: int = 1, wait: float = WITHIN_S, **more: object) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = self.call("reserve", {"types": types, "count": count, "wait": wait} | more)
        return runs

    def finish(self, *tokens: str, report: str = "ok") -> list[Any]:
        """Return the answers: true, or codes."""
        answers = self.call("finish", [{"run": token, "report": report} for token in tokens])
        return [answer if answer is True else answer["code"] for answer in answers]

    def end_input(self) -> list[dict[str, Any]]:
        """Send the end of input; return all that comes before the server closes."""
        self.socket.shutdown(socket.SHUT_WR)
        return self._kept + [json.loads(line) for line in self._lines.read().splitlines()]

    def vanish(self) -> None:
        """Reset the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.close()

    def close(self) -> None:
        self._lines.close()
        self.socket.close()


def _result(answer: dict[str, Any]) -> Any:
    if answer["s"] == "err":
        raise RefusedError(answer["e"]["code"], answer["e"]["message"])
    return answer["m"]


@contextmanager
def working_at(server: Served) -> Iterator[WireWorker]:
    worker = WireWorker(server.port)
    try:
        yield worker
    finally:
        worker.close()
