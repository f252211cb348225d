"""Lanes whose handlers go on after their cancellation: who they are, and how many others may take their places.

A coroutine that swallows its cancellation cannot be ended from outside. It keeps what it holds until it ends by itself, so
there is a bound to how many are replaced. Call from the loop thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from kqs.queue.leaving import LEAVE_S
from kqs.words.phrases import counted
from kqs.worker.lane import Lane

#: a lost run whose handler has not ended so long after its cancellation is given up, in s: nobody waits for it any longer
DEAF_AFTER_S = LEAVE_S


class DeafLanes:
    """See the module docstring."""

    def __init__(self, most: int) -> None:
        """Args: most: how many may be replaced at a time."""
        self._most = most
        self._lanes: dict[Lane, None] = {}  # as a set that keeps the order
        self._written_off_count = 0

    @property
    def written_off(self) -> list[Lane]:
        """Return those whose places are taken."""
        return [lane for lane in self._lanes if lane.is_written_off]

    def add(self, lane: Lane, since: float) -> None:
        """Note that a lane's handler has not heeded its cancellation. since: Unix seconds."""
        lane.deaf_since = since
        self._lanes[lane] = None

    def write_off(self) -> Lane | None:
        """Return a lane for which another may be opened, if there is one that was not returned yet."""
        if self._written_off_count < self._most:
            for lane in self._lanes:
                if not lane.is_written_off:
                    lane.is_written_off = True
                    self._written_off_count += 1
                    return lane
        return None

    def remove(self, lane: Lane) -> None:
        """Note that a lane's handler has ended."""
        del self._lanes[lane]
        self._written_off_count -= lane.is_written_off
        lane.deaf_since = 0.0

    def problems(self) -> list[str]:
        """Return what is wrong, in words: a line a type."""
        by_type: dict[str, list[float]] = {}
        for lane in self._lanes:
            if lane.lease is not None:
                by_type.setdefault(lane.lease.run.type, []).append(lane.deaf_since)
        problems = [_deaf(type_, times) for type_, times in by_type.items()]
        held = len(self._lanes) - self._written_off_count
        if held:
            are = "is" if held == 1 else "are"
            problems.append(f"{counted(held, 'lane')} {are} held by such handlers and not replaced: {self._most} are already")
        return problems


def _deaf(type_: str, times: Sequence[float]) -> str:
    ignore, first = ("ignores its", "") if len(times) == 1 else ("ignore their", "the first ")
    return f"{counted(len(times), 'handler')} of type {type_!r} {ignore} cancellation, {first}since {_utc(min(times))}"


def _utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
