"""A conversation of a remote worker with a server, over a desk on a real queue."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from tests.support.conversing import Conversing
from tests.support.jobs import an_accepted
from tests.support.queueing import Rig
from tests.support.remote import a_desk
from tests.support.turning import until


class Talk(Conversing):
    """A conversation with a worker."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.desk = a_desk(rig)
        self.gathered: list[dict[str, Any]] = []
        super().__init__(max_line_bytes=20 * 1024 * 1024, desk=self.desk)

    def say(self, name: str, argument: object = None, call_id: object = 1) -> None:
        """Send a call; what is answered at once is gathered."""
        self.gathered += self.hear(json.dumps({"id": call_id, "n": name, "m": argument}).encode() + b"\n")

    async def heard(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many answers."""

        def look() -> bool:
            self.proceed()
            self.gathered.extend(self.answers())
            return len(self.gathered) >= count

        await until(look)
        answers, self.gathered = self.gathered, []
        return answers

    async def ask(self, name: str, argument: object = None) -> Any:
        """The result of one call, or its error's code."""
        self.say(name, argument, "ask")
        (answer,) = await self.heard()
        assert answer["id"] == "ask"
        return answer["e"]["code"] if answer["s"] == "err" else answer["m"]

    async def run(self, number: int = 1, **options: object) -> dict[str, Any]:
        """Have a job run, and return the run."""
        job = an_accepted(number)
        job.options = msgspec.json.encode(options) if options else None
        self.say("reserve", {"types": ["mail"], "wait": 10}, f"r{number}")
        await self.rig.accept(job)
        (answer,) = await self.heard()
        run: dict[str, Any]
        (run,) = answer["m"]
        return run
