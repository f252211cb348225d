"""Long answers that nobody has asked for in turn, given one after the other, as long as there is room for what is not taken.

Thousands of calls may wait for the end of one job. Each gets its result anew, so what they would be given in one step of the
loop is bounded by nothing. Call from the loop thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any


class Pouring:
    """See the module docstring."""

    def __init__(self, room: asyncio.Event, spawn: Callable[[Coroutine[Any, Any, None], str], None]) -> None:
        """Args: room: set while there is some. spawn: runs work under a name, until the server stops."""
        self._room = room
        self._spawn = spawn
        self._line: deque[Callable[[], None]] = deque()

    def add(self, answer: Callable[[], None]) -> None:
        """Have `answer` give a long answer when its turn comes, in a step of its own. It must not raise."""
        self._line.append(answer)
        if len(self._line) == 1:
            self._spawn(self._pour(), "pouring")

    async def _pour(self) -> None:
        while self._line:
            await self._room.wait()
            self._line[0]()
            await asyncio.sleep(0)  # it is written, and what is not taken of it noted, at the end of this tick
            self._line.popleft()
