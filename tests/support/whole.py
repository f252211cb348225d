"""A whole node without a socket: journal, feeder, store, broker, queue, desk and backend, on a clock that the test owns.

Before and after each call of the store an image may be taken of what a kill would leave.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from kqs.backend import ServerBackend
from kqs.config import StoreSection, TakingSection
from kqs.errors import CallError
from kqs.inserter import Answer, Inserter
from kqs.job import JobRecord, Run
from kqs.options import Cascade
from kqs.queue.alarm import Alarm
from kqs.queue.consumer import Consumer
from kqs.queue.leases import Lease
from kqs.remote import Desk
from kqs.schedules.schedules import Schedules
from kqs.store.mongo import MongoStore
from kqs.wire.steps import finish
from tests.support.clock import FakeClock
from tests.support.feeding import Feeding, caught_up
from tests.support.jobs import listed
from tests.support.parts import parts_of
from tests.support.queueing import Rig

CHANGING = ["insert", "claim", "report", "save", "sync", "change", "suspend", "resume", "adopt", "take", "wake", "expire"]
CHANGING += ["call_on", "reschedule", "sweep", "trim_successes"]
CHANGING += ["first_in_line"]  # whoever asks for that is about to
MANY = 100_000
IMAGE_TRIES = 10


class MongoRig(Rig):
    """A rig over a database of its own."""

    def __init__(self, folder: Path, uri: str) -> None:
        super().__init__(folder)
        self._uri = uri
        self.seek_looks = 1

    def a_store(self) -> Any:
        return MongoStore(StoreSection(uri=self._uri), self.clock, self.supervisor, "")


class Lane:
    """A worker in the server, which may take a run for as long as the test likes. begun: told of its runs."""

    def __init__(self, whole: Whole, room: int, types: frozenset[str], begun: Callable[[Lane, Run, Lease], None]) -> None:
        self._queue = whole.rig.queue
        self._begun = begun
        self.size = room
        self.lost: list[Lease] = []
        self.consumer = Consumer("lane", types, room, self._deliver)
        self._queue.runs.add_consumer(self.consumer)

    def _deliver(self, runs: list[Run]) -> None:
        assert self.consumer.room >= 0, "more runs than room"
        for run in runs:
            if self._queue.runs.may_begin(run):
                self._begun(self, run, self._queue.runs.begin(run, self._lost))
            else:
                self.consumer.free()

    def _lost(self, lease: Lease) -> None:
        self.lost.append(lease)
        self._queue.runs.left(lease)
        self.consumer.free()


class Whole:
    """One boot in a folder. See the module docstring."""

    def __init__(self, folder: Path, clock: FakeClock, cascade: Cascade, uri: str = "") -> None:
        """Args: uri: of a MongoDB database, in which the store is then."""
        self.folder = folder
        self.clock = clock
        self._cascade = cascade
        self._uri = uri
        self.on_step: Callable[[], None] = lambda: None
        self.taking: dict[str, TakingSection] = {}
        self._asked = 0  # how often the store was to change something
        self._mutex: asyncio.Lock

    async def start(self) -> None:
        """Start it, where the last boot has left it."""
        self._mutex = asyncio.Lock()
        self.folder.mkdir(exist_ok=True, parents=True)
        self.rig = MongoRig(self.folder, self._uri) if self._uri else Rig(self.folder)
        self.rig.clock, self.rig.cascade, self.rig.replayable_order = self.clock, self._cascade, 0
        self.rig.taking = self.taking
        await self.rig.start()
        for name in CHANGING:
            setattr(self.rig.store, name, self._watched(getattr(self.rig.store, name)))
        self.feeding = Feeding(self.rig, self.folder)
        info = self.rig.info
        self.feeder = await self.feeding.start(info.fed_seq, info.last_order)
        queue, journal = self.rig.queue, self.feeding.journal
        queue.bounds.first_order = self.feeding.ids.last_order + 1
        self.inserter = Inserter(journal, self.feeding.ids, self.clock.now, queue.asked, queue.bounds, queue.subscriptions.of)
        self.desk = Desk(queue, 0.0, self.rig.supervisor)
        self.desk.start(info.store_id)
        supervisor, catch_up = self.rig.supervisor, self.feeder.catch_up
        self.schedules = Schedules({}, self.rig.store, self.inserter, self.clock, supervisor, catch_up)
        await self.schedules.start()
        parts = parts_of(
            queue, journal=journal, feeder=self.feeder, desk=self.desk, inserter=self.inserter, schedules=self.schedules
        )
        self.backend = ServerBackend(parts)
        self.lanes: list[Lane] = []

    def lane(self, room: int, types: frozenset[str], begun: Callable[[Lane, Run, Lease], None]) -> Lane:
        self.lanes.append(Lane(self, room, types, begun))
        return self.lanes[-1]

    async def stop(self) -> None:
        """Stop it in good order; nothing may run in lanes by then."""
        await self.let_none_begin()
        await self.schedules.stop()
        await self.desk.stop()
        await self.feeding.stop()
        await self.rig.stop()
        assert not self.feeding.faults, self.feeding.faults

    async def let_none_begin(self) -> None:
        """Give nobody any more runs, as a stop begins."""
        self.desk.drain()
        lanes, self.lanes = self.lanes, []
        for lane in lanes:
            await self.rig.queue.runs.remove_consumer(lane.consumer)

    def insert(self, text: bytes, told: Callable[[list[Answer] | Exception], None]) -> int:
        """Keep jobs; return the order of the first. told: their answers."""
        given = finish(self.inserter.checking(text, MANY))
        order = self.inserter.keep_told(given, told).first_order
        self.inserter.flush_if_alone()
        return order

    async def records(self) -> list[JobRecord]:
        """Return what the store has."""
        return await listed(self.rig.store)

    async def called(self) -> set[int]:
        """Return the orders of the jobs whose turn it is to have their resource: whoever was called keeps that."""
        store: Any = self.rig.store
        if self._uri:
            found = await store._there.session.jobs.find({"called": {"$gt": ""}}, ["order"]).to_list(None)
            return {one["order"] for one in found}
        called: set[int] = await store._runner.call(lambda session: set(session.locks._called_for))
        return called

    async def pass_time(self) -> None:
        """Have all looked at that comes with time."""
        self.rig.queue.runs.look_again()
        for alarm in self._alarms:
            alarm._changed.set()
        self.rig.queue.limiting.rates.look_again()
        self.schedules.ticker.wake()
        await asyncio.sleep(0)

    @property
    def _alarms(self) -> tuple[Alarm, ...]:
        timetable = self.rig.queue._timetable
        return timetable._due, timetable._expiring, timetable._uncalled

    async def be_still(self) -> None:
        """Let everything happen that is about to: until a look at all of it finds that the store was not asked for a change."""
        asked = -1
        while asked != self._asked:
            asked = self._asked
            await self._look_at_all()

    async def _look_at_all(self) -> None:
        await caught_up(self.feeder)
        await self.rig.queue.settle()
        while any(alarm._at <= self.clock.now() for alarm in self._alarms) or self._mutex.locked():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)
        self.rig.replayable_order = self.feeder.checkpointed_order
        for _ in range(3):
            await self.rig.store.counts()  # by way of the store's thread
            await asyncio.sleep(0)

    def image(self, folder: Path) -> None:
        """Copy what a kill would leave now; from `on_step`, or while the store does nothing.

        The journal's thread may be renaming a file as it is copied: then there is another instant to take.
        """
        for left in reversed(range(IMAGE_TRIES)):
            try:
                shutil.copytree(self.folder, folder)
            except (shutil.Error, FileNotFoundError):
                shutil.rmtree(folder)
                if not left:
                    raise
            else:
                return

    def _watched(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def watched(*args: Any, **named: Any) -> Any:
            self._asked += 1
            async with self._mutex:
                self.on_step()
                answer = await call(*args, **named)
                self.on_step()
                return answer

        return watched


async def code_of(call: Awaitable[Any]) -> Any:
    """Return what a call answers, or the code of its error."""
    try:
        return await call
    except CallError as error:
        return error.code
