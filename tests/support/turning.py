"""Waiting for what an event loop does, where there is no event to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

WITHIN_S = 20
#: turns after which nothing more comes of what needs neither a thread, a socket nor a timer: tasks that wake each other take
#: one or two each, and what is tried here has chains of five
_TURNS = 30


async def until(condition: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


async def idle() -> None:
    """Let the loop turn until all has happened that tasks and callbacks do among themselves."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
