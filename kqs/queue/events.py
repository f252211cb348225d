"""What happens to jobs: the one place where it is told, to whoever wants to hear it. Call from the loop thread.

Who `ends.wait`s for a job hears its end. Who `listen`s hears everything, in batches, as nothing is made of it here: as long as
nobody does, it costs one look a batch. The end of a run is told when it is durable.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum
from typing import NamedTuple

from kqs.clock import Clock
from kqs.errors import StoreUnavailableError
from kqs.job import Accepted, Entry, JobRecord, Report, Run, instant_of
from kqs.queue.ends import DELETED, Ends
from kqs.queue.reads import Reads
from kqs.states import WAITING, State
from kqs.store.base import Changed
from kqs.supervisor import Supervisor, when_done


class Word(StrEnum):
    """What can happen. A run that was `started` has one end: from success to cancelled."""

    CREATED = "created"
    QUEUED = "queued"
    STARTED = "started"
    SUCCESS = "success"
    FAIL = "fail"
    RETRY = "retry"
    GHOST = "ghost"
    RELEASED = "released"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DELETED = "deleted"
    WORKER_LOST = "worker_lost"


class Batch(NamedTuple):
    """Some jobs to which the same has happened, at one time.

    at: Unix seconds. state: that of the jobs, where it is one and known. reports: how the runs that `jobs` are have ended, each
    in its place; None: they have not. worker: who was lost, with these runs.
    """

    at: float
    word: Word
    jobs: Sequence[Accepted | Entry | Run | JobRecord]
    state: State | None = None
    reports: Sequence[Report] | None = None
    worker: str | None = None


Listener = Callable[[Batch], None]

_WORDS = {State.SUCCESS: Word.SUCCESS, State.FAIL: Word.FAIL, State.CANCELLED: Word.CANCELLED, State.GHOST: Word.GHOST}


class Events:
    """See the module docstring.

    Of what happens, `created`, `started`, `unbegun` and `worker_lost` are told it if it `is_heard`, the rest always.
    """

    def __init__(self, reads: Reads, clock: Clock, supervisor: Supervisor, *, is_shared: bool = False) -> None:
        """Args: is_shared: as for Ends."""
        #: who waits for single jobs
        self.ends = Ends(reads, clock, supervisor, is_shared=is_shared)
        #: somebody listens
        self.is_heard = False
        self._reads = reads
        self._clock = clock
        self._supervisor = supervisor
        self._listeners: list[Listener] = []
        self._started: list[Run] = []  # and not told yet
        self._begun: set[int] = set()  # orders of runs that were told as started, and are given back as if they had not been
        self._searches: set[asyncio.Task[None]] = set()

    def listen(self, listener: Listener) -> None:
        """Tell `listener` everything from now on."""
        self._listeners.append(listener)
        self.is_heard = True

    def ignore(self, listener: Listener) -> None:
        """Tell `listener` nothing more."""
        self._listeners.remove(listener)
        self.is_heard = bool(self._listeners)
        if not self.is_heard:
            self._started.clear()
            self._begun.clear()

    @property
    def hears_ends(self) -> bool:
        """Tell whether anybody wants to hear how runs end."""
        return self.is_heard or bool(self.ends.waiting)

    async def stop(self) -> None:
        """Look for nothing more."""
        await self._supervisor.end(*self._searches)
        await self.ends.stop()

    def created(self, jobs: Sequence[Accepted], parked: Collection[int] = ()) -> None:
        """Take in that jobs are accepted, and ready unless their time is to come, or their order is in `parked`."""
        now = self._clock.now()
        delayed = [job for job in jobs if job.due_at]
        new = [job for job in jobs if not job.due_at] if delayed else jobs
        self._tell(Batch(now, Word.CREATED, new, State.NEW))
        self._tell(Batch(now, Word.CREATED, delayed, State.DELAYED))
        self._tell(Batch(now, Word.QUEUED, [job for job in new if job.order not in parked] if parked else new, State.NEW))

    def started(self, run: Run) -> None:
        """Take in that a run has begun."""
        if not self._started:
            self._supervisor.call_soon("events", self._tell_started)
        self._started.append(run)

    def unbegun(self, run: Run) -> None:
        """Take in that a run that was told as `started` is given back as if it had not been claimed."""
        self._begun.add(run.claim.order)

    def worker_lost(self, worker: str | None, runs: Sequence[Run]) -> None:
        """Take in that whoever had these runs is gone. worker: None: it was a server, of which nothing else is known."""
        self._tell(Batch(self._clock.now(), Word.WORKER_LOST, runs, worker=worker))

    def woken(self, entries: Sequence[Entry]) -> None:
        """Take in that jobs are ready: their time has come, their resource is free, or their owner lets them run again."""
        if self.is_heard:
            self._tell(Batch(self._clock.now(), Word.QUEUED, entries))

    def reported(self, batch: Sequence[tuple[Run, Report]], accepted: Sequence[bool]) -> None:
        """Take in that reports are durable, and which of them were accepted."""
        if self.ends.waiting:
            self.ends.reported(batch, accepted)
        if self.is_heard:
            self._tell_reported(batch if all(accepted) else [pair for pair, ok in zip(batch, accepted, strict=True) if ok])

    def changed(self, word: Word, records: Sequence[JobRecord]) -> None:
        """Take in that jobs that did not run have ended, or were deleted.

        Args: records: as they stand now, or stood last. word: CANCELLED, EXPIRED or DELETED.
        """
        for record in records if self.ends.waiting else ():
            self.ends.tell(record.id, DELETED if word is Word.DELETED else record, is_alone=len(records) == 1)
        if self.is_heard:
            self._tell(Batch(self._clock.now(), word, records))

    def deleted(self, jobs: Sequence[Changed]) -> None:
        """Take in that jobs are gone."""
        self.changed(Word.DELETED, [_last_seen(job) for job in jobs])

    def deleted_elsewhere(self, jobs: Sequence[Changed]) -> None:
        """Take in that jobs are gone which another server was asked to delete while they ran here.

        Who waits for the end of one looks for that by itself: another job may have its id by now.
        """
        if self.is_heard:
            self._tell(Batch(self._clock.now(), Word.DELETED, [_last_seen(job) for job in jobs]))

    def cancelled(self, job_ids: Sequence[str], error: str = Word.CANCELLED) -> None:
        """Take in that waiting jobs have ended as cancelled. error: what stands in their records."""
        self._ended_unrun(Word.CANCELLED, job_ids, State.CANCELLED, error)

    def expired(self, job_ids: Sequence[str]) -> None:
        """Take in that waiting jobs have ended as expired."""
        self._ended_unrun(Word.EXPIRED, job_ids, State.FAIL, Word.EXPIRED)

    def failed_unrun(self, job_ids: Sequence[str]) -> None:
        """Take in that waiting jobs have failed, as others that they waited for had not succeeded."""
        self._ended_unrun(Word.FAIL, job_ids, State.FAIL, "a job that it waited for has not succeeded")

    def _ended_unrun(self, word: Word, job_ids: Sequence[str], state: State, error: str) -> None:
        def of_gone(job_id: str) -> JobRecord:
            return self.ends.unrun_record(job_id, state, error)

        if self.is_heard:
            search = self._supervisor.spawn(self._tell_unrun(word, job_ids, of_gone), "events-ended", when_done)
            self._searches.add(search)
            search.add_done_callback(self._searches.discard)
        else:
            self.ends.search(job_ids, of_gone)

    async def _tell_unrun(self, word: Word, job_ids: Sequence[str], of_gone: Callable[[str], JobRecord]) -> None:
        records = []
        for job_id in job_ids:
            try:
                record = await self._reads.job(job_id)
            except StoreUnavailableError:
                record = None
            records.append(record or of_gone(job_id))  # it is not there if it is not kept
        self.changed(word, records)

    def _tell_reported(self, ended: Sequence[tuple[Run, Report]]) -> None:
        reports = [report for _, report in ended]
        if {report.state for report in reports} == {State.SUCCESS}:  # as nearly always; who has not begun cannot succeed
            self._tell(Batch(self._clock.now(), Word.SUCCESS, [run for run, _ in ended], reports=reports))
            return
        by_word: dict[Word, list[tuple[Run, Report]]] = defaultdict(list)
        ready: dict[State, list[Run]] = defaultdict(list)
        for run, report in ended:
            if (word := self._word_of(run, report)) is not None:
                by_word[word].append((run, report))
                if report.state in WAITING and not report.due_at and run.resource is None:
                    ready[report.state].append(run)
        now = self._clock.now()
        for word, pairs in by_word.items():
            self._tell(Batch(now, word, [run for run, _ in pairs], reports=[report for _, report in pairs]))
        for state, runs in ready.items():
            self._tell(Batch(now, Word.QUEUED, runs, state))

    def _word_of(self, run: Run, report: Report) -> Word | None:
        """Return what a report tells; None: nothing, for the run has never begun, and its job is ready as it was."""
        if not report.has_begun:
            if report.state is State.FAIL:
                return Word.EXPIRED
            if report.state is State.CANCELLED:
                return Word.CANCELLED
            if run.claim.order not in self._begun:
                return None
            self._begun.discard(run.claim.order)
            return Word.RELEASED
        if report.state is State.RETRY:
            return Word.RELEASED if report.run_state == "interrupted" else Word.RETRY
        return _WORDS[report.state]

    def _tell(self, batch: Batch) -> None:
        if self._started:
            self._tell_started()
        if batch.jobs:
            for listener in self._listeners:
                listener(batch)

    def _tell_started(self) -> None:
        started, self._started = self._started, []
        if started:
            self._tell(Batch(self._clock.now(), Word.STARTED, started, State.PROCESSING))


def _last_seen(job: Changed) -> JobRecord:
    """Return what is known of a job that was deleted."""
    at, of_it = instant_of(job.order), (job.order, job.id, job.type, job.state, job.prio)
    return JobRecord(*of_it, 0.0, None, None, None, job.attempt, 0, 0, 0, at, None, None, None, None, [])
