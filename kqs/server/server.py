"""The server: its listener, its connections, and the end of both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from kqs.config import ServerSection
from kqs.errors import CallError
from kqs.log import get_logger
from kqs.server.backend import Backend
from kqs.server.connection import Connection
from kqs.server.context import Context
from kqs.server.counters import Counters
from kqs.server.listener import Listener

log = get_logger("kqs.server")


class Server:
    """A Service (see kqs.service) that takes calls from `settings`' addresses to `backend`.

    listener: one that may be bound already; None: a new one.
    clock: wall time in Unix seconds. stop_s: how long `stop` waits for answers that are due. trace: log every line.
    """

    def __init__(
        self,
        settings: ServerSection,
        backend: Backend,
        *,
        clock: Callable[[], float],
        listener: Listener | None = None,
        stop_s: float = 10.0,
        trace: bool = False,
    ) -> None:
        self.context = Context(backend, clock, settings.max_in_flight, trace, settings.max_insert_jobs)
        self._settings = settings
        self._stop_s = stop_s
        self._listener = listener or Listener(settings)
        self._connections: set[Connection] = set()
        self._all_gone = asyncio.Event()
        self._all_gone.set()
        self._to_wake: set[Connection] = set()
        self._resting: set[Connection] = set()
        self._is_stopping = False

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Return the bound (host, port) pairs."""
        return self._listener.addresses

    @property
    def counters(self) -> Counters:
        """Return the counters that `stats` shows."""
        return self.context.counters

    async def start(self) -> None:
        """Listen. Raises StartupError (see Listener.start)."""
        await self._listener.start(self._make_connection)

    def drain(self) -> None:
        """Accept no more connections and refuse inserts; everything else goes on. Idempotent."""
        self.context.draining = True
        self._listener.close()

    async def stop(self) -> None:
        """Drain, answer what was asked, close; after `stop_s` cut off who is left. Idempotent."""
        self.drain()
        self._is_stopping = True
        for connection in list(self._connections):
            connection.finish()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._all_gone.wait(), self._stop_s)
        for connection in list(self._connections):
            connection.abort()
        for task in self.context.tasks:
            task.cancel()
        await asyncio.gather(*self.context.tasks, return_exceptions=True)
        await self._all_gone.wait()  # connection_lost follows an abort in the next tick

    def admit(self, connection: Connection) -> CallError | None:
        """Register a new connection, or tell why not."""
        counters = self.context.counters
        self._connections.add(connection)
        self._all_gone.clear()
        counters.connections_open += 1
        counters.connections_total += 1
        if self._is_stopping:
            refusal = CallError("the server is stopping", "draining")
        elif len(self._connections) > self._settings.max_connections:
            refusal = CallError("too many connections, try again later", "busy")
        else:
            return None
        counters.connections_refused += 1
        return refusal

    def dismiss(self, connection: Connection) -> None:
        """Forget a connection that is lost."""
        self._connections.discard(connection)
        self._resting.discard(connection)
        self.context.counters.connections_open -= 1
        if not self._connections:
            self._all_gone.set()

    def wake_later(self, connection: Connection) -> None:
        """Call `connection.wake` once at the end of this tick, and those that rest too if they may go on."""
        if not self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake)
        self._to_wake.add(connection)

    def wake_now(self, connection: Connection) -> None:
        """Wake one connection, without the turn of the loop that gathering answers would take."""
        try:
            connection.wake()
        except Exception:  # one connection's fault must not keep the others' acknowledgements
            log.exception("! a connection failed")
            connection.abort()

    def wake_when_flushed(self, connection: Connection) -> None:
        """Call `connection.wake` once when the journal has caught up."""
        self._resting.add(connection)

    def _wake(self) -> None:
        connections, self._to_wake = self._to_wake, set()
        if self._resting and not self.context.is_flooded:
            connections |= self._resting
            self._resting.clear()
        for connection in connections:
            self.wake_now(connection)

    def _make_connection(self) -> Connection:
        return Connection(self, self._settings.max_line_bytes)
