"""Waiting for what an event loop does, where there is no event to wait for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from kqs.outpost.line import Line

T = TypeVar("T")

WITHIN_S = 20
#: turns after which nothing more comes of what needs neither a thread, a socket nor a timer: tasks that wake each other take
#: one or two each, and what is tried here has chains of five
_TURNS = 30


def run_within(loop: asyncio.AbstractEventLoop, steps: Coroutine[Any, Any, T], within_s: float) -> T:
    """Return what `steps` return, run on a loop that stands still."""

    async def bounded() -> T:
        async with asyncio.timeout(within_s):
            return await steps

    return loop.run_until_complete(bounded())


async def until(condition: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


async def started(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start `work` and let it come to its first wait."""
    task = asyncio.create_task(work)
    await asyncio.sleep(0)
    return task


async def idle() -> None:
    """Let the loop turn until all has happened that tasks and callbacks do among themselves."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)


async def settled(line: Line, answer: Callable[[], Awaitable[None]] | None = None) -> None:
    """Let both ends of a line take in what the other has said so far, and say what comes of that.

    Args: answer: answers the ping by which that is known, where its server does not.
    """
    for _ in range(2):
        await idle()
        await _ping(line, answer)


async def _ping(line: Line, answer: Callable[[], Awaitable[None]] | None) -> None:
    answered = asyncio.Event()
    line.call(b'"ping"', b"null", lambda _answer: answered.set())
    if answer is not None:
        await answer()
    async with asyncio.timeout(WITHIN_S):
        await answered.wait()
