from __future__ import annotations

import asyncio
import sysconfig
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import kqs
from kqs.process.holder import Holder, holder_of_loop
from kqs.process.loop import run_to_end

KQS = Path(kqs.__file__).parent
STDLIB = sysconfig.get_path("stdlib")
INSTALLED = f"{STDLIB}/site-packages"


def function_in(path: str, source: str, **names: Any) -> Callable[[], Any]:
    """Return a function `call` whose source is said to stand in a file."""
    exec(compile(source, path, "exec"), names)
    call: Callable[[], Any] = names["call"]
    return call


def holder_in(*paths: str) -> Holder | None:
    """Return who is said to hold a loop that has called a function in each of these files, the outermost first."""
    begun, release = threading.Event(), threading.Event()
    call = function_in(f"{STDLIB}/time.py", "def call(): begun.set(); release.wait()", begun=begun, release=release)
    for path in reversed(paths):
        call = function_in(path, "def call(): inner()", inner=call)
    loop = asyncio.new_event_loop()

    async def body() -> None:
        loop.call_soon(call)
        await asyncio.sleep(0)

    def ask() -> Holder | None:
        try:
            assert begun.wait(30)
            return holder_of_loop()
        finally:
            release.set()

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        run_to_end(loop, body(), lambda: None)
        loop.close()
        return asked.result()


@pytest.mark.parametrize(
    "paths",
    [
        ["/app/mail.py"],
        [f"{KQS}/worker/worker.py", f"{KQS}/executor/executor.py", "/app/mail.py"],
        [f"{KQS}/executor/executor.py", "/app/mail.py", f"{KQS}/blocking/queue.py"],
        [f"{KQS}/executor/executor.py", "/app/mail.py", f"{STDLIB}/subprocess.py"],
        [f"{KQS}/executor/executor.py", "/app/mail.py", f"{INSTALLED}/requests/api.py"],
        [f"{STDLIB}/asyncio/events.py", "/app/mail.py"],
    ],
)
def test_users_code_that_the_executor_or_the_loop_has_called_holds_it(paths: list[str]) -> None:
    assert holder_in(*paths) == Holder("/app/mail.py:1", is_users=True)


def test_so_does_users_code_that_is_installed() -> None:
    path = f"{INSTALLED}/mail/handlers.py"
    assert holder_in(f"{KQS}/executor/executor.py", path) == Holder(f"{path}:1", is_users=True)


@pytest.mark.parametrize(
    "inner", [[], [f"{STDLIB}/pathlib.py"], [f"{INSTALLED}/pymongo/pool.py"]], ids=["system call", "stdlib", "package"]
)
def test_else_the_innermost_of_our_own_does(inner: list[str]) -> None:
    found = holder_in(f"{KQS}/journal/commit.py", f"{KQS}/journal/files.py", *inner)
    assert found == Holder(f"{KQS}/journal/files.py:1", is_users=False)


def test_nobody_holds_a_loop_that_waits() -> None:
    assert holder_in() is None


def test_without_a_loop_nobody_holds_it() -> None:
    assert holder_of_loop() is None
