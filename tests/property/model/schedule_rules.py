"""Schedules in the model: given, taken back, suspended, fired, and ticking as time passes, over stops and kills."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from kqs.errors import CallError
from kqs.schedules.plans import checked_plan
from kqs.states import State
from kqs.store.ticks import tick_of
from tests.property.model.machine import TICK
from tests.property.model.settings_rules import SettingsMachine
from tests.support.oracle_schedules import Ticking

NAMES = st.sampled_from(["often", "seldom"])
PLANS = st.sampled_from([(5.0, "one"), (5.0, "skip"), (20.0, "all")])
TICK_JOB = {"type": TICK, "keep": 5.01}


class SchedulesMachine(SettingsMachine):
    """See the module docstring. On SQLite alone: servers that share a store look for each other's schedules by real seconds."""

    def __init__(self) -> None:
        self.ticking: dict[str, Ticking] = {}
        super().__init__()

    @precondition(lambda self: not self.uri)
    @rule(name=NAMES, plan=PLANS)
    def schedule(self, name: str, plan: tuple[float, str]) -> None:
        self.run(self.scheduling(name, *plan))

    async def scheduling(self, name: str, every: float, catch_up: Any) -> None:
        plan = checked_plan(name, json.dumps(TICK_JOB), None, every, None, "UTC", catch_up, "allow")
        shown = await self.whole.backend.put_schedule(name, plan)
        old, now = self.ticking.get(name), self.clock.now()
        if old is None or (old.every, old.catch_up) != (every, catch_up):
            was_suspended, missed = (False, 0) if old is None else (old.is_suspended, old.missed)
            self.ticking[name] = Ticking(name, every, catch_up, now, now, was_suspended, missed)
        assert shown["created_at"] == self.ticking[name].created_at
        await self.be_still()

    @precondition(lambda self: not self.uri)
    @rule(name=NAMES)
    def unschedule(self, name: str) -> None:
        self.run(self.calling(name, self.whole.backend.remove_schedule(name, is_forced=False)))
        self.ticking.pop(name, None)

    @precondition(lambda self: not self.uri)
    @rule(name=NAMES, goes_on=st.booleans())
    def suspend_schedule(self, name: str, goes_on: bool) -> None:
        backend = self.whole.backend
        answer = self.run(self.calling(name, (backend.resume_schedule if goes_on else backend.suspend_schedule)(name)))
        if answer is not None:
            ticking = self.ticking[name]
            assert answer["changed"] == (ticking.is_suspended is goes_on)
            if goes_on and ticking.is_suspended:
                ticking.resume(self.clock.now())
            ticking.is_suspended = not goes_on

    async def calling(self, name: str, call: Coroutine[Any, Any, Any]) -> Any:
        """Ask something of a schedule, which is known just where it must be."""
        try:
            answer = await call
        except CallError:
            assert name not in self.ticking
            return None
        assert name in self.ticking
        return answer

    @precondition(lambda self: not self.uri)
    @rule(name=NAMES)
    def fire(self, name: str) -> None:
        self.run(self.firing(name))

    async def firing(self, name: str) -> None:
        answer = asyncio.ensure_future(self.calling(name, self.whole.backend.fire(name)))
        order = self.whole.feeding.ids.last_order
        while not answer.done() and self.whole.feeding.ids.last_order == order:  # noqa: ASYNC110 - either may come first
            await asyncio.sleep(0)
        if name in self.ticking:
            fired = self.a_job(TICK_JOB, self.whole.feeding.ids.last_order)
            self.oracle.insert(fired)
            assert await answer == fired.id
        await answer
        await self.be_still()

    def time_has_passed(self) -> None:
        super().time_has_passed()
        now = self.clock.now()
        for ticking in self.ticking.values():
            for at in ticking.ticks(now):
                self.oracle.insert(self.a_job({**TICK_JOB, "id": tick_of(ticking.name, at)}, round(now * 1e6)))

    @precondition(lambda self: not self.uri)
    @rule(is_jump=st.booleans())
    def wait_long(self, is_jump: bool) -> None:
        """Let so much time pass that some ticks come too late."""
        self.run(self.waiting(131.0, is_jump=is_jump))

    @precondition(lambda self: self.boots < 5 and self.ticking)
    @rule(at=st.integers(0, 12), wait_s=st.sampled_from([5.0, 20.0, 131.0]))
    def die_as_schedules_tick(self, at: int, wait_s: float) -> None:
        """Be killed as ticks that must be there come: they are, and once."""
        self.clock.jump(wait_s)
        self.time_has_passed()
        self.oracle.pass_to(self.clock.now())
        wanted = [job.id for job in self.oracle.jobs.values() if job.type == TICK and job.state is State.NEW]

        async def pass_time() -> None:
            await self.whole.pass_time()
            async with asyncio.timeout(8):
                while not {record.id for record in await self.whole.records()}.issuperset(wanted):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0)

        self.run(self.dying(at, pass_time))

    async def lift_all(self) -> None:
        for name in list(self.ticking):
            await self.whole.backend.remove_schedule(name, is_forced=False)
            del self.ticking[name]
        await super().lift_all()

    async def faults(self) -> list[str]:
        found = await super().faults()
        if not found and self.ticking:
            shown = await self.whole.backend.schedules(sorted(self.ticking), 0)
            told = {one["name"]: one["missed"] for one in shown}
            if told != (expected := {name: ticking.missed for name, ticking in self.ticking.items()}):
                return [f"missed are {told}, expected {expected}"]
        return found
