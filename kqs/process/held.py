"""What holds the event loop, said in the log while it does: nothing else can tell, for the loop is what answers questions."""

from __future__ import annotations

import time

from kqs import log as logs
from kqs.process.holder import holder_of_loop, where_held

log = logs.get_logger("kqs")

#: looks in a row, one a second, that found no turn of the loop before it is said. Pauses of a busy server are below one, and
#: systemd's watchdog waits for 30 s. They are counted, so that a machine or process that stood still was held by nobody
LOOKS = 5


class HeldLoop:
    """Look at whether a loop turns, from another thread, and say once what keeps it from that."""

    def __init__(self) -> None:
        self._turned_at = time.monotonic()
        self._looks = 0
        self._is_told = False

    def turned(self) -> None:
        """Take in that the loop turns. Call there, more often than `look`, or as often."""
        now = time.monotonic()
        if self._is_told:
            self._is_told = False
            log.info("the event loop turns again", after_s=round(now - self._turned_at, 1))
        self._turned_at, self._looks = now, 0

    def look(self) -> None:
        """Look once, in a thread of its own."""
        self._looks += 1
        if self._looks >= LOOKS and not self._is_told and (holder := holder_of_loop()) is not None:
            self._is_told = True
            log.warning(f"{where_held(holder)}, and nothing else goes on", for_s=round(time.monotonic() - self._turned_at, 1))
