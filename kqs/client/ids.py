"""Ids a client makes for its inserts, so that one whose answer was lost can be sent again without a second job.

`x`, microseconds since 1970 in 13 hexadecimal digits, a dot, 16 random digits: sorted by time, and never of the form that
servers make (kqs.ids).

A program may make a client and fork, so that each of its processes opens one of its own. With the same random digits two of
them would soon make the same id, and the second of these jobs would be taken for a repetition of the first: so each process has
digits of its own.
"""

from __future__ import annotations

import os
import secrets
import time
from weakref import WeakSet


class ClientIds:
    """Makes growing ids, unique among all clients by 64 random bits. Call from one thread."""

    def __init__(self) -> None:
        self._last_us = 0
        self.begin_anew()
        _makers.add(self)

    def begin_anew(self) -> None:
        """Have random digits that no other process has."""
        self._suffix = "." + secrets.token_hex(8)

    def take(self) -> str:
        """Return a new id, greater than all before."""
        self._last_us = max(time.time_ns() // 1000, self._last_us + 1)
        return f"x{self._last_us:013x}{self._suffix}"


_makers: WeakSet[ClientIds] = WeakSet()


def _part() -> None:
    for ids in list(_makers):
        ids.begin_anew()


os.register_at_fork(after_in_child=_part)
