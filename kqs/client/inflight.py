"""Which calls are in flight, what becomes of them when the connection is lost, and how it comes back.

Three rules. A call that may have been sent fails when the connection is lost, since nobody knows whether it was done; one that
is repeatable is sent again: an insert carries an id, and inserting an id twice has no effect. A call made while there is no
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
import math
import os
from collections.abc import Callable, Iterable

import msgspec

from kqs.client.address import Address
from kqs.client.errors import CallTimeoutError, ConnectionLostError, UnreachableError
from kqs.client.link import AnyLink, OpenLink, why_unreachable
from kqs.client.standing import StandingCall
from kqs.client.values import check_seconds, encode
from kqs.errors import CallError, KqsError
from kqs.pauses import SERVER_FIRST_S, SERVER_LONGEST_S, Pauses
from kqs.process import forks
from kqs.supervisor import HEAR_S
from kqs.tasks import spawn
from kqs.wire.calling import Answer, call_line
from kqs.wire.strict import check_text

# timeouts are looked for this often: cheaper than a timer per call, and late by no more than this
_TICK_S = 0.1

# what an error without an id says of some line; any other is about the connection
_ABOUT_A_LINE = frozenset({"bad_json", "bad_call", "too_large"})


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


class InFlight:
    """See the module docstring. Call from one loop.

    called: what errors call whoever makes the calls. on_lost: told why a connection was lost that is now tried for again.
    on_gone: told that what was given by the connection is over with it. The rest is as Client takes it.
    """

    def __init__(
        self,
        address: Address,
        timeout_s: float | None,
        max_in_flight: int,
        max_line_bytes: int,
        open_link: OpenLink,
        on_lost: Callable[[str], None],
        on_gone: Callable[[], None],
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self.called = "the client"
        self._max_line_bytes = max_line_bytes
        self._open_link = open_link
        self._tell_lost = on_lost
        self._tell_gone = on_gone
        self._slots = asyncio.Semaphore(max_in_flight)
        self._number = 0
        self._pending: dict[int, _Pending] = {}
        self._standing: dict[int, StandingCall] = {}
        self._suspects: dict[int, None] = {}  # of the pending, to be tried one by one, in order; others wait meanwhile
        self._link: AnyLink | None = None
        self._trouble = ""  # why there is no link
        self._retrying: asyncio.TimerHandle | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._pauses = Pauses(SERVER_FIRST_S, SERVER_LONGEST_S)
        self._is_open = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()

    def _lost(self, how: str) -> ConnectionLostError:
        return ConnectionLostError(f"{self.called} {how}")

    async def open(self) -> None:
        """Connect for the first time, trying once. Nothing if it is open here: another connection would be nobody's.

        Raises: UnreachableError: nobody answers there; `open` may be tried again.
        """
        if self._is_open and self._loop is asyncio.get_running_loop() and not self.is_elsewhere:
            return
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        forks.part()
        try:
            async with asyncio.timeout(self.timeout_s):
                self._link = await self._open_link(self.address, self._on_answer, self._on_lost)
        except (OSError, UnicodeError) as exc:
            raise UnreachableError(f"{self.address}: {why_unreachable(exc)}") from exc
        self._is_open = True
        if self._link.lost.done():
            self._on_lost("the server closed the connection")

    async def close(self) -> None:
        """Close; calls without an answer fail with ConnectionLostError. Idempotent; nothing in a forked process."""
        if self.is_elsewhere:
            return
        self._check_loop()
        self._is_open = False
        if self._retrying:
            self._retrying.cancel()
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

    async def start(
        self, name: str, arg: bytes, *, repeatable: bool = False, timeout_s: float | None = None
    ) -> asyncio.Future[msgspec.Raw]:
        """Do what `Client.start` does, with an `arg` that is JSON for certain."""
        if not isinstance(name, str):
            raise ValueError(f"name: expected the name of a call, got {name!r:.60}")
        check_seconds("timeout_s", timeout_s)
        self._number = number = self._number + 1
        line = self._line(number, name, arg)
        timeout_s = timeout_s if timeout_s is not None else self.timeout_s
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        await self._take_place(deadline)
        if not self._is_open:
            self._slots.release()
            raise self._lost("is not open")
        answer: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        return self._send(number, _Pending(line, answer, repeatable, deadline, at_first=name == "insert" and repeatable))

    async def wait_for(self, name: str, arg: bytes, wait_s: float) -> msgspec.Raw:
        """Make a call that is answered when a job has ended; it takes no place among those in flight."""
        self._number = number = self._number + 1
        line = self._line(number, name, arg)
        if not self._is_open:
            raise self._lost("is not open")
        deadline = None if self.timeout_s is None else asyncio.get_running_loop().time() + wait_s + self.timeout_s
        pending = _Pending(line, asyncio.get_running_loop().create_future(), True, deadline, has_place=False)
        try:
            return await self._send(number, pending)
        except asyncio.CancelledError:
            if self._pending.pop(number, None) is not None and pending.sent:
                self._withdraw(number)
            raise

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
            self._withdraw(number)
        else:
            del self._standing[number]

    def _withdraw(self, number: int) -> None:
        self.tell(b'"withdraw"', b'{"call":%d}' % number)

    def tell(self, name: bytes, arg: bytes) -> None:
        """Send a call for whose answer nobody waits, if there is a connection. Args: JSON."""
        if self._link is not None:
            self._number += 1
            self._link.send(call_line(self._number, name, arg))

    def _end_standing(self, error: KqsError) -> None:
        """End all calls that were sent on a connection that is gone, and the runs it gave."""
        sent = {number: standing for number, standing in self._standing.items() if standing.sent or not self._is_open}
        for number in sent:
            del self._standing[number]
        self._tell_gone()
        for standing in sent.values():
            standing.ended(error)

    @property
    def is_elsewhere(self) -> bool:
        """Tell whether it was opened in a process which this one was forked from, whose connection it has."""
        return os.getpid() != self._pid

    def _check_loop(self) -> None:
        """Raise RuntimeError in another event loop or process than it was opened in: neither would hear of it."""
        if self.is_elsewhere:
            raise RuntimeError(f"{self.called} belongs to process {self._pid}: open another after the fork")
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
            raise self.late_error() from None
        if deadline is not None and asyncio.get_running_loop().time() >= deadline:
            self._slots.release()
            raise self.late_error()

    def _send(self, number: int, pending: _Pending) -> asyncio.Future[msgspec.Raw]:
        self._pending[number] = pending
        if self._link and not self._suspects:
            pending.sent = True
            self._link.send(pending.line)
        if pending.deadline is not None and self._ticking is None:
            self._tick(asyncio.get_running_loop())
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
            self._pauses.begin_anew()
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

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        self._ticking = loop.call_later(_TICK_S, self._end_late_calls, loop.time() + _TICK_S)

    def _end_late_calls(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if now - due > _TICK_S:  # the process was stopped, as by Ctrl-Z: what was answered meanwhile is heard first
            self._ticking = loop.call_later(min(now - due, HEAR_S), self._end_late_calls, math.inf)
            return
        late = [number for number, pending in self._pending.items() if pending.deadline is not None and pending.deadline <= now]
        self._fail_each(late, self.late_error())
        self._ticking = None
        if self._pending:
            self._tick(loop)

    def late_error(self) -> KqsError:
        """Return what a call ends with that took too long."""
        if self._link:
            return CallTimeoutError(f"no answer from {self.address} in time")
        return ConnectionLostError(f"{self.address} could not be reached again: {self._trouble}")

    def _on_lost(self, reason: str) -> None:
        if self._link is None:  # it went before `open` or `_reconnect` took it over, and they look for that
            return
        self._leave(reason)
        self._tell_lost(reason)

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
            self._reconnect_later()

    def _reconnect_later(self) -> None:
        self._retrying = asyncio.get_running_loop().call_later(self._pauses.next_spread_s(), self._try_to_reconnect)

    def _try_to_reconnect(self) -> None:
        # none of the tasks that a program finds to cancel, or to wait for
        self._reconnecting = spawn(self._reconnect(), "kqs-client-reconnect")
        self._reconnecting.add_done_callback(self._note_try)

    def _note_try(self, task: asyncio.Task[None]) -> None:
        """Try again unless there is a connection, whatever has ended the last try: all calls wait for one."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._trouble = why_unreachable(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        if self._is_open and self._link is None:
            self._reconnect_later()

    async def _reconnect(self) -> None:
        """Connect, trying once. Raises: OSError."""
        link = await self._open_link(self.address, self._on_answer, self._on_lost)
        if link.lost.done():
            return
        for number in [number for number, pending in self._pending.items() if pending.answer.done()]:
            self._fail(number, ConnectionLostError("nobody waits for it"))  # cancelled meanwhile: not to be done any more
        self._link = link
        self._send_waiting()

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
