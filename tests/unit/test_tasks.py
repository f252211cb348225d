"""The server's own tasks run like any other, and are not among those that handlers find."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

from kqs.tasks import spawn

_NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="")


async def _answer() -> tuple[str, str, bool]:
    task = asyncio.current_task()
    assert task is not None
    await asyncio.sleep(0)
    return task.get_name(), _NAME.get(), task in asyncio.all_tasks()


async def test_a_task_of_the_server_is_not_among_all_tasks_and_still_the_current_one() -> None:
    task = spawn(_answer(), "one")
    assert task not in asyncio.all_tasks()
    assert await task == ("one", "", False)


async def test_it_runs_in_the_context_that_it_was_given() -> None:
    context = contextvars.copy_context()
    context.run(_NAME.set, "given")
    assert (await spawn(_answer(), "one", context=context))[1] == "given"


async def test_the_loops_task_factory_is_not_asked() -> None:
    def refuse(*_: Any, **__: Any) -> asyncio.Task[Any]:
        raise ZeroDivisionError

    loop = asyncio.get_running_loop()
    loop.set_task_factory(refuse)
    try:
        task = spawn(_answer(), "one")
    finally:
        loop.set_task_factory(None)
    assert (await task)[0] == "one"


def test_a_loop_that_does_not_run_yet_is_named() -> None:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        assert loop.run_until_complete(spawn(_answer(), "early", loop=loop))[0] == "early"
