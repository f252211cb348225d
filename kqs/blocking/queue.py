"""The blocking face of a queue, wherever that stands. What the methods mean is said where they are awaited."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self, TypeVar, Unpack, overload

from kqs import library
from kqs.blocking.thread import LoopThread
from kqs.blocking.waiting import calls, iterates, waits
from kqs.handlers import JobContext
from kqs.library.queue import DEFAULT_CONCURRENCY
from kqs.options import OwnFields

D = TypeVar("D")
R = TypeVar("R")


class Job(str, Generic[R]):
    """A job that was inserted, as kqs.Job: its id, with methods."""

    __slots__ = ("behind", "thread")

    thread: LoopThread
    behind: library.Job[R]

    def __new__(cls, thread: LoopThread, behind: library.Job[R]) -> Self:
        """Args: behind: the job in the loop of that thread."""
        self = super().__new__(cls, behind.id)
        self.thread = thread
        self.behind = behind
        return self

    @property
    def id(self) -> str:
        """Return its id."""
        return str(self)

    @property
    def created(self) -> bool:
        """Tell whether this insert made it."""
        return self.behind.created

    wait = waits(library.Job.wait)

    def result(self, seconds: float) -> R:
        """See kqs.Job.result."""
        return self.thread.run(lambda: self.behind.result(seconds))

    def __repr__(self) -> str:
        return repr(self.behind)


class TakenRun:
    """A run that was reserved, as kqs.TakenRun, whose attributes it has."""

    def __init__(self, thread: LoopThread, behind: library.TakenRun) -> None:
        self.thread = thread
        self.behind = behind

    id = property(lambda self: self.behind.id)
    type = property(lambda self: self.behind.type)
    data = property(lambda self: self.behind.data)
    attempt = property(lambda self: self.behind.attempt)
    failures = property(lambda self: self.behind.failures)
    ttr = property(lambda self: self.behind.ttr)
    progress = property(lambda self: self.behind.progress)
    is_over = property(lambda self: self.behind.is_over)

    touch = waits(library.TakenRun.touch)
    finish = waits(library.TakenRun.finish)
    again = waits(library.TakenRun.again)
    fail = waits(library.TakenRun.fail)
    release = waits(library.TakenRun.release)

    def __repr__(self) -> str:
        return repr(self.behind)


class Queue:
    """A queue for programs without asyncio: `with kqs.blocking.open(…) as queue`, or `connect`. Call from any thread.

    `async def` handlers run in the queue's thread, plain ones in threads of their own. Raises: as kqs.Queue; and RuntimeError,
    from each method: it was called by an `async def` handler, or in a process that was forked since.
    """

    thread: LoopThread

    if not TYPE_CHECKING:  # or checkers would take any name for an attribute

        def __getattr__(self, name: str) -> NoReturn:
            if name == "thread":
                raise RuntimeError("the queue is not open: use it within `with kqs.blocking.open(…) as queue`")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __init__(self, behind: library.Queue) -> None:
        self.behind = behind

    def open(self) -> None:
        """Begin; `with` does it. Raises: KqsError: it cannot; the message says why."""
        self.thread = LoopThread()
        try:
            self.thread.run(self.behind.open)
        except BaseException:
            self.thread.stop()
            raise

    def close(self) -> None:
        """End, as kqs.Queue.close; calls of other threads end with ConnectionLostError. Idempotent."""
        if not self.thread.is_elsewhere and self.thread.is_alive:
            closing = self.thread.begin(self.behind.close)
            try:
                self.thread.end(closing)
            finally:
                self.thread.stop()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None) -> None:
        self.close()

    @overload
    def add_job(self, target: str, data: object = None, **fields: Unpack[OwnFields]) -> Job[Any]: ...

    @overload
    def add_job(self, target: Callable[[D], Coroutine[Any, Any, R]], data: D, **fields: Unpack[OwnFields]) -> Job[R]: ...

    @overload
    def add_job(
        self, target: Callable[[D, JobContext], Coroutine[Any, Any, R]], data: D, **fields: Unpack[OwnFields]
    ) -> Job[R]: ...

    @overload
    def add_job(self, target: Callable[[D], R], data: D, **fields: Unpack[OwnFields]) -> Job[R]: ...

    @overload
    def add_job(self, target: Callable[[D, JobContext], R], data: D, **fields: Unpack[OwnFields]) -> Job[R]: ...

    def add_job(self, target: Any, data: Any = None, **fields: Unpack[OwnFields]) -> Job[Any]:
        """See kqs.Queue.add_job."""
        return Job(self.thread, self.thread.run(lambda: self.behind.add_job(target, data, **fields)))

    def add_jobs(self, jobs: Iterable[Mapping[str, Any]]) -> list[Job[Any]]:
        """See kqs.Queue.add_jobs."""
        return [Job(self.thread, job) for job in self.thread.run(lambda: self.behind.add_jobs(jobs))]

    def add_batch(self, jobs: Iterable[Mapping[str, Any]], then: Mapping[str, Any]) -> Job[Any]:
        """See kqs.Queue.add_batch."""
        return Job(self.thread, self.thread.run(lambda: self.behind.add_batch(jobs, then)))

    def open_batch(self, then: Mapping[str, Any]) -> Job[Any]:
        """See kqs.Queue.open_batch."""
        return Job(self.thread, self.thread.run(lambda: self.behind.open_batch(then)))

    close_batch = waits(library.Queue.close_batch)

    def reserve(
        self, types: str | Sequence[str], count: int = 1, wait_s: float = 0.0, *, worker: str = "program"
    ) -> list[TakenRun]:
        """See kqs.Queue.reserve."""
        runs = self.thread.run(lambda: self.behind.reserve(types, count, wait_s, worker=worker))
        return [TakenRun(self.thread, run) for run in runs]

    call = waits(library.Queue.call)
    job = waits(library.Queue.job)
    jobs = iterates(library.Queue.jobs)
    records = iterates(library.Queue.records)
    add_handler = calls(library.Queue.add_handler)
    remove_handler = calls(library.Queue.remove_handler)
    add_subscriber = waits(library.Queue.add_subscriber)
    run_jobs = waits(library.Queue.run_jobs)
    cancel = waits(library.Queue.cancel)
    retry = waits(library.Queue.retry)
    delete = waits(library.Queue.delete)
    purge = waits(library.Queue.purge)
    suspend = waits(library.Queue.suspend)
    resume = waits(library.Queue.resume)
    limit = waits(library.Queue.limit)
    explain = waits(library.Queue.explain)
    types = waits(library.Queue.types)
    workers = waits(library.Queue.workers)
    events = iterates(library.Queue.events)
    stats = waits(library.Queue.stats)
    health = waits(library.Queue.health)
    schedule = waits(library.Queue.schedule)
    unschedule = waits(library.Queue.unschedule)
    schedules = waits(library.Queue.schedules)
    fire = waits(library.Queue.fire)
    suspend_schedule = waits(library.Queue.suspend_schedule)
    resume_schedule = waits(library.Queue.resume_schedule)
    configure = waits(library.Queue.configure)
    subscribe = waits(library.Queue.subscribe)
    unsubscribe = waits(library.Queue.unsubscribe)


def open_queue(
    folder: str | PathLike[str],
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    bulk: library.BulkStore | None = None,
    **sections: Mapping[str, Any],
) -> Queue:
    """Return the queue that is kept in `folder`, for `with`. Args, Raises: as kqs.open."""
    return Queue(library.open_queue(folder, concurrency=concurrency, bulk=bulk, **sections))


def connect(
    address: str | None = None,
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    bulk: library.BulkStore | None = None,
    **settings: Any,
) -> Queue:
    """Return the queue of a server, for `with`. Args, Raises: as kqs.connect."""
    return Queue(library.connect(address, concurrency=concurrency, bulk=bulk, **settings))
