"""Ids a client makes for its inserts, so that one whose answer was lost can be sent again without a second job.

`x`, microseconds since 1970 in 13 hexadecimal digits, a dot, 16 random digits: sorted by time, and never of the form that
servers make (kqs.ids).
"""

from __future__ import annotations

import secrets
import time


class ClientIds:
    """Makes growing ids, unique among all clients by 64 random bits. Call from one thread."""

    def __init__(self) -> None:
        self._suffix = "." + secrets.token_hex(8)
        self._last_us = 0

    def take(self) -> str:
        """Return a new id, greater than all before."""
        self._last_us = max(time.time_ns() // 1000, self._last_us + 1)
        return f"x{self._last_us:013x}{self._suffix}"
