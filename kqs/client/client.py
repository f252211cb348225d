"""The client: its calls for whoever has jobs, on those in flight (kqs.client.inflight), beside those of owners and workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Literal, Self, overload

import msgspec

from kqs.client import inserts
from kqs.client.address import DEFAULT_HOST, DEFAULT_PORT, Address
from kqs.client.ended import Ended, ended_job
from kqs.client.events import Events
from kqs.client.ids import ClientIds
from kqs.client.inflight import InFlight
from kqs.client.link import Link, OpenLink
from kqs.client.owners import OwnersCalls
from kqs.client.rules import RulesCalls
from kqs.client.values import check_address, check_count, check_json, check_seconds, decoded, encode, names, without_none
from kqs.client.workers import WorkersCalls
from kqs.errors import CallError
from kqs.options import OnConflict
from kqs.wire.inserted import Inserted
from kqs.wire.lines import DEFAULT_LINE_BYTES

#: most calls unanswered at a time: enough to fill a flush, little enough to hold no memory
DEFAULT_IN_FLIGHT = 1000
#: how long a call may go without its answer, in s
DEFAULT_TIMEOUT_S = 30.0

#: what `insert_many` takes: mappings of the jobs' fields
Jobs = Sequence[Mapping[str, Any]]


def connect(host: str = DEFAULT_HOST, port: int = DEFAULT_PORT, *, socket: str | PathLike[str] = "", **settings: Any) -> Client:
    """Return a client for `async with`. socket: path of a UNIX socket, used instead. settings: as Client takes them.

    Raises: ValueError: as Client.
    """
    return Client(Address(host, port, socket), **settings)


class Client(WorkersCalls, OwnersCalls, RulesCalls):
    """A connection that comes back. Call from one loop.

    timeout_s: how long a call may take, reconnecting included; None: for ever. max_in_flight: calls without an answer,
    beyond which a new one waits. open_link: makes a connection; another than TCP's for whoever is in the server's own process.
    on_lost: may be set, to be told why a connection was lost that is now tried for again.
    on_over: may be set, to be told of each run that the server has taken away, or that went with its connection.
    Raises: ValueError: an argument is nothing that can be kept to; the message names it.
    """

    def __init__(
        self,
        address: Address | None = None,
        *,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        max_in_flight: int = DEFAULT_IN_FLIGHT,
        max_line_bytes: int = DEFAULT_LINE_BYTES,
        open_link: OpenLink = Link.open,
    ) -> None:
        check_seconds("timeout_s", timeout_s)
        check_count("max_in_flight", max_in_flight)
        check_count("max_line_bytes", max_line_bytes)
        address = Address() if address is None else address
        check_address(address)
        self.on_lost: Callable[[str], None] = lambda reason: None
        calls = InFlight(
            address, timeout_s, max_in_flight, max_line_bytes, open_link, lambda reason: self.on_lost(reason), self.lose_runs
        )
        super().__init__(calls)
        #: sends a call that stands
        self.stand = calls.stand
        self._ids = ClientIds()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect for the first time, trying once. Idempotent.

        Raises: UnreachableError: nobody answers there; `open` may be tried again.
        """
        await self._calls.open()

    async def close(self) -> None:
        """Close; calls without an answer fail with ConnectionLostError. Idempotent; nothing in a forked process."""
        await self._calls.close()

    @property
    def address(self) -> Address:
        """Return where the server is."""
        return self._calls.address

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened, and not closed since; it may have no connection for a while."""
        return self._calls.is_open

    @property
    def is_elsewhere(self) -> bool:
        """Tell whether it was opened in a process which this one was forked from, whose connection it has."""
        return self._calls.is_elsewhere

    def call_itself(self, called: str) -> None:
        """Be called so in errors: whoever uses a client through something else knows nothing of it."""
        self._calls.called = called

    async def call(self, name: str, arg: Any = None, *, timeout_s: float | None = None) -> Any:
        """Call `name` and return its result. timeout_s: for this call.

        Raises: CallError: the server refused it, for the reason in `call_code`.
                ConnectionLostError, CallTimeoutError: whether it was done is unknown.
                ValueError: name or timeout_s is none; nothing was sent.
        """
        return decoded(await (await self._calls.start(name, encode(arg, "bad_call"), timeout_s=timeout_s)))

    @overload
    async def insert(self, type: str, data: Any = None, *, wait: float, **fields: Any) -> Ended: ...

    @overload
    async def insert(
        self, type: str, data: Any = None, *, answer: Literal["full"], wait: None = None, **fields: Any
    ) -> Inserted: ...

    @overload
    async def insert(self, type: str, data: Any = None, *, answer: None = None, wait: None = None, **fields: Any) -> str: ...

    async def insert(
        self,
        type: str,  # noqa: A002 - the job's field
        data: Any = None,
        *,
        unique: str | None = None,
        on_conflict: OnConflict | None = None,
        answer: Literal["full"] | None = None,
        wait: float | None = None,
        **fields: Any,
    ) -> str | Inserted | Ended:
        """Insert one job and return its id; with `wait`, return how it has ended, if it does within so many seconds.

        fields: as docs/protocol.md names them; without `id` one is made here.
        Args: unique: a key of which no second job of this type is to wait: this one is joined to the one that does, whose id
            is returned, or refused (`duplicate`), as `on_conflict` says. answer: "full" tells besides whether a job was made;
            it says nothing of a job that is waited for.
        Raises: as `call`. After a ConnectionLostError or CallTimeoutError, inserting again under the same id is safe.
                CallError: with `wait` also `job_failed`, `cancelled`, `deleted`; `timeout`, `draining`: the job goes on.
        """
        job = {"type": type, "data": data} | fields | without_none(unique=unique, on_conflict=on_conflict, answer=answer)
        (named,), made = self._all_named([job])
        if wait is not None:
            check_seconds("wait", wait, is_bounded=True)
            return ended_job(await self._calls.wait_for("insert", encode({**named, "wait": wait}, "bad_job"), wait))
        result = await (await self._calls.start("insert", encode(named, "bad_job"), repeatable=True))
        answers = [inserts.told(result, made)]
        (inserted,) = inserts.ids_of(answers) if answer is None else inserts.full(answers)
        assert not isinstance(inserted, CallError), "that is the answer to the whole call"
        return inserted

    async def wait_job(self, job_id: str, wait: float) -> dict[str, Any]:
        """Return the record of a job once it has ended, as the call `job` shows it.

        Raises: as `call`. CallError: `timeout`: it has not within `wait` seconds; `not_found`; `deleted`; `draining`.
        """
        found: dict[str, Any] = decoded(await self.wait_for_end(job_id, wait))
        return found

    async def wait_for_end(self, job_id: str, wait: float) -> msgspec.Raw:
        """Return what `wait_job` does, as JSON. Raises: as `wait_job`."""
        check_seconds("wait", wait, is_bounded=True)
        return await self._calls.wait_for("job", encode({"id": job_id, "wait": wait}, "bad_call"), wait)

    @overload
    async def insert_many(self, jobs: Jobs, *, answer: Literal["full"]) -> list[Inserted | CallError]: ...

    @overload
    async def insert_many(self, jobs: Jobs, *, answer: None = None) -> list[str]: ...

    async def insert_many(self, jobs: Jobs, *, answer: Literal["full"] | None = None) -> list[str] | list[Inserted | CallError]:
        """Insert all jobs or none, in one line; return their ids in order, or, for a full `answer`, what became of each.

        Raises: as `insert`; `duplicate` is raised without a full `answer`, and all other jobs are kept all the same.
        ValueError: a job is no mapping; nothing was sent.
        """
        named, made = self._all_named(jobs)
        if answer is not None:
            named = [{**job, "answer": answer} for job in named]
        result = await (await self._calls.start("insert", encode(named, "bad_job"), repeatable=True))
        answers = inserts.all_told(result, made)
        return inserts.ids_of(answers) if answer is None else inserts.full(answers)

    async def batch(self, jobs: Jobs, then: Mapping[str, Any]) -> str:
        """Insert jobs, and one that runs once when all of them have ended; return its id, which is the batch's.

        All or none are kept. Its run has `batch`: how many have ended in which way.
        Args: then: a job; with an `id` of its own the same batch may be sent again, without one it is made here.
        Raises: as `insert`. ValueError: a job is no mapping; nothing was sent.
        """
        return (await self.batch_told(then, jobs)).id

    async def batch_told(self, then: Mapping[str, Any], jobs: Jobs | None = None) -> Inserted:
        """As `batch`, or without jobs `open_batch`; return whether this call made the batch, too."""
        (named,), made = self._all_named([then])
        of = {"open": True} if jobs is None else {"jobs": [dict(job) for job in jobs]}
        if not made or named.get("unique") is not None:  # else it is new
            named = {**named, "answer": "full"}
        result = await (await self._calls.start("batch", encode({**of, "then": named}, "bad_job"), repeatable=True))
        return inserts.one_of(inserts.told(result, made))

    async def open_batch(self, then: Mapping[str, Any]) -> str:
        """Begin a batch that takes jobs with `batch=` its id until `close_batch`; return that id. As `batch`."""
        return (await self.batch_told(then)).id

    async def close_batch(self, batch_id: str) -> dict[str, Any]:
        """Let no more jobs into a batch; return how it stands: id, count, success, fail, cancelled, deleted. Idempotent.

        Raises: as `call`; `not_found`.
        """
        return dict(await self.call("batch", {"id": batch_id, "close": True}))

    def events(self, types: Sequence[str] | None = None, events: Sequence[str] | None = None) -> Events:
        """Return what happens to jobs from now on, as it happens: of these types, and only these events; None: all."""
        wanted = without_none(types=None if types is None else names(types), events=None if events is None else names(events))
        return Events(self._calls, encode(wanted, "bad_call"))

    def _all_named(self, jobs: Iterable[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], set[str]]:
        """Return the jobs under ids, so that a repetition is safe, and the ids that were made here; None is none."""
        named: list[Mapping[str, Any]] = []
        made: set[str] = set()
        for job in jobs:
            if not isinstance(job, Mapping):
                raise ValueError(f"job: expected a mapping of its fields, got {job!r:.60}")
            if job.get("id") is None:
                made.add(own_id := self._ids.take())
                job = {**job, "id": own_id}
            named.append(job)
        return named, made

    async def start(
        self, name: str, arg: bytes, *, repeatable: bool = False, timeout_s: float | None = None
    ) -> asyncio.Future[msgspec.Raw]:
        """Wait for a free place, send a call, and return the future of its result as JSON: the way to pipeline from one task.

        Args:   arg: JSON. repeatable: send it again after a lost connection.
        Raises: CallError: the line is no JSON, too long, too deep or no Unicode. ConnectionLostError: the client is not open.
                CallTimeoutError: no place was free in time. ValueError: name, arg or timeout_s is none. Nothing was sent.
        """
        check_json(arg)
        return await self._calls.start(name, arg, repeatable=repeatable, timeout_s=timeout_s)
