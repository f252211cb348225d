"""One wake-up at a wall-clock instant, and the loop that serves it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

from kqs.clock import Clock

#: the wall clock may jump: an alarm that is set looks at it again at least this often
MAX_SLEEP_S = 5.0


class Alarm:
    """Runs `serve` whenever its instant has come; `serve` returns the next instant, or None for none known.

    `note` may bring the instant forward at any time, also while `serve` runs. Own one task; `run` is its body.
    """

    def __init__(self, clock: Clock, serve: Callable[[], Awaitable[float | None]]) -> None:
        self._clock = clock
        self._serve = serve
        self._at = math.inf
        self._changed = asyncio.Event()
        self._is_serving = False

    def note(self, at: float) -> None:
        """Make sure `serve` runs at `at` (Unix seconds) or soon after."""
        if at < self._at:
            self._at = at
            self._changed.set()

    @property
    def next_at(self) -> float:
        """Return when it serves next, in Unix seconds; math.inf: it does not know; -math.inf: it is at it."""
        return -math.inf if self._is_serving else self._at

    def look_again(self) -> None:
        """Look at the clock, which was set."""
        self._changed.set()

    async def run(self) -> None:
        """Serve for ever."""
        while True:
            await self._sleep()
            if self._clock.now() >= self._at:
                self._at = math.inf
                self._is_serving = True
                try:
                    following = await self._serve()
                finally:
                    self._is_serving = False
                if following is not None:
                    self.note(following)

    async def _sleep(self) -> None:
        self._changed.clear()
        wait_s = self._at - self._clock.now()
        if wait_s <= 0:
            return
        try:
            async with asyncio.timeout(None if wait_s == math.inf else min(wait_s, MAX_SLEEP_S)):
                await self._changed.wait()
        except TimeoutError:
            pass
