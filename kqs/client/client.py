"""The client: which calls are in flight, what becomes of them when the connection is lost, and how it comes back.

Three rules. A call that may have been sent fails when the connection is lost, since nobody knows whether it was done; an
insert is sent again, since it carries an id and inserting an id twice has no effect. A call made while there is no
connection waits for the next one. No call outlives its timeout, so no wait is without end.

A call that stands (`reserve`, `work`, `events`) takes no place among those in flight. It ends with the connection it was sent
on, and so do the runs it gave. A report is sent again, since the server answers a repeated one as it did the first; so is a
call that waits for a job to end, which takes no place either.

An error without an id means a line that the server could not read at all. Lines are checked before they are sent, so there
should be none; should there be one all the same, the inserts in flight are tried one by one on a new connection, where it can
only mean the one that is tried.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, overload
from weakref import WeakValueDictionary

import msgspec
from msgspec import UNSET

from kqs.client import inserts
from kqs.client.address import DEFAULT_HOST, DEFAULT_PORT, Address
from kqs.client.ended import Ended, ended_job
from kqs.client.events import Events
from kqs.client.ids import ClientIds
from kqs.client.link import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, AnyLink, Link, OpenLink, why_unreachable
from kqs.client.owners import OwnersCalls
from kqs.client.rules import RulesCalls
from kqs.client.runs import Report, Run, cancelled, given_runs, seconds_left, told
from kqs.client.standing import StandingCall, Work
from kqs.client.values import check_address, check_count, check_json, check_seconds, decoded, encode
from kqs.errors import CallError, KqsError
from kqs.options import OnConflict
from kqs.wire.calling import Answer, call_line
from kqs.wire.inserted import Inserted
from kqs.wire.lines import DEFAULT_LINE_BYTES
from kqs.wire.strict import check_text

#: most calls unanswered at a time: enough to fill a flush, little enough to hold no memory
DEFAULT_IN_FLIGHT = 1000
DEFAULT_TIMEOUT_S = 30.0

# timeouts are looked for this often: cheaper than a timer per call, and late by no more than this
_TICK_S = 0.1

# what an error without an id says of some line; any other is about the connection
_ABOUT_A_LINE = frozenset({"bad_json", "bad_call", "too_large"})

#: what `insert_many` takes: mappings of the jobs' fields
Jobs = Sequence[Mapping[str, Any]]


class ConnectionLostError(KqsError):
    """The connection ended before the answer came; whether the call was done is unknown."""


class UnreachableError(ConnectionLostError):
    """Nobody listens at the address; nothing was sent."""


class CallTimeoutError(KqsError, TimeoutError):
    """No answer in time; whether the call was or will be done is unknown."""

    code = "timeout"


class _Pending(msgspec.Struct, gc=False):
    """A call without an answer.

    repeatable: sending it twice does no harm. at_first: an intermediate answer is all that is waited for. has_place: it takes
    one of those in flight.
    """

    line: bytes
    answer: asyncio.Future[msgspec.Raw]
    repeatable: bool
    deadline: float | None
    at_first: bool = False
    has_place: bool = True
    sent: bool = False


def connect(host: str = DEFAULT_HOST, port: int = DEFAULT_PORT, *, socket: str = "", **settings: Any) -> Client:
    """Return a client for `async with`. socket: path of a UNIX socket, used instead. settings: as Client takes them.

    Raises: ValueError: as Client.
    """
    return Client(Address(host, port, socket), **settings)


class Client(OwnersCalls, RulesCalls):
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
        self.address = Address() if address is None else address
        check_address(self.address)
        self.on_lost: Callable[[str], None] = lambda reason: None
        self.on_over: Callable[[Run], None] = lambda run: None
        #: what errors call it, of which whoever uses it through another knows nothing
        self.called = "the client"
        self._timeout_s = timeout_s
        self._max_line_bytes = max_line_bytes
        self._open_link = open_link
        self._slots = asyncio.Semaphore(max_in_flight)
        self._ids = ClientIds()
        self._number = 0
        self._pending: dict[int, _Pending] = {}
        self._standing: dict[int, StandingCall] = {}
        self._runs: WeakValueDictionary[str, Run] = WeakValueDictionary()  # those that somebody still has
        self._suspects: dict[int, None] = {}  # of the pending, to be tried one by one, in order; others wait meanwhile
        self._link: AnyLink | None = None
        self._trouble = ""  # why there is no link
        self._reconnecting: asyncio.Task[None] | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._backoff_s = FIRST_BACKOFF_S
        self._is_open = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        await self.close()

    def _lost(self, how: str) -> ConnectionLostError:
        return ConnectionLostError(f"{self.called} {how}")

    async def open(self) -> None:
        """Connect for the first time, trying once.

        Raises: UnreachableError: nobody answers there; `open` may be tried again.
        """
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout_s):
                self._link = await self._open_link(self.address, self._on_answer, self._on_lost)
        except (OSError, UnicodeError) as exc:
            raise UnreachableError(f"{self.address}: {why_unreachable(exc)}") from exc
        self._is_open = True
        if self._link.lost.done():
            self._on_lost("the server closed the connection")

    async def close(self) -> None:
        """Close; calls without an answer fail with ConnectionLostError. Idempotent."""
        self._check_loop()
        self._is_open = False
        if self._reconnecting:
            self._reconnecting.cancel()
            await asyncio.wait([self._reconnecting])
        if self._ticking:
            self._ticking.cancel()
        self._fail_each(self._pending, self._lost("was closed"))
        self._end_standing(self._lost("was closed"))
        if self._link:
            link, self._link = self._link, None
            await link.close()

    @property
    def is_open(self) -> bool:
        """Tell whether it was opened, and not closed since; it may have no connection for a while."""
        return self._is_open

    async def call(self, name: str, arg: Any = None, *, timeout_s: float | None = None) -> Any:
        """Call `name` and return its result. timeout_s: for this call.

        Raises: CallError: the server refused it, for the reason in `call_code`.
                ConnectionLostError, CallTimeoutError: whether it was done is unknown.
                ValueError: name or timeout_s is none; nothing was sent.
        """
        return decoded(await (await self._start(name, encode(arg, "bad_call"), timeout_s=timeout_s)))

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
        job = {"type": type, "data": data} | fields | _without_none(unique=unique, on_conflict=on_conflict, answer=answer)
        (named,), made = self._all_named([job])
        if wait is not None:
            check_seconds("wait", wait)
            return ended_job(await self._wait_for("insert", encode({**named, "wait": wait}, "bad_job"), wait))
        result = await (await self._start("insert", encode(named, "bad_job"), repeatable=True))
        answers = [inserts.told(result, made)]
        (inserted,) = inserts.ids_of(answers) if answer is None else inserts.full(answers)
        assert not isinstance(inserted, CallError), "that is the answer to the whole call"
        return inserted

    async def wait_job(self, job_id: str, wait: float) -> dict[str, Any]:
        """Return the record of a job once it has ended, as the call `job` shows it.

        Raises: as `call`. CallError: `timeout`: it has not within `wait` seconds; `not_found`; `draining`.
        """
        found: dict[str, Any] = decoded(await self.wait_for_end(job_id, wait))
        return found

    async def wait_for_end(self, job_id: str, wait: float) -> msgspec.Raw:
        """Return what `wait_job` does, as JSON. Raises: as `wait_job`."""
        check_seconds("wait", wait, is_bounded=True)
        return await self._wait_for("job", encode({"id": job_id, "wait": wait}, "bad_call"), wait)

    async def _wait_for(self, name: str, arg: bytes, wait_s: float) -> msgspec.Raw:
        """Make a call that is answered when a job has ended; it takes no place among those in flight."""
        self._number = number = self._number + 1
        line = self._line(number, name, arg)
        if not self._is_open:
            raise self._lost("is not open")
        deadline = None if self._timeout_s is None else asyncio.get_running_loop().time() + wait_s + self._timeout_s
        pending = _Pending(line, asyncio.get_running_loop().create_future(), True, deadline, has_place=False)
        try:
            return await self._send(number, pending)
        except asyncio.CancelledError:
            if self._pending.pop(number, None) is not None and pending.sent and self._link is not None:
                self._withdraw(self._link, number)
            raise

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
        result = await (await self._start("insert", encode(named, "bad_job"), repeatable=True))
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
        result = await (await self._start("batch", encode({**of, "then": named}, "bad_job"), repeatable=True))
        return inserts.one_of(inserts.told(result, made))

    async def open_batch(self, then: Mapping[str, Any]) -> str:
        """Begin a batch that takes jobs with `batch=` its id until `close_batch`; return that id. As `batch`."""
        return (await self.batch_told(then)).id

    async def close_batch(self, batch_id: str) -> dict[str, Any]:
        """Let no more jobs into a batch; return how it stands: id, count, success, fail, cancelled, deleted. Idempotent.

        Raises: as `call`; `not_found`.
        """
        return dict(await self.call("batch", {"id": batch_id, "close": True}))

    # -- the worker's calls ---------------------------------------------------------------------------------------------

    async def reserve(
        self, types: Sequence[str], count: int = 1, wait_s: float = 0.0, *, worker: str | None = None, hold: bool = False
    ) -> list[Run]:
        """Return up to `count` runs of jobs of `types` as soon as there is one; none if there is none within `wait_s`.

        worker: who has them, as the jobs' records say. hold: they outlive the connection and the server, and are the worker's
        until `ttr` has passed without a touch; it needs a `worker`. Cancelled, it takes no run with it: what was on its way is
        given back. Raises: as `call`. ValueError: types is one text, or wait_s no number of seconds.
        """
        if wait_s != 0:
            check_seconds("wait_s", wait_s, is_bounded=True)
        asked = _without_none(types=_names(types), count=count, wait=wait_s, worker=worker, hold=hold or None)
        limit_s = None if self._timeout_s is None else wait_s + self._timeout_s
        answer: asyncio.Future[list[Run]] = asyncio.get_running_loop().create_future()

        def ended(end: msgspec.Raw | KqsError) -> None:
            if isinstance(end, KqsError):
                if not answer.done():
                    answer.set_exception(end)
                return
            runs = given_runs(end)
            if answer.done():
                self.give_back(runs)
            else:
                self.note_runs(runs, hold)
                answer.set_result(runs)

        number = self.stand("reserve", encode(asked, "bad_call"), ended)
        try:
            async with asyncio.timeout(limit_s):
                return await answer
        except TimeoutError:
            self.withdraw(number)
            raise self._late_error() from None
        except asyncio.CancelledError:
            self.withdraw(number)
            if not answer.cancelled() and answer.exception() is None:
                self.give_back(answer.result())
            raise

    def work(self, types: Sequence[str], room: int = 1, *, worker: str | None = None, hold: bool = False) -> Work:
        """Return a standing order: runs of jobs of `types` whenever there are some and fewer than `room` are open.

        worker, hold: as for `reserve`.
        """
        asked = _without_none(types=_names(types), room=room, worker=worker, hold=hold or None)
        return Work(self, encode(asked, "bad_call"), hold)

    def events(self, types: Sequence[str] | None = None, events: Sequence[str] | None = None) -> Events:
        """Return what happens to jobs from now on, as it happens: of these types, and only these events; None: all."""
        wanted = _without_none(
            types=None if types is None else _names(types), events=None if events is None else _names(events)
        )
        return Events(self, encode(wanted, "bad_call"))

    async def touch(self, run: Run | str, progress: Any = UNSET) -> float:
        """Give a run its `ttr` anew; return how many seconds it has.

        progress: how far it is, which is kept when this returns: shown with the job, and given to its next run, should there be
        one. None takes back what was said before.
        Raises: as `call`; of a run that is over, `stale`; of progress that is too long, `too_large`.
        """
        (left,) = await self._touch([{"run": _token(run)} | ({} if progress is UNSET else {"progress": progress})])
        if isinstance(left, CallError):
            raise left
        return left

    async def touch_many(self, runs: Iterable[Run | str]) -> list[float | CallError]:
        """Touch up to 10,000 runs; return the seconds that each has, or why it was refused. Raises: as `call`."""
        return await self._touch([{"run": _token(run)} for run in runs])

    async def _touch(self, members: Sequence[Mapping[str, Any]]) -> list[float | CallError]:
        answer = await (await self._start("touch", encode(members, "bad_call")))
        lefts = seconds_left(answer)
        for member, is_cancelled in zip(members, cancelled(answer), strict=False):
            if is_cancelled:
                self.end_run(member["run"])
        for member, left in zip(members, lefts, strict=True):
            if isinstance(left, CallError) and left.call_code == "stale":
                self.end_run(member["run"])
        return lefts

    async def release(
        self, run: Run | str, delay: float | None = None, *, prio: int | str | None = None, begun: bool = True
    ) -> None:
        """Give a run back unfinished; its job may run again at once, or after `delay` seconds.

        prio: the job's from then on, as `insert` takes it. begun: False: nothing was done of it, so its record is as if it had
        not been given; it takes neither of the others. Raises: as `call`.
        """
        self._runs.pop(_token(run), None)
        unbegun = None if begun else False
        await self.call("release", _without_none(run=_token(run), delay=delay, prio=prio, begun=unbegun))

    async def finish(self, run: Run | str, result: Any = None) -> None:
        """Report that a run succeeded; return when that is durable.

        Raises: CallError: `stale`: the run was over before. ConnectionLostError, CallTimeoutError: whether it was taken is
        unknown, and it may be reported again.
        """
        await self._finish(Report(_token(run), "ok", result))

    async def fail(self, run: Run | str, reason: str, *, final: bool = False, delay: float | None = None) -> None:
        """Report that a run failed. final: no retry can help. delay: seconds until the retry. Raises: as `finish`."""
        await self._finish(Report(_token(run), "fail", reason=reason, final=final, delay=delay))

    async def again(self, run: Run | str, delay: float | None = None) -> None:
        """Report that the job is to run once more, at no cost, after `delay` seconds if given. Raises: as `finish`."""
        await self._finish(Report(_token(run), "again", delay=delay))

    async def _finish(self, report: Report) -> None:
        (error,) = await self.finish_many([report])
        if error is not None:
            raise error

    async def finish_many(self, reports: Sequence[Report]) -> list[CallError | None]:
        """Report up to 10,000 runs in one line; return for each why it was refused, or None. Raises: as `finish`."""
        for report in reports:
            self._runs.pop(report.run, None)
        return told(await (await self._start("finish", encode(list(reports), "bad_call"), repeatable=True)))

    def stand(
        self,
        name: str,
        arg: bytes,
        ended: Callable[[msgspec.Raw | KqsError], None],
        event: Callable[[msgspec.Raw], None] = lambda event: None,
    ) -> int:
        """Send a call that stands, now or when there is a connection again; return its number, for `withdraw`.

        Args:   ended: told its result, or why there is none, once. event: told its intermediate answers.
        Raises: CallError: the line is too long. ConnectionLostError: the client is not open.
        """
        self._number = number = self._number + 1
        line = self._line(number, name, arg)
        if not self._is_open:
            raise self._lost("is not open")
        self._standing[number] = StandingCall(line, ended, event)
        self._send_waiting()
        return number

    def withdraw(self, number: int) -> None:
        """End a standing call; one that has ended is left alone. Its end is told as ever, if it was sent."""
        standing = self._standing.get(number)
        if standing is None:
            return
        if standing.sent and self._link is not None:
            self._withdraw(self._link, number)
        else:
            del self._standing[number]

    def _withdraw(self, link: AnyLink, number: int) -> None:
        self._number += 1
        link.send(call_line(self._number, b'"withdraw"', b'{"call":%d}' % number))  # nobody waits for the answer

    def note_runs(self, runs: Iterable[Run], held: bool = False) -> None:
        """Take in that these were given to somebody, who is to hear of their loss. held: they outlive their connection."""
        for run in runs:
            run.is_held = held
            self._runs[run.token] = run

    def end_run(self, token: str) -> None:
        """Take in that a run is over, which its worker did not report."""
        if (run := self._runs.pop(token, None)) is not None:
            run.is_over = True
            asyncio.get_running_loop().call_soon(self.on_over, run)

    def give_back(self, runs: Iterable[Run]) -> None:
        """Release runs that nobody will take, without waiting for the answer."""
        tokens = [run.token for run in runs if not run.is_over]
        for token in tokens:
            self._runs.pop(token, None)
        if tokens and self._link is not None:
            self._number += 1
            arg = encode([{"run": token, "begun": False} for token in tokens], "bad_call")
            self._link.send(call_line(self._number, b'"release"', arg))

    def _end_standing(self, error: KqsError) -> None:
        """End all calls that were sent on a connection that is gone, and the runs it gave."""
        sent = {number: standing for number, standing in self._standing.items() if standing.sent or not self._is_open}
        for number in sent:
            del self._standing[number]
        for token, run in list(self._runs.items()):
            if not run.is_held:
                self.end_run(token)
        for standing in sent.values():
            standing.ended(error)

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
        return await self._start(name, arg, repeatable=repeatable, timeout_s=timeout_s)

    async def _start(
        self, name: str, arg: bytes, *, repeatable: bool = False, timeout_s: float | None = None
    ) -> asyncio.Future[msgspec.Raw]:
        """Do what `start` does, with an `arg` that is JSON for certain."""
        if not isinstance(name, str):
            raise ValueError(f"name: expected the name of a call, got {name!r:.60}")
        check_seconds("timeout_s", timeout_s)
        self._number = number = self._number + 1
        line = self._line(number, name, arg)
        timeout_s = timeout_s if timeout_s is not None else self._timeout_s
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        await self._take_place(deadline)
        if not self._is_open:
            self._slots.release()
            raise self._lost("is not open")
        answer: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        return self._send(number, _Pending(line, answer, repeatable, deadline, at_first=name == "insert" and repeatable))

    def _check_loop(self) -> None:
        """Raise RuntimeError if another event loop runs than the one it was opened in: neither would hear of it."""
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("it was opened in another event loop: open one here, or take kqs.blocking")

    def _line(self, number: int, name: str, arg: bytes) -> bytes:
        """Return the line of a call. Raises: CallError: it is too long, or no text. RuntimeError: as `_check_loop`."""
        self._check_loop()
        if b"\n" in arg:  # JSON has newlines only between its tokens, where any space will do
            arg = arg.replace(b"\n", b" ")
        line = call_line(number, encode(name, "bad_call"), arg)
        if len(line) > self._max_line_bytes:
            raise CallError(f"the call takes {len(line)} bytes, a line at most {self._max_line_bytes}", "too_large")
        check_text(line)
        return line

    async def _take_place(self, deadline: float | None) -> None:
        """Wait for a free place, but not beyond the call's time; those before it are told of theirs a tick late, and first."""
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout_at(None if deadline is None else deadline + 2 * _TICK_S):
                await self._slots.acquire()
        except TimeoutError:
            raise self._late_error() from None
        if deadline is not None and asyncio.get_running_loop().time() >= deadline:
            self._slots.release()
            raise self._late_error()

    def _send(self, number: int, pending: _Pending) -> asyncio.Future[msgspec.Raw]:
        self._pending[number] = pending
        if self._link and not self._suspects:
            pending.sent = True
            self._link.send(pending.line)
        if pending.deadline is not None and self._ticking is None:
            self._ticking = asyncio.get_running_loop().call_later(_TICK_S, self._end_late_calls)
        return pending.answer

    def _on_answer(self, answer: Answer) -> None:
        if answer.s == "ok":
            if answer.id is not None and (standing := self._standing.get(answer.id)) is not None:
                standing.event(answer.m)
            elif answer.id is not None and (pending := self._pending.get(answer.id)) is not None and pending.at_first:
                self._succeed(answer.id, answer.m)  # its type waits for jobs to end, which nobody has asked for here
        elif answer.id is None:
            self._on_unnamed(answer.e.error() if answer.e else CallError("an answer without an id", "internal"))
        elif (standing := self._standing.pop(answer.id, None)) is not None:
            standing.ended(answer.m if answer.e is None else answer.e.error())
        elif answer.e is not None:
            self._fail(answer.id, answer.e.error())
        else:
            self._succeed(answer.id, answer.m)

    def _succeed(self, number: int, result: msgspec.Raw) -> None:
        if pending := self._pending.pop(number, None):
            # a server that takes connections only to close them has not come back
            self._backoff_s = FIRST_BACKOFF_S
            if not pending.answer.done():
                pending.answer.set_result(result)
            self._end(number, pending)

    def _fail(self, number: int, error: Exception) -> None:
        if pending := self._pending.pop(number, None):
            if not pending.answer.done():
                pending.answer.set_exception(error)
            self._end(number, pending)

    def _end(self, number: int, pending: _Pending) -> None:
        """Give the place of a call to the next. After its answer: who waits for a place hears first how the last call ended."""
        if pending.has_place:
            self._slots.release()
        if number in self._suspects:
            del self._suspects[number]
            self._send_waiting()

    def _fail_each(self, numbers: Iterable[int], error: Exception) -> None:
        for number in list(numbers):
            self._fail(number, error)

    def _on_unnamed(self, error: CallError) -> None:
        """End the calls that an error without an id means, or find out which it means.

        For `too_large` that is the longest: if any line is over the limit, the longest is, and each such line is
        answered once.
        """
        if self._link is None:  # left for an earlier one
            return
        if error.call_code not in _ABOUT_A_LINE or not self._pending:
            self._suspects.clear()
            self._fail_each(self._pending, error)
            if self._standing:  # which of them are none any more is not known
                self._end_standing(error)
                self._link.abort(str(error))
        elif self._suspects:
            self._fail(next(iter(self._suspects)), error)
        elif error.call_code == "too_large" and self._pending:
            self._fail(max(self._pending, key=lambda number: len(self._pending[number].line)), error)
        else:
            self._fail_each([number for number, pending in self._pending.items() if not pending.repeatable], error)
            self._try_one_by_one(self._link)

    def _try_one_by_one(self, link: AnyLink) -> None:
        """Leave `link`, whose answers can no longer be told apart, and send what is in flight again."""
        self._suspects = dict.fromkeys(self._pending)
        if self._suspects:
            self._leave("an error without an id")
            link.abort("left")

    def _end_late_calls(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        late = [number for number, pending in self._pending.items() if pending.deadline is not None and pending.deadline <= now]
        self._fail_each(late, self._late_error())
        self._ticking = loop.call_later(_TICK_S, self._end_late_calls) if self._pending else None

    def _late_error(self) -> KqsError:
        if self._link:
            return CallTimeoutError(f"no answer from {self.address} in time")
        return ConnectionLostError(f"{self.address} could not be reached again: {self._trouble}")

    def _on_lost(self, reason: str) -> None:
        if self._link is None:  # it went before `open` or `_reconnect` took it over, and they look for that
            return
        self._leave(reason)
        self.on_lost(reason)

    def _leave(self, reason: str) -> None:
        """Do without the connection until there is another; what can be sent again waits for it."""
        self._link = None
        self._trouble = reason
        self._end_standing(ConnectionLostError(f"the connection to {self.address} was lost: {reason}"))
        for number, pending in list(self._pending.items()):
            if pending.answer.done() or (pending.sent and not pending.repeatable):
                self._fail(number, ConnectionLostError(f"the connection to {self.address} was lost: {reason}"))
            pending.sent = False
        if self._is_open:
            self._reconnecting = asyncio.create_task(self._reconnect(), name="kqs-client-reconnect")

    async def _reconnect(self) -> None:
        while True:
            # a random share, so that the clients of a server that restarts do not come back all at once
            await asyncio.sleep(self._backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            self._backoff_s = min(self._backoff_s * 2, LONGEST_BACKOFF_S)
            try:
                link = await self._open_link(self.address, self._on_answer, self._on_lost)
            except OSError as exc:
                self._trouble = why_unreachable(exc)
                continue
            if link.lost.done():
                continue
            for number in [number for number, pending in self._pending.items() if pending.answer.done()]:
                self._fail(number, ConnectionLostError("nobody waits for it"))  # cancelled meanwhile: not to be done any more
            self._link = link
            self._send_waiting()
            return

    def _send_waiting(self) -> None:
        """Send what waits for a connection: all, or the next suspect."""
        if self._link is None:
            return
        numbers = [next(iter(self._suspects))] if self._suspects else self._pending
        for pending in map(self._pending.__getitem__, numbers):
            if not pending.sent:
                pending.sent = True
                self._link.send(pending.line)
        for standing in () if self._suspects else self._standing.values():
            if not standing.sent:
                standing.sent = True
                self._link.send(standing.line)


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _names(types: Sequence[str]) -> list[str]:
    """Return the types. Raises: ValueError: they are one text, whose letters would be taken for them."""
    if isinstance(types, str):
        raise ValueError(f"types: expected a list of names, got {types!r:.60}")
    return list(types)


def _token(run: Run | str) -> str:
    return run.token if isinstance(run, Run) else run
