"""The way of a run's end into the store: reports gather while one commit is under way, and none is ever dropped.

A job that was claimed as it was journaled may end before the store has it. Its report is kept back for that: an end of the job
goes in with it, anything else follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import cast

from kqs.errors import StoreUnavailableError
from kqs.job import Accepted, Claim, Report, Run
from kqs.log import get_logger
from kqs.pauses import STORE_FIRST_S, STORE_LONGEST_S, Pauses
from kqs.queue.wishes import Wishes
from kqs.states import ENDED
from kqs.store import base
from kqs.store.base import Store
from kqs.trouble import Trouble

log = get_logger("kqs.queue")

#: is told of reports that are in the store, and which of them were accepted
Applied = Callable[[list[tuple[Run, Report]], Sequence[bool]], Awaitable[None]]
#: brings reports into the store; returns what that says of each
Commit = Callable[[list[Report]], Awaitable[Sequence[bool | None]]]
#: is entered as long as reports are brought into the store and `Applied` is told
Reporting = Callable[[Sequence[tuple[Run, Report]]], AbstractContextManager[None]]

#: so many bytes of results do not wait any longer for their jobs to be stored
EARLY_BYTES = 16 * 1024 * 1024
#: ends that may wait for others do so until the last commit began so long ago, in s, or until there are so many of them
GATHER_S = 0.02
GATHER_COUNT = 1000
#: reports of one commit; that many cost no more each in a larger one
COMMIT_REPORTS = 10_000


class Reporter:
    """Owns the reports between the handler's end and the store's commit. `run` is the body of its task."""

    def __init__(
        self,
        store: Store,
        applied: Applied,
        wishes: Wishes,
        cancelled: Callable[[Run, Report], Report],
        waited: Collection[str],
        on_waited: Callable[[], None],
        reporting: Reporting = lambda batch: nullcontext(),
    ) -> None:
        """Args: applied: told of all that is committed.

        cancelled: judges the end of a run anew whose job turns out to have been cancelled.
        waited: ids of the jobs for whose end somebody waits.
        on_waited: called when such an end is kept back until its job is stored.
        reporting: is entered with the reports of each commit, until `applied` has been told of all.
        """
        self._cancelled = cancelled
        self._store = store
        self._applied = applied
        self._reporting = reporting
        self._pending: list[tuple[Run, Report]] = []
        self._pending_bytes = 0  # of their results
        self._committing: list[tuple[Run, Report]] = []
        self._committing_bytes = 0
        self._unstored: dict[int, str] = {}  # by order, the job's id: another server's may have the same order
        self._early: dict[int, tuple[Run, Report]] = {}  # by order, what was reported of these
        self._wishes = wishes
        self._waited = waited
        self._on_waited = on_waited
        #: of the results that wait for their jobs to be stored
        self.early_bytes = 0
        self._is_urgent = False  # somebody waits for some of what is pending
        self._hurry = asyncio.Event()
        self._began_at = 0.0  # the last commit, by the loop's clock
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._has_ended = False
        self._told: dict[Claim, list[Callable[[bool], None]]] = {}  # reports of one run are committed as they came
        self._passing: list[tuple[int, asyncio.Future[None]]] = []  # after how many reports who waits for them is told
        self._lasting = Trouble(log, "the store refuses reports, trying again", "the store takes reports again")
        self.trouble: str | None = None

    def add(self, run: Run, report: Report, *, may_wait: bool = False) -> None:
        """Take a report; it is committed with whatever else has gathered.

        Args: may_wait: an end for which nobody waits may gather with others for `GATHER_S`.
        """
        if self._unstored and self.is_unstored(run.claim):
            self._early[run.claim.order] = (run, report)
            if report.result is not None:
                self.early_bytes += len(report.result)
            if self.early_bytes > EARLY_BYTES or not report.has_begun or report.state not in ENDED:
                self._wishes.sooner()  # it is to run again, or the results are many
            elif self._waited and run.claim.id in self._waited:
                self._on_waited()
            return
        if not self._pending:
            self._idle.clear()
            self._wake.set()
        self._pending.append((run, report))
        if report.result is not None or report.progress is not None:
            self._pending_bytes += _size_of(report)
        if not (self._is_urgent or (may_wait and self._may_wait(run, report))):
            self._be_urgent()

    def _may_wait(self, run: Run, report: Report) -> bool:
        """Tell whether nobody waits for a report, and nothing is free only when it is stored."""
        if report.state not in ENDED or run.resource is not None or run.handle is not None or run.claim.id in self._waited:
            return False
        return len(self._pending) < GATHER_COUNT and self._pending_bytes <= EARLY_BYTES

    def _be_urgent(self) -> None:
        self._is_urgent = True
        self._hurry.set()

    def is_unstored(self, job: Accepted | Claim) -> bool:
        """Tell whether what is reported of this job is kept back."""
        return self._unstored.get(job.order) == job.id

    @property
    def result_bytes(self) -> int:
        """Return how many bytes of results are on their way to the store."""
        return self._pending_bytes + self._committing_bytes + self.early_bytes

    @property
    def told_count(self) -> int:
        """Return of how many reports somebody waits to hear."""
        return len(self._told)

    def tell(self, claim: Claim, told: Callable[[bool], None]) -> bool:
        """Call `told` when the report of this run that was added last is durable, with whether it was accepted.

        Returns: whether it waits for its job to be stored.
        """
        self._told.setdefault(claim, []).append(told)
        self._be_urgent()
        return self.is_unstored(claim)

    def keep_back(self, jobs: Iterable[Accepted]) -> None:
        """Keep what is reported of these jobs, which are not stored yet, until `let_go`."""
        self._unstored.update({job.order: job.id for job in jobs})

    def attach(self, jobs: Sequence[Accepted]) -> None:
        """Give each of some jobs that are about to be stored its end, if there is one, and all are not too many bytes."""
        reported, size = self._early.get, 0
        for job in jobs:
            early = reported(job.order)
            if early is not None and (report := early[1]).has_begun and report.state in ENDED and report.progress is None:
                if report.result is not None:
                    size += len(report.result)
                    if size > base.DATA_BYTES:
                        return
                job.end = report

    def let_go(
        self, jobs: Sequence[Accepted], known: Collection[int], ended: list[tuple[Run, Report]] | None = None
    ) -> list[Accepted]:
        """Take what was kept back of these jobs, now that they are stored; return those that are stored and were none of them.

        known: the orders of those that were stored before: whatever was attached to such a job has gone nowhere.
        ended: is given the ends that went in with their jobs, for whoever wants to hear of them.
        """
        unstored, others = self._unstored, []
        for job in jobs:
            order = job.order
            if order not in unstored:
                if order not in known:
                    others.append(job)
                continue
            del unstored[order]
            early = self._early.pop(order, None)
            if early is None:
                continue
            if early[1].result is not None:
                self.early_bytes -= len(early[1].result)
            if job.end is None or order in known:
                self.add(*early)
                continue
            if ended is not None:
                ended.append(early)
            if self._told and (claim := early[0].claim) in self._told:
                self._tell_one(claim, ok=True)
        return others

    @property
    def count(self) -> int:
        """Return how many reports are not in the store."""
        return len(self._pending) + len(self._committing) + len(self._early)

    async def settle(self, within_s: float | None) -> bool:
        """Return True when every report taken so far is in the store, False if it is not after `within_s`.

        What is kept back is not waited for, nor is anything once `run` has died: the store takes no more.
        """
        if self._has_ended:
            return not self.count
        self._be_urgent()
        try:
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def passed(self) -> None:
        """Return when every report taken before this call is in the store, however many follow; not what is kept back."""
        if left := len(self._pending) + len(self._committing):
            self._be_urgent()
            passed = asyncio.get_running_loop().create_future()
            self._passing.append((left, passed))
            await passed

    async def run(self) -> None:
        """Commit what gathers, for ever. Raises: StoreCorruptError."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if not self._is_urgent:
                    await self._gather()
                await self._commit_next()
                if self._pending:
                    self._wake.set()
                else:
                    self._idle.set()
        finally:
            self._has_ended = True
            self._idle.set()

    async def _gather(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._began_at + GATHER_S):
                await self._hurry.wait()

    async def _commit_next(self) -> None:
        """Commit what has gathered. Nothing of it is kept, in particular no data, until there is more."""
        batch = self._take()
        self._is_urgent = bool(self._pending)
        self._hurry.clear()
        self._began_at = asyncio.get_running_loop().time()
        if batch:
            self._committing = batch
            await self.commit(batch, self._committed)
            self._committing, self._committing_bytes = [], 0
            if self._passing:
                self._tell_passed(len(batch))

    async def commit(self, batch: list[tuple[Run, Report]], applied: Applied, *, is_patient: bool = True) -> None:
        """Commit reports, and tell `applied` of all: first of those that stand, then of what became of those of cancelled jobs.

        Jobs of the first may be ready again at once, and what happens to them next is not to be told before.
        Raises: StoreUnavailableError: unless it `is_patient`, which tries again for ever. What `applied` raises.
        """
        with self._reporting(batch):
            await self._commit_each(batch, applied, self._commit if is_patient else self._store.report)

    async def _commit_each(self, batch: list[tuple[Run, Report]], applied: Applied, commit: Commit) -> None:
        verdicts = await commit([report for _, report in batch])
        if None not in verdicts:
            await applied(batch, cast("Sequence[bool]", verdicts))
            return
        judged = list(zip(batch, verdicts, strict=True))
        # a job's reports are told in their order, so one that comes with a cancelled one waits for that
        cancelled = {run.claim.key for (run, _), verdict in judged if verdict is None}
        if first := [(one, bool(verdict)) for one, verdict in judged if one[0].claim.key not in cancelled]:
            await applied([one for one, _ in first], [ok for _, ok in first])
        second = [(one, verdict) for one, verdict in judged if one[0].claim.key in cancelled]
        anew = [(run, report if verdict is not None else self._cancelled(run, report)) for (run, report), verdict in second]
        again = iter(await commit([one[1] for one, (_, verdict) in zip(anew, second, strict=True) if verdict is None]))
        await applied(anew, [bool(next(again) if verdict is None else verdict) for _, verdict in second])

    async def _committed(self, batch: list[tuple[Run, Report]], accepted: Sequence[bool]) -> None:
        if self._told:
            self._tell(batch, accepted)
        await self._applied(batch, accepted)

    def _tell_passed(self, count: int) -> None:
        passing, self._passing = self._passing, []
        for left, passed in passing:
            if left > count:
                self._passing.append((left - count, passed))
            elif not passed.done():
                passed.set_result(None)

    def _tell(self, batch: list[tuple[Run, Report]], accepted: Sequence[bool]) -> None:
        for (run, _), ok in zip(batch, accepted, strict=True):
            if self._told and run.claim in self._told:
                self._tell_one(run.claim, ok=ok)

    def _tell_one(self, claim: Claim, *, ok: bool) -> None:
        waiting = self._told[claim]
        told = waiting.pop(0)
        if not waiting:
            del self._told[claim]
        told(ok)

    def _take(self) -> list[tuple[Run, Report]]:
        """Take what has gathered, but no more than one commit should hold."""
        batch, self._pending = self._pending, []
        held_bytes, self._pending_bytes = self._pending_bytes, 0
        self._committing_bytes = held_bytes
        if len(batch) <= COMMIT_REPORTS and held_bytes <= base.DATA_BYTES:
            return batch
        total = 0
        for index, (_, report) in enumerate(batch):
            size = _size_of(report)
            if index and (index == COMMIT_REPORTS or total + size > base.DATA_BYTES):
                batch, self._pending, self._pending_bytes = batch[:index], batch[index:], held_bytes - total
                self._committing_bytes = total
                break
            total += size
        return batch

    async def _commit(self, reports: list[Report]) -> Sequence[bool | None]:
        pauses = Pauses(STORE_FIRST_S, STORE_LONGEST_S)
        while True:
            try:
                accepted = await self._store.report(reports)
            except StoreUnavailableError as error:
                self.trouble = str(error)
                self._lasting.met(error=str(error), count=len(reports))
                await asyncio.sleep(pauses.next_s())
            else:
                self.trouble = None
                self._lasting.over()
                return accepted


def _size_of(report: Report) -> int:
    return len(report.result or b"") + len(report.progress or b"")
