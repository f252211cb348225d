"""Whether a peer takes what is written to it: one that takes nothing for so long is cut off."""

from __future__ import annotations

from collections.abc import Callable

from kqs.supervisor import Judgement, Supervisor

#: A peer that takes none of its answers for so long is cut off.
UNDRAINED_S = 30.0
#: The same while the server stops: what nobody takes is not worth the rest of it. A packet that is lost three times in a row
#: comes within some 1.5 s.
HURRIED_S = 2.0


class Draining:
    """See the module docstring. Nobody is watched before `watch`."""

    __slots__ = ("_cut_off", "_patience_s", "_reached_bytes", "_supervisor", "_timer")

    def __init__(self, supervisor: Supervisor, reached_bytes: Callable[[], int], cut_off: Callable[[], None]) -> None:
        """Args: reached_bytes: returns how many have reached the peer so far."""
        self._supervisor = supervisor
        self._reached_bytes = reached_bytes
        self._cut_off = cut_off
        self._patience_s = UNDRAINED_S
        self._timer: Judgement | None = None

    def watch(self) -> None:
        """Cut the peer off unless it takes something. Idempotent."""
        if self._timer is None:
            self._timer = self._supervisor.judge_later(self._patience_s, "connection", self._judge, self._reached_bytes())

    def stop(self) -> None:
        """Let the peer be. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hurry(self) -> None:
        """Wait no longer than HURRIED_S from now on: the server stops. Idempotent."""
        self._patience_s = min(self._patience_s, HURRIED_S)
        if self._timer is not None:
            self.stop()
            self.watch()

    def _judge(self, reached_bytes: int) -> None:
        self._timer = None
        if self._reached_bytes() > reached_bytes:
            self.watch()  # slow is not dead
        else:
            self._cut_off()
