"""What is under way, for whoever waits until that is over, and not for what begins meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class UnderWay:
    """See the module docstring. For one loop; whoever waits goes on a turn of it after the end of what was waited for."""

    def __init__(self) -> None:
        self._open: set[asyncio.Future[None]] = set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Have one more thing be under way, for as long as the block lasts."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open.add(ended)
        try:
            yield
        finally:
            self._open.discard(ended)
            ended.set_result(None)

    async def over(self) -> None:
        """Return when all is over that is under way now."""
        if self._open:
            await asyncio.wait(set(self._open))
