"""The way of jobs into the journal, for whoever has some: from their JSON text to a record, and from its flush to their ids.

Everything is checked before the journal sees the record, so that a bad job never fails its neighbours, and nothing is told
before the record is flushed. The journal settles records in order. Call from the loop thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from kqs.errors import CallError, JournalError, KqsError
from kqs.ids import ID_PATTERN, Ids, microseconds
from kqs.inserter.answers import Answer, Answering, AnswersTold, ids_of, told_of
from kqs.inserter.ports import BoundsPort, JournalPort, VerdictsPort
from kqs.inserter.questions import NOTHING_FOUND, Found, Question
from kqs.journal.fanned import Plan, copies_of, has_copies, pack, plan_of
from kqs.journal.format import Kind, Record
from kqs.options import Job, JobFields, is_told, is_type
from kqs.wire import strict
from kqs.wire.inserted import Inserted, Refused
from kqs.wire.jobs import DEFAULT_INSERT_JOBS, Given, decoding
from kqs.wire.jobtext import place_of
from kqs.wire.order import asked_of, askers_of, is_batch
from kqs.wire.steps import JOBS_A_STEP, Steps, finish

#: jobs in one insert, copies for subscribers included, if there are any: they are taken in at once
MOST_FANNED = 4000

#: told of a record that it is flushed, or why it may not be
Settled = Callable[[Record, JournalError | None], None]


class Inserter:
    """See the module docstring. unflushed_bytes: of records that are not settled."""

    def __init__(
        self,
        journal: JournalPort,
        ids: Ids,
        now: Callable[[], float],
        verdicts: VerdictsPort,
        bounds: BoundsPort | None = None,
        subscribers: Plan | None = None,
    ) -> None:
        """Args: now: wall time in Unix seconds. bounds: None: any number of jobs may wait.

        subscribers: by type, which is not run itself then; it may change.
        """
        #: by type, of those that have some
        self.subscribers = {} if subscribers is None else subscribers
        self.ids = ids
        self._verdicts = verdicts
        self.now = now
        self.flush_if_alone = journal.flush_if_alone
        self.unflushed_bytes = 0
        self._append = journal.append
        #: returns when the jobs that are asked for are known and the batches open, or who asks is; raises CallError, bad_job
        #: or busy, where they are not
        self.check_order: Callable[[Given], Awaitable[None]] = _no_order
        self._bounds = bounds if bounds is not None and bounds.limits else None

    async def insert(self, text: bytes, max_jobs: int = DEFAULT_INSERT_JOBS) -> list[str]:
        """Keep the job, or all jobs of an array or none of them, that stand in `text` as JSON; return their ids, in order.

        That of a job which was joined to another is the other's.
        Raises: CallError: a job is refused; nothing was kept, but where it is as a `duplicate`: all others are. JournalError,
        and CallError of the code timeout: they may or may not have been kept. Cancelling the caller does not withdraw them.
        """
        answers = await self.insert_told(text, max_jobs)
        for answer in answers:
            if isinstance(answer, Refused):
                raise CallError(answer.message, answer.code)
        return [answer.id if isinstance(answer, Inserted) else str(answer) for answer in answers]

    async def insert_told(self, text: bytes, max_jobs: int = DEFAULT_INSERT_JOBS) -> list[Answer]:
        """As `insert`, with the answers that the jobs ask for. Raises: as `insert`, but for duplicates, which are told."""
        finish(strict.checking_json(text))
        given = finish(self.checking(text, max_jobs))
        if not given.jobs:
            return []
        if given.asked or given.batches:
            await self.check_order(given)
        answered: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()

        def told(answers: list[Answer] | Exception) -> None:
            if answered.done():
                return
            if isinstance(answers, Exception):
                answered.set_exception(answers)
            else:
                answered.set_result(answers)

        self.keep_told(given, told)
        return await answered

    def checking(self, text: bytes, max_jobs: int, *, adopted: bool = False, before: int = 0) -> Steps[Given]:
        """Decode and check in steps what an insert was given: JSON that `strict` or its equal has checked.

        Args: adopted: under ids that another server made, however lately: the caller has made sure that it does not run.
            before: how many jobs stand before the one that has the position 0.
        Raises: CallError: a job is refused, or there are more than `max_jobs`.
        """
        given = yield from decoding(text, max_jobs)
        now = self.now()
        for index, job in enumerate(given.jobs):
            if job.id is not None and (self.ids.is_ours_unmade(job.id) if adopted else self.ids.may_be_unmade(job.id, now)):
                where = place_of(index, is_array=given.is_array)
                raise CallError(f"{where}id {job.id!r} has the form of an id that a server may have yet to make", "bad_job")
            if isinstance(job, JobFields) and job.copies is not None:
                where = place_of(index, is_array=given.is_array)
                if not adopted:
                    raise CallError(f"{where}copies: belongs to `adopt`, not to an insert", "bad_job")
                if not all(is_type(type_) and ID_PATTERN.match(id_) for type_, id_ in job.copies.items()):
                    raise CallError(f"{where}copies: expected an id for each type, got others", "bad_job")
            if is_told(job):
                given.told[index] = told_of(job)
            if index % JOBS_A_STEP == 0:
                yield
        given.asked, given.batches = yield from asked_of(given.jobs, given.payload, is_array=given.is_array, before=before)
        if given.asked or given.batches:
            given.askers = yield from askers_of(given.jobs, before)
        if len(given.jobs) > JOBS_A_STEP:
            yield  # to keep so many is long enough by itself
        return given

    def may_make_any(self, job_ids: list[str]) -> bool:
        """Tell whether a server may have yet to make one of these ids, for another job."""
        now, may_be_unmade = self.now(), self.ids.may_be_unmade
        return any(may_be_unmade(job_id, now) for job_id in job_ids)

    def keep(self, given: Given, settled: Settled, *, adopted: bool = False) -> Record:
        """Journal checked jobs, of which there is at least one; `settled` is told later.

        Raises: JournalError, CallError: nothing was kept, and `settled` will not be called.
        """
        return self._keep(Kind.JOBS, given.payload, given.jobs, settled, adopted)

    def keep_told(
        self,
        given: Given,
        told: AnswersTold,
        flushed: Callable[[Record], None] = lambda record: None,
        *,
        adopted: bool = False,
        run: Callable[[Steps[None]], None] = finish,
    ) -> Record:
        """Journal checked jobs as `keep`; `told` is called once their answers are known, which the store may have to say.

        Args: flushed: called before, when the record is settled. run: does all steps of telling many, now or later.
        Raises: JournalError, CallError: nothing was kept, and neither will be called.
        """
        answering = Answering(given, self.ids, told, run)
        if answering.asked:
            self._verdicts.check_room(len(answering.asked))
        question: Question | None = None

        def settled(record: Record, error: JournalError | None) -> None:
            flushed(record)
            if error is not None:
                if question is not None:
                    self._verdicts.withdraw(question)
                told(error)
            elif question is not None:
                self._verdicts.flushed(question)
            else:
                answering.tell(record.first_order, NOTHING_FOUND)

        def decided(found: Found | KqsError) -> None:
            if isinstance(found, KqsError):
                told(found)
            else:
                answering.tell(first_order, found)

        record = self.keep(given, settled, adopted=adopted)
        first_order = record.first_order
        if answering.asked:
            question = Question([first_order + index for index in answering.asked], decided, is_lasting=answering.has_keys)
            self._verdicts.ask(question)
        return record

    def keep_lines(self, chunk: bytes, jobs: list[Job], settled: Settled) -> Record:
        """Journal the checked jobs of a chunk that is one plain insert a line. As `keep`."""
        return self._keep(Kind.CALLS, chunk, jobs, settled, False)

    def are_alone(self, jobs: list[Job]) -> bool:
        """Tell whether these jobs are what is kept of them, and none is refused because too many of its type wait."""
        if self.subscribers and plan_of(jobs, self.subscribers):
            return False
        return self._bounds is None or self._bounds.has_room(jobs)

    def _keep(self, kind: Kind, payload: bytes, jobs: list[Job], settled: Settled, adopted: bool) -> Record:
        bounds = self._bounds
        copies: list[str] = []
        live_jobs: list[Job] | None = jobs
        plan = plan_of(jobs, self.subscribers) if self.subscribers and not adopted else {}
        if plan or (adopted and any(map(has_copies, jobs))):
            assert kind is Kind.JOBS, "lines are looked at before"
            copies = _copied_types(jobs, payload, plan)
            kind, payload, live_jobs = Kind.FANNED, pack(plan, payload), None
        entered = None if bounds is None else bounds.enter(jobs, copies, is_forced=adopted)
        now, count, size = self.now(), len(jobs) + len(copies), len(payload)
        first_order = self.ids.take(count, now)
        record = Record(kind, count, first_order, payload, live_jobs, accepted_us=microseconds(now), adopted=adopted)

        def done(error: JournalError | None) -> None:
            record.done = None  # records are not seen by the garbage collector: this cycle would keep the payload for ever
            self.unflushed_bytes -= size
            if error is not None and bounds is not None and entered:
                bounds.leave(entered)
            settled(record, error)

        record.done = done
        try:
            self._append(record)
        except BaseException:
            if bounds is not None and entered:
                bounds.leave(entered)
            raise
        self.unflushed_bytes += size
        return record

    def ids_of(self, own_ids: Sequence[str | None], first_order: int) -> list[str]:
        """Return the ids of jobs that were numbered from `first_order` on, of which some brought their own."""
        return ids_of(own_ids, self.ids, first_order)


def _copied_types(jobs: list[Job], payload: bytes, plan: Plan) -> list[str]:
    """Return the type of each copy of some jobs. Raises: CallError: bad_job, too_large: they may not have any, or so many."""
    if is_batch(payload) or any(job.type in plan and _is_member(job) for job in jobs):
        raise CallError("batch: expected jobs of types without subscribers, whose copies end later", "bad_job")
    types = [copy.type for copy in copies_of(jobs, plan)]
    if len(jobs) + len(types) > MOST_FANNED:
        raise CallError(f"expected at most {MOST_FANNED} jobs with their copies in one insert", "too_large")
    return types


def _is_member(job: Job) -> bool:
    return isinstance(job, JobFields) and job.batch is not None


async def _no_order(_given: Given) -> None:
    raise CallError("after, batch: nobody knows of other jobs here", "unsupported")
