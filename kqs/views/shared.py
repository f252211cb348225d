"""One question at a time, however many ask it: whoever asks while it is out shares the answer to the next one.

So a peer that asks what is long a thousand times over costs the store a question or two, and memory two answers. An answer is
never older than the asking. Call from the loop thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """See the module docstring."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        """Args: ask: puts the question. Where it raises or is cancelled, who put it hears that, and the next in line asks."""
        self._ask = ask
        self._turn = asyncio.Lock()
        self._begun = 0  # questions that were put so far
        self._answer: tuple[int, T] | None = None  # of which question; kept as long as somebody waits
        self._waiting = 0

    async def get(self) -> T:
        """Return the answer to a question that was put after this call. Raises: what `ask` raises."""
        begun = self._begun
        self._waiting += 1
        try:
            async with self._turn:
                if self._answer is None or self._answer[0] <= begun:
                    self._begun += 1
                    self._answer = (self._begun, await self._ask())
                return self._answer[1]
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._answer = None
