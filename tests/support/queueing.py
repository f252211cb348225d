"""A queue over the real store and broker, with hands that take jobs."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kqs.broker.memory import MemoryBroker
from kqs.config import StoreSection, TakingSection
from kqs.job import Accepted, JobRecord, Run
from kqs.options import Cascade
from kqs.outcome import Ok, Outcome
from kqs.queue.consumer import Consumer
from kqs.queue.leases import Lease
from kqs.queue.queue import Queue, QueueSettings
from kqs.queue.rules import Retention
from kqs.states import State
from kqs.store.sqlite import SqliteStore
from tests.support.clock import FakeClock
from tests.support.jobs import ORDER
from tests.support.supervising import StrictSupervisor

JOURNAL_ID = "ab" * 16


class Hand:
    """A consumer that a test holds: runs arrive in `runs`, and end when the test says so."""

    def __init__(self, queue: Queue, room: int, *types: str, can_wait: bool = False) -> None:
        self.queue = queue
        self.runs: asyncio.Queue[Run] = asyncio.Queue()
        self.lost: list[Lease] = []
        self.leases: dict[str, Lease] = {}
        self.consumer = Consumer("hand", types or ("mail",), room, self._deliver, can_wait=can_wait)
        queue.runs.add_consumer(self.consumer)

    def _deliver(self, runs: list[Run]) -> None:
        for run in runs:
            if not self.queue.runs.may_begin(run, self.consumer):
                self.consumer.free()
                continue
            self.leases[run.claim.id] = self.queue.runs.begin(run, self._lose)
            self.runs.put_nowait(run)

    def _lose(self, lease: Lease) -> None:
        self.lost.append(lease)
        self.queue.runs.left(lease)

    async def take(self) -> Run:
        async with asyncio.timeout(10):
            return await self.runs.get()

    async def end(self, run: Run, outcome: Outcome | None = None) -> bool:
        accepted = self.queue.runs.report(self.leases[run.claim.id], outcome or Ok())
        self.consumer.free()
        await self.queue.settle()
        return accepted


class Rig:
    """A queue over the real store and broker, and a clock that the test owns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.supervisor = StrictSupervisor()
        self.replayable_order = 2**62
        self.cascade = Cascade({}, {})
        self.hungry = 0
        self.fed_seq = 0
        self.seek_looks = 0
        self.taking: dict[str, TakingSection] = {}
        self._next_order = ORDER + 1_000_000

    async def start(self) -> None:
        self.store = self.a_store()
        settings = QueueSettings("test", Retention(success_s=3600, fail_s=-1), 1000, self.seek_looks, self.taking)
        self.broker = MemoryBroker(self.supervisor, 100)
        self.queue = Queue(
            self.store, self.broker, self.cascade, self.clock, settings, lambda: self.replayable_order, self.supervisor
        )
        self.info = info = await self.store.open(JOURNAL_ID, "0000beef")
        await self.queue.start(info)
        self.hands: list[Hand] = []

    def a_store(self) -> SqliteStore:
        return SqliteStore(self.folder / "store.sqlite", StoreSection(), self.clock, self.supervisor)

    def hand(self, room: int, *types: str, can_wait: bool = False) -> Hand:
        self.hands.append(Hand(self.queue, room, *types, can_wait=can_wait))
        return self.hands[-1]

    async def stop(self) -> None:
        for hand in self.hands:
            await self.queue.runs.remove_consumer(hand.consumer)
        await self.queue.stop()
        await self.store.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def take_orders(self, count: int) -> int:
        """Take orders that no job has; return the first."""
        self._next_order += count
        return self._next_order - count

    async def accept(self, *jobs: Accepted) -> None:
        self.fed_seq += 1
        await self.queue.accept(jobs, self.fed_seq)

    async def record(self, run_or_number: Run | int) -> JobRecord:
        order = ORDER + run_or_number if isinstance(run_or_number, int) else run_or_number.claim.order
        record = await self.queue.reads.job(f"{order:013x}-0000beef")
        assert record is not None
        return record

    async def until(self, number: int, state: State) -> JobRecord:
        """Wait for what a background service of the queue does; it has no event that a test could await."""
        async with asyncio.timeout(10):
            while (record := await self.record(number)).state is not state:  # noqa: ASYNC110 - see above
                await asyncio.sleep(0)
            return record
