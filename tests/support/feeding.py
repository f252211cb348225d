"""A feeder between a real journal and a real queue."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kqs.config import JournalSection
from kqs.feeder import Feeder
from kqs.ids import Ids, microseconds
from kqs.journal import Journal, Kind, Record
from kqs.states import State
from kqs.store.base import StoreInfo
from kqs.wire.jobs import decode_jobs
from tests.support.journal import all_settled
from tests.support.queueing import Rig


class Feeding:
    """A real journal, fed into a real queue."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        self.rig = rig
        self.folder = folder
        self.feeder: Feeder | None = None
        self.faults: list[BaseException] = []

    async def start(self, fed_seq: int = 0, last_order: int = 0) -> Feeder:
        settings = JournalSection(dir=self.folder / "journal", min_free_bytes=0, segment_bytes=65536)
        self.journal = Journal(settings, self.rig.clock, on_fault=self.faults.append)
        self._append = self.journal.append  # also where a test has another in its place
        recovery = await self.journal.start()
        self.ids = Ids("0000beef", max(recovery.last_order, last_order))
        self.feeder = Feeder(self.journal, self.rig.queue, self.rig.store, self.ids, self.rig.cascade, self.rig.supervisor)
        self.journal.listen(self.feeder)
        await self.feeder.start(StoreInfo(epoch=1, fed_seq=fed_seq, last_order=last_order))
        return self.feeder

    async def stop(self) -> None:
        if self.feeder is not None:
            await self.feeder.stop()
            await self.journal.stop()

    def append(self, *lines: bytes) -> int:
        """Journal jobs, a record each, with their decoded form; return the last order."""
        for line in lines:
            jobs = decode_jobs(line)
            now = self.rig.clock.now()
            order = self.ids.take(len(jobs), now)
            self._append(Record(Kind.JOBS, len(jobs), order, line, jobs, accepted_us=microseconds(now)))
        return self.ids.last_order

    async def insert(self, *lines: bytes) -> int:
        order = self.append(*lines)
        await all_settled(self.journal)
        return order

    async def stored_though_asked(self, order: int) -> None:
        """Let time pass, while lanes ask for jobs again and again, until the store has the job of this order."""
        async with asyncio.timeout(10):
            while await self.rig.store.job(self.ids.of(order)) is None:
                self.rig.queue.wishes.more()
                self.rig.clock.advance(0.02)
                await asyncio.sleep(0)

    async def state(self, order: int) -> State:
        record = await self.rig.queue.reads.job(self.ids.of(order))
        assert record is not None
        return record.state


async def caught_up(feeder: Feeder) -> None:
    """Return when the store has what the journal has."""
    async with asyncio.timeout(10):
        await feeder.catch_up()
