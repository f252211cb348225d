"""What all connections of one server share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from kqs.server.backend import Backend
from kqs.server.counters import Counters
from kqs.server.slices import Slices

#: Accepted but unflushed bytes over all connections, beyond which nobody is read. It bounds what a stalled disk can
#: cost in memory; 32 MiB is two lines of the default maximum, and 25 ms of a disk that writes 1 GiB/s.
MAX_UNFLUSHED_BYTES = 32 * 1024 * 1024

#: Bytes of unfinished lines over all connections, beyond which a connection with a long one is turned away. Without it,
#: max_connections times max_line_bytes could be asked of the server's memory.
MAX_OPEN_BYTES = 256 * 1024 * 1024


#: Jobs in one insert's array. In memory a job takes some 200 bytes beside its data, and as long as it is answered, its id.
DEFAULT_INSERT_JOBS = 100_000


class Context:
    """Shared state of the connections. Owned by the loop thread.

    clock: wall time in Unix seconds. max_insert_jobs: in one array. slices: whatever takes long. trace: log every line
    (level debug); checked before a log call is made, since a filtered-out call still costs more than a job. draining: the
    server stops, inserts are refused.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Callable[[], float],
        max_in_flight: int,
        trace: bool = False,
        max_insert_jobs: int = DEFAULT_INSERT_JOBS,
    ) -> None:
        self.backend = backend
        self.clock = clock
        self.counters = Counters()
        self.max_in_flight = max_in_flight
        self.max_insert_jobs = max_insert_jobs
        self.slices = Slices()
        self.trace = trace
        self.draining = False
        self.unflushed_bytes = 0
        self.open_bytes = 0
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def is_flooded(self) -> bool:
        """Tell whether so much waits for its flush that reading must rest."""
        return self.unflushed_bytes > MAX_UNFLUSHED_BYTES

    @property
    def is_overloaded(self) -> bool:
        """Tell whether unfinished lines take more memory than all of them together may."""
        return self.open_bytes > MAX_OPEN_BYTES

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run one call's work in a task that the server owns until it ends. The work must not raise."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
