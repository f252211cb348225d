"""The queue as a program has it: one class, whether it stands in the program itself or on a server.

Source of what the methods mean: docs/library.md, and docs/protocol.md for the calls they make.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar, Unpack, overload

from kqs.client import Client, Inserted, Run
from kqs.client.owners import Filters, OwnersCalls
from kqs.client.rules import RulesCalls
from kqs.errors import CallError
from kqs.handlers import JobContext
from kqs.library.apart import Apart, BulkStoreError
from kqs.library.data import type_of
from kqs.library.job import Job, JobRecord, record_of
from kqs.library.run import TakenRun
from kqs.library.running import Running
from kqs.log import get_logger
from kqs.options import OwnFields

log = get_logger("kqs.library")

D = TypeVar("D")
R = TypeVar("R")

#: jobs that run at a time, unless it is said otherwise
DEFAULT_CONCURRENCY = 100
#: with either of these the store decides whether there is a job already
_TELLING = ("id", "unique")


class Queue(OwnersCalls, RulesCalls):
    """See the module docstring; `async with kqs.open(…) as queue` or `kqs.connect(…)`. Call from one loop.

    Raises, from every method that asks the queue: CallError: it was refused, `call_code` says why; ConnectionLostError and
    CallTimeoutError: nobody knows whether it was done; a job that has an `id` may be added again.
    """

    _client: Client
    _running: Running
    _apart: Apart

    if not TYPE_CHECKING:  # or checkers would take any name for an attribute

        def __getattr__(self, name: str) -> NoReturn:
            if name in Queue.__annotations__:
                raise RuntimeError("the queue is not open: use it within `async with kqs.open(…) as queue`")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @abstractmethod
    async def open(self) -> None:
        """Begin; `async with` does it. Raises: KqsError: it cannot; the message says why."""

    @abstractmethod
    async def close(self) -> None:
        """End. Runs that are in progress are cancelled and given back, at no cost. Idempotent."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        await self.close()

    async def call(self, name: str, arg: Any = None, *, timeout_s: float | None = None) -> Any:
        """Make any call of the protocol by its name; return its result."""
        return await self._client.call(name, arg, timeout_s=timeout_s)

    @overload
    async def add_job(self, target: str, data: object = None, **fields: Unpack[OwnFields]) -> Job[Any]: ...

    @overload
    async def add_job(self, target: Callable[[D], Coroutine[Any, Any, R]], data: D, **fields: Unpack[OwnFields]) -> Job[R]: ...

    @overload
    async def add_job(
        self, target: Callable[[D, JobContext], Coroutine[Any, Any, R]], data: D, **fields: Unpack[OwnFields]
    ) -> Job[R]: ...

    @overload
    async def add_job(self, target: Callable[[D], R], data: D, **fields: Unpack[OwnFields]) -> Job[R]: ...

    @overload
    async def add_job(self, target: Callable[[D, JobContext], R], data: D, **fields: Unpack[OwnFields]) -> Job[R]: ...

    async def add_job(self, target: str | Callable[..., object], data: object = None, **fields: Unpack[OwnFields]) -> Job[Any]:
        """Keep a job: when this returns, it is on disk, and will run until it succeeds.

        Args: target: its type, or the handler of that. data: what JSON can say, a dataclass, or a pydantic model.
        Raises: BulkStoreError: its data could not be set in the bulk store, and nothing was inserted. So do all that insert.
        """
        job = {**fields, "type": type_of(target, self._running.type_of), "data": data}
        (added,) = await self._add([self._with_data(job)])
        if isinstance(added, CallError):
            raise added
        return Job(added.id, added.created, self._wait, target)

    async def add_jobs(self, jobs: Iterable[Mapping[str, Any]]) -> list[Job[Any]]:
        """Keep all jobs, or none of them. Each is a mapping of its fields, with `type`, and `data` as `add_job` has it.

        Raises: CallError: also `duplicate`: one was to be refused as another with its key waits; all others are kept then.
        """
        added = await self._add([self._with_data(job) for job in jobs])
        if (refused := next((one for one in added if isinstance(one, CallError)), None)) is not None:
            raise refused
        return [one for one in added if isinstance(one, Job)]

    async def add_batch(self, jobs: Iterable[Mapping[str, Any]], then: Mapping[str, Any]) -> Job[Any]:
        """Keep jobs, and `then`, one more that runs once when all of them have ended; all or none. Returns: `then`.

        Its handler finds in `job.batch` how they ended. Its id is the batch's; with an own `id` it may be added again.
        """
        members = [self._with_data(job) for job in jobs]
        return await self._add_then(self._with_data(then), members)

    async def open_batch(self, then: Mapping[str, Any]) -> Job[Any]:
        """Begin a batch, which takes jobs with `batch=` the id of `then` until `close_batch`. Returns: `then`."""
        return await self._add_then(self._with_data(then), None)

    async def _add_then(self, then: Mapping[str, Any], members: Sequence[Mapping[str, Any]] | None) -> Job[Any]:
        """Keep a batch; members: None: an open one."""
        async with self._apart.inserting([then, *(members or ())]) as insert:
            lean, *others = insert.jobs
            told = await self._client.batch_told(lean, None if members is None else others)
            created = told.created or told.id in insert.made_ids
            if not created or any(job.get(name) is not None for job in members or () for name in _TELLING):
                insert.in_doubt = insert.puts
        return self._job(told.id, created)

    async def close_batch(self, batch_id: str) -> dict[str, Any]:
        """Let no more jobs into a batch; return how it stands. Idempotent. Raises: CallError: `not_found`."""
        return await self._client.close_batch(batch_id)

    async def _add(self, jobs: Sequence[Mapping[str, Any]]) -> list[Job[Any] | CallError]:
        async with self._apart.inserting(jobs) as insert:
            added = await self._insert(insert.jobs, insert.made_ids)
            found = {one.id for one in added if isinstance(one, Job) and one.created}
            insert.in_doubt = [put for put in insert.puts if put.job_id not in found]
            return added

    async def _insert(self, jobs: Sequence[Mapping[str, Any]], made_ids: Collection[str]) -> list[Job[Any] | CallError]:
        """Args: made_ids: made for this insert alone: who kept such a job has made it, be it known the second time."""
        if any(job.get(name) is not None for job in jobs for name in _TELLING):
            answers = await self._client.insert_many(jobs, answer="full")
            return [
                self._job(one.id, one.created or one.id in made_ids) if isinstance(one, Inserted) else one for one in answers
            ]
        return [self._job(job_id, True) for job_id in await self._client.insert_many(jobs)]

    def _with_data(self, job: Mapping[str, Any]) -> dict[str, Any]:
        if job.get("wait") is not None:
            raise CallError("wait: none of a job's fields here; once it is added, `await job.wait(seconds)`", "bad_job")
        return {**job, "data": self._apart.data_of(job.get("data"))}

    def _job(self, job_id: str, created: bool) -> Job[Any]:
        return Job(job_id, created, self._wait)

    async def _wait(self, job_id: str, seconds: float) -> JobRecord:
        return record_of(await self._client.wait_job(job_id, seconds))

    async def job(self, job_id: str) -> JobRecord | None:
        """Return all that is known of a job; None: nothing."""
        try:
            return record_of(await self.call("job", job_id))
        except CallError as error:
            if error.call_code == "not_found":
                return None
            raise

    async def records(
        self, ids: str | Sequence[str] | None = None, *, newest: bool = False, **filters: Unpack[Filters]
    ) -> AsyncIterator[JobRecord]:
        """Yield the records of all jobs that fit, as `jobs` does, but typed."""
        async for shown in self.jobs(ids, newest=newest, **filters):
            yield record_of(shown)

    def add_handler(self, /, type: str, function: Callable[..., Any], **options: Any) -> None:  # noqa: A002 - the job's field
        """Have `function` run jobs of a type, as long as `run_jobs` goes on.

        It takes `(data)` or `(data, job)`, as those of docs/handlers.md do. options: the handler's own, beside those of its
        decorator, for jobs of the type from then on. Those of a server's jobs are the server's to say: to it only `retry_delay`
        can be given, as a function.
        Raises: HandlerError: it cannot be a handler; or the type has another: see `add_subscriber`; or an option is none here.
        """
        self._check_options(type, options)
        self._heed(type, self._running.add(type, function, options))

    def remove_handler(self, type: str) -> bool:  # noqa: A002 - the job's field
        """Have the handler of a type called no more; a run that it has begun goes on. False: there is none."""
        self._heed(type, {})
        return self._running.remove(type)

    @abstractmethod
    def _check_options(self, type_: str, options: Mapping[str, Any]) -> None:
        """Raises: HandlerError: a handler cannot have one of these here."""

    @abstractmethod
    def _heed(self, type_: str, options: dict[str, Any]) -> None:
        """Have jobs of a type have these options of its handler, as far as that can be said here."""

    async def add_subscriber(
        self,
        type: str,  # noqa: A002 - the job's field
        subscriber: str,
        function: Callable[..., Any],
    ) -> None:
        """Have each job of `type` be a job of the type `subscriber` too, from now on, which `function` runs.

        So several handlers hear of one job, each with its own retries and end. It lasts until `unsubscribe`.
        """
        self.add_handler(subscriber, function)
        await self.subscribe(type, subscriber)

    async def run_jobs(self, count_limit: int | None = None, time_limit_s: float | None = None) -> int:
        """Run jobs of the types that have a handler here; return how many runs have begun.

        Nothing given: one, if one waits. count_limit alone: up to so many, as long as some wait; below 0: all of them.
        time_limit_s: jobs that come are run until that is over; 0: only what one look finds; below 0: for ever. Failed runs
        count. A handler that runs when a limit is reached is waited for. Cancelled, it gives back what runs.
        Raises: ValueError: a limit is no number. RuntimeError: it goes on already.
        """
        return await self._running.run(count_limit, time_limit_s)

    async def reserve(
        self, types: str | Sequence[str], count: int = 1, wait_s: float = 0.0, *, worker: str = "program"
    ) -> list[TakenRun]:
        """Return up to `count` runs of jobs of `types`, as soon as there is one; none if there is none within `wait_s`.

        worker: who has them, as the jobs' records say. Each must be reported, touched or given back within its `ttr`.
        One whose data cannot be had from the bulk store fails, and is not among them.
        """
        named = [types] if isinstance(types, str) else types
        runs = await self._client.reserve(named, count, wait_s, worker=worker)
        try:
            taken = await asyncio.gather(*[self._taken(run) for run in runs])
        except BaseException:
            self._client.give_back(runs)
            raise
        return [one for one in taken if one is not None]

    async def _taken(self, run: Run) -> TakenRun | None:
        """Return a run with its data; None: that could not be had, and the run has failed."""
        try:
            return TakenRun(self._client, run, self._apart, await self._apart.data_in(run))
        except BulkStoreError as error:
            log.warning("a run has failed without its data", type=run.type, job=run.id, reason=str(error))
            await self._client.fail(run, str(error))
            return None

    async def events(self, *types: str, events: Sequence[str] | None = None) -> AsyncIterator[dict[str, Any]]:
        """Yield what happens to jobs from the first step on: of these types, and only these events; none named: all.

        Source: docs/protocol.md, "events". Who is slow is told how many were skipped.
        """
        async with self._client.events(types or None, events) as heard:
            async for event in heard:
                yield event

    async def stats(self) -> dict[str, int | float]:
        """Return what the queue counts, as plain numbers."""
        return dict(await self.call("stats"))

    async def health(self) -> dict[str, Any]:
        """Return whether all is well, and what is not."""
        return dict(await self.call("health"))
