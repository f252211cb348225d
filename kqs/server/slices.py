"""Work that takes long gets its turns between the ticks of the loop: one slice of one piece of work a tick.

So however many peers ask for such work, others wait for one slice at most. Call from the loop thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter

from kqs.wire.steps import Steps

#: A slice ends with the first step that is over after so long. Short beside what people notice, long beside a tick.
SLICE_S = 0.005


class Slices:
    """The pieces of work under way, in turn."""

    def __init__(self) -> None:
        self._waiting: deque[Steps[None]] = deque()

    def run(self, work: Steps[None]) -> None:
        """Do all steps of `work`, from the next tick on. It must not raise."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        self._waiting.append(work)

    def _turn(self) -> None:
        work = self._waiting[0]
        until = perf_counter() + SLICE_S
        is_over = True
        for _ in work:
            if perf_counter() > until:
                is_over = False
                break
        self._waiting.popleft()
        if not is_over:
            self._waiting.append(work)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
