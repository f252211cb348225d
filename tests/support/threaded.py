"""A blocking queue as the common suite wants it: its methods are awaited, and carried out in threads."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import kqs.blocking
from kqs.blocking.waiting import Each

#: are not awaited in the other face either
AT_ONCE = ("add_handler", "remove_handler")
FACES = (kqs.blocking.Queue, kqs.blocking.Job, kqs.blocking.TakenRun)


class Threaded:
    """See the module docstring. face: a blocking queue, or a job or run of one."""

    def __init__(self, face: Any) -> None:
        self._face = face

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._face, name)
        if not inspect.ismethod(found) or name in AT_ONCE:
            return found
        if name in ("jobs", "records", "events"):
            return lambda *args, **kwargs: _each(found(*args, **kwargs))
        return lambda *args, **kwargs: _in_thread(found, args, kwargs)


async def _in_thread(method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    args, kwargs = [_bare(one) for one in args], {name: _bare(one) for name, one in kwargs.items()}
    found = await asyncio.to_thread(method, *args, **kwargs)
    if isinstance(found, list):
        return [Threaded(one) if isinstance(one, FACES) else one for one in found]
    return Threaded(found) if isinstance(found, FACES) else found


def _bare(value: Any) -> Any:
    """Return a face itself, for a method that is given one."""
    if isinstance(value, list):
        return [_bare(one) for one in value]
    if isinstance(value, dict):
        return {name: _bare(one) for name, one in value.items()}
    return value._face if isinstance(value, Threaded) else value


async def _each(made: Each[Any]) -> AsyncIterator[Any]:
    nothing = object()
    try:
        while (one := await asyncio.to_thread(next, made, nothing)) is not nothing:
            yield one
    finally:
        await asyncio.to_thread(made.close)
