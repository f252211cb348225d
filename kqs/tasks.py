"""Tasks of the server's own, which handlers do not see.

`asyncio.all_tasks` is how a handler finds tasks to wait for or to cancel, and it means its own. It shares the loop with the
server, whose tasks must not be among them: to cancel them ends the server, and whoever waits for all of them, in a run that is
lost, cancels them too. Nor do they pass through the loop's task factory, which a handler may have changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


def spawn(
    work: Coroutine[Any, Any, T],
    name: str,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    context: Context | None = None,
) -> asyncio.Task[T]:
    """Run `work` in a task that `asyncio.all_tasks` does not list. Keep it: the loop holds no task by itself.

    Args: loop: the running one unless given. context: what the task runs in; a copy of the caller's unless given.
    """
    task = asyncio.Task(work, loop=loop or asyncio.get_running_loop(), name=name, context=context)
    asyncio._unregister_task(task)  # noqa: SLF001 - documented, for whoever extends asyncio
    return task


async def side_by_side(works: Iterable[Coroutine[Any, Any, T]], name: str) -> list[T]:
    """Return what `works` return, in their order, each of them having run in such a task.

    Raises: what the first of them raises; the others go on. Cancelled, all are.
    """
    return await asyncio.gather(*[spawn(work, name) for work in works])
