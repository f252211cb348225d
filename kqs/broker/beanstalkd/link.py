"""One connection to a beanstalkd: the thin asyncio shell around the codec. Call from the loop thread.

Commands are pipelined, what gathers in one tick is written at once, and replies come back in the order asked. A reply that is
late, or cannot be, ends the connection: nothing that comes after it could be trusted.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from kqs.errors import BrokerError
from kqs.process import forks
from kqs.process.threads import addresses_of
from kqs.supervisor import Judgement, Supervisor
from kqs.wire.beanstalk.commands import Command
from kqs.wire.beanstalk.replies import DamagedBodyError, ReplyReader
from kqs.wire.beanstalk.values import Reply

#: a reply that takes longer, in s, means that nobody is there; a reserve that waits does so for at most a second
REPLY_WITHIN_S = 4.0
#: bodies are a few hundred bytes, and data of `body_bytes`; one over this is not ours
MAX_BODY_BYTES = 16 * 1024 * 1024
#: with so many replies still to come, the next ones are read after a rest of so many s: a beanstalkd writes each by itself, and
#: to be woken for every few costs more than what they say
MANY_REPLIES = 64
REST_S = 0.001
_UNIX = "unix:"

#: told the replies of a batch, or None when the connection ended before all of them came
Done = Callable[[list[Reply] | None], None]
#: what was asked: its replies to come, or None when the connection ended before all of them came
Begun = asyncio.Future[list[Reply] | None]


class LinkLostError(BrokerError):
    """The connection ended before all replies had come: the commands may or may not have been done."""


class _Batch:
    __slots__ = ("count", "done", "replies", "sent_at")

    def __init__(self, count: int, done: Done, sent_at: float) -> None:
        self.count = count
        self.done = done
        self.replies: list[Reply] = []
        self.sent_at = sent_at


class Link(asyncio.Protocol):
    """See the module docstring.

    instance: which life of which beanstalkd it leads to, once known. damaged_id: the job whose body ended the connection.
    """

    def __init__(self, on_lost: Callable[[str], None], supervisor: Supervisor) -> None:
        """Args: on_lost: told once, with the reason, when the connection has ended."""
        self._loop = asyncio.get_running_loop()
        self._on_lost = on_lost
        self._supervisor = supervisor
        self._reader = ReplyReader(MAX_BODY_BYTES)
        self._batches: deque[_Batch] = deque()
        self._out: list[bytes] = []
        self._is_paused = False
        self._timer: Judgement | None = None
        self._reason = "the server closed the connection"
        self._transport: asyncio.Transport
        self.identity: forks.Identity | None = None
        self.is_open = False
        self.instance = ""
        self.damaged_id: int | None = None

    @classmethod
    async def open(cls, address: str, on_lost: Callable[[str], None], supervisor: Supervisor) -> Link:
        """Connect to HOST:PORT or unix:PATH. Raises: OSError."""
        transport, link = await _connect(lambda: cls(on_lost, supervisor), address)
        if link.is_open:
            link.identity = forks.own(transport.get_extra_info("socket").fileno())
        return link

    @property
    def in_flight(self) -> int:
        """Return how many commands wait for their replies."""
        return self._reader.expected_count

    def send(self, commands: Sequence[Command], done: Done) -> None:
        """Send commands, of which there is at least one; `done` is called later, exactly once, unless this raises.

        Raises: LinkLostError: the connection had ended; nothing was sent.
        """
        if not self.is_open:
            raise LinkLostError(self._reason)
        if not self._out and not self._is_paused:
            self._supervisor.call_soon("beanstalkd link", self._flush)
        self._out.extend(_encoded(commands))
        self._reader.expect(commands)
        self._batches.append(_Batch(len(commands), done, self._loop.time()))
        if self._timer is None:
            self._timer = self._supervisor.judge_later(REPLY_WITHIN_S, "beanstalkd link", self._check_late)

    async def ask(self, *commands: Command) -> list[Reply]:
        """Send commands and return their replies. Raises: LinkLostError. Cancelling withdraws nothing."""
        return await self.end_ask(self.begin_ask(commands))

    async def ask_for(self, commands: Sequence[Command], answered: Callable[[list[Reply]], None]) -> list[Reply]:
        """Do as `ask`; `answered` is told the replies too, at once, and also when the caller was cancelled."""
        return await self.end_ask(self.begin_ask(commands, answered))

    def begin_ask(self, commands: Sequence[Command], answered: Callable[[list[Reply]], None] | None = None) -> Begun:
        """Send commands, for whoever has more to send before it waits for the replies. Raises: LinkLostError."""
        waiter: Begun = self._loop.create_future()

        def done(replies: list[Reply] | None) -> None:
            if replies is not None and answered is not None:
                answered(replies)
            if not waiter.done():
                waiter.set_result(replies)

        self.send(commands, done)
        return waiter

    async def end_ask(self, begun: Begun) -> list[Reply]:
        """Return the replies to what `begin_ask` has sent. Raises: LinkLostError."""
        replies = await begun
        if replies is None:
            raise LinkLostError(self._reason)
        return replies

    def abort(self, reason: str) -> None:
        """End the connection now: the server makes ready what is reserved on it. Idempotent."""
        if self.is_open:
            self._reason = reason
            self._end()
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Hand on the batches whose replies are complete."""
        if not self.is_open:
            return
        replies = self._reader.receive_data(data)
        at = 0
        while at < len(replies) and self.is_open:  # who is told one reply may end the connection for it
            batch = self._batches[0]
            wanted = batch.count - len(batch.replies)
            batch.replies += replies[at : at + wanted]
            at += wanted
            if len(batch.replies) == batch.count:
                self._batches.popleft()
                batch.done(batch.replies)
        if self._reader.expected_count >= MANY_REPLIES and self.is_open:
            self._transport.pause_reading()
            self._supervisor.call_later(REST_S, "beanstalkd link", self._read_on)
        if (fault := self._reader.fault) is not None:
            if isinstance(fault, DamagedBodyError):
                self.damaged_id = fault.job_id
            self.abort(str(fault))

    def _read_on(self) -> None:
        if self.is_open:
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Hold commands back while the server does not read."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Write what was held back."""
        self._is_paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell those who wait for replies, and the owner."""
        if self.is_open and exc is not None:
            self._reason = str(exc)
        if self.identity is not None:
            forks.disown(self.identity)
        self._end()

    def _end(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        self._out.clear()
        batches, self._batches = self._batches, deque()
        self._on_lost(self._reason)  # first, so that nobody sends anything here from `done`
        for batch in batches:
            batch.done(None)

    def _flush(self) -> None:
        if self._out and not self._is_paused and self.is_open:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def _check_late(self) -> None:
        self._timer = None
        if not self._batches:
            return
        left_s = self._batches[0].sent_at + REPLY_WITHIN_S - self._loop.time()
        if left_s <= 0:
            self.abort(f"no reply within {REPLY_WITHIN_S:g} s")
        else:
            self._timer = self._supervisor.judge_later(left_s, "beanstalkd link", self._check_late)


async def _connect(make_link: Callable[[], Link], address: str) -> tuple[asyncio.BaseTransport, Link]:
    loop = asyncio.get_running_loop()
    if address.startswith(_UNIX):
        return await loop.create_unix_connection(make_link, address.removeprefix(_UNIX))
    host, _, port = address.rpartition(":")
    hosts = await _addresses(host.strip("[]"))
    for host in hosts:
        try:
            return await loop.create_connection(make_link, host, int(port))
        except OSError:
            if host == hosts[-1]:
                raise
    raise AssertionError("a name without addresses is unknown")


async def _addresses(host: str) -> list[str]:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return await addresses_of(host)
    return [host]


def _encoded(commands: Sequence[Command]) -> list[bytes]:
    """Encode each; one that stands many times in a row, as reserves do, only once."""
    encoded: list[bytes] = []
    last: Command | None = None
    data = b""
    for command in commands:
        if command is not last:
            last, data = command, command.encode()
        encoded.append(data)
    return encoded
