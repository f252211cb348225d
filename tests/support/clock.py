"""A clock that moves only when a test says so."""

from __future__ import annotations


class FakeClock:
    """Satisfies kqs.clock.Clock; `advance` moves both clocks, `jump` only the wall."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        self._now += seconds
