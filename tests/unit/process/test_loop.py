"""The loop is turned to the server's own end, in a process of its own: what it must bear ends a test's process as well."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, signal, sys, threading
import uvloop
from kqs.config import LogSection
from kqs.log import configure
from kqs.process.loop import run_to_end

class Mute(SystemExit):
    def __str__(self):
        raise KeyboardInterrupt

async def leave(what):
    raise what

async def main():
    loop = asyncio.get_running_loop()
    tasks = []
    DO
    for _ in range(5):
        await asyncio.sleep(0.01)
        await loop.run_in_executor(None, int)  # wakes that come from a thread are heard
    return "served"

configure(LogSection())
signal.signal(signal.SIGINT, SIGINT)
turned_on = []
with asyncio.Runner(loop_factory=FACTORY) as runner:
    print(run_to_end(runner.get_loop(), main(), lambda: turned_on.append(1)), len(turned_on))
"""


def run(do: str, factory: str = "uvloop.new_event_loop", sigint: str = "lambda *_: None") -> subprocess.CompletedProcess[str]:
    program = PROGRAM.replace("DO", do).replace("FACTORY", factory).replace("SIGINT", sigint, 0)
    program = program.replace("signal.SIGINT, SIGINT", f"signal.SIGINT, {sigint}")
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("factory", ["uvloop.new_event_loop", "asyncio.SelectorEventLoop"])
@pytest.mark.parametrize(
    ("do", "count"),
    [
        ("pass", 0),
        ("tasks.append(asyncio.create_task(leave(SystemExit(3))))", 1),
        ("tasks.append(asyncio.create_task(leave(KeyboardInterrupt())))", 1),
        ("tasks.append(asyncio.create_task(leave(Mute())))", 1),
        ("loop.call_soon(sys.exit)", 1),
        ("loop.call_later(0.02, sys.exit)", 1),
        ("threading.Timer(0.02, loop.call_soon_threadsafe, (sys.exit,)).start()", 1),
        ("loop.stop()", 1),
        ("loop.call_soon(loop.stop)", 1),
        ("loop.call_soon(sys.exit); loop.call_later(0.02, loop.stop)", 2),
    ],
)
def test_the_loop_is_turned_on_after_what_a_handler_left_behind(factory: str, do: str, count: int) -> None:
    ended = run(do, factory)
    assert (ended.returncode, ended.stdout) == (0, f"served {count}\n"), ended.stderr
    if count:
        assert "a handler" in ended.stderr


@pytest.mark.parametrize("fault", ["SystemExit(7)", "KeyboardInterrupt()", "OSError()"])
def test_what_the_server_itself_raises_is_raised(fault: str) -> None:
    ended = run(f"raise {fault}")
    assert (ended.returncode, ended.stdout) == ({"SystemExit(7)": 7, "KeyboardInterrupt()": -2, "OSError()": 1}[fault], "")


def test_ctrl_c_ends_a_server_that_has_not_taken_the_signal() -> None:
    ended = run("loop.call_soon(signal.raise_signal, signal.SIGINT)", "asyncio.SelectorEventLoop", "signal.default_int_handler")
    assert (ended.returncode, ended.stdout) == (-2, "")
