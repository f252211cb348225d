"""What a queue's own worker says of its runs to a server that cannot take it now."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import kqs
from kqs.library import hands
from tests.support.line_server import Line, LineServer
from tests.support.turning import until

RUN = {"run": "token", "id": "id", "type": "mail", "data": 7, "attempt": 1, "failures": 0, "ghosts": 0, "ttr": 30.0}
BUSY = {"code": "busy", "message": "the store is far behind"}


class Desk:
    """Gives one run; refuses what is said of it as often as `refusals` say, by call; in lines of its own, or `as_a_whole`."""

    def __init__(self, refusals: dict[str, int], *, as_a_whole: bool = False) -> None:
        self._refusals = refusals
        self._as_a_whole = as_a_whole
        self._given = [[RUN]]
        self.said: dict[str, list[Any]] = {"finish": [], "touch": []}

    def __call__(self, line: Line) -> Any:
        name = line["n"]
        if name == "reserve":
            return self._given.pop() if self._given else []
        if name not in self.said:
            return True
        self.said[name] += line["m"]
        if self._refusals.get(name, 0) > 0:
            self._refusals[name] -= 1
            return {"e": {"_isError__": 1, **BUSY}} if self._as_a_whole else [BUSY]
        return [True if name == "finish" else {"left": 30.0, "cancel": False}]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "AGAIN_S", 0.01)


@pytest.mark.parametrize("as_a_whole", [False, True])
async def test_a_report_is_said_again_until_it_is_taken(*, as_a_whole: bool) -> None:
    desk = Desk({"finish": 3}, as_a_whole=as_a_whole)
    async with LineServer(desk) as server, kqs.connect(f"127.0.0.1:{server.address.port}") as queue:
        queue.add_handler("mail", lambda data: data + 1)
        assert await queue.run_jobs(1, 10) == 1
    assert desk.said["finish"] == [{"run": "token", "report": "ok", "result": 8}] * 4


async def test_progress_is_said_again_and_its_run_touched_meanwhile() -> None:
    desk = Desk({"touch": 1})

    async def handler(_data: Any, job: kqs.JobContext) -> None:
        job.save("half")
        await until(lambda: len(desk.said["touch"]) == 3)

    async with LineServer(desk) as server, kqs.connect(f"127.0.0.1:{server.address.port}") as queue:
        queue.add_handler("mail", handler)
        assert await asyncio.wait_for(queue.run_jobs(1, 10), 10) == 1
    assert desk.said["touch"] == [{"run": "token", "progress": "half"}, {"run": "token"}, {"run": "token", "progress": "half"}]


async def test_a_run_that_is_lost_is_reported_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk({"finish": 1_000_000})
    async with LineServer(desk) as server, kqs.connect(f"127.0.0.1:{server.address.port}") as queue:
        queue.add_handler("mail", lambda data: data)
        running = asyncio.create_task(queue.run_jobs(1, 10))
        await until(lambda: len(desk.said["finish"]) > 2)
        server.drop()
        assert await asyncio.wait_for(running, 10) == 1
