"""Whatever ends unasked is told, once, under its name."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from kqs.supervisor import HEAR_S, MayEnd, Supervisor, UnaskedEndError, never, when_done, with_its_answer
from tests.support.supervising import StrictSupervisor

_VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def returns() -> None:
    await asyncio.sleep(0)


async def raises() -> None:
    await asyncio.sleep(0)
    raise ZeroDivisionError


async def lasts() -> None:
    await asyncio.Event().wait()


async def is_cancelled() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await lasts()


@pytest.fixture
def supervisor() -> StrictSupervisor:
    return StrictSupervisor()


async def ended(task: asyncio.Task[Any]) -> None:
    """Return when a task has ended and its supervisor knows."""
    await asyncio.wait([task])
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("may_end", "body", "reason"),
    [
        (never, returns, UnaskedEndError),
        (never, raises, ZeroDivisionError),
        (never, is_cancelled, UnaskedEndError),
        (when_done, returns, None),
        (when_done, raises, ZeroDivisionError),
        (when_done, is_cancelled, UnaskedEndError),
        (with_its_answer, returns, None),
        (with_its_answer, raises, None),
        (with_its_answer, is_cancelled, UnaskedEndError),
    ],
)
async def test_an_end_is_a_fault_unless_the_task_may_end_so(
    supervisor: StrictSupervisor,
    may_end: MayEnd,
    body: Callable[[], Coroutine[Any, Any, None]],
    reason: type[BaseException] | None,
) -> None:
    task = supervisor.spawn(body(), "one", may_end)
    assert supervisor.names == ["one"]
    await ended(task)
    assert supervisor.names == []
    if reason is not None:
        name, error = await supervisor.told()
        assert (name, type(error)) == ("one", reason)
    elif body is raises:
        assert isinstance(task.exception(), ZeroDivisionError)


async def test_a_cancelled_task_says_where_it_stood(supervisor: StrictSupervisor) -> None:
    supervisor.spawn(is_cancelled(), "one")
    _, error = await supervisor.told()
    assert isinstance(error.__cause__, asyncio.CancelledError)
    assert "somebody who does not own it" in str(error)


async def test_an_end_that_was_asked_for_is_none(supervisor: StrictSupervisor) -> None:
    tasks = [supervisor.spawn(lasts(), name) for name in ("one", "two")]
    await supervisor.end(*tasks, None)
    assert all(task.cancelled() for task in tasks)
    assert supervisor.names == []
    await supervisor.end(*tasks)


async def test_who_is_given_time_to_end_ends_by_itself_and_is_cancelled_after(supervisor: StrictSupervisor) -> None:
    enough = asyncio.Event()

    async def works() -> str:
        await enough.wait()
        return "done"

    task, other = supervisor.spawn(works(), "one"), supervisor.spawn(lasts(), "two")
    enough.set()
    await supervisor.end(task, patience_s=10)
    assert task.result() == "done"
    await supervisor.end(other, patience_s=0.001)
    assert other.cancelled()


async def test_a_part_that_fails_to_stop_is_a_fault(supervisor: StrictSupervisor) -> None:
    await supervisor.end_part("one", returns)
    await supervisor.end_part("two", raises)
    name, error = await supervisor.told()
    assert (name, type(error)) == ("two", ZeroDivisionError)


async def test_what_is_raised_instead_of_an_end_is_a_fault_as_ever(supervisor: StrictSupervisor) -> None:
    async def raises_at_its_end() -> None:
        try:
            await lasts()
        finally:
            raise ZeroDivisionError

    task = supervisor.spawn(raises_at_its_end(), "one")
    await asyncio.sleep(0)
    await supervisor.end(task)
    assert isinstance((await supervisor.told())[1], ZeroDivisionError)


async def test_who_is_cancelled_while_he_waits_for_an_end_leaves_the_task_cancelled(supervisor: StrictSupervisor) -> None:
    task = supervisor.spawn(lasts(), "one")
    waiter = asyncio.ensure_future(supervisor.end(task, patience_s=1000))
    await asyncio.sleep(0)
    waiter.cancel()
    await ended(task)
    assert task.cancelled()


async def test_a_judge_that_fails_is_told_in_the_tasks_name(supervisor: StrictSupervisor) -> None:
    def fail(_task: asyncio.Task[Any]) -> bool:
        raise ZeroDivisionError

    supervisor.spawn(returns(), "one", fail)
    name, error = await supervisor.told()
    assert (name, type(error)) == ("one", ZeroDivisionError)


async def test_only_the_first_fault_is_told() -> None:
    told: list[str] = []
    supervisor = Supervisor(lambda name, error: told.append(name))
    for name in ("one", "two"):
        await ended(supervisor.spawn(raises(), name))
    supervisor.fault("three", ZeroDivisionError())
    assert told == ["one"]


async def test_a_task_is_not_among_those_that_handlers_see_and_runs_in_the_context_it_is_given(
    supervisor: StrictSupervisor,
) -> None:
    async def look() -> tuple[str, bool]:
        return _VARIABLE.get(), asyncio.current_task() in asyncio.all_tasks()

    context = contextvars.copy_context()
    context.run(_VARIABLE.set, "set")
    assert await supervisor.spawn(look(), "one", when_done, context=context) == ("set", False)


def fail() -> None:
    raise ZeroDivisionError


def later(supervisor: Supervisor) -> None:
    supervisor.call_later(0, "part", fail)


def soon(supervisor: Supervisor) -> None:
    supervisor.call_soon("part", fail)


def from_a_thread(supervisor: Supervisor) -> None:
    asyncio.get_running_loop().call_soon_threadsafe(supervisor.guard, "part", fail)


def judged(supervisor: Supervisor) -> None:
    supervisor.judge_later(0, "part", fail)


@pytest.mark.parametrize("call", [later, soon, judged, from_a_thread])
async def test_what_a_callback_raises_is_a_fault(supervisor: StrictSupervisor, call: Callable[[Supervisor], None]) -> None:
    call(supervisor)
    name, error = await supervisor.told()
    assert (name, type(error)) == ("part", ZeroDivisionError)


async def test_callbacks_get_their_arguments_and_context_and_can_be_cancelled(supervisor: StrictSupervisor) -> None:
    got: list[tuple[str, str]] = []
    all_called = asyncio.Event()

    def note(what: str) -> None:
        got.append((what, _VARIABLE.get()))
        if len(got) == 2:
            all_called.set()

    context = contextvars.copy_context()
    context.run(_VARIABLE.set, "set")
    supervisor.call_later(0, "part", note, "later", context=context)
    supervisor.call_soon("part", note, "soon", context=context)
    for handle in (supervisor.call_later(0, "part", fail), supervisor.call_soon("part", fail)):
        handle.cancel()
    async with asyncio.timeout(10):
        await all_called.wait()
    assert sorted(got) == [("later", "set"), ("soon", "set")]


async def test_nobody_is_judged_before_what_came_while_the_loop_was_held_up_is_heard(supervisor: StrictSupervisor) -> None:
    got: list[str] = []
    judged = asyncio.Event()
    supervisor.judge_later(0.01, "part", got.append, "not judged").cancel()
    put_off = supervisor.judge_later(0.01, "part", got.append, "not judged")
    supervisor.call_later(0.1, "part", put_off.cancel)
    supervisor.judge_later(0.01, "part", got.append, "judged")
    supervisor.judge_later(0.01, "part", judged.set)
    time.sleep(0.6)  # noqa: ASYNC251 - holding the loop up is the test
    supervisor.call_later(0.1, "part", got.append, "heard")
    async with asyncio.timeout(10):
        await judged.wait()
    assert got == ["heard", "judged"]


async def test_who_is_judged_in_time_is_judged_at_once(supervisor: StrictSupervisor) -> None:
    loop = asyncio.get_running_loop()
    judged_at = loop.create_future()
    began_at = loop.time()
    supervisor.judge_later(0.05, "part", lambda: judged_at.set_result(loop.time()))
    assert 0.04 < await judged_at - began_at < HEAR_S


def test_what_ends_a_program_is_told_and_goes_on_its_way() -> None:
    def leave() -> None:
        raise SystemExit

    supervisor = StrictSupervisor()
    with pytest.raises(SystemExit):
        supervisor.guard("part", leave)
    assert [name for name, _ in supervisor.faults] == ["part"]
    supervisor.faults.clear()
