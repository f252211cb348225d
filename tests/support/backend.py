"""A server's backend in memory: a journal that flushes when it is told to, and jobs that never run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kqs.errors import JournalError, JournalFailedError
from kqs.handlers import Outcome
from kqs.ids import Ids
from kqs.inserter import Inserter
from kqs.job import JobRecord, Returned, State
from kqs.journal.format import Record
from kqs.queue.ends import Told
from kqs.remote.tokens import Named
from kqs.server.parameters import JobsQuery
from tests.support.clock import FakeClock


class MemoryJournal:
    """`append` schedules a flush for the next tick unless `held`; then `flush` does it. `failure` is what goes wrong."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.held = False
        self.failure: JournalError | None = None
        self._open: list[Record] = []

    def append(self, record: Record) -> None:
        if self.failure is not None and not isinstance(self.failure, JournalFailedError):
            raise self.failure
        self._open.append(record)
        if not self.held and len(self._open) == 1:
            asyncio.get_running_loop().call_soon(self.flush)

    def flush_if_alone(self) -> None:
        """Leave it to the end of the tick."""

    def flush(self) -> None:
        batch, self._open = self._open, []
        if self.failure is None:
            self.records += batch
        for record in batch:
            assert record.done is not None
            record.done(self.failure)


class MemoryBackend:
    """Satisfies kqs.server.backend.Backend."""

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self.ids = Ids("0000cafe")
        self.journal = MemoryJournal()
        self.inserter = Inserter(self.journal, self.ids, now or FakeClock().now)
        self.stop_requested = asyncio.Event()
        self.desk: Any = None  # set by whoever has a queue
        self.has_waits = False
        self.events: Any = None  # as desk
        self.waits_s: dict[str, float] = {}
        self.waiting: dict[str, list[Told]] = {}
        self.ended: set[tuple[str, type[Outcome | Returned]]] = set()

    async def report_unwatched(self, named: Named, end: Outcome | Returned) -> bool:
        return (named.claim.id, type(end)) in self.ended

    def options(self, type_: str, own: bytes | None, prio: int) -> dict[str, Any]:
        return {"prio": prio}

    def default_wait_s(self, type_: str) -> float:
        return self.waits_s.get(type_, 0.0)

    def wait(self, job_id: str, told: Told) -> None:
        self.waiting.setdefault(job_id, []).append(told)

    def forget(self, job_id: str, told: Told) -> None:
        if told in self.waiting.get(job_id, ()):
            self.waiting[job_id].remove(told)

    async def settle(self) -> None:
        """All is."""

    def shown(self, record: JobRecord) -> dict[str, Any]:
        return {"id": record.id, "state": record.state.word}

    async def stats(self) -> dict[str, int | float]:
        return {"jobs_new": len(self._rows())}

    async def health(self, *, draining: bool) -> dict[str, Any]:
        return {"verdict": "ok", "problems": []}

    async def job(self, job_id: str) -> dict[str, Any] | None:
        return next((row for row in self._rows() if row["id"] == job_id), None)

    async def jobs(self, query: JobsQuery) -> list[dict[str, Any]]:
        rows = [row for row in self._rows() if query.type in (None, row["type"]) and query.state in (None, State.NEW)]
        seen = next((place for place, row in enumerate(rows, 1) if row["id"] == query.after), 0)
        return rows[seen : seen + query.limit]

    def request_stop(self) -> None:
        self.stop_requested.set()

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"id": job.id or self.ids.of(order), "type": job.type, "state": "new", "data": job.data}
            for record in self.journal.records
            for order, job in enumerate(record.jobs or [], record.first_order)
        ]
