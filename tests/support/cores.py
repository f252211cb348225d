"""How long somebody was kept waiting by a process, and not by whatever else the machine does."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path


class Wait:
    """Begins when it is made. pid: of the process that is waited for."""

    def __init__(self, pid: int) -> None:
        self._pids = (pid, os.getpid())
        self._queued_s = sum(map(_queued_s, self._pids))
        self._began = time.perf_counter()

    def over_s(self) -> float:
        """Return how long it has been, but for the time in which that process or this one was ready and had no core."""
        took_s = time.perf_counter() - self._began
        return took_s - max(0.0, sum(map(_queued_s, self._pids)) - self._queued_s)


def _queued_s(pid: int) -> float:
    """Return for how long the threads of a process have waited for a core so far; any of them may hold the interpreter."""
    queued_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            queued_ns += int((task / "schedstat").read_text().split()[1])
    return queued_ns / 1e9
