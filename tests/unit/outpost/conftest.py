"""A worker's source of runs, over a connection to a server that says what the test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from kqs.job import Run
from kqs.outpost.line import Line
from kqs.outpost.source import WireSource
from kqs.queue.consumer import Consumer
from kqs.queue.leases import Lease
from tests.support.clock import FakeClock
from tests.support.line_server import LineServer
from tests.support.supervising import StrictSupervisor
from tests.support.turning import settled, until


def a_run(number: int = 1, **fields: Any) -> dict[str, Any]:
    run = {"run": f"token-{number}", "id": f"id-{number}", "type": "mail", "data": {"n": number}}
    return run | {"attempt": 1, "failures": 0, "ghosts": 0, "ttr": 30.0} | fields


def _name(line: dict[str, Any]) -> str:
    return "listen" if line["n"] == "work" and line["m"]["room"] == 0 else str(line["n"])


class Post:
    """A source, its server, and the runs that it delivered."""

    def __init__(self, server: LineServer, *, hold: bool = False) -> None:
        self.server = server
        self.clock = FakeClock()
        self.supervisor = StrictSupervisor()
        self.line = Line(server.address, self.supervisor)
        self.source = WireSource(self.line, self.clock, self.supervisor, hold=hold)
        self.runs: list[Run] = []
        self.lost: list[Lease] = []
        self.consumer: Consumer

    async def start(self, room: int = 2) -> None:
        self.line.start()
        self.consumer = Consumer("me", ("mail", "sms"), room, self.runs.extend)
        self.source.add_consumer(self.consumer)

    async def stop(self) -> None:
        self.source._open_runs.close()
        await self.line.stop()

    def calls(self, name: str) -> list[Any]:
        """Return the arguments of the calls of this name, so far. A `work` that asks for nothing is called "listen" here."""
        return [line["m"] for _, line in self.server.calls if _name(line) == name]

    async def called(self, name: str, count: int = 1) -> list[Any]:
        """Return the arguments of the calls of this name when there are so many."""
        await until(lambda: len(self.calls(name)) >= count)
        return self.calls(name)

    def _last(self, name: str, index: int = -1) -> int:
        return [number for number, (_, line) in enumerate(self.server.calls) if _name(line) == name][index]

    def tell(self, event: Any, index: int = -1, name: str = "work") -> None:
        """Send an intermediate answer to a `work` call."""
        peer, line = self.server.calls[self._last(name, index)]
        peer.send({"v": 1, "id": line["id"], "e": None, "s": "ok", "m": event})

    def answer(self, name: str, result: Any, index: int = -1) -> None:
        self.server.answer(self._last(name, index), result)

    def refuse(self, name: str, code: str, index: int = -1) -> None:
        peer, line = self.server.calls[self._last(name, index)]
        peer.send({"v": 1, "id": line["id"], "e": {"_isError__": 1, "message": "no", "code": code}, "s": "err"})

    async def settled(self) -> None:
        """Let be taken in what was said to it so far, and be said what comes of that."""
        await settled(self.line, self._pong)

    async def _pong(self) -> None:
        await self.called("ping", len(self.calls("ping")) + 1)
        self.answer("ping", "pong")

    async def given(self, *runs: dict[str, Any]) -> list[Run]:
        """Have the server give runs; return them when they were delivered."""
        await self.called("work")
        before = len(self.runs)
        self.tell(list(runs))
        await until(lambda: len(self.runs) == before + len(runs))
        return self.runs[before:]

    def begin(self, run: Run) -> Lease:
        assert self.source.may_begin(run)
        return self.source.begin(run, self.lost.append)


@pytest.fixture
async def holding() -> AsyncIterator[Post]:
    """One whose runs are held."""
    async with LineServer() as server:
        post = Post(server, hold=True)
        yield post
        await post.stop()


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    async with LineServer() as server:
        post = Post(server)
        yield post
        await post.stop()
