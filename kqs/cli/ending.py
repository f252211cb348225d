"""What a command shows on a terminal, or has started, is put in order whatever signal ends it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Have SIGTERM, and the end of a terminal, end what is within as Ctrl-C does. For the main thread.

    By themselves they would end the process at once: a bar leaves the terminal without its cursor, and a server or a program
    that was started goes on. What is ignored, as nohup has it, or heard by somebody else, stays so.
    """
    taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _end(_number: int, _frame: object) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell makes it for what a script starts in the background
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)  # asyncio hears it, and cancels what runs
