"""The server: its listener, its connections, and the end of both."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Callable

import msgspec

from kqs.config import ServerSection
from kqs.errors import CallError, KqsError
from kqs.executor.outcomes import MAX_RESULT_BYTES
from kqs.log import get_logger
from kqs.process import forks
from kqs.rpc.backend import Backend
from kqs.rpc.context import Context
from kqs.rpc.lines import Lines, Sender
from kqs.rpc.turns import Waiting
from kqs.server.connection import Connection
from kqs.server.listener import Listener
from kqs.server.resets import Resets
from kqs.service import Service
from kqs.supervisor import Supervisor

log = get_logger("kqs.server")

#: Connections beyond max_connections, for administration: so many over the UNIX socket, and so many from this machine.
RESERVED_CONNECTIONS = 16
#: Connections beyond all these that may be open at a time, only to be told so.
TURNED_AWAY_AT_ONCE = 16
#: How often the log tells of what peers do wrong again and again, in s.
_TELL_S = 60.0
#: the longest line of a process of the server's own: the longest result, and what is around it
OWN_LINE_BYTES = MAX_RESULT_BYTES + 64 * 1024
#: how long a stop waits for the ends of runs that are over, which somebody waits for, to be durable
ENDS_S = 2.0
_TOO_MANY_LINES = CallError("too many long lines at once, try again later", "busy")


class Server(Service):
    """Takes calls from `settings`' addresses to `backend`.

    on_quit: begins the orderly stop that SIGTERM begins, and returns at once. listener: one that may be bound already; None: a
    new one. stop_s: how long `stop` waits for answers that are due. trace: log every line.
    """

    def __init__(
        self,
        settings: ServerSection,
        backend: Backend,
        supervisor: Supervisor,
        on_quit: Callable[[], None],
        *,
        listener: Listener | None = None,
        stop_s: float = 10.0,
        trace: bool = False,
    ) -> None:
        self.context = Context(backend, supervisor, on_quit, settings, trace)
        self.resets = Resets(supervisor)
        self.context.lines.turn_away = self._turn_away
        self.context.turns.wake = self._wake_in_turn
        self.context.answers.relieved = self._wake_relieved
        self.context.answers.cut_off = self._note_cut_off
        self._settings = settings
        self._supervisor = supervisor
        self._stop_s = stop_s
        self._listener = listener or Listener(settings, supervisor)
        self._connections: set[Connection] = set()
        self._extra: dict[bool, dict[Connection, None]] = {True: {}, False: {}}  # of UNIX sockets, and of TCP; the oldest first
        self._own: dict[Connection, forks.Identity] = {}
        self._own_lines = Lines(sys.maxsize, sys.maxsize)
        self._told: dict[str, tuple[float, int]] = {}  # when the log told of something last, and how often it was since
        self.context.lines.senders = self._connections
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._to_wake: set[Connection] = set()
        self._resting: set[Connection] = set()
        self._crowded_out: set[Connection] = set()
        self._is_stopping = False

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Return the bound (host, port) pairs."""
        return self._listener.addresses

    async def start(self) -> None:
        """Listen. Raises StartupError (see Listener.start)."""
        await self._listener.start(self._make_connection, self._room)

    async def adopt(self, ours: socket.socket) -> Connection:
        """Serve a connection to a process of the server's own, which takes nobody's place. Raises: OSError."""
        ours.setblocking(False)
        longest = max(self._settings.max_line_bytes, OWN_LINE_BYTES)
        settings = msgspec.structs.replace(self._settings, max_line_bytes=longest)
        connection = Connection(self, settings, self._own_lines)
        self._own[connection] = forks.own(ours.fileno())
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, ours)
        except BaseException:
            self._disown(connection)
            raise
        connection.hand.is_child = True
        return connection

    def _disown(self, connection: Connection) -> None:
        if (identity := self._own.pop(connection, None)) is not None:
            forks.disown(identity)

    def drain(self) -> None:
        """Take no more jobs and give none out; everything else goes on, for new connections as well. Idempotent."""
        self.context.draining = True

    async def stop(self) -> None:
        """Drain, answer what was asked, close; after `stop_s` cut off who is left, and before who takes nothing. Idempotent."""
        self.drain()
        self._listener.close()
        self._is_stopping = True
        await self._end_waits()
        for connection in list(self._connections):
            connection.hurry()
            connection.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._stop_s):
                await self._all_gone.wait()
        for connection in list(self._connections):
            connection.abort()
        await self._supervisor.end(*self.context.tasks)
        self.context.answers.stop()
        await self._all_gone.wait()  # connection_lost follows an abort in the next tick
        self.resets.close()

    async def _end_waits(self) -> None:
        """Tell whoever waits for jobs to end of those that have, and then that no more will be told."""
        if any(connection.is_waiting for connection in self._connections):
            with contextlib.suppress(TimeoutError, KqsError):
                async with asyncio.timeout(ENDS_S):
                    await self.context.backend.settle()
        for connection in list(self._connections):
            connection.end_waits()

    def admit(self, connection: Connection) -> CallError | None:
        """Register a new connection, or tell why not."""
        counters = self.context.counters
        self._connections.add(connection)
        self._all_gone.clear()
        if connection not in self._own:
            self.context.answers.holders.add(connection)
            counters.connections_open += 1
            counters.connections_total += 1
        if self._is_stopping:
            refusal = CallError("the server is stopping", "draining")
        elif connection in self._own or self._ordinary <= self._settings.max_connections or self._admit_extra(connection):
            return None
        else:
            refusal = CallError("too many connections, try again later", "busy")
        counters.connections_refused += 1
        return refusal

    def _room(self) -> int:
        """Return how many more connections may be open, those included that are only told that they are too many."""
        most = self._settings.max_connections + 2 * RESERVED_CONNECTIONS + TURNED_AWAY_AT_ONCE
        return most - (len(self._connections) - len(self._own))

    @property
    def _ordinary(self) -> int:
        """Return how many connections there are, beside those for administration."""
        return len(self._connections) - len(self._own) - sum(map(len, self._extra.values()))

    def _admit_extra(self, connection: Connection) -> bool:
        """Admit a connection of this machine beyond max_connections for administration, in the place of the oldest such."""
        if not connection.is_of_this_machine:
            return False
        extra = self._extra[connection.is_unix]
        if len(extra) >= RESERVED_CONNECTIONS:
            oldest = next(iter(extra))
            del extra[oldest]
            oldest.abort()
        extra[connection] = None
        connection.confine()
        return True

    def may_keep(self, connection: Connection) -> bool:
        """Tell whether a connection beyond max_connections has become one of them meanwhile."""
        extra = self._extra[connection.is_unix]
        if connection in extra and self._ordinary < self._settings.max_connections:
            del extra[connection]
            return True
        return False

    def dismiss(self, connection: Connection) -> None:
        """Forget a connection that is lost."""
        self._connections.discard(connection)
        self.context.answers.holders.discard(connection)
        self._resting.discard(connection)
        self._crowded_out.discard(connection)
        self.context.turns.leave(connection)
        for extra in self._extra.values():
            extra.pop(connection, None)
        if connection in self._own:
            self._disown(connection)
        else:
            self.context.counters.connections_open -= 1
        if not self._connections:
            self._all_gone.set()

    def _turn_away(self, sender: Sender, of_line: bool) -> None:
        assert isinstance(sender, Connection)
        sender.turn_away(_TOO_MANY_LINES, of_line=of_line)
        what = "a long unfinished line was" if of_line else "lines that cannot be run yet were"
        self._tell(f"{what} turned away: all together take too much memory", sender)

    def note_foreign(self, connection: Connection) -> None:
        """Count and tell of a connection on which another protocol is spoken."""
        self.context.counters.connections_foreign += 1
        self._tell("a client that speaks HTTP, TLS or STUN was closed unheard", connection)

    def _note_cut_off(self, count: int) -> None:
        log.warning("clients that take no answers were cut off: all answers together take too much memory", count=count)

    def _tell(self, event: str, connection: Connection) -> None:
        """Log `event` once, and again at intervals."""
        now = asyncio.get_running_loop().time()
        told_at, count = self._told.get(event, (-_TELL_S, 0))
        if now - told_at < _TELL_S:
            self._told[event] = (told_at, count + 1)
        else:
            self._told[event] = (now, 0)
            log.warning(event, peer=connection.where, **({"since_last": count} if count else {}))

    def wake_later(self, connection: Connection) -> None:
        """Call `connection.wake` once at the end of this tick, and those that rest too if they may go on."""
        if not self._to_wake:
            self._supervisor.call_soon("server", self._wake)
        self._to_wake.add(connection)

    def wake_now(self, connection: Connection) -> None:
        """Wake one connection, without the turn of the loop that gathering answers would take."""
        try:
            connection.wake()
        except Exception:  # one connection's fault must not keep the others' acknowledgements
            log.exception("! a connection failed")
            connection.abort()

    def wake_when_flushed(self, connection: Connection) -> None:
        """Call `connection.wake` once when the journal has caught up.

        The first to wait has all who insert rest: each could have sent as much as one read again before it is seen to wait.
        """
        is_first = not self._resting
        self._resting.add(connection)
        if is_first:
            for other in self._connections:
                other.rest()

    def wake_when_relieved(self, connection: Connection) -> None:
        """Call `connection.wake` once when the server is crowded no more."""
        self._crowded_out.add(connection)

    def _wake(self) -> None:
        connections, self._to_wake = self._to_wake, set()
        if self._resting and not self.context.is_flooded:
            connections |= self._resting
            self._resting = set()
        for connection in connections:
            self.wake_now(connection)

    def _wake_in_turn(self, waiting: Waiting) -> None:
        assert isinstance(waiting, Connection)
        self.wake_now(waiting)

    def _wake_relieved(self) -> None:
        connections, self._crowded_out = self._crowded_out, set()
        for connection in connections:
            self.wake_later(connection)

    def _make_connection(self) -> Connection:
        return Connection(self, self._settings)
