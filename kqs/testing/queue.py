"""The queue of a test: what can run is run, what time brings is brought, and what was inserted is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from kqs.library.bulk import BulkStore
from kqs.library.data import data_of
from kqs.library.job import JobRecord
from kqs.library.node import NodeQueue, config_for
from kqs.library.passing import passing_folder, passing_sections
from kqs.library.queue import DEFAULT_CONCURRENCY
from kqs.options import MAX_SECONDS
from kqs.states import WAITING
from kqs.testing.clock import SettableClock

#: records stay as long as the queue
_STORE = {"keep_success_s": -1}
#: between two looks whether something that is due has come, in s
_LOOK_S = 0.001


class TestQueue(NodeQueue):
    """See the module docstring. All that kqs.Queue has, on a clock of its own; a record stays unless its job says `keep`."""

    __test__ = False  # it is none of pytest's

    def __init__(
        self, at: float | None, concurrency: int, sections: Mapping[str, Mapping[str, Any]], bulk: BulkStore | None = None
    ) -> None:
        """Args: at: what the clock shows first, in Unix seconds; None: what the machine's shows. Raises: ValueError."""
        self.clock = SettableClock(None if at is None else _checked("at", at))
        joined = passing_sections({**sections, "store": {**_STORE, **sections.get("store", {})}})
        super().__init__(config_for(passing_folder(), joined), concurrency, self.clock, bulk=bulk, keeps=False, is_passing=True)

    async def open(self) -> None:
        """Begin; `async with` does it."""
        await super().open()
        self._running.may_have = self._has_due

    async def _has_due(self, types: list[str]) -> bool:
        if not await self._core.backend.has_waiting(types):
            return False
        now = self.now
        waiting = self.records(state=[state.word for state in sorted(WAITING)])
        return any([record.type in types and (record.due_at or 0.0) <= now async for record in waiting])

    @property
    def now(self) -> float:
        """Return what its clock shows, in Unix seconds."""
        return self.clock.now()

    async def run_until_idle(self) -> int:
        """Run jobs until none can run that has a handler here; return how many runs there were."""
        total = 0
        while ran := await self.run_jobs(-1):
            total += ran
            await self._core.backend.settle()
        return total

    async def advance(self, seconds: float) -> int:
        """Set the clock forward, and run all that can run at each instant in which something comes; return how many runs.

        Delays, retries, schedules, expiry, the loss of runs that were reserved and not reported, limits by time and the end of
        retention come in their order, each at its own instant. Raises: ValueError: there is no such clock.
        """
        until = self.now + _checked("seconds", seconds)
        total = await self.run_until_idle()
        while True:
            at = await self._next_at()
            if self.now < until and (ran := await self.run_until_idle()):  # it came while others ran
                total += ran
            elif at <= until:
                total += await self._go_to(at)
            else:
                return total + await self._go_to(until)

    async def _go_to(self, at: float) -> int:
        self.clock.advance(at - self.now)
        await self._core.look_again()
        await self._core.backend.settle()
        await self._next_at()
        return await self.run_until_idle()

    async def _next_at(self) -> float:
        """Return the next instant that brings something, when all has come that is due."""
        while (at := self._core.next_at) <= self.now:  # noqa: ASYNC110 - what is due comes in some ms, and nobody else asks
            await asyncio.sleep(_LOOK_S)
        return at

    async def inserted(self, type: str | None = None) -> list[JobRecord]:  # noqa: A002 - the job's field
        """Return the jobs that were inserted, of this type or of all, in their order."""
        return [record async for record in (self.records() if type is None else self.records(type=type))]

    async def assert_inserted(self, type: str, *data: Any) -> list[JobRecord]:  # noqa: A002 - the job's field
        """Fail unless the jobs inserted of this type have just these data, in this order; return them.

        Args: data: as `add_job` takes it, models and dataclasses too.
        Raises: AssertionError: its message shows what was inserted.
        """
        records = await self.inserted(type)
        found, wanted = [record.data for record in records], [msgspec.json.decode(data_of(one)) for one in data]
        if found != wanted:
            others = sorted({record.type for record in await self.inserted()} - {type})
            beside = f"; there are jobs of {', '.join(others)}" if others else ""
            raise AssertionError(f"jobs of {type!r}: expected data {wanted!r}, got {found!r}{beside}")
        return records


def _checked(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
        raise ValueError(f"{name}: expected a number of seconds from 0 to {MAX_SECONDS}, got {value!r:.60}")
    return value


def open_queue(
    at: float | None = None,
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    bulk: BulkStore | None = None,
    **sections: Mapping[str, Any],
) -> TestQueue:
    """Return a queue for one test, for `async with`.

    Args: at: what its clock shows first, in Unix seconds; None: what the machine's shows. The others: as for kqs.open.
    Raises: as kqs.open.
    """
    return TestQueue(at, concurrency, sections, bulk)
