"""How many records were appended and how many of them were settled, and who waits for that."""

from __future__ import annotations

import asyncio
from collections import deque


class Tally:
    """Call from the loop thread. Invariant: settled <= appended, and nobody waits for what is settled."""

    def __init__(self) -> None:
        self.appended = 0
        self._settled = 0
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def unsettled(self) -> int:
        """Return how many records were appended and are not settled."""
        return self.appended - self._settled

    def settle(self, count: int) -> None:
        """Take in that the next `count` records are durable or have failed."""
        self._settled += count
        while self._waiters and self._waiters[0][0] <= self._settled:
            waiter = self._waiters.popleft()[1]
            if not waiter.done():
                waiter.set_result(None)

    async def all_settled(self) -> None:
        """Return when every record appended before has been settled."""
        if self.unsettled:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append((self.appended, waiter))
            await waiter
