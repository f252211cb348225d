"""The way of a run's end into the store: reports gather while one commit is under way, and none is ever dropped.

A job that was claimed as it was journaled may end before the store has it: its report waits for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kqs.errors import StoreUnavailableError
from kqs.job import Report, Run
from kqs.log import get_logger
from kqs.store import base
from kqs.store.base import Store
from kqs.trouble import Trouble

log = get_logger("kqs.queue")

FIRST_WAIT_S = 0.05
LONGEST_WAIT_S = 5.0
#: reports of one commit; that many cost no more each in a larger one
COMMIT_REPORTS = 10_000


class Reporter:
    """Owns the reports between the handler's end and the store's commit. `run` is the body of its task."""

    def __init__(self, store: Store, applied: Callable[[list[tuple[Run, Report]], list[bool]], Awaitable[None]]) -> None:
        """Args: applied: told of every committed batch, with which of its reports were accepted."""
        self._store = store
        self._applied = applied
        self._pending: list[tuple[Run, Report]] = []
        self._pending_bytes = 0  # of their results
        self._committing: list[tuple[Run, Report]] = []
        self._unstored: dict[int, list[tuple[Run, Report]]] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._lasting = Trouble(log, "the store refuses reports, trying again", "the store takes reports again")
        self.trouble: str | None = None

    def add(self, run: Run, report: Report) -> None:
        """Take a report; it is committed with whatever else has gathered."""
        if self._unstored and (waiting := self._unstored.get(run.claim.order)) is not None:
            waiting.append((run, report))
            return
        if not self._pending:
            self._idle.clear()
            self._wake.set()
        self._pending.append((run, report))
        if report.result is not None:
            self._pending_bytes += len(report.result)

    def keep_back(self, order: int) -> None:
        """Keep what is reported of this job, which is not stored yet, until `let_go`."""
        self._unstored[order] = []

    def let_go(self, order: int) -> bool:
        """Take what was kept back of this job, now that it is stored; False if it was none of those."""
        if (waiting := self._unstored.pop(order, None)) is None:
            return False
        for run, report in waiting:
            self.add(run, report)
        return True

    @property
    def count(self) -> int:
        """Return how many reports are not in the store."""
        return len(self._pending) + len(self._committing) + sum(map(len, self._unstored.values()))

    async def settle(self, within_s: float | None) -> bool:
        """Return True when every report taken so far is in the store, False if it is not after `within_s`.

        What is kept back is not waited for.
        """
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Commit what gathers, for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch = self._take()
            if batch:
                self._committing = batch
                accepted = await self._commit([report for _, report in batch])
                await self._applied(batch, accepted)
                self._committing = []
            if self._pending:
                self._wake.set()
            else:
                self._idle.set()

    def _take(self) -> list[tuple[Run, Report]]:
        """Take what has gathered, but no more than one commit should hold."""
        batch, self._pending = self._pending, []
        held_bytes, self._pending_bytes = self._pending_bytes, 0
        if len(batch) <= COMMIT_REPORTS and held_bytes <= base.DATA_BYTES:
            return batch
        total = 0
        for index, (_, report) in enumerate(batch):
            size = len(report.result or b"")
            if index and (index == COMMIT_REPORTS or total + size > base.DATA_BYTES):
                batch, self._pending, self._pending_bytes = batch[:index], batch[index:], held_bytes - total
                break
            total += size
        return batch

    async def _commit(self, reports: list[Report]) -> list[bool]:
        wait_s = FIRST_WAIT_S
        while True:
            try:
                accepted = await self._store.report(reports)
            except StoreUnavailableError as error:
                self.trouble = str(error)
                self._lasting.met(error=str(error), count=len(reports))
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, LONGEST_WAIT_S)
            else:
                self.trouble = None
                self._lasting.over()
                return accepted
