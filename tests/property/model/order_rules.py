"""Jobs that wait for others, and batches, in the model: among all else that happens to jobs, over stops and kills."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from kqs.config import ServerSection
from kqs.errors import CallError
from kqs.rpc import batches
from kqs.wire.steps import finish
from tests.property.model.machine import JOBS, WITHIN_S
from tests.property.model.schedule_rules import SchedulesMachine
from tests.support.oracle_order import Batch
from tests.support.whole import MANY


def _tied(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a job that may be waited for: of which one has to go where too many wait is not known before it is seen."""
    return {**fields, "type": "mail"} if fields["type"] == "latest" else fields


TIED_JOBS = JOBS.map(_tied)
#: a batch is answered before the store has it: whom a key joins its jobs to, a kill may change
UNKEYED_JOBS = TIED_JOBS.map(lambda fields: {n: v for n, v in fields.items() if n not in ("unique", "on_conflict", "answer")})
#: by job of an insert: whether it waits for earlier ones of it, for which other jobs, and whether any end will do
TIES = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 30), max_size=2), st.booleans()), min_size=4, max_size=4)


class OrderMachine(SchedulesMachine):
    """See the module docstring."""

    def others(self) -> list[str]:
        return sorted(job.id for job in self.oracle.jobs.values() if job.type != "latest")

    def tied(self, jobs: list[dict[str, Any]], ties: list[tuple[bool, list[int], bool]]) -> list[dict[str, Any]]:
        """Return the jobs with what they wait for."""
        others = self.others()
        tied: list[dict[str, Any]] = []
        for place, (fields, (is_own, chosen, is_any_end)) in enumerate(zip(jobs, ties, strict=False)):
            ids = {others[at % len(others)] for at in chosen} if others else set()
            after = [*sorted(ids - {fields.get("id")}), *(range(place) if is_own else ())]
            named = ids & {job["id"] for job in jobs if "id" in job}
            if after and not named:  # else they might wait for each other
                fields = {**fields, "after": after} | ({"after_any_end": True} if is_any_end else {})
            tied.append(fields)
        return tied

    @rule(jobs=st.lists(TIED_JOBS, min_size=1, max_size=4), ties=TIES)
    def insert_after(self, jobs: list[dict[str, Any]], ties: list[tuple[bool, list[int], bool]]) -> None:
        self.run(self.inserting_after(self.tied(jobs, ties)))

    async def inserting_after(self, jobs: list[dict[str, Any]]) -> None:
        await self.check(jobs)
        await self.inserting(jobs, is_array=True)

    async def check(self, jobs: list[dict[str, Any]]) -> None:
        """Ask for the jobs that these wait for. Raises: CallError: one is not known."""
        await self.whole.backend.check_order(finish(self.whole.inserter.checking(json.dumps(jobs).encode(), MANY)))

    @rule()
    def insert_after_nobody(self) -> None:
        with pytest.raises(CallError):
            self.run(self.check([{"type": "mail", "after": ["none"]}]))

    @rule(jobs=st.lists(TIED_JOBS, max_size=3), then=UNKEYED_JOBS, is_open=st.booleans())
    def batch(self, jobs: list[dict[str, Any]], then: dict[str, Any], is_open: bool) -> None:
        self.run(self.batching([] if is_open else jobs, then, is_open=is_open))

    async def batching(self, jobs: list[dict[str, Any]], then: dict[str, Any], *, is_open: bool) -> None:
        told: asyncio.Future[Exception | None] = self.loop.create_future()
        try:
            self.keep_batch(jobs, then, told.set_result, is_open=is_open)
        except CallError:
            subscribers = self.oracle.rules.subscribers
            assert self.are_too_many([then, *jobs]) or any(subscribers.get(job["type"]) for job in (then, *jobs))
            return
        async with asyncio.timeout(WITHIN_S):
            assert await told is None
        await self.be_still()

    def keep_batch(
        self,
        jobs: list[dict[str, Any]],
        then: dict[str, Any],
        told: Callable[[Exception | None], None],
        *,
        is_open: bool,
    ) -> None:
        jobs = [fields for fields in jobs if "id" not in fields or fields["id"] != then.get("id")]  # else it is refused
        inserter: Any = self.whole.inserter
        context: Any = SimpleNamespace(inserter=inserter, settings=ServerSection(max_insert_jobs=MANY))
        texts = json.dumps(then).encode(), json.dumps(jobs).encode()
        given = finish(batches._checking(context, batches._array_of(*texts), is_open=is_open))
        first = inserter.keep(given, lambda record, error: told(error)).first_order
        inserter.flush_if_alone()
        job = self.a_job(then, first)
        if self.oracle.seen(job.id) is not None:
            return  # it was made before, or whoever has its id is no batch: nothing is made
        self.oracle.insert(job, batch=Batch(is_open))
        members = [{**fields, "batch": job.id} for fields in jobs]
        taken = [self.take(one, first + place, iter(())) for place, one in enumerate(members, 1)]
        self.tie(members, taken)
        self.oracle.stand([job.id])
        self.oracle.order.complete(self.oracle.jobs)

    def open_batches(self) -> list[str]:
        return sorted(id_ for id_, batch in self.oracle.order.batches.items() if batch.is_open)

    @precondition(lambda self: self.open_batches())
    @rule(jobs=st.lists(TIED_JOBS, min_size=1, max_size=3), at=st.integers(0, 3))
    def insert_members(self, jobs: list[dict[str, Any]], at: int) -> None:
        found = self.open_batches()
        subscribers = self.oracle.rules.subscribers
        members = [one if subscribers.get(one["type"]) else {**one, "batch": found[at % len(found)]} for one in jobs]
        self.run(self.inserting(members, is_array=True))

    @precondition(lambda self: self.oracle.order.batches)
    @rule(at=st.integers(0, 3))
    def close_batch(self, at: int) -> None:
        found = sorted(self.oracle.order.batches)
        self.run(self.closing(found[at % len(found)]))

    async def closing(self, batch_id: str) -> None:
        answer = await self.whole.backend.close_batch(batch_id)
        self.oracle.close_batch(batch_id)
        batch = self.oracle.order.batches[batch_id]
        assert answer == {"id": batch_id, "count": batch.tally(batch_id).count, **batch.ended, "open": False}
        await self.be_still()

    @precondition(lambda self: self.boots < 5 and not self.uri)
    @rule(at=st.integers(0, 12), jobs=st.lists(TIED_JOBS, min_size=2, max_size=4), ties=TIES)
    def die_as_children_are_inserted(
        self, at: int, jobs: list[dict[str, Any]], ties: list[tuple[bool, list[int], bool]]
    ) -> None:
        tied = self.tied(jobs, ties)

        def act() -> Coroutine[Any, Any, None]:
            told: asyncio.Future[Any] = self.loop.create_future()
            self.keep(tied, is_array=True, told=told.set_result)
            return _wait(told)

        if not self.are_too_many(tied):
            self.run(self.dying(at, act))

    @precondition(lambda self: self.boots < 5 and not self.uri)
    @rule(at=st.integers(0, 12), jobs=st.lists(UNKEYED_JOBS, max_size=3), then=UNKEYED_JOBS)
    def die_as_a_batch_is_inserted(self, at: int, jobs: list[dict[str, Any]], then: dict[str, Any]) -> None:
        def act() -> Coroutine[Any, Any, None]:
            told: asyncio.Future[Any] = self.loop.create_future()
            self.keep_batch(jobs, then, told.set_result, is_open=False)
            return _wait(told)

        subscribers = self.oracle.rules.subscribers
        if not self.are_too_many([then, *jobs]) and not any(subscribers.get(job["type"]) for job in (then, *jobs)):
            self.run(self.dying(at, act))

    async def lift_all(self) -> None:
        await super().lift_all()
        for batch_id in self.open_batches():
            await self.closing(batch_id)


async def _wait(told: asyncio.Future[Any]) -> None:
    await told
