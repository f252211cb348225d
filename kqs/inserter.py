"""The way of jobs into the journal, for whoever has some: from their JSON text to a record, and from its flush to their ids.

Everything is checked before the journal sees the record, so that a bad job never fails its neighbours, and nothing is told
before the record is flushed. The journal settles records in order. Call from the loop thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from typing import NamedTuple, Protocol

from kqs.errors import CallError, JournalError, KqsError
from kqs.ids import ID_PATTERN, Ids, microseconds
from kqs.journal.fanned import Plan, copies_of, has_copies, pack, plan_of
from kqs.journal.format import Kind, Record
from kqs.options import Job, JobFields, is_told, is_type
from kqs.wire import strict
from kqs.wire.inserted import Inserted, Refused
from kqs.wire.jobs import Given, Told, decoding
from kqs.wire.order import asked_of, askers_of, is_batch
from kqs.wire.steps import JOBS_A_STEP, Steps, finish

#: jobs in one array. In memory a job takes some 200 bytes beside its data, and as long as it is answered, its id
DEFAULT_INSERT_JOBS = 100_000
#: jobs in one insert, copies for subscribers included, if there are any: they are taken in at once
MOST_FANNED = 4000

#: told of a record that it is flushed, or why it may not be
Settled = Callable[[Record, JournalError | None], None]


Answer = str | Inserted | Refused
#: told the answers to jobs, in order, or why there are none
AnswersTold = Callable[[list[Answer] | Exception], None]


class Found(NamedTuple):
    """What the store has made of the jobs that were asked about: orders of known ones; by order, whom others were joined to."""

    known: Set[int]
    joined: Mapping[int, str]


class Question:
    """What is asked about some jobs of a record that is being journaled.

    left: orders that are not decided. is_lasting: no replay may decide anew, once it is told. told: called once, with what is
    found or why it is not.
    """

    __slots__ = ("is_lasting", "is_over", "joined", "known", "left", "told")

    def __init__(self, orders: Sequence[int], told: Callable[[Found | KqsError], None], *, is_lasting: bool) -> None:
        self.left = set(orders)
        self.told = told
        self.is_lasting = is_lasting
        self.is_over = False
        self.known: set[int] = set()
        self.joined: dict[int, str] = {}


class VerdictsPort(Protocol):
    """The part of the queue that is asked whether jobs are new."""

    def check_room(self, count: int) -> None:
        """Raise CallError, busy, if there are too many questions for one about so many jobs more."""
        ...

    def ask(self, question: Question) -> None:
        """Take a question about jobs that the journal is about to flush."""
        ...

    def flushed(self, question: Question) -> None:
        """Take in that the jobs are kept: the question must be answered within bounds from now on."""
        ...

    def withdraw(self, question: Question) -> None:
        """Forget a question: its jobs are not kept."""
        ...


class BoundsPort(Protocol):
    """The part of the queue that is asked whether more jobs may wait."""

    @property
    def limits(self) -> Mapping[str, int]:
        """Return how many, by type; empty: any number of any may."""
        ...

    def has_room(self, jobs: Sequence[Job]) -> bool:
        """Tell whether all these may be taken in."""
        ...

    def enter(self, jobs: Sequence[Job], copies: Sequence[str] = (), *, is_forced: bool = False) -> Mapping[str, int]:
        """Count jobs that are about to be journaled; return what `leave` needs.

        Args: copies: the types of copies of these. is_forced: even if they are too many.

        Raises: CallError: busy; they are too many.
        """
        ...

    def leave(self, counts: Mapping[str, int]) -> None:
        """Forget jobs that are not journaled after all."""
        ...


class JournalPort(Protocol):
    """The part of the journal that an insert touches."""

    def append(self, record: Record) -> None:
        """Take one record for the next flush; `record.done` is called on the loop thread after it.

        Raises: JournalError: nothing was taken, `done` will not be called. The error's `code` is the answer.
        """
        ...

    def flush_if_alone(self) -> None:
        """Flush a lone record now, if that looks best; `record.done` may be called before this returns."""
        ...


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
                where = f"job {index}: " if given.is_array else ""
                raise CallError(f"{where}id {job.id!r} has the form of an id that a server may have yet to make", "bad_job")
            if isinstance(job, JobFields) and job.copies is not None:
                where = f"job {index}: " if given.is_array else ""
                if not adopted:
                    raise CallError(f"{where}copies: belongs to `adopt`, not to an insert", "bad_job")
                if not all(is_type(type_) and ID_PATTERN.match(id_) for type_, id_ in job.copies.items()):
                    raise CallError(f"{where}copies: expected an id for each type, got others", "bad_job")
            if is_told(job):
                given.told[index] = _told_of(job)
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
        telling = _Telling(given, self.ids)
        if telling.asked:
            self._verdicts.check_room(len(telling.asked))
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
                telling.tell(record.first_order, _NOTHING_FOUND, told, run)

        def decided(found: Found | KqsError) -> None:
            if isinstance(found, KqsError):
                told(found)
            else:
                telling.tell(first_order, found, told, run)

        record = self.keep(given, settled, adopted=adopted)
        first_order = record.first_order
        if telling.asked:
            question = Question([first_order + index for index in telling.asked], decided, is_lasting=telling.has_keys)
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
            if is_batch(payload) or any(job.type in plan and _is_member(job) for job in jobs):
                raise CallError("batch: expected jobs of types without subscribers, whose copies end later", "bad_job")
            kind, payload, live_jobs = Kind.FANNED, pack(plan, payload), None
            copies = [copy.type for copy in copies_of(jobs, plan)]
            if len(jobs) + len(copies) > MOST_FANNED:
                raise CallError(f"expected at most {MOST_FANNED} jobs with their copies in one insert", "too_large")
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

    def ids_of(self, own_ids: list[str | None], first_order: int) -> list[str]:
        """Return the ids of jobs that were numbered from `first_order` on, of which some brought their own."""
        made = self.ids.of
        return [made(order) if own is None else own for order, own in enumerate(own_ids, first_order)]


def _is_member(job: Job) -> bool:
    return isinstance(job, JobFields) and job.batch is not None


async def _no_order(_given: Given) -> None:
    raise CallError("after, batch: nobody knows of other jobs here", "unsupported")


class _Telling:
    """What becomes of the jobs of an insert as it is told. Holds no data of theirs.

    asked: which of them the store must be asked about. has_keys: one of these has a unique key.
    """

    def __init__(self, given: Given, ids: Ids) -> None:
        self._ids = ids
        self._is_array = given.is_array
        self._own_ids = [job.id for job in given.jobs]
        self._told = given.told
        self.asked = [index for index, told in self._told.items() if told.is_keyed or (told.is_full and told.has_id)]
        self.has_keys = any(told.is_keyed for told in self._told.values())

    def tell(self, first_order: int, found: Found, told: AnswersTold, run: Callable[[Steps[None]], None]) -> None:
        """Tell the answers to all jobs, of which the first was numbered `first_order`; by `run`, if they are many."""
        steps = self._answering(first_order, found, told)
        if len(self._own_ids) > JOBS_A_STEP:
            run(steps)
        else:
            finish(steps)

    def _answering(self, first_order: int, found: Found, tell: AnswersTold) -> Steps[None]:
        made = self._ids.of
        answers: list[Answer] = []
        for start in range(0, len(self._own_ids), JOBS_A_STEP):
            own_ids = self._own_ids[start : start + JOBS_A_STEP]
            answers += [made(order) if own is None else own for order, own in enumerate(own_ids, first_order + start)]
            yield
        for count, (index, told) in enumerate(self._told.items(), 1):
            order = first_order + index
            joined = found.joined.get(order)
            if joined is not None and told.refused_key is not None:
                where = f"job {index}: " if self._is_array else ""
                message = f"{where}unique: a job of this type and key {told.refused_key!r} waits already, its id is {joined!r}"
                answers[index] = Refused("duplicate", message)
            else:
                job_id = str(answers[index]) if joined is None else joined
                answers[index] = Inserted(job_id, joined is None and order not in found.known) if told.is_full else job_id
            if count % JOBS_A_STEP == 0:
                yield
        tell(answers)


def _told_of(job: Job) -> Told:
    assert isinstance(job, JobFields), "only such a job is told"
    is_refused = job.on_conflict == "refuse"
    return Told(job.id is not None, job.answer is not None, job.unique is not None, job.unique if is_refused else None)


_NOTHING_FOUND = Found(frozenset(), {})
