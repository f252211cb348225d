"""A server's backend in memory: a journal that flushes when it is told to, and jobs that never run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kqs.errors import CallError, JournalError, JournalFailedError
from kqs.filter import Filter
from kqs.ids import Ids
from kqs.inserter import Found, Inserter, Question
from kqs.job import JobRecord, Returned
from kqs.journal.format import Record
from kqs.outcome import Outcome
from kqs.queue.changes import Done
from kqs.queue.ends import Told
from kqs.remote.tokens import Named
from kqs.rpc.parameters import JobsQuery, TypesQuery
from kqs.states import State
from kqs.store.base import Verb
from kqs.store.ticks import Plan
from tests.support.clock import FakeClock


class MemoryJournal:
    """`append` schedules a flush for the next tick unless `held`; then `flush` does it. `failure` is what goes wrong."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.held = False
        self.failure: JournalError | None = None
        self._open: list[Record] = []
        self._refusals: list[JournalError] = []

    @property
    def waiting_count(self) -> int:
        """Return how many records were appended and are not flushed."""
        return len(self._open)

    def refuse_next(self, error: JournalError) -> None:
        """Refuse the next record that is appended, and no other."""
        self._refusals.append(error)

    def append(self, record: Record) -> None:
        if self._refusals:
            raise self._refusals.pop()
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
            if record.done is not None:
                record.done(self.failure)


class MemoryVerdicts:
    """Says what `found` does of all that is flushed, at once unless `held`; then `decide` says it. refusal: of any question."""

    def __init__(self) -> None:
        self.held = False
        self.refusal: Exception | None = None
        self.found: Callable[[int], Found] = lambda order: Found(frozenset(), {})
        self.asked: list[Question] = []
        self.flushed_first: list[Question] = []

    def check_room(self, count: int) -> None:
        if self.refusal is not None:
            raise self.refusal

    def ask(self, question: Question) -> None:
        self.asked.append(question)

    def flushed(self, question: Question) -> None:
        self.flushed_first.append(question)
        if not self.held:
            self.decide()

    def withdraw(self, question: Question) -> None:
        self.asked.remove(question)

    def decide(self) -> None:
        for question in self.flushed_first:
            self.asked.remove(question)
            founds = [self.found(order) for order in sorted(question.left)]
            known = frozenset(order for one in founds for order in one.known)
            question.told(Found(known, {order: id_ for one in founds for order, id_ in one.joined.items()}))
        self.flushed_first.clear()


class MemoryBackend:
    """Satisfies kqs.rpc.backend.Backend. It has neither batches nor schedules."""

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self.ids = Ids("0000cafe")
        self.journal = MemoryJournal()
        self.verdicts = MemoryVerdicts()
        self.inserter = Inserter(self.journal, self.ids, now or FakeClock().now, self.verdicts)
        self.stop_requested = asyncio.Event()
        self.desk: Any = None  # set by whoever has a queue
        self.has_waits = False
        self.events: Any = None  # as desk
        self.waits_s: dict[str, float] = {}
        self.waiting: dict[str, list[Told]] = {}
        self.ended: set[tuple[str, type[Outcome | Returned | None]]] = set()
        self.suspended: set[str] = set()
        self.limits: dict[str, Mapping[str, Any] | None] = {}
        self.changes: list[tuple[Verb, Filter, bool, bool]] = []
        self.done = Done()

    async def report_unwatched(self, named: Named, end: Outcome | Returned | None) -> bool:
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

    def seen(self, job_id: str, told: Told) -> None:
        """No other server deletes any."""

    def search(self, job_ids: Sequence[str]) -> None:
        """None has ended before."""

    async def settle(self) -> None:
        """All is."""

    def shown(self, record: JobRecord) -> dict[str, Any]:
        return {"id": record.id, "state": record.state.word}

    async def stats(self) -> dict[str, int | float]:
        return {"jobs_new": len(self._rows())}

    async def health(self, *, draining: bool) -> dict[str, Any]:
        return {"verdict": "ok", "problems": []}

    async def subscribe(self, type_: str, subscriber: str) -> dict[str, Any]:
        return {"type": type_, "subscriber": subscriber, "subscribed": True, "changed": True}

    async def unsubscribe(self, type_: str, subscriber: str) -> dict[str, Any]:
        return {"type": type_, "subscriber": subscriber, "subscribed": False, "changed": True}

    async def suspend(self, type_: str) -> dict[str, Any]:
        changed = type_ not in self.suspended
        self.suspended.add(type_)
        return {"type": type_, "suspended": True, "changed": changed}

    async def resume(self, type_: str) -> dict[str, Any]:
        changed = type_ in self.suspended
        self.suspended.discard(type_)
        return {"type": type_, "suspended": False, "changed": changed}

    async def limit(self, type_: str, named: Mapping[str, Any] | None) -> dict[str, Any]:
        changed = self.limits.get(type_) != named
        self.limits[type_] = named
        return {"type": type_, "limits": named or {}, "changed": changed}

    async def configure(self, type_: str | None, named: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"type": type_, "options": named or {}, "by_call": named or {}, "changed": True}

    async def job(self, job_id: str) -> dict[str, Any] | None:
        return next((row for row in self._rows() if row["id"] == job_id), None)

    async def explain(self, job_id: str) -> dict[str, Any] | None:
        row = await self.job(job_id)
        return None if row is None else {"text": "It waits.", "id": job_id}

    async def types(self, query: TypesQuery) -> list[dict[str, Any]]:
        names = sorted({row["type"] for row in self._rows()})
        return [{"type": name} for name in names if name > (query.after or "")][: query.limit]

    async def workers(self) -> list[dict[str, Any]]:
        return []

    async def jobs(self, query: JobsQuery) -> tuple[list[dict[str, Any]], int | None]:
        states = query.state or {State.NEW}
        rows = [row for row in self._rows() if query.type in (None, row["type"]) and State.NEW in states]
        seen = next((place for place, row in enumerate(rows, 1) if row["id"] == query.after), 0)
        return rows[seen : seen + query.limit], None

    async def change(
        self,
        verb: Verb,
        wanted: Filter,
        *,
        is_forced: bool = False,
        is_dry: bool = False,
        on_slice: Callable[[Done], None] | None = None,
    ) -> Done:
        self.changes.append((verb, wanted, is_forced, is_dry))
        if on_slice is not None:
            for _ in range(2):
                on_slice(self.done)
        return self.done

    async def close_batch(self, batch_id: str) -> dict[str, Any] | None:
        """There is none."""
        return None

    async def put_schedule(self, name: str, plan: Plan) -> dict[str, Any]:
        raise _no_schedule(name)

    async def remove_schedule(self, name: str, *, is_forced: bool) -> dict[str, Any]:
        raise _no_schedule(name)

    async def suspend_schedule(self, name: str) -> dict[str, Any]:
        raise _no_schedule(name)

    async def resume_schedule(self, name: str) -> dict[str, Any]:
        raise _no_schedule(name)

    async def fire(self, name: str) -> str:
        raise _no_schedule(name)

    async def schedule_names(self) -> list[str]:
        return []

    async def schedules(self, names: list[str], next_count: int) -> list[dict[str, Any]]:
        return []

    def request_stop(self) -> None:
        self.stop_requested.set()

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"id": job.id or self.ids.of(order), "type": job.type, "state": "new", "data": job.data}
            for record in self.journal.records
            for order, job in enumerate(record.jobs or [], record.first_order)
        ]


def _no_schedule(name: str) -> CallError:
    return CallError(f"no schedule has the name {name!r}", "not_found")
