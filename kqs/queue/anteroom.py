"""Claimed runs that wait for a slot of their type (limits.py), in the order in which they were to begin.

They hold no lane. Who frees a slot calls the next one, which has it then. One that waits too long is given back, and so is one
whose data is long, since nobody counts that here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from kqs.job import Run
from kqs.queue.consumer import LONG_BYTES, Consumer
from kqs.queue.gate import STUCK_S
from kqs.queue.limits import Limits
from kqs.supervisor import Supervisor


class _Waiting(NamedTuple):
    """A run that waits, and whose it is. until: when it is given back, monotonic, in s."""

    run: Run
    consumer: Consumer
    until: float


class Anteroom:
    """See the module docstring. Call from the loop thread."""

    def __init__(
        self, limits: Limits, give_back: Callable[[Run], None], monotonic: Callable[[], float], supervisor: Supervisor
    ) -> None:
        self._limits = limits
        self._give_back = give_back
        self._monotonic = monotonic
        self._supervisor = supervisor
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._timer: asyncio.TimerHandle | None = None
        limits.on_slot = self._call

    def keep(self, run: Run, consumer: Consumer | None) -> bool:
        """Let a delivered run wait, if it can: it is delivered to `consumer` once more, or given back."""
        if consumer is None or consumer.stopped or not consumer.can_wait or len(run.data) > LONG_BYTES:
            return False
        self._waiting.setdefault(run.type, deque()).append(_Waiting(run, consumer, self._monotonic() + STUCK_S))
        self._limits.await_slot(run.type, True)
        if self._timer is None:
            self._watch(STUCK_S)
        return True

    def leave(self, consumer: Consumer) -> None:
        """Give back what waits for a consumer that stops."""
        for type_ in list(self._waiting):
            self._give_back_where(type_, lambda one: one.consumer is consumer)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _call(self, type_: str) -> None:
        waiting = self._waiting.get(type_)
        while waiting:
            run, consumer, _ = waiting[0]
            if not self._limits.may_begin(type_, run.claim.key, run.claim.attempt):
                return
            waiting.popleft()
            self._settle(type_, waiting)
            consumer.reserve(1)
            consumer.settle(1, [run])

    def _settle(self, type_: str, waiting: deque[_Waiting]) -> None:
        if not waiting:
            self._waiting.pop(type_, None)
            self._limits.await_slot(type_, False)

    def _watch(self, in_s: float) -> None:
        self._timer = self._supervisor.call_later(in_s, "queue", self._check)

    def _check(self) -> None:
        """Give back what has waited too long."""
        self._timer = None
        now = self._monotonic()
        for type_ in list(self._waiting):
            if self._give_back_where(type_, lambda one: one.until <= now):
                self._limits.get_stuck(type_)
        firsts = [waiting[0].until for waiting in self._waiting.values()]
        if firsts and self._timer is None:
            self._watch(max(0.0, min(firsts) - now))

    def _give_back_where(self, type_: str, fits: Callable[[_Waiting], bool]) -> int:
        waiting = self._waiting[type_]
        gone = [one for one in waiting if fits(one)]
        if gone:
            left = self._waiting[type_] = deque(one for one in waiting if not fits(one))
            self._settle(type_, left)
            for one in gone:
                self._give_back(one.run)
        return len(gone)
