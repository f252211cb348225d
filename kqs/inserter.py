"""The way of jobs into the journal, for whoever has some: from their JSON text to a record, and from its flush to their ids.

Everything is checked before the journal sees the record, so that a bad job never fails its neighbours, and nothing is told
before the record is flushed. The journal settles records in order. Call from the loop thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from kqs.errors import CallError, JournalError
from kqs.ids import Ids, microseconds
from kqs.journal.format import Kind, Record
from kqs.options import Job
from kqs.wire import strict
from kqs.wire.jobs import Given, decoding
from kqs.wire.steps import Steps, finish

#: jobs in one array. In memory a job takes some 200 bytes beside its data, and as long as it is answered, its id
DEFAULT_INSERT_JOBS = 100_000
_JOBS_A_STEP = 1000

#: told of a record that it is flushed, or why it may not be
Settled = Callable[[Record, JournalError | None], None]


class JournalPort(Protocol):
    """The part of the journal that an insert touches."""

    def append(self, record: Record) -> None:
        """Take one record for the next flush; `record.done` is called on the loop thread after it.

        Raises: JournalError: nothing was taken, `done` will not be called. The error's `code` is the answer.
        """
        ...

    def flush_if_alone(self) -> None:
        """Flush a lone record now, if that looks best; `record.done` is called before this returns."""
        ...


class Inserter:
    """See the module docstring. unflushed_bytes: of records that are not settled."""

    def __init__(self, journal: JournalPort, ids: Ids, now: Callable[[], float]) -> None:
        """Args: now: wall time in Unix seconds."""
        self.ids = ids
        self.now = now
        self.flush_if_alone = journal.flush_if_alone
        self.unflushed_bytes = 0
        self._append = journal.append

    async def insert(self, text: bytes, max_jobs: int = DEFAULT_INSERT_JOBS) -> list[str]:
        """Keep the job, or all jobs of an array or none of them, that stand in `text` as JSON; return their ids, in order.

        Raises: CallError: a job is refused; nothing was kept. JournalError: they may or may not have been kept.
        Cancelling the caller does not withdraw them.
        """
        finish(strict.checking_json(text))
        given = finish(self.checking(text, max_jobs))
        if not given.jobs:
            return []
        flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def settled(_record: Record, error: JournalError | None) -> None:
            if flushed.done():
                return
            if error is None:
                flushed.set_result(None)
            else:
                flushed.set_exception(error)

        own_ids = [job.id for job in given.jobs]
        record = self.keep(given, settled)
        await flushed
        return self.ids_of(own_ids, record.first_order)

    def checking(self, text: bytes, max_jobs: int, *, adopted: bool = False) -> Steps[Given]:
        """Decode and check in steps what an insert was given: JSON that `strict` or its equal has checked.

        Args: adopted: under ids that another server made, however lately: the caller has made sure that it does not run.
        Raises: CallError: a job is refused, or there are more than `max_jobs`.
        """
        given = yield from decoding(text, max_jobs)
        now = self.now()
        for index, job in enumerate(given.jobs):
            if job.id is not None and (self.ids.is_ours_unmade(job.id) if adopted else self.ids.may_be_unmade(job.id, now)):
                where = f"job {index}: " if given.is_array else ""
                raise CallError(f"{where}id {job.id!r} has the form of an id that a server may have yet to make", "bad_job")
            if index % _JOBS_A_STEP == 0:
                yield
        return given

    def may_make_any(self, job_ids: list[str]) -> bool:
        """Tell whether a server may have yet to make one of these ids, for another job."""
        now, may_be_unmade = self.now(), self.ids.may_be_unmade
        return any(may_be_unmade(job_id, now) for job_id in job_ids)

    def keep(self, given: Given, settled: Settled, *, adopted: bool = False) -> Record:
        """Journal checked jobs, of which there is at least one; `settled` is told later.

        Raises: JournalError: nothing was kept, and `settled` will not be called.
        """
        return self._keep(Kind.JOBS, given.payload, given.jobs, settled, adopted)

    def keep_lines(self, chunk: bytes, jobs: list[Job], settled: Settled) -> Record:
        """Journal the checked jobs of a chunk that is one plain insert a line. As `keep`."""
        return self._keep(Kind.CALLS, chunk, jobs, settled, False)

    def _keep(self, kind: Kind, payload: bytes, jobs: list[Job], settled: Settled, adopted: bool) -> Record:
        now, count, size = self.now(), len(jobs), len(payload)
        first_order = self.ids.take(count, now)
        record = Record(kind, count, first_order, payload, jobs, accepted_us=microseconds(now), adopted=adopted)

        def done(error: JournalError | None) -> None:
            record.done = None  # records are not seen by the garbage collector: this cycle would keep the payload for ever
            self.unflushed_bytes -= size
            settled(record, error)

        record.done = done
        self._append(record)
        self.unflushed_bytes += size
        return record

    def ids_of(self, own_ids: list[str | None], first_order: int) -> list[str]:
        """Return the ids of jobs that were numbered from `first_order` on, of which some brought their own."""
        made = self.ids.of
        return [made(order) if own is None else own for order, own in enumerate(own_ids, first_order)]
