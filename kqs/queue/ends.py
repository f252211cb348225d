"""Who waits for the end of which job. Each is told once, when that end is durable. Call from the loop thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from kqs.clock import Clock
from kqs.errors import StoreUnavailableError
from kqs.ids import is_made
from kqs.job import Accepted, JobRecord, Report, Run, RunRecord, instant_of
from kqs.queue.reads import Reads
from kqs.queue.rules import whole_ms
from kqs.states import ENDED, State
from kqs.store.base import MOST_ENDS
from kqs.supervisor import Supervisor, when_done

#: how long to wait before a store that refused is asked again whether a job has ended, in s
SEARCH_AGAIN_S = 0.5
#: jobs that may end on other servers are asked about so often, in s, up to so many in one question
LOOK_S = 0.25
LOOK_JOBS = 1000

#: what has become of a job: its record, as it ended, or that it is there no more
End = JobRecord | Literal["deleted"]
DELETED: Literal["deleted"] = "deleted"

#: told an end, and whether that of no other job is told in the same step
Told = Callable[[End, bool], None]


@dataclass(slots=True)
class _Waiter:
    """Somebody who waits for a job. since: from when on, in Unix seconds.

    is_known: the store has had the job since then: where it has it no more, it was deleted; else it is on its way there.
    """

    since: float
    is_known: bool = False


class _Asked(NamedTuple):
    """A waiter whose job is looked at. was_known: as the look began: it says nothing of what was stored meanwhile."""

    job_id: str
    told: Told
    waiter: _Waiter
    was_known: bool


class Ends:
    """See the module docstring."""

    def __init__(self, reads: Reads, clock: Clock, supervisor: Supervisor, *, is_shared: bool = False) -> None:
        """Args: is_shared: jobs may end on other servers, so those that somebody waits for are asked about."""
        self._reads = reads
        self._clock = clock
        self._supervisor = supervisor
        self._is_shared = is_shared
        self._looking: asyncio.Task[None] | None = None
        self._searches: set[asyncio.Task[None]] = set()
        #: by job id, and who is told; falsy while nobody waits
        self.waiting: dict[str, dict[Told, _Waiter]] = {}

    def wait(self, job_id: str, told: Told) -> None:
        """Have `told` called with the end of a job, if that is not stored yet; unless `forget` comes before.

        So whoever waits for a job that may have ended before looks as well, afterwards.
        """
        self.waiting.setdefault(job_id, {})[told] = _Waiter(self._clock.now())
        if self._is_shared and self._looking is None:
            self._looking = self._supervisor.spawn(self._look(), "queue-ends", when_done)

    def forget(self, job_id: str, told: Told) -> None:
        """Let somebody wait no more. Idempotent."""
        waiters = self.waiting.get(job_id)
        if waiters is not None and waiters.pop(told, None) is not None and not waiters:
            del self.waiting[job_id]

    def seen(self, job_id: str, told: Told) -> None:
        """Take in that the store was seen to have a job, which had not ended, since somebody waits for it."""
        if (waiter := self.waiting.get(job_id, {}).get(told)) is not None:
            waiter.is_known = True

    def stored(self, jobs: Sequence[Accepted], known: Collection[int], joined: Collection[int]) -> None:
        """Take in that jobs are stored. Args: known: orders of those that may have ended before. joined: of such as are not."""
        if self._is_shared:
            for job in jobs:
                if job.order not in joined:
                    _mark(self.waiting.get(job.id, {}).values())
        if known:
            self.search([job.id for job in jobs if job.order in known])

    def reported(self, batch: Sequence[tuple[Run, Report]], accepted: Sequence[bool]) -> None:
        """Take in that reports are durable, and which of them were accepted."""
        waiting = self.waiting
        ended = [
            (run, report)
            for (run, report), ok in zip(batch, accepted, strict=True)
            if ok and run.claim.id in waiting and report.state in ENDED
        ]
        for run, report in ended:
            self.tell(run.claim.id, record_of(run, report), is_alone=len(ended) == 1)

    def tell(self, job_id: str, end: End, *, is_alone: bool = True) -> None:
        """Tell those who wait for this job how it has ended."""
        for told in self.waiting.pop(job_id, ()):
            told(end, is_alone)

    def search(self, job_ids: Sequence[str], of_gone: Callable[[str], End] = lambda job_id: DELETED) -> None:
        """Tell those who wait for jobs that the store knows, if these have ended. of_gone: what is told if it does not."""
        waited = [job_id for job_id in job_ids if job_id in self.waiting]
        if waited:
            search = self._supervisor.spawn(self._search(waited, of_gone), "queue-ends", when_done)
            self._searches.add(search)
            search.add_done_callback(self._searches.discard)

    async def _search(self, job_ids: Sequence[str], of_gone: Callable[[str], End]) -> None:
        for job_id in job_ids:
            while waiters := self.waiting.get(job_id):
                before = list(waiters.values())
                try:
                    record = await self._reads.job(job_id)
                except StoreUnavailableError:
                    await asyncio.sleep(SEARCH_AGAIN_S)
                    continue
                if record is None:
                    self.tell(job_id, of_gone(job_id))
                elif record.state in ENDED:
                    self.tell(job_id, record)
                else:
                    _mark(before)
                break

    def unrun_record(self, job_id: str, state: State, error: str) -> JobRecord:
        """Return what is known of a job that has ended while it waited, and was not kept."""
        now = whole_ms(self._clock.now())
        return JobRecord(0, job_id, "", state, 0, 0.0, None, None, None, 0, 0, 0, 0, now, now, now, None, error, [])

    async def _look(self) -> None:
        """Ask about all jobs that somebody waits for, until nobody does: they may end on other servers."""
        try:
            while self.waiting:
                await asyncio.sleep(LOOK_S)
                try:
                    await self._look_at_all()
                except StoreUnavailableError:
                    continue
        finally:
            self._looking = None

    async def _look_at_all(self) -> None:
        """Tell of those that have ended, or are there no more."""
        wanted = list(self.waiting)
        while wanted:
            part, wanted = wanted[:LOOK_JOBS], wanted[LOOK_JOBS:]
            asked = [
                _Asked(job_id, told, waiter, waiter.is_known)
                for job_id in part
                for told, waiter in self.waiting.get(job_id, {}).items()
            ]
            looked = await self._reads.look(part)
            ended = {record.id: record for record in looked.ended}
            left = [one for one in asked if self._is_left(one)]
            over = [one for one in left if one.job_id in ended and _is_end_of(one, ended[one.job_id])]
            for one in over:
                self._tell_one(one, ended[one.job_id], is_alone=len(over) == 1)
            if over and len(ended) == MOST_ENDS:
                wanted += dict.fromkeys(one.job_id for one in left if self._is_left(one))
                continue
            for one in left:
                if one.was_known and one.job_id not in looked.there:
                    self._tell_one(one, DELETED, is_alone=False)
            _mark(one.waiter for one in left if one.job_id in looked.there and one.job_id not in ended)

    def _is_left(self, asked: _Asked) -> bool:
        """Tell whether somebody waits still: who waits anew, and for another job it may be, is not looked for."""
        return self.waiting.get(asked.job_id, {}).get(asked.told) is asked.waiter

    def _tell_one(self, asked: _Asked, end: End, *, is_alone: bool) -> None:
        if self._is_left(asked):  # and was not let go by what was told before
            self.forget(asked.job_id, asked.told)
            asked.told(end, is_alone)

    async def stop(self) -> None:
        """Search no more."""
        await self._supervisor.end(*self._searches, self._looking)


def _mark(waiters: Iterable[_Waiter]) -> None:
    for waiter in waiters:
        waiter.is_known = True


def _is_end_of(asked: _Asked, record: JobRecord) -> bool:
    """Tell whether a record that has ended is the job's: one that was over before is of an earlier job with its id.

    An id that a server has made has no earlier job, whatever the clock of the server says that has ended this one.
    """
    return asked.was_known or is_made(record.id) or record.drop_at is None or record.drop_at > asked.waiter.since


def record_of(run: Run, report: Report) -> JobRecord:
    """Return what is at hand of the record of a job that a report has ended, or lets wait again.

    Of the runs there is only this one, without its worker; `accepted_at` is told by the order.
    """
    claim = run.claim
    last = RunRecord(run.attempt, "", run.started_at, report.ended_at, report.run_state, report.error)
    return JobRecord(
        claim.order,
        claim.id,
        run.type,
        report.state,
        run.prio,
        report.due_at,
        run.expire_at,
        run.data or None,
        run.options,
        run.attempt if report.has_begun else run.attempt - 1,
        report.failures,
        report.ghosts,
        report.interrupted,
        instant_of(claim.order),
        report.ended_at if report.state in ENDED else None,
        report.drop_at,
        report.result,
        report.error,
        [last] if report.has_begun else [],
        progress=(run.progress if report.progress is None else report.progress) or None,
        resource=run.resource,
        group=run.group,
    )
