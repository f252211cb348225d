"""No part of the server makes a task, a timer or a callback of the loop that its supervisor does not watch over."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kqs

PACKAGE = Path(kqs.__file__).parent
#: whatever runs later, where the loop keeps to itself what it raises
CALLS = {
    "Task",
    "TaskGroup",
    "add_done_callback",
    "add_reader",
    "add_signal_handler",
    "add_writer",
    "call_at",
    "call_later",
    "call_soon",
    "call_soon_threadsafe",
    "create_task",
    "ensure_future",
    "run_in_executor",
    "spawn",
}
#: functions of asyncio that make tasks, which handlers find, by the loop's task factory, which they may have changed
OF_ASYNCIO = {"as_completed", "gather", "to_thread", "wait_for"}
#: (file or folder, call): why it may
ALLOWED = {
    ("supervisor.py", "*"): "what all others use",
    ("tasks.py", "*"): "what the supervisor uses, and who waits for several",
    ("client", "*"): "is used in other programs, which have no supervisor",
    ("blocking/thread.py", "call_soon_threadsafe"): "the stop itself, asked for by another thread",
    ("cli", "*"): "a program of its own, which ends with what it does",
    ("conformance", "*"): "a program of its own, which ends with what it does",
    ("journal", "*"): "has a guard of its own, which also closes the journal; it tells `on_fault`",
    ("process/loop.py", "*"): "the loop's main task: what it raises ends the process",
    ("process/sentry.py", "call_soon_threadsafe"): "the stop itself, from a thread that bounds it",
    ("process/forks.py", "call_soon"): "a look into the loop, and the end of a forked child",
    ("library/queue.py", "gather"): "a part of the call that a program's own task makes",
    ("library/apart.py", "gather"): "a part of the call that a program's own task makes",
    ("library/node.py", "spawn"): "its end, of which its owner is told, and which ends the supervisor's tasks, too",
    ("store/sqlite/store.py", "add_done_callback"): "takes note of an error that concerns nobody",
    ("store/mongo/lanes.py", "add_done_callback"): "takes note of an error whose hearer has gone",
    ("store/mongo/questions.py", "add_done_callback"): "takes note of an error whose hearer has gone",
}


def unsupervised(source: str) -> list[tuple[int, str]]:
    """Return line and name of every call of `CALLS` that does not go by a supervisor."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, by = _name(node.func), _name(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name in CALLS or (by == "asyncio" and name in OF_ASYNCIO):
            given = {_name(argument) for argument in node.args}
            is_set_discard = name == "add_done_callback" and given == {"discard"}  # which cannot fail
            # a call's task, which its connection's context hands to the supervisor
            if by not in {"supervisor", "_supervisor", "context"} and "guard" not in given and not is_set_discard:
                found.append((node.lineno, name))
    return found


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def is_allowed(path: str, name: str) -> bool:
    places = {path, path.partition("/")[0]}
    return any((place, call) in ALLOWED for place in places for call in (name, "*"))


@pytest.mark.parametrize("path", sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")))
def test_all_that_runs_later_is_supervised(path: str) -> None:
    found = unsupervised((PACKAGE / path).read_text())
    assert [(path, *one) for one in found if not is_allowed(path, one[1])] == []


def test_every_exception_is_used() -> None:
    used = {
        place
        for path in (path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
        for _, name in unsupervised((PACKAGE / path).read_text())
        for place in ((path, name), (path, "*"), (path.partition("/")[0], name), (path.partition("/")[0], "*"))
    }
    assert set(ALLOWED) - used == set()


@pytest.mark.parametrize(
    "call",
    [
        "asyncio.create_task(work())",
        "asyncio.get_running_loop().call_later(1, ring)",
        "self._loop.call_soon(self._flush)",
        "spawn(work(), 'one')",
        "await asyncio.gather(*map(look, types))",
        "task.add_done_callback(self._done)",
        "loop.add_reader(fd, self._accept)",
    ],
)
def test_a_call_past_the_supervisor_is_found(call: str) -> None:
    assert len(unsupervised(call)) == 1


@pytest.mark.parametrize(
    "call",
    [
        "self._supervisor.spawn(work(), 'one')",
        "supervisor.call_later(1, 'part', ring)",
        "loop.call_soon_threadsafe(self._supervisor.guard, 'part', ring)",
        "task.add_done_callback(self._tasks.discard)",
    ],
)
def test_a_call_by_the_supervisor_is_none(call: str) -> None:
    assert unsupervised(call) == []
