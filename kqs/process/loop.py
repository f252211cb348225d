"""Turns the event loop until the server's own end, whatever a handler's leavings do to it.

`SystemExit` and `KeyboardInterrupt` raised in a task or a callback come out of the loop, and `loop.stop()` ends it; asyncio
means both for programs of one author. In a server they are one handler's doing, and the loop is turned on.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from kqs.log import get_logger
from kqs.process import forks
from kqs.tasks import spawn

_log = get_logger("kqs")

T = TypeVar("T")


def run_to_end(loop: asyncio.AbstractEventLoop, body: Coroutine[Any, Any, T], on_turned_on: Callable[[], None]) -> T:
    """Run `body` as the loop's main task, and return what it returns; `on_turned_on` is called in the loop when it goes on.

    Raises: what `body` raises; KeyboardInterrupt: Ctrl-C.
    """
    task = spawn(body, "server", loop=loop)
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as fault:
            forks.end_child()
            if _is_ctrl_c(fault):
                raise
            with contextlib.suppress(BaseException):  # a look at it may raise as well
                _log.error("something that a handler left behind tried to end the server", exc_info=fault)
        else:
            if not task.done():
                _log.error("a handler stopped the event loop, turning it on")
        if not task.done():
            loop.call_soon(on_turned_on)
    return task.result()


def _is_ctrl_c(fault: BaseException) -> bool:
    """Tell whether the terminal sent it: a server that has started does not take SIGINT as an exception."""
    return isinstance(fault, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler
