"""What happens to jobs: the one place where it is told, to whoever wants to hear it. Call from the loop thread.

Who `ends.wait`s for a job hears its end. Who `listen`s hears everything, in batches, as nothing is made of it here: as long as
nobody does, it costs one look a batch. The end of a run is told when it is durable. What happens to one job is told in its
order, though others may act on it before whoever has asked for it hears of it (`bookmarks.py`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from enum import StrEnum
from typing import NamedTuple

from msgspec.structs import replace

from kqs.clock import Clock
from kqs.errors import StoreUnavailableError
from kqs.filter import Filter
from kqs.job import Accepted, Claim, Entry, JobRecord, Report, Run, instant_of
from kqs.queue.bookmarks import Bookmark, Bookmarks
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

    @property
    def ids(self) -> list[str]:
        """Return the ids of the jobs."""
        return [job.claim.id if isinstance(job, Run) else job.id for job in self.jobs]

    def part(self, indexes: Sequence[int]) -> Batch:
        """Return the jobs that stand there."""
        reports = None if self.reports is None else [self.reports[index] for index in indexes]
        return self._replace(jobs=[self.jobs[index] for index in indexes], reports=reports)


Listener = Callable[[Batch], None]

_WORDS = {State.SUCCESS: Word.SUCCESS, State.FAIL: Word.FAIL, State.CANCELLED: Word.CANCELLED, State.GHOST: Word.GHOST}
#: the records of so many jobs that have ended without a run are looked for at once
ENDED_JOBS = 100
#: where inserts and reports are told
_INSERTED, _REPORTED = Bookmark(), Bookmark()
#: nothing is told of what happens in this block
_UNHEARD = nullcontext()


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
        self._begun: set[Claim] = set()  # of runs that were told as started, and are given back as if they had not been
        self._searches: set[asyncio.Task[None]] = set()
        self._bookmarks = Bookmarks[Batch](self._tell_now)
        self._is_shared = is_shared
        self._unsure: set[str] = set()  # jobs of an insert that is not done, or perhaps: that failed, and is repeated
        self._letting: dict[Bookmark, set[str]] = {}  # changes that may let jobs run, and which of those have begun meanwhile

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
            self._bookmarks.clear()
            self._unsure.clear()

    def inserting(self, jobs: Sequence[Accepted]) -> AbstractContextManager[None]:
        """Tell what happens to jobs that the store is given in this block after it is told that they are `created`.

        What a shared store raises leaves open whether they are stored, and they may run. So their bookmarks stay until the
        insert is repeated, with the same jobs.
        """
        return self._inserting({job.id for job in jobs}) if self.is_heard else _UNHEARD

    @contextmanager
    def _inserting(self, ids: set[str]) -> Iterator[None]:
        self._leave(_INSERTED, ids - self._unsure)
        self._unsure = set(ids) if self._is_shared else set()
        try:
            yield
            self._unsure.clear()
        finally:
            self._bookmarks.take_out(_INSERTED, ids - self._unsure)

    def reporting(self, batch: Sequence[tuple[Run, Report]]) -> AbstractContextManager[None]:
        """Tell what happens to jobs whose reports the store is given in this block after these are told (`reported`)."""
        return self._reporting({run.claim.id for run, _ in batch}) if self.is_heard else _UNHEARD

    @contextmanager
    def _reporting(self, ids: set[str]) -> Iterator[None]:
        self._leave(_REPORTED, ids)
        try:
            yield
        finally:
            self._bookmarks.take_out(_REPORTED, ids)

    def _leave(self, bookmark: Bookmark, job_ids: Collection[str]) -> None:
        if self._started:
            self._tell_started()  # what has begun has done so before
        self._bookmarks.leave(bookmark, job_ids)

    @contextmanager
    def letting_run(self) -> Iterator[Bookmark]:
        """Tell that runs have begun, of jobs which the store lets run in this block, after it is told that they are `woken`.

        Yields: the bookmark at which that is told.
        """
        if self._started:
            self._tell_started()
        bookmark = Bookmark()
        self._letting[bookmark] = set()
        try:
            yield bookmark
        finally:
            self._bookmarks.take_out(bookmark, self._letting.pop(bookmark))

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
        ready = [job for job in new if job.order not in parked] if parked else new
        self._tell(Batch(now, Word.CREATED, new, State.NEW), _INSERTED)
        self._tell(Batch(now, Word.CREATED, delayed, State.DELAYED), _INSERTED)
        self._tell(Batch(now, Word.QUEUED, ready, State.NEW), _INSERTED)

    def started(self, run: Run) -> None:
        """Take in that a run has begun."""
        if not self._started:
            self._supervisor.call_soon("events", self._tell_started)
        self._started.append(run)

    def unbegun(self, run: Run) -> None:
        """Take in that a run that was told as `started` is given back as if it had not been claimed."""
        self._begun.add(run.claim)

    def worker_lost(self, worker: str | None, runs: Sequence[Run]) -> None:
        """Take in that whoever had these runs is gone. worker: None: it was a server, of which nothing else is known."""
        self._tell(Batch(self._clock.now(), Word.WORKER_LOST, runs, worker=worker))

    def woken(self, entries: Sequence[Entry], bookmark: Bookmark | None = None) -> None:
        """Take in that jobs are ready: their time has come, their resource is free, or their owner lets them run again.

        Args: bookmark: of the change that has let them run (`letting_run`).
        """
        if self.is_heard:
            self._tell(Batch(self._clock.now(), Word.QUEUED, entries), bookmark)

    def reported(self, batch: Sequence[tuple[Run, Report]], accepted: Sequence[bool]) -> None:
        """Take in that reports are durable, and which of them were accepted."""
        if self.ends.waiting:
            self.ends.reported(batch, accepted)
        if self.is_heard:
            taken = batch if all(accepted) else [pair for pair, ok in zip(batch, accepted, strict=True) if ok]
            self._tell_reported(taken)
            if self._begun and len(taken) < len(batch):
                self._begun.difference_update([run.claim for run, _ in batch])
            self._bookmarks.take_out(_REPORTED, [run.claim.id for run, _ in batch])

    def changed(self, word: Word, records: Sequence[JobRecord], bookmark: Bookmark | None = None) -> None:
        """Take in that jobs that did not run have ended, or were deleted.

        Args: records: as they stand now, or stood last. word: CANCELLED, EXPIRED or DELETED. bookmark: where it is told.
        """
        for record in records if self.ends.waiting else ():
            self.ends.tell(record.id, DELETED if word is Word.DELETED else record, is_alone=len(records) == 1)
        if self.is_heard:
            self._tell(Batch(self._clock.now(), word, records), bookmark)

    def deleted(self, jobs: Sequence[Changed]) -> None:
        """Take in that jobs are gone."""
        self.changed(Word.DELETED, [_last_seen(job) for job in jobs])

    def deleted_elsewhere(self, jobs: Sequence[Changed]) -> None:
        """Take in that jobs are gone which another server was asked to delete while they ran here.

        Who waits for the end of one looks for that by itself: another job may have its id by now.
        """
        if self.is_heard:
            self._tell(Batch(self._clock.now(), Word.DELETED, [_last_seen(job) for job in jobs]))

    def cancelled(self, jobs: Sequence[Changed], error: str = Word.CANCELLED) -> None:
        """Take in that waiting jobs have ended as cancelled. error: what stands in their records."""
        seen = {job.id: job for job in jobs}

        def of_gone(job_id: str) -> JobRecord:
            last, end = _last_seen(seen[job_id]), self.ends.unrun_record(job_id, State.CANCELLED, error)
            return replace(last, state=end.state, ended_at=end.ended_at, error=error)

        self._ended_unrun(Word.CANCELLED, list(seen), of_gone)

    def expired(self, job_ids: Sequence[str]) -> None:
        """Take in that waiting jobs have ended as expired."""
        self._ended_unrun(Word.EXPIRED, job_ids, lambda job_id: self.ends.unrun_record(job_id, State.FAIL, Word.EXPIRED))

    def failed_unrun(self, job_ids: Sequence[str]) -> None:
        """Take in that waiting jobs have failed, as others that they waited for had not succeeded."""
        error = "a job that it waited for has not succeeded"
        self._ended_unrun(Word.FAIL, job_ids, lambda job_id: self.ends.unrun_record(job_id, State.FAIL, error))

    def _ended_unrun(self, word: Word, job_ids: Sequence[str], of_gone: Callable[[str], JobRecord]) -> None:
        if self.is_heard:
            bookmark = Bookmark()
            self._leave(bookmark, set(job_ids))
            told = self._tell_unrun(word, job_ids, of_gone, bookmark)
            search = self._supervisor.spawn(told, "events-ended", when_done)
            self._searches.add(search)
            search.add_done_callback(self._searches.discard)
        else:
            self.ends.search(job_ids, of_gone)

    async def _tell_unrun(
        self, word: Word, job_ids: Sequence[str], of_gone: Callable[[str], JobRecord], bookmark: Bookmark
    ) -> None:
        for first in range(0, len(job_ids), ENDED_JOBS):
            part = job_ids[first : first + ENDED_JOBS]
            found = await self._found(part)
            self.changed(word, [_as_ended(found.get(job_id), of_gone(job_id)) for job_id in part], bookmark)
            self._bookmarks.take_out(bookmark, part)

    async def _found(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        """Return what the store knows of jobs, by id: all of those that somebody waits for, of others what listings show."""
        waited = [job_id for job_id in job_ids if job_id in self.ends.waiting]
        wanted = Filter(ids=tuple(set(job_ids).difference(waited)))
        records: list[JobRecord | None] = []
        after: int | None = None
        with suppress(StoreUnavailableError):
            records += [await self._reads.job(job_id) for job_id in waited]
            while wanted.ids:
                page, after = await self._reads.page(wanted, after, ENDED_JOBS, newest_first=False)
                records += page
                if after is None:
                    break
        return {record.id: record for record in records if record is not None}

    def _tell_reported(self, ended: Sequence[tuple[Run, Report]]) -> None:
        reports = [report for _, report in ended]
        if {report.state for report in reports} == {State.SUCCESS}:  # as nearly always; who has not begun cannot succeed
            self._tell(Batch(self._clock.now(), Word.SUCCESS, [run for run, _ in ended], reports=reports), _REPORTED)
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
            self._tell(Batch(now, word, [run for run, _ in pairs], reports=[report for _, report in pairs]), _REPORTED)
        for state, runs in ready.items():
            self._tell(Batch(now, Word.QUEUED, runs, state), _REPORTED)

    def _word_of(self, run: Run, report: Report) -> Word | None:
        """Return what a report tells; None: nothing, for the run was not told as started, and its job is ready as it was."""
        if not report.has_begun:
            was_started = run.claim in self._begun
            self._begun.discard(run.claim)
            if report.state is State.FAIL:
                return Word.EXPIRED
            if report.state is State.CANCELLED:
                return Word.CANCELLED
            return Word.RELEASED if was_started else None
        if report.state is State.RETRY:
            return Word.RELEASED if report.run_state == "interrupted" else Word.RETRY
        return _WORDS[report.state]

    def _tell(self, batch: Batch, bookmark: Bookmark | None = None) -> None:
        if self._started:
            self._tell_started()
        if self._bookmarks and batch.word is not Word.WORKER_LOST:
            self._bookmarks.tell(batch, bookmark)
        else:
            self._tell_all(batch)

    def _tell_now(self, batch: Batch) -> None:
        """Tell what may have waited for its turn."""
        self._tell_all(batch._replace(at=self._clock.now()))

    def _tell_all(self, batch: Batch) -> None:
        if batch.jobs:
            for listener in self._listeners:
                listener(batch)

    def _tell_started(self) -> None:
        started, self._started = self._started, []
        if not started:
            return
        batch = Batch(self._clock.now(), Word.STARTED, started, State.PROCESSING)
        # what waited as new was ready from the first on, and is told though a store that is away wakes nothing
        woken = {run.claim.id for run in started if run.waited_as != State.NEW} if self._letting else set()
        for bookmark, begun in self._letting.items():
            ids = woken.difference(begun)
            begun |= ids
            self._bookmarks.leave(bookmark, ids)
        self._tell(batch)


def _as_ended(record: JobRecord | None, end: JobRecord) -> JobRecord:
    """Return the record of a job that has ended as `end` tells, though it may have been retried since, or be there no more."""
    if record is None:
        return end
    if record.state is end.state:
        return record
    return replace(record, state=end.state, ended_at=end.ended_at, error=end.error)


def _last_seen(job: Changed) -> JobRecord:
    """Return what is known of a job that was deleted."""
    at, of_it = instant_of(job.order), (job.order, job.id, job.type, job.state, job.prio)
    return JobRecord(*of_it, 0.0, None, None, None, job.attempt, 0, 0, 0, at, None, None, None, None, [])
