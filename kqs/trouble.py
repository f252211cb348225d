"""Trouble that lasts: told when it begins, then now and then with how often it was met, and once more when it is over.

For whoever tries again until something works. A line a try would fill the disk over a weekend, and hide whatever else is wrong.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

#: trouble is told at most so often, in s, even if it comes and goes meanwhile
TOLD_EVERY_S = 60.0


class Trouble:
    """One kind of trouble of one part. Call from one thread."""

    def __init__(
        self, log: Any, what: str, over: str, monotonic: Callable[[], float] = time.monotonic, *, is_error: bool = False
    ) -> None:
        """Args: log: a structlog logger. what, over: told while it lasts, and once it is over. is_error: no mere warning."""
        self._log = log
        self._tell = log.error if is_error else log.warning
        self._what = what
        self._over = over
        self._monotonic = monotonic
        self._told_at = -math.inf
        self._began_at = 0.0
        self._is_told = False
        self._count = 0
        #: it was met, and is not over
        self.is_on = False

    def met(self, **details: Any) -> None:
        """Take in that it was met, again or for the first time; `details` go into the line, if there is one."""
        now = self._monotonic()
        if not self.is_on:
            self.is_on, self._began_at, self._count, self._is_told = True, now, 0, False
        self._count += 1
        if now - self._told_at >= TOLD_EVERY_S:
            self._told_at = now
            if self._count > 1:
                details |= {"times": self._count, "for_s": round(now - self._began_at)}
            self._is_told = True
            self._tell(self._what, **details)

    def over(self, **details: Any) -> bool:
        """Take in that what was tried has worked; return whether that is told. Costs nothing while there is no trouble."""
        if not self.is_on:
            return False
        self.is_on = False
        if self._is_told:
            for_s = round(self._monotonic() - self._began_at, 1)
            self._log.info(self._over, **details, after_s=for_s, times=self._count)
        return self._is_told
