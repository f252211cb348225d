"""Breaks between runs, in which the loop looks after everybody else: runs that never wait would have it for themselves.

After `SLICE_S` of them no run begins before the loop's next turn. Call from the loop thread.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable

from kqs.supervisor import Supervisor

#: how long runs may have the loop before others get their turn, in s: a ping is answered about so late
SLICE_S = 0.005
#: how many runs go on at first after a slice; then twice as many each turn: most would find the slice used up again
FIRST_WOKEN = 8


class Breaks:
    """See the module docstring. is_on: no run may begin. is_due: runs go on by themselves, in the loop's next turn."""

    __slots__ = ("_context", "_held_s", "_slice_s", "_supervisor", "_to_wake", "_wake", "is_due", "is_on")

    def __init__(self, supervisor: Supervisor, context: contextvars.Context, wake: Callable[[int], bool]) -> None:
        """Args: wake: lets up to so many runs begin, and tells whether more could."""
        self._supervisor = supervisor
        self._context = context
        self._wake = wake
        self._slice_s = 0.0
        self._held_s = 0.0  # in slices before
        self.is_due = False
        self._to_wake = FIRST_WOKEN
        self.is_on = False

    @property
    def held_s(self) -> float:
        """Return how long runs have had the loop for themselves."""
        return self._held_s + self._slice_s

    @property
    def left_s(self) -> float:
        """Return how much longer runs may have the loop."""
        return SLICE_S - self._slice_s

    def charge(self, took_s: float) -> None:
        """Count runs that had the loop for themselves."""
        self._slice_s += took_s
        if self._slice_s >= SLICE_S:
            self.is_on = True
            self._to_wake = FIRST_WOKEN
            self._call_next()

    def _call_next(self) -> None:
        if not self.is_due:
            self.is_due = True
            self._supervisor.call_soon("worker", self._next, context=self._context)

    def _next(self) -> None:
        """Let runs begin again."""
        self.is_due = self.is_on = False
        self._held_s += self._slice_s
        self._slice_s = 0.0
        if self._wake(self._to_wake):
            self._to_wake *= 2
            self._call_next()
