"""What the event loop is in the midst of, seen from another thread: a last word on what holds it."""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from kqs.process import loop

_KQS = str(Path(__file__).parents[1]) + os.sep
_CALLS_HANDLERS = str(Path(_KQS, "executor")) + os.sep
_STDLIB = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


class Holder(NamedTuple):
    """place: `FILE:LINE`, of users' code the outermost, of ours the innermost."""

    place: str
    is_users: bool


def holder_of_loop() -> Holder | None:
    """Return what the main thread is in the midst of, below the loop; None: it waits, or has no loop.

    Users' code is what the executor has called, or the loop itself; what other parts of KQS call is theirs.
    """
    ours: FrameType | None = None
    innermost = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - documented, for such uses
    for frame in _below_loop(innermost):
        path = frame.f_code.co_filename
        if path.startswith(_KQS):
            ours = frame
        elif not _is_of_python(path) and (ours is None or ours.f_code.co_filename.startswith(_CALLS_HANDLERS)):
            return Holder(_place(frame), is_users=True)
    return None if ours is None else Holder(_place(ours), is_users=False)


def where_held(holder: Holder | None) -> str:
    """Return what is said of it in the log."""
    if holder is None:
        return "a handler holds the event loop"
    return f"{'a handler holds the event loop' if holder.is_users else 'the event loop does not get on'} at {holder.place}"


def _below_loop(innermost: FrameType | None) -> Iterator[FrameType]:
    frames: list[FrameType] = []
    while innermost is not None and innermost.f_code is not loop.run_to_end.__code__:
        frames.append(innermost)
        innermost = innermost.f_back
    return reversed(frames) if innermost is not None else iter(())


def _is_of_python(path: str) -> bool:
    return path.startswith("<frozen") or (path.startswith(_STDLIB) and not any(part in path for part in _INSTALLED))


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
