"""No fork while a store's thread is within SQLite.

A child has that library's mutexes as they were at the fork, and not the thread that would let go of them: whatever it did with
SQLite, a queue or a database of its own, would wait for ever. So whoever forks waits until no store is in use, as
`concurrent.futures` has it for its own lock. Processes that are started by exec without a fork of Python's do not wait.

Nor may a child close what it has of its parent's stores, be it at its end: SQLite removes the WAL then, by its name.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import suppress
from operator import methodcaller

import msgspec

#: no fork waits for longer, in s: a disk may hang, and what then forks was not to hang with it
_LONGEST_S = 1.0


class _Kept(msgspec.Struct, gc=False):
    """A reference that the collector does not see: what leads back to it is never freed, not as the interpreter ends either."""

    things: list[object]


class _Forks:
    """The locks of all stores of this process that are open, each with its session; and those that forks under way have taken,
    by their threads.

    A signal's handler may raise anywhere in a hook, which the interpreter ignores, or fork again. So a lock is taken and noted
    in one step, and let go of in one; and what a fork finds taken by its own thread it lets go of, too, be it another's.
    """

    def __init__(self) -> None:
        self.locks: dict[threading.Lock, object] = {}  # in order: two forks never wait for each other
        self._of_thread = threading.local()

    @property
    def _taken(self) -> list[threading.Lock]:
        taken: list[threading.Lock] = self._of_thread.__dict__.setdefault("taken", [])
        return taken

    def hold(self) -> None:
        until = time.monotonic() + _LONGEST_S
        taken = self._taken
        for lock in list(self.locks):
            if lock not in taken:
                taken.extend(filter(methodcaller("acquire", True, max(0.0, until - time.monotonic())), (lock,)))

    def release(self) -> None:
        with suppress(IndexError):
            deque(map(_RELEASE, iter(self._taken.pop, None)), maxlen=0)

    def begin_anew(self) -> None:
        """In the child: the stores are its parent's."""
        self.release()
        kept = list(self.locks.values())
        kept.append(_Kept(kept))
        self.locks.clear()


_RELEASE = methodcaller("release")
_forks = _Forks()
os.register_at_fork(before=_forks.hold, after_in_child=_forks.begin_anew)
for _ in range(2):  # once more, should a signal's handler have raised in the first
    os.register_at_fork(after_in_parent=_forks.release)


def watch(in_use: threading.Lock, session: object) -> None:
    """Have forks wait while this lock of a session is taken, from now on until `forget`."""
    _forks.locks[in_use] = session


def forget(in_use: threading.Lock) -> None:
    """Have no fork wait for this lock any more. Idempotent."""
    _forks.locks.pop(in_use, None)
