"""One connection: a transport, a conversation, and what keeps either from drowning the other.

The peer is not read while its conversation is full, or while the transport holds too much that the peer has not taken; so
what one connection can make the server remember is bounded, and all of it is counted with that of all others. What a tick
answers is written at its end, in one piece. A connection that says nothing has no task and no timer.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from kqs.config import ServerSection
from kqs.errors import CallError
from kqs.keepalive import notice_vanished
from kqs.remote import Party
from kqs.rpc.answers import LITTLE_BYTES
from kqs.rpc.context import Context
from kqs.rpc.conversation import Conversation
from kqs.rpc.lines import SHORT_BYTES, Lines
from kqs.rpc.turns import NOTED_S, SLICE_S, clock
from kqs.server import sockets
from kqs.server.draining import Draining
from kqs.server.resets import Resets
from kqs.wire.call import BadLine
from kqs.wire.foreign import Greeting

#: Untaken answers beyond which the peer is not read. A tick reads at most 256 KiB, whose echo must fit beside a rest.
WRITE_HIGH_BYTES = 1024 * 1024
WRITE_LOW_BYTES = 256 * 1024
#: So much more of a long line is progress: its sender is not one of those that leave it lying.
PROGRESS_BYTES = 16 * 1024


class Owner(Protocol):
    """What a connection asks of the server it belongs to."""

    context: Context
    resets: Resets

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

    def wake_when_relieved(self, connection: Connection) -> None:
        """Call `connection.wake` once when the server is crowded no more."""
        ...

    def note_foreign(self, connection: Connection) -> None:
        """Count and tell of a connection on which another protocol is spoken."""
        ...

    def may_keep(self, connection: Connection) -> bool:
        """Tell whether a connection beyond max_connections has become one of them meanwhile."""
        ...


class Connection(asyncio.Protocol):
    """See the module docstring."""

    def __init__(self, owner: Owner, settings: ServerSection, own_lines: Lines | None = None) -> None:
        """Args: settings: what this connection may ask for. own_lines: with which what it sends counts, if a process of the
            server's own is its peer.

        Such a one is never cut off, since that would end the runs that it has: there are few, and others watch over them.
        """
        self._owner = owner
        self._is_own = own_lines is not None
        self._lines = owner.context.lines if own_lines is None else own_lines
        longest = settings.max_line_bytes
        self._conversation = Conversation(owner.context, longest, self._answered, lambda: self.where, self._lines)
        self._peer = self._conversation.peer
        self._peer.has_left = self._has_left
        self._peer.standing.on_worker = self._watch_worker
        self._received = self._conversation.received
        self._greeting: Greeting | None = Greeting()
        self._transport: asyncio.Transport | None = None
        self._is_reading = True
        self._is_blocked = False  # the transport holds too much
        self._is_ending = False  # nothing more will be read
        self._line_bytes = 0  # of a long unfinished line, when it last made progress
        self._written_bytes = 0
        self._draining = Draining(owner.context.supervisor, self._reached_bytes, self.abort)
        self._descriptor = -1
        self._watched: int | None = None  # its descriptor, once it has sent its end of input
        self._is_deserted = False  # and was reset after that

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or answer why not and close."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            self._descriptor = sock.fileno()
        refusal = self._owner.admit(self)
        if refusal is None:
            sockets.tune(sock)
        else:
            self.turn_away(refusal)

    def confine(self) -> None:
        """Keep no jobs for this peer, nor echo, until the owner says that it `may_keep`."""
        self._conversation.may_keep = lambda: self._owner.may_keep(self)

    def data_received(self, data: bytes) -> None:
        """Run what arrived and write what that answered."""
        if self._is_ending:
            return
        if self._greeting is not None and self._is_foreign(self._greeting, data):
            self._owner.note_foreign(self)
            self._is_ending = True
            self._close()
            return
        context, lines = self._owner.context, self._lines
        self._conversation.receive_data(data)
        self._advance()
        context.inserter.flush_if_alone()
        if self._line_bytes or not data.endswith(b"\n"):
            self._note_open_line(data)
        if self._received.is_counted and lines.is_too_much:
            lines.make_room(self)

    def _is_foreign(self, greeting: Greeting, data: bytes) -> bool:
        """Tell whether `data` shows that another protocol is spoken here."""
        is_foreign = greeting.is_foreign(data)
        if is_foreign is not None:
            self._greeting = None
        return bool(is_foreign)

    def _note_open_line(self, data: bytes) -> None:
        """Take note of how the line goes on that is not finished, or has just been, by `data`."""
        open_bytes = self._received.open_bytes
        if open_bytes > SHORT_BYTES or self._line_bytes:
            has_progressed = b"\n" in data or not self._line_bytes or open_bytes >= self._line_bytes + PROGRESS_BYTES
            if has_progressed:
                self._line_bytes = open_bytes if open_bytes > SHORT_BYTES else 0
            self._lines.note_open(self, has_progressed=has_progressed)

    def eof_received(self) -> bool:
        """Answer what is still unanswered, then close."""
        self.finish()
        self._watch_for_reset()
        return True  # the transport stays open for the answers

    def finish(self) -> None:
        """Read no more; close when everything asked is answered. Idempotent."""
        if not self._is_ending:
            self._is_ending = True
            self._stop_reading()
            self._peer.standing.end()
            self._advance()

    def hurry(self) -> None:
        """Wait for no long time any more for a peer that takes none of its answers: the server stops. Idempotent."""
        self._draining.hurry()

    def end_waits(self) -> None:
        """Answer the calls that wait for jobs to end: the server stops."""
        self._peer.standing.refuse_waits("draining", "the server is stopping; the job goes on")

    @property
    def is_waiting(self) -> bool:
        """Tell whether a call waits for a job to end."""
        return self._peer.standing.is_waiting

    def abort(self) -> None:
        """Drop the peer at once, with whatever it has not been sent."""
        self._watch_no_reset()
        if self._transport is not None:
            self._owner.context.counters.connections_aborted += 1
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the peer. Its deferred calls go on; their answers are dropped."""
        self._is_ending = True
        self._transport = None
        self._watch_no_reset()
        self._draining.stop()
        self._conversation.forget()
        self._lines.leave(self)
        self._owner.dismiss(self)

    def turn_away(self, refusal: CallError, *, of_line: bool = False) -> None:
        """Say why, and close when what ran before is answered.

        of_line: only the unfinished line is dropped, and what waits is run before; else all that waits is.
        """
        if of_line:
            self._received.drop_line()
        else:
            self._conversation.drop()
        self._lines.leave(self)
        self._peer.standing.refuse_waits(refusal.call_code, str(refusal))
        self._peer.refuse(BadLine(refusal.call_code, str(refusal)), refusal.call_code, str(refusal))
        self.finish()

    def pause_writing(self) -> None:
        """Rest a peer that does not take its answers."""
        self._is_blocked = True
        self._lines.note_blocked(self)
        self._peer.standing.pause()
        self._stop_reading()
        if not self._is_own:
            self._draining.watch()

    def resume_writing(self) -> None:
        """Go on with a peer that has taken its answers."""
        self._is_blocked = False
        self._lines.note_free(self)
        self._peer.standing.resume()
        self._draining.stop()
        self._owner.wake_later(self)

    def wake(self) -> None:
        """Write what was answered meanwhile and go on with what is held."""
        if self._is_reading and not self._is_ending:
            self._write()  # who is read has nothing held that could go on
        elif self._transport is not None:
            self._advance()

    def rest(self) -> None:
        """Read no more until `wake`, if the peer has inserts in flight."""
        if self._peer.in_flight and not self._is_ending:
            self._stop_reading()
            self._owner.wake_when_flushed(self)

    @property
    def untaken_bytes(self) -> int:
        """Return how many bytes of answers are held for the peer."""
        return self._peer.answer_bytes + (self._transport.get_write_buffer_size() if self._transport else 0)

    @property
    def taken_bytes(self) -> int:
        """Return how many the peer has taken so far."""
        return self._written_bytes - (self._transport.get_write_buffer_size() if self._transport else 0)

    @property
    def open_bytes(self) -> int:
        """Return how much of an unfinished line is held."""
        return self._received.open_bytes

    @property
    def waiting_bytes(self) -> int:
        """Return how much is held of lines that wait to be run."""
        return self._received.waiting_bytes

    @property
    def has_many_waiting(self) -> bool:
        """Tell whether that is more than one line, and not inserts that wait for the journal."""
        return self._received.has_many_pieces and not self.is_inserting

    @property
    def is_inserting(self) -> bool:
        """Tell whether what waits here waits for the journal."""
        return self._owner.context.is_flooded and self._peer.is_inserting

    @property
    def hand(self) -> Party:
        """Return what the peer has of the server's jobs."""
        return self._peer.standing.asking()

    @property
    def where(self) -> str:
        """Return where the peer is, for the log."""
        return sockets.where(self._transport)

    @property
    def is_unix(self) -> bool:
        """Tell whether the peer came over the UNIX socket."""
        return sockets.is_unix(self._transport)

    @property
    def is_of_this_machine(self) -> bool:
        """Tell whether the peer is on this machine."""
        return sockets.is_of_this_machine(self._transport)

    def _answered(self, at_once: bool) -> None:
        if at_once:
            self._owner.wake_now(self)
        else:
            self._owner.wake_later(self)

    def _advance(self) -> None:
        """Run what may run in one slice, write what is answered, then read on, rest or close."""
        conversation, context = self._conversation, self._owner.context
        began = clock()
        until = began + SLICE_S
        has_more = context.turns.is_busy and self._received.has_much
        while not has_more and not self._must_take_first() and conversation.proceed(until):
            self._write()
            has_more = clock() > until
        if self._peer.answers:
            self._write()
        self._received.count()
        spent_s = clock() - began
        if spent_s > NOTED_S:
            context.turns.spend(spent_s)
        must_rest = has_more or conversation.is_full or self._must_take_first()
        if must_rest or self._is_ending or not self._is_reading:
            self._read_on(has_more=has_more, must_rest=must_rest)

    def _read_on(self, *, has_more: bool, must_rest: bool) -> None:
        """Read on, rest or close. has_more: for want of time in this slice."""
        context = self._owner.context
        if has_more:
            context.turns.stand_in_line(self)
        elif must_rest:
            if context.is_flooded:
                self._owner.wake_when_flushed(self)
            if context.answers.is_crowded:
                self._owner.wake_when_relieved(self)
        if self._is_ending:
            self._close_if_done()
        elif must_rest:
            self._stop_reading()
        elif not self._is_reading:
            self._start_reading()

    def _close_if_done(self) -> None:
        if self._is_deserted:
            self._peer.standing.leave_waits()
        if self._conversation.is_idle:
            self._close()

    def _must_take_first(self) -> bool:
        """Tell whether the peer must take answers before more is run for it."""
        return self._is_blocked or (self._owner.context.answers.is_crowded and self.untaken_bytes > LITTLE_BYTES)

    def _write(self) -> None:
        data = self._peer.data_to_send() if self._peer.answers else b""
        transport = self._transport
        if data and transport is not None and not transport.is_closing():  # uvloop raises on a closed transport
            self._written_bytes += len(data)
            transport.write(data)
            self._owner.context.answers.note(len(data))

    def _watch_for_reset(self) -> None:
        """Hear of it if the peer, which is read no more, goes away before all is answered."""
        sock = self._transport.get_extra_info("socket") if self._transport and not self._transport.is_closing() else None
        if sock is not None:
            self._watched = sock.fileno()
            self._owner.resets.watch(self._watched, self._desert)

    def _watch_no_reset(self) -> None:
        if self._watched is not None:
            self._owner.resets.forget(self._watched)
            self._watched = None

    def _desert(self) -> None:
        """Have nothing wait for jobs to end in its name: it takes no answers. Whatever else it has asked goes on."""
        self._is_deserted = True
        self._advance()

    def _watch_worker(self) -> None:
        """Notice soon if the peer vanishes, since it is given jobs that nobody else runs meanwhile."""
        transport = self._transport
        if transport is not None:
            notice_vanished(transport.get_extra_info("socket"), must_take=True)

    def _has_left(self) -> bool:
        """Tell whether the peer is gone, of which the loop has not heard as long as the peer is not read.

        The next answer that is written makes it known: whatever else was asked goes on until then.
        """
        return self._transport is None or (self._descriptor >= 0 and sockets.is_broken(self._descriptor))

    def _close(self) -> None:
        self._watch_no_reset()
        if self._transport is not None:
            if self._transport.get_write_buffer_size():
                self._draining.watch()
            self._transport.close()

    def _stop_reading(self) -> None:
        if self._is_reading and self._transport is not None and not self._transport.is_closing():
            self._is_reading = False
            self._transport.pause_reading()

    def _start_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._is_reading = True
            self._transport.resume_reading()

    def _reached_bytes(self) -> int:
        """Return how many have reached the peer: of megabytes the kernel makes room only once a third of them has."""
        return self.taken_bytes - (sockets.unsent_bytes(self._descriptor) if self._transport is not None else 0)
