"""Starts a thread, and has it told as any other refusal of the system's if none can be had."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def new_thread(work: Callable[..., Any], name: str, *args: Any) -> threading.Thread:
    """Return a daemon thread that calls `work`. Raises: OSError: the system refuses one, for want of memory or by a limit."""
    thread = threading.Thread(target=work, name=name, args=args, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise no_thread() from error
    return thread


def no_thread() -> OSError:
    """Return what says that a thread is refused."""
    return OSError("no thread can be started")
