"""Short runs of limited types, which are claimed ahead of their slots, in a real worker: whatever owners do meanwhile.

Never more at once than may, none lost, none stuck, none run twice but by a kill. Longer: `make model STEPS=100000`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from kqs.config import TakingSection, WorkerSection
from kqs.executor import Executor
from kqs.filter import Filter
from kqs.handlers import Registry
from kqs.job import JobRecord
from kqs.options import Cascade
from kqs.outcome import Ok
from kqs.queue import gate
from kqs.queue.gate import STUCK_S
from kqs.remote import OpenRun, Order
from kqs.states import ENDED, State
from kqs.store.base import Verb
from kqs.worker import Worker
from tests.support.clock import FakeClock
from tests.support.machines import played
from tests.support.turning import run_within
from tests.support.whole import Whole

#: how long nothing may change of what must happen by itself, in s
WITHIN_S = 8.0
#: how much later it is after each turn of the loop, in s
TURN_S = 0.0001
#: `instant` ends in the step in which it begins, `brisk` some turns of the loop later, `slow` when it is let go, as does one
#: `brisk` run in ten
TYPES = ("instant", "brisk", "slow")
IN_A_GROUP = 2
#: after so many runs is looked how many may be claimed ahead: sooner than it is otherwise
TUNE_EVERY = 5
TAKING = {"brisk": TakingSection(group_max_running=IN_A_GROUP)}
NAMES = st.sampled_from(["max_running", "max_running", "concurrency"])
LIMITS = st.sampled_from([0, 1, 1, 1, 2, 2, 3, 8, None])
LIFTED: dict[str, float | None] = {"concurrency": None, "rate": None}
COUNTS = st.sampled_from([1, 2, 5, 20, 40, 60])
LANES = st.sampled_from([1, 4, 10, 10])
SOME = st.sampled_from(TYPES)
JOBS = st.fixed_dictionaries(
    {"type": SOME, "group": st.sampled_from([None, None, "g"]), "resource": st.sampled_from([None, None, None, None, "r"])}
)


class Group(NamedTuple):
    name: str


@dataclass
class Said:
    """What owners have said.

    over: the numbers of jobs that may not begin any more; gone: of those whose records are not there.
    """

    limits: dict[str, dict[str, float | None]] = field(default_factory=dict)
    suspended: set[str] = field(default_factory=set)
    over: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)

    def most(self, type_: str) -> float | None:
        limits = self.limits.get(type_, {})
        return min([most for name in ("max_running", "concurrency") if (most := limits.get(name)) is not None], default=None)

    def holds(self, type_: str) -> bool:
        return type_ in self.suspended or self.most(type_) == 0


class Boot:
    """A node with a worker, to its stop or kill."""

    def __init__(self, folder: Path, clock: FakeClock, said: Said) -> None:
        self.clock = clock
        self.said = said
        self.begun: Counter[int] = Counter()
        self.running: Counter[str | Group] = Counter()
        self.faults: list[str] = []
        self.given: list[OpenRun] = []
        self.order: Order | None = None
        self.whole = Whole(folder, clock, Cascade({"ghost_delay": 0.0}, {}))
        self.whole.taking = TAKING
        self._registry = Registry()
        for type_, function in {"instant": self.instant, "brisk": self.brisk, "slow": self.slow}.items():
            self._registry.add(type_, function)

    async def start(self, lanes: int) -> None:
        self.go_on = asyncio.Event()
        await self.whole.start()
        supervisor, queue = self.whole.rig.supervisor, self.whole.rig.queue
        self.worker = Worker(
            queue.runs, self._registry, Executor(lanes, supervisor), WorkerSection(concurrency=lanes), "test", supervisor
        )
        await self.worker.start()

    async def stop(self) -> None:
        self.go_on.set()
        self.whole.desk.drain()
        self.end_given()
        await self.worker.stop()
        await self.whole.stop()
        assert not self.whole.rig.supervisor.faults
        assert not self.faults, self.faults

    async def instant(self, data: list[Any]) -> None:
        self.begin("instant", data)
        self.leave("instant", data)

    async def brisk(self, data: list[Any]) -> None:
        self.begin("brisk", data)
        try:
            for _ in range(data[0] % 3):
                await asyncio.sleep(0)
            if data[0] % 10 == 9:
                await self.go_on.wait()
        finally:
            self.leave("brisk", data)

    async def slow(self, data: list[Any]) -> None:
        self.begin("slow", data)
        try:
            await self.go_on.wait()
        finally:
            self.leave("slow", data)

    def begin(self, type_: str, data: list[Any]) -> None:
        number, group = data
        self.begun[number] += 1
        most, is_in_group = self.said.most(type_), group is not None and type_ in TAKING
        table = {
            f"{self.running[type_]} of its type run, {self.said.limits.get(type_)}": most is not None
            and self.running[type_] >= most,
            "its type is suspended": type_ in self.said.suspended,
            "it is over": number in self.said.over,
            "for the second time": self.begun[number] > 1,
            "too many of its group run": is_in_group and self.running[Group(group)] >= IN_A_GROUP,
        }
        self.faults += [f"{number} of {type_} begins: {why}" for why, is_so in table.items() if is_so]
        self.running[type_] += 1
        if type_ in TAKING:
            self.running[Group(group)] += 1

    def leave(self, type_: str, data: list[Any]) -> None:
        self.running[type_] -= 1
        if type_ in TAKING:
            self.running[Group(data[1])] -= 1

    def ask(self, type_: str, room: int) -> None:
        def given(runs: list[OpenRun]) -> None:
            self.given += runs
            for run in runs:
                self.begin(run.run.type, json.loads(run.run.data))

        party = self.whole.desk.party()
        self.order = party.order(frozenset([type_]), room, "peer", given, lambda: None, lambda run: None, held=False)

    def end_given(self) -> None:
        given, self.given = self.given, []
        for run in given:
            self.leave(run.run.type, json.loads(run.run.data))
            self.whole.desk.report(run, Ok(), lambda ok: None)

    async def turn(self, count: int = 1, turn_s: float = TURN_S) -> None:
        """Let the loop turn, and what waits too long go back."""
        for _ in range(count):
            self.clock.advance(turn_s)
            anteroom: Any = self.whole.rig.queue.runs._anteroom
            if (timer := anteroom._timer) is not None and any(
                one.until <= self.clock.monotonic() for waiting in anteroom._waiting.values() for one in waiting
            ):
                timer.cancel()
                anteroom._check()
            self.whole.rig.queue.limiting.rates.look_again()
            await asyncio.sleep(0)

    async def until(self, is_so: Callable[[], Any]) -> None:
        """Let the loop turn until there is no fault; no time passes, but where something waits for that."""
        is_due = any(self.said.holds(type_) or self.said.limits.get(type_, {}).get("rate") for type_ in TYPES)
        until, before = time.monotonic() + WITHIN_S, ""
        while fault := await is_so():
            assert not self.faults, self.faults
            assert time.monotonic() < until or fault != before, fault
            if fault != before:
                until, before = time.monotonic() + WITHIN_S, fault
            await self.turn(20, TURN_S if is_due else 0.0)

    async def see_what_is_over(self) -> None:
        self.said.over |= numbers_of(record for record in await self.whole.records() if record.state in ENDED)


def numbers_of(records: Iterable[JobRecord]) -> set[int]:
    return {json.loads(record.data or b"")[0] for record in records}


class ShortRunsMachine(RuleBasedStateMachine):
    """See the module docstring."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="kqs-short-"))
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.types: list[str] = []  # of the jobs, by their numbers
        self.said = Said()
        self.boots = 1
        self.boot = Boot(self.folder / "boot1", self.clock, self.said)
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr(gate, "TUNE_EVERY", TUNE_EVERY)
        self.run(self.boot.start(10))
        for type_ in TYPES:
            self.run(self.limiting(type_, {"max_running": 2}))

    def run(self, steps: Any) -> Any:
        answer = run_within(self.loop, steps, 300)
        assert not self.boot.faults, self.boot.faults
        assert not self.boot.whole.rig.supervisor.faults
        return answer

    @rule(jobs=JOBS, count=COUNTS, has_ids=st.booleans(), turns=st.integers(0, 9))
    def insert(self, jobs: dict[str, Any], count: int, has_ids: bool, turns: int) -> None:
        self.run(self.inserting(self.jobs(jobs, count, has_ids=has_ids), turns, self.loop.create_future()))

    def jobs(self, fields: dict[str, Any], count: int, *, has_ids: bool) -> list[dict[str, Any]]:
        first = len(self.types)
        self.types += [fields["type"]] * count
        return [
            {**fields, "data": [number, fields["group"]], "id": f"own{number}" if has_ids else None}
            for number in range(first, first + count)
        ]

    async def inserting(self, jobs: list[dict[str, Any]], turns: int, told: asyncio.Future[Any]) -> None:
        self.boot.whole.insert(json.dumps(jobs).encode(), told.set_result)
        assert not isinstance(await told, Exception)
        await self.boot.turn(turns)

    @rule(turns=st.integers(1, 40))
    def pass_turns(self, turns: int) -> None:
        self.run(self.boot.turn(turns))

    @rule()
    def wait(self) -> None:
        """Let so much time pass that what waits for a slot goes back."""
        self.run(self.boot.turn(2, STUCK_S))

    @rule()
    def let_go(self) -> None:
        """Let those end that run now, and what begins meanwhile."""
        self.run(self.letting_go())

    async def letting_go(self) -> None:
        self.boot.go_on.set()
        await self.boot.turn(10)
        self.boot.go_on.clear()

    @rule(type_=SOME, most=st.integers(1, 3), turns=st.integers(1, 5), goes_back=st.booleans())
    def get_stuck(self, type_: str, most: int, turns: int, goes_back: bool) -> None:
        """Let short runs pass, and then have long ones before what is claimed ahead."""
        self.run(self.getting_stuck(type_, most, turns, goes_back=goes_back))

    async def getting_stuck(self, type_: str, most: int, turns: int, *, goes_back: bool) -> None:
        await self.suspending(type_, goes_on=True)
        await self.limiting(type_, {**LIFTED, "max_running": most})
        for count in (3 * TUNE_EVERY, 10):
            await self.letting_go()
            jobs = self.jobs({"type": type_, "group": None}, count, has_ids=False)
            await self.inserting(jobs, turns, self.loop.create_future())
        if goes_back:
            await self.boot.turn(2, STUCK_S)

    @rule(type_=SOME, name=NAMES, most=LIMITS)
    def limit(self, type_: str, name: str, most: int | None) -> None:
        self.run(self.limiting(type_, {name: most}))

    @rule(type_=SOME, rate=st.sampled_from([2000.0, None]))
    def limit_rate(self, type_: str, rate: float | None) -> None:
        self.run(self.limiting(type_, {"rate": rate}))

    @rule(type_=SOME)
    def lift(self, type_: str) -> None:
        self.run(self.limiting(type_, None))

    async def limiting(self, type_: str, said: dict[str, float | None] | None) -> None:
        limits, before = self.said.limits, self.said.limits.get(type_, {})
        after = {} if said is None else {**before, **said}
        limits[type_] = {}  # either may hold meanwhile
        await self.boot.whole.backend.limit(type_, said)
        limits[type_] = after

    @rule(type_=SOME, goes_on=st.sampled_from([True, True, False]))
    def suspend(self, type_: str, goes_on: bool) -> None:
        self.run(self.suspending(type_, goes_on=goes_on))

    async def suspending(self, type_: str, *, goes_on: bool) -> None:
        if goes_on:
            self.said.suspended.discard(type_)
            await self.boot.whole.backend.resume(type_)
        else:
            await self.boot.whole.backend.suspend(type_)
            self.said.suspended.add(type_)

    @rule(type_=SOME, verb=st.sampled_from([Verb.CANCEL, Verb.DELETE]), is_forced=st.booleans())
    def change(self, type_: str, verb: Verb, is_forced: bool) -> None:
        self.run(self.changing(type_, verb, is_forced=is_forced and verb is Verb.DELETE))

    async def changing(self, type_: str, verb: Verb, *, is_forced: bool) -> None:
        known = {number for number, its_type in enumerate(self.types) if its_type == type_}
        await self.boot.whole.backend.change(verb, Filter(type=type_), is_forced=is_forced)
        self.said.gone |= known - numbers_of(await self.boot.whole.records())
        self.said.over |= known if verb is Verb.CANCEL or is_forced else self.said.gone
        await self.boot.see_what_is_over()

    @rule(type_=SOME, room=st.integers(1, 3), is_once=st.sampled_from([True, True, False]))
    def ask(self, type_: str, room: int, is_once: bool) -> None:
        """Take jobs elsewhere: of what is taken there too, nothing is claimed ahead."""
        self.run(self.asking(type_, room, is_once=is_once))

    async def asking(self, type_: str, room: int, *, is_once: bool) -> None:
        if self.boot.order is None:
            self.boot.ask(type_, room)
        await self.boot.turn(5)
        if is_once:
            await self.ending_elsewhere(is_withdrawn=True)

    @rule(is_withdrawn=st.sampled_from([True, True, False]))
    def end_elsewhere(self, is_withdrawn: bool) -> None:
        self.run(self.ending_elsewhere(is_withdrawn=is_withdrawn))

    async def ending_elsewhere(self, *, is_withdrawn: bool) -> None:
        if self.boot.order is not None and is_withdrawn:
            self.boot.order.withdraw()
            self.boot.order = None
        self.boot.end_given()
        await self.boot.turn(2)

    @precondition(lambda self: self.boots < 4)
    @rule(lanes=LANES)
    def restart(self, lanes: int) -> None:
        self.run(self.restarting(lanes))

    async def restarting(self, lanes: int) -> None:
        await self.boot.stop()
        shutil.copytree(self.boot.whole.folder, self.next_folder)
        await self.boot_again(lanes)

    @precondition(lambda self: self.boots < 4)
    @rule(at=st.integers(1, 12), jobs=JOBS, count=COUNTS, lanes=LANES)
    def die(self, at: int, jobs: dict[str, Any], count: int, lanes: int) -> None:
        """Be killed at that step of the store as jobs are inserted and run, or when they are there."""
        self.run(self.dying(at, self.jobs(jobs, count, has_ids=False), lanes))

    async def dying(self, at: int, jobs: list[dict[str, Any]], lanes: int) -> None:
        old, folder, steps = self.boot, self.next_folder, 0
        told: asyncio.Future[Any] = self.loop.create_future()
        were_kept = False

        def on_step() -> None:
            nonlocal steps, were_kept
            steps += 1
            if steps == at:
                were_kept = told.done()
                old.whole.image(folder)

        old.whole.on_step = on_step
        await self.inserting(jobs, 20, told)
        if not folder.exists():
            old.whole.on_step = lambda: None
            async with old.whole._mutex:
                were_kept = True
                old.whole.image(folder)
        await old.stop()
        await self.boot_again(lanes)
        await self.boot.turn(5)
        new = {job["data"][0] for job in jobs}
        await self.boot.whole.be_still()
        if not (were_kept or new & numbers_of(await self.boot.whole.records())):
            self.said.gone |= new

    @property
    def next_folder(self) -> Path:
        return self.folder / f"boot{self.boots + 1}"

    async def boot_again(self, lanes: int) -> None:
        folder = self.next_folder
        self.boots += 1
        self.boot = Boot(folder, self.clock, self.said)
        await self.boot.start(lanes)

    @rule()
    def be_still(self) -> None:
        self.run(self.being_still())

    async def being_still(self) -> None:
        """See all end that may, and that nothing is kept of what does not run."""
        boot = self.boot
        boot.go_on.set()

        async def fault() -> str:
            boot.end_given()
            records = await boot.whole.records()
            if lost := set(range(len(self.types))) - numbers_of(records) - self.said.gone:
                return f"{lost} are lost"
            left = [record for record in records if record.state not in ENDED]
            held_up = {record.resource for record in left if self.said.holds(record.type)} - {None}
            left = [
                record
                for record in left
                if record.state is State.PROCESSING or not (self.said.holds(record.type) or record.resource in held_up)
            ]
            return f"{len(left)} do not end: {left[:3]}" if left else self.kept()

        await boot.until(fault)
        boot.go_on.clear()
        await boot.see_what_is_over()

    def kept(self) -> str:
        queue, worker = self.boot.whole.rig.queue, self.boot.worker
        anteroom: Any = queue.runs._anteroom
        table = {
            "running": queue.runs.count,
            "in lanes": +self.boot.running,
            "waiting for slots": {type_: len(waiting) for type_, waiting in anteroom._waiting.items()},
            "places": {type_: gate.places for type_, gate in queue.admission.limits.gates.items() if gate.places},
            "slots": {type_: gate.slots for type_, gate in queue.admission.limits.gates.items() if gate.slots},
            "awaited": [type_ for type_, gate in queue.admission.limits.gates.items() if gate.is_awaited],
            "room": worker._consumer._room - worker.lanes_count - worker._ahead.count,
        }
        found = {name: value for name, value in table.items() if value}
        return f"kept: {found}" if found else ""

    def teardown(self) -> None:
        try:
            for type_ in TYPES:
                self.run(self.suspending(type_, goes_on=True))
                self.run(self.limiting(type_, {**LIFTED, "max_running": 2}))
            self.run(self.being_still())
        finally:
            self.loop.run_until_complete(self.boot.stop())
            self.loop.close()
            self.patches.undo()
            shutil.rmtree(self.folder, ignore_errors=True)


TestShortRuns = ShortRunsMachine.TestCase
TestShortRuns.settings = played(600, 25)
