"""Processes that end with the one that started them, however that ends: what a killed test run leaves behind, nobody ends."""

from __future__ import annotations

import ctypes
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def mortal(command: Sequence[str | Path]) -> list[str | Path]:
    """Return a command that is `command`, and is killed when this process has ended; where no tool does that, `command`.

    The kernel counts from the end of the thread that starts it, so only what the main thread starts ends with this process.
    """
    if threading.current_thread() is not threading.main_thread():
        return list(command)
    return [*_wrapper(), *command]


@cache
def _wrapper() -> Sequence[str]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    wrapper = (setpriv, "--pdeathsig", "KILL", "--")
    knows_it = subprocess.run((*wrapper, "true"), capture_output=True, check=False).returncode == 0
    return wrapper if knows_it else ()


def die_with_parent() -> None:
    """Have this process killed when the one that started it has ended; does nothing where the system cannot."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


__all__ = ["die_with_parent", "mortal"]
