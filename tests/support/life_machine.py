"""What every machine of Hypothesis does that plays boots of a server's core against their account."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kqs.errors import StoreUnavailableError
from tests.support.feeding import caught_up
from tests.support.life import Life
from tests.support.turning import run_within

_WITHIN_S = 20


class LifeMachine(RuleBasedStateMachine):
    """A core on a loop of its own; who inserts, who runs jobs, how a boot starts and ends say the machines made of this."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="kqs-life-"))
        self.loop = asyncio.new_event_loop()
        self.life = Life(self.folder / "life")
        self.boots = 1

    async def start(self) -> None:
        """Start this boot."""
        await self.life.start()

    async def stop(self) -> None:
        """Stop this boot."""
        await self.life.stop()

    async def finish_all(self) -> None:
        """Let all that is left run well, and end."""
        await self.life.finish()

    def run(self, steps: Coroutine[Any, Any, Any]) -> Any:
        return run_within(self.loop, steps, _WITHIN_S)

    async def pause(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    def next_life(self) -> Life:
        """Return the boot after this one, which has nothing yet."""
        return Life(self.folder / f"boot{self.boots}", self.life.clock)

    async def inherit(self, life: Life) -> None:
        """Leave to the next boot what a kill would, and the account of it."""
        old = self.life
        async with old._mutex:  # no call of the store is half done
            shutil.copytree(old.folder, life.folder)
            life.account, life.given, life.prio = old.account.copy(), old.given, old.prio

    @rule()
    def refuse_for_a_while(self) -> None:
        self.life.fault = StoreUnavailableError("no")

    @precondition(lambda self: self.life.fault is not None)
    @rule()
    def take_again(self) -> None:
        self.life.fault = None

    @precondition(lambda self: self.life.fault is None)
    @rule()
    def catch_up(self) -> None:
        assert self.life.feeding.feeder is not None
        self.run(caught_up(self.life.feeding.feeder))

    @invariant()
    def nothing_failed(self) -> None:
        assert not self.life.feeding.faults

    def teardown(self) -> None:
        self.life.fault = None
        try:
            self.run(self.finish_all())
            self.run(self.life.check())
        finally:
            self.run(self.stop())
            self.loop.close()
            shutil.rmtree(self.folder, ignore_errors=True)
