"""One connection: a transport, a conversation, and what keeps either from drowning the other.

The peer is not read while its conversation is full, or while the transport holds too much that the peer has not taken; so
what one connection can make the server remember is bounded. What a tick answers is written at its end, in one piece. A
connection that says nothing has no task and no timer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Protocol, cast

from kqs.errors import CallError
from kqs.server.context import Context
from kqs.server.conversation import Conversation
from kqs.wire.call import BadLine

#: Untaken answers beyond which the peer is not read. A tick reads at most 256 KiB, whose echo must fit beside a rest.
WRITE_HIGH_BYTES = 1024 * 1024
WRITE_LOW_BYTES = 256 * 1024
#: A peer that takes none of its answers for so long is cut off.
UNDRAINED_S = 30.0
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}


class Owner(Protocol):
    """What a connection asks of the server it belongs to."""

    context: Context

    def admit(self, connection: Connection) -> CallError | None:
        """Register a new connection, or tell why not."""
        ...

    def dismiss(self, connection: Connection) -> None:
        """Forget a connection that is lost."""
        ...

    def wake_later(self, connection: Connection) -> None:
        """Call `connection.wake` once at the end of this tick, and those that rest too if they may go on."""
        ...

    def wake_now(self, connection: Connection) -> None:
        """Call `connection.wake`; not from within a call of the connection's own."""
        ...

    def wake_when_flushed(self, connection: Connection) -> None:
        """Call `connection.wake` once when the journal has caught up."""
        ...


class Connection(asyncio.Protocol):
    """See the module docstring."""

    def __init__(self, owner: Owner, max_line_bytes: int) -> None:
        self._owner = owner
        self._conversation = Conversation(owner.context, max_line_bytes, self._answered)
        self._transport: asyncio.Transport | None = None
        self._is_reading = True
        self._is_blocked = False  # the transport holds too much
        self._is_ending = False  # nothing more will be read
        self._written_bytes = 0
        self._drain_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or answer why not and close."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        refusal = self._owner.admit(self)
        if refusal is None:
            _tune(transport.get_extra_info("socket"))
        else:
            self._turn_away(refusal)

    def data_received(self, data: bytes) -> None:
        """Run what arrived and write what that answered."""
        if self._is_ending:
            return
        self._conversation.receive_data(data)
        if self._conversation.is_hoarding:
            self._turn_away(CallError("too many long lines at once, try again later", "busy"))
        else:
            self._advance()
            self._owner.context.backend.journal.flush_if_alone()

    def eof_received(self) -> bool:
        """Answer what is still unanswered, then close."""
        self.finish()
        return True  # the transport stays open for the answers

    def finish(self) -> None:
        """Read no more; close when everything asked is answered. Idempotent."""
        if not self._is_ending:
            self._is_ending = True
            self._stop_reading()
            self._advance()

    def abort(self) -> None:
        """Drop the peer at once, with whatever it has not been sent."""
        if self._transport is not None:
            self._owner.context.counters.connections_aborted += 1
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the peer. Its deferred calls go on; their answers are dropped."""
        self._is_ending = True
        self._transport = None
        self._stop_watching()
        self._conversation.forget()
        self._owner.dismiss(self)

    def _turn_away(self, refusal: CallError) -> None:
        self._conversation.refuse(BadLine(refusal.call_code, str(refusal)), refusal.call_code, str(refusal))
        self.finish()

    def pause_writing(self) -> None:
        """Rest a peer that does not take its answers."""
        self._is_blocked = True
        self._stop_reading()
        self._watch_draining()

    def resume_writing(self) -> None:
        """Go on with a peer that has taken its answers."""
        self._is_blocked = False
        self._stop_watching()
        self._owner.wake_later(self)

    def wake(self) -> None:
        """Write what was answered meanwhile and go on with what is held."""
        if self._transport is not None:
            self._advance()

    def _answered(self, at_once: bool) -> None:
        if at_once:
            self._owner.wake_now(self)
        else:
            self._owner.wake_later(self)

    def _advance(self) -> None:
        """Run what may run, write what is answered, then read on, rest or close."""
        conversation = self._conversation
        while not self._is_blocked and conversation.proceed():
            self._write()
        self._write()
        must_rest = self._is_blocked or conversation.is_full
        if must_rest and self._owner.context.is_flooded:
            self._owner.wake_when_flushed(self)
        if self._is_ending:
            if conversation.is_idle:
                self._close()
        elif must_rest:
            self._stop_reading()
        elif not self._is_reading:
            self._start_reading()

    def _write(self) -> None:
        data = self._conversation.data_to_send()
        transport = self._transport
        if data and transport is not None and not transport.is_closing():  # uvloop raises on a closed transport
            self._written_bytes += len(data)
            transport.write(data)

    def _close(self) -> None:
        if self._transport is not None:
            if self._transport.get_write_buffer_size():
                self._watch_draining()
            self._transport.close()

    def _stop_reading(self) -> None:
        if self._is_reading and self._transport is not None and not self._transport.is_closing():
            self._is_reading = False
            self._transport.pause_reading()

    def _start_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._is_reading = True
            self._transport.resume_reading()

    def _watch_draining(self) -> None:
        if self._drain_timer is None:
            loop = asyncio.get_running_loop()
            self._drain_timer = loop.call_later(UNDRAINED_S, self._cut_off_unless_drained_since, self._taken_bytes())

    def _stop_watching(self) -> None:
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None

    def _cut_off_unless_drained_since(self, taken_bytes: int) -> None:
        self._drain_timer = None
        if self._taken_bytes() > taken_bytes:
            self._watch_draining()  # slow is not dead
        else:
            self.abort()

    def _taken_bytes(self) -> int:
        return self._written_bytes - (self._transport.get_write_buffer_size() if self._transport else 0)


def _tune(sock: socket.socket | None) -> None:
    """Send small answers at once, and notice peers that vanished."""
    if sock is None or sock.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError):  # the peer may be gone already
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
