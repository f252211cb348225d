"""No fork while a store's thread is within SQLite.

A child has that library's mutexes as they were at the fork, and not the thread that would let go of them: whatever it did with
SQLite, a queue or a database of its own, would wait for ever. So whoever forks waits until no store is in use, as
`concurrent.futures` has it for its own lock. Processes that are started by exec without a fork of Python's do not wait.
"""

from __future__ import annotations

import os
import threading
import time

#: no fork waits for longer, in s: a disk may hang, and what then forks was not to hang with it
_LONGEST_S = 1.0


class _Forks:
    """The locks of all stores of this process that are open, and those that the fork under way has taken."""

    def __init__(self) -> None:
        self.locks: set[threading.Lock] = set()
        self._taken: list[threading.Lock] = []

    def hold(self) -> None:
        until = time.monotonic() + _LONGEST_S
        self._taken = [lock for lock in list(self.locks) if lock.acquire(timeout=max(0.0, until - time.monotonic()))]

    def release(self) -> None:
        taken, self._taken = self._taken, []
        for lock in taken:
            lock.release()

    def begin_anew(self) -> None:
        """In the child: the stores are its parent's."""
        self.release()
        self.locks.clear()


_forks = _Forks()
os.register_at_fork(before=_forks.hold, after_in_parent=_forks.release, after_in_child=_forks.begin_anew)


def watch(in_use: threading.Lock) -> None:
    """Have forks wait while this lock is taken, from now on until `forget`."""
    _forks.locks.add(in_use)


def forget(in_use: threading.Lock) -> None:
    """Have no fork wait for this lock any more. Idempotent."""
    _forks.locks.discard(in_use)
