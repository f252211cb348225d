"""An error in a thread that waits for work, as users' code can raise one there."""

from __future__ import annotations

import ctypes
import threading
from queue import SimpleQueue
from typing import Any


def raise_into(thread: threading.Thread, work: SimpleQueue[Any]) -> None:
    """Raise a ZeroDivisionError in a thread that waits for `work`, which it never gets.

    It is woken at once: as long as an error is pending in any thread, CPython 3.11 begins no function that is traced, as all
    are for coverage, and who would wake it later would never come to that.
    """
    assert thread.ident is not None, "it has begun"
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(ZeroDivisionError))
    work.put(None)
