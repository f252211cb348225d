"""What all conversations with one node share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from kqs.config import ServerSection
from kqs.rpc.answers import Answers
from kqs.rpc.backend import Backend
from kqs.rpc.counters import Counters
from kqs.rpc.happenings import Happenings
from kqs.rpc.lines import Lines
from kqs.rpc.pouring import Pouring
from kqs.rpc.slices import Slices
from kqs.rpc.turns import Turns
from kqs.supervisor import Supervisor, when_done

#: Accepted but unflushed bytes over all connections, beyond which no insert is run. It bounds what a stalled disk can
#: cost in memory; 32 MiB is two lines of the default maximum, and 25 ms of a disk that writes 1 GiB/s.
MAX_UNFLUSHED_BYTES = 32 * 1024 * 1024
#: Jobs over all connections that wait for what they name of other jobs, for 5 s if the store is away: as much again. More are
#: refused, for inserts that name none must not wait for these.
MAX_ORDERED_BYTES = MAX_UNFLUSHED_BYTES

#: What unfinished lines may take over all connections, and answers that nobody has taken: 64 MiB each, or four lines of the
#: longest, which one connection must be able to send and to get beside others. Lines that wait to be run may take half of it.
LEAST_HELD_BYTES = 64 * 1024 * 1024
HELD_LINES = 4
#: Jobs read from the store at a time, each of which may be as long as a line, and its answer again: for connections of which
#: nothing is known, or that had a long answer last; and for those that had a short one.
READS_AT_ONCE = 4
SHORT_READS_AT_ONCE = 12
#: calls over all connections that may wait for jobs to end: each takes about 1 KiB
MAX_WAITS_IN_ALL = 100_000


class Context:
    """Shared state of the connections. Owned by the loop thread.

    on_quit: begins the orderly stop that SIGTERM begins. settings: of what connections may ask for. slices: whatever
    takes long. trace: log every line (level debug); checked before a log call is made, since a filtered-out call still costs
    more than a job. draining: the server stops, inserts are refused.
    """

    def __init__(
        self,
        backend: Backend,
        supervisor: Supervisor,
        on_quit: Callable[[], None],
        settings: ServerSection,
        trace: bool = False,
    ) -> None:
        self.backend = backend
        self.inserter = backend.inserter
        self.desk = backend.desk
        self.on_quit = on_quit
        self.supervisor = supervisor
        self.counters = Counters()
        self.settings = settings
        held_bytes = max(LEAST_HELD_BYTES, HELD_LINES * settings.max_line_bytes)
        self.slices = Slices(supervisor)
        self.trace = trace
        self.draining = False
        self.waits = 0  # calls that wait for jobs to end
        self.ordered_bytes = 0  # of jobs that wait for what they name
        self.lines = Lines(held_bytes, held_bytes // 2)
        self.happenings = Happenings(backend, supervisor)
        self.answers = Answers(held_bytes // 2, supervisor)
        self.pouring = Pouring(self.answers.room, self.spawn)
        self.turns = Turns(supervisor)
        self.reads = asyncio.Semaphore(READS_AT_ONCE)
        self.short_reads = asyncio.Semaphore(SHORT_READS_AT_ONCE)
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def is_flooded(self) -> bool:
        """Tell whether so much waits for its flush that inserts must wait."""
        return self.inserter.unflushed_bytes > MAX_UNFLUSHED_BYTES

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run one call's work in a task that the server owns until it ends. The work must not raise."""
        task = self.supervisor.spawn(work, name, when_done)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
