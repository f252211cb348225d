"""The line to the server: calls over a connection that comes back.

A call belongs to the connection it was sent on. When that is lost its caller is told, and says it again or does not. A server
that is silent for too long counts as gone. Call from the loop thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec

from kqs.client import Address
from kqs.client.link import Link, why_unreachable
from kqs.errors import CallError
from kqs.log import get_logger
from kqs.pauses import SERVER_FIRST_S, SERVER_LONGEST_S, Pauses
from kqs.process.threads import addresses_of
from kqs.supervisor import Supervisor
from kqs.trouble import Trouble
from kqs.wire.calling import Answer, call_line

log = get_logger("kqs.work")

#: to connect takes at most so long, in s: a host that drops what it gets answers nothing
CONNECT_S = 10.0
#: the server is asked so often whether it is there, in s, and counts as gone when so many such questions wait for their answers
BEAT_S = 15.0
MOST_UNANSWERED = 2

#: most reports or touches of one call, and most bytes of results or progress in it: one may be longer
MAX_MEMBERS = 1000
MAX_BYTES = 256 * 1024

T = TypeVar("T")
#: told a call's result, or its refusal; None: its connection was lost before
Answered = Callable[[msgspec.Raw | CallError | None], None]

_encode = msgspec.json.Encoder().encode


class _Call(NamedTuple):
    answered: Answered
    event: Callable[[msgspec.Raw], None] | None
    length: int


class Line:
    """See the module docstring.

    on_open: called when there is a connection, at first and again. on_lost: called when there is none any more, with the
    reason, after all calls were told; returns whether it has told people of it.
    """

    def __init__(self, address: Address, supervisor: Supervisor) -> None:
        self._address = address
        self._supervisor = supervisor
        self._trouble = Trouble(log, "no server answers, trying again", "connected")
        self._link: Link | None = None
        self._calls: dict[int, _Call] = {}
        self._number = 0
        self._unanswered = 0
        self._is_heard = False  # on this connection
        self._is_told_lost = True  # whoever reads the log expects to read of the next connection
        self._tasks: list[asyncio.Task[None]] = []
        self.on_open: Callable[[], None] = lambda: None
        self.on_lost: Callable[[str], bool] = lambda reason: False

    @property
    def is_open(self) -> bool:
        """Tell whether there is a connection."""
        return self._link is not None

    def start(self) -> None:
        """Begin to connect."""
        self._tasks = [self._supervisor.spawn(self._keep(), "line"), self._supervisor.spawn(self._beat(), "line-beat")]

    async def stop(self) -> None:
        """Write what is left, and close. Idempotent."""
        await self._supervisor.end(*self._tasks)
        self._tasks = []
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()

    def call(self, name: bytes, arg: bytes, answered: Answered, event: Callable[[msgspec.Raw], None] | None = None) -> int:
        """Send a call; return its number. There must be a connection.

        Args: name, arg: as JSON. event: told intermediate answers.
        """
        assert self._link is not None
        self._number = number = self._number + 1
        line = call_line(number, name, arg)
        self._calls[number] = _Call(answered, event, len(line))
        self._link.send(line)
        return number

    def call_list(
        self, name: bytes, members: Sequence[T], answered: Callable[[Sequence[T], msgspec.Raw | CallError | None], None]
    ) -> None:
        """Send a call whose argument is a list; if that is too long a line for the server, its halves, and so on.

        Args: answered: called for each line that the server has taken or refused, with its members. There must be a connection.
        """
        self.call(name, _encode(members), partial(self._answered_list, name, members, answered))

    def _answered_list(
        self,
        name: bytes,
        members: Sequence[T],
        answered: Callable[[Sequence[T], msgspec.Raw | CallError | None], None],
        answer: msgspec.Raw | CallError | None,
    ) -> None:
        is_too_long = isinstance(answer, CallError) and answer.call_code == "too_large" and len(members) > 1
        if is_too_long and self.is_open:  # nothing of it was taken
            half = len(members) // 2
            self.call_list(name, members[:half], answered)
            self.call_list(name, members[half:], answered)
        else:
            answered(members, answer)

    async def _keep(self) -> None:
        pauses = Pauses(SERVER_FIRST_S, SERVER_LONGEST_S)
        while True:
            try:
                link = await self._connect()
            except (OSError, UnicodeError) as error:
                self._trouble.met(server=str(self._address), error=why_unreachable(error))
            else:
                if not link.lost.done():
                    self._open(link)
                    await asyncio.wait([link.lost])
                if self._is_heard:
                    pauses.begin_anew()
            await asyncio.sleep(pauses.next_spread_s())

    async def _connect(self) -> Link:
        """Return a new connection. Raises: OSError, UnicodeError: none of the server's addresses answers."""
        async with asyncio.timeout(CONNECT_S):
            if self._address.socket:
                return await Link.open(self._address, self._heard, self._lost)
            fault: OSError = OSError("the name has no address")
            for host in await addresses_of(self._address.host):
                try:
                    return await Link.open(Address(host, self._address.port), self._heard, self._lost)
                except OSError as error:
                    fault = error
            raise fault

    def _open(self, link: Link) -> None:
        self._link = link
        self._is_heard = False
        self._unanswered = 0
        if not self._trouble.over(server=str(self._address)) and self._is_told_lost:
            log.info("connected", server=str(self._address))
        self._is_told_lost = False
        self.on_open()

    def _heard(self, answer: Answer) -> None:
        """Take an answer in. Raises: msgspec.MsgspecError: it cannot be one; the connection is of no more use."""
        try:
            self._take(answer)
        except msgspec.MsgspecError:
            raise
        except Exception as error:  # the loop would end the connection for it, and keep it to itself
            self._supervisor.fault("line", error)

    def _take(self, answer: Answer) -> None:
        if answer.id is None:
            self._heard_unnamed(answer.e.error() if answer.e else CallError("an answer without an id", "internal"))
            return
        self._is_heard = True
        if answer.s == "ok":
            call = self._calls.get(answer.id)
            if call is not None and call.event is not None:
                call.event(answer.m)
        elif (call := self._calls.pop(answer.id, None)) is not None:
            call.answered(answer.m if answer.e is None else answer.e.error())

    def _heard_unnamed(self, error: CallError) -> None:
        """Take in an error that says of no call that it is meant: the longest is too long, or the connection is of no use."""
        if error.call_code == "too_large" and self._calls:
            longest = max(self._calls, key=lambda number: self._calls[number].length)
            self._calls.pop(longest).answered(error)
        elif self._link is not None:
            self._link.abort(f"{error.call_code}: {error}")

    def _lost(self, reason: str) -> None:
        self._supervisor.guard("line", self._note_lost, reason)

    def _note_lost(self, reason: str) -> None:
        if self._link is None:  # it went before it was taken over, or this is the stop
            return
        self._link = None
        self._trouble.met(server=str(self._address), error=reason)
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.answered(None)
        self._is_told_lost = self.on_lost(reason)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            if self._link is None:
                continue
            if self._unanswered >= MOST_UNANSWERED:
                self._link.abort(f"it said nothing for {BEAT_S * MOST_UNANSWERED:g} s")
            else:
                self._unanswered += 1
                self.call(b'"ping"', b"null", self._answered_beat)

    def _answered_beat(self, answer: msgspec.Raw | CallError | None) -> None:
        self._unanswered = 0
