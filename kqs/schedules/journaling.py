"""Brings ticks into the journal: the jobs of many in one record."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec

from kqs.errors import CallError, JournalError, KqsError
from kqs.inserter import Inserter
from kqs.journal.format import Record
from kqs.schedules.roster import Entry, Roster
from kqs.store.ticks import tick_of
from kqs.wire.jobs import Given
from kqs.wire.replayed import replay_jobs

_encode = msgspec.json.Encoder().encode

#: jobs, and about how many bytes, that go into one record
RECORD_JOBS = 1000
RECORD_BYTES = 1024 * 1024


class Tick:
    """One instant of a schedule, on its way into the journal. error: why it did not come there; None: it did, or will."""

    __slots__ = ("at", "entry", "error")

    def __init__(self, entry: Entry, at: float) -> None:
        self.entry = entry
        self.at = at
        self.error: str | None = None

    def text(self) -> bytes:
        """Return its job as it is journaled."""
        schedule = self.entry.schedule
        head = b'{"id":"%b","tick":%b,' % (tick_of(schedule.name, self.at).encode(), _encode(float(self.at)))
        return head + schedule.plan.job.lstrip().encode()[1:]


class Journaling:
    """See the module docstring. Call from the loop thread. inserted_count: how many have come there."""

    def __init__(self, inserter: Inserter, roster: Roster) -> None:
        self._inserter = inserter
        self._roster = roster
        self.inserted_count = 0

    async def insert(self, ticks: list[Tick]) -> None:
        """Journal those ticks that still stand; return when all of them are there, or have an error.

        Of a schedule none is inserted after one that is refused, which would be passed then: they have its error.
        """
        kept: list[asyncio.Future[None]] = []
        refused: dict[Entry, str] = {}
        for some in self._in_records(ticks, refused):
            kept += self._keep(some, refused)
            await asyncio.sleep(0)  # a thousand of each of many schedules would have the loop for themselves
        if kept:
            await asyncio.wait(kept)

    def _in_records(self, ticks: list[Tick], refused: dict[Entry, str]) -> Iterator[list[Tick]]:
        """Yield ticks as they go into records, passing over those that do not stand any more, or are behind a refused one."""
        some: list[Tick] = []
        size = 0
        for tick in ticks:
            if some and (len(some) == RECORD_JOBS or size >= RECORD_BYTES):
                yield some
                some, size = [], 0
            if not self._roster.stands(tick.entry):
                continue
            if tick.entry in refused:
                tick.error = refused[tick.entry]
                continue
            some.append(tick)
            size += len(tick.entry.schedule.plan.job)
        if some:
            yield some

    def _keep(self, ticks: list[Tick], refused: dict[Entry, str]) -> list[asyncio.Future[None]]:
        """Journal ticks as one record, or each as its own where one is refused; the futures are done when those are settled."""
        settled = asyncio.get_running_loop().create_future()

        def told(_record: Record | None, error: KqsError | None) -> None:
            for tick in ticks:
                if error is None:
                    tick.entry.journaled_at = max(tick.entry.journaled_at, tick.at)
                    self.inserted_count += 1
                else:
                    tick.error = refused[tick.entry] = str(error)
            if not settled.done():
                settled.set_result(None)

        texts = [tick.text() for tick in ticks]
        payload = texts[0] if len(texts) == 1 else b"[%b]" % b",".join(texts)
        try:
            self._inserter.keep(Given(payload, replay_jobs(payload), len(texts) > 1), told)
        except JournalError as error:
            told(None, error)
        except CallError as error:  # too many of its type wait, or of a subscriber: ticks of others do not wait for that
            if len(ticks) > 1:
                return [
                    one for tick in ticks for some in self._in_records([tick], refused) for one in self._keep(some, refused)
                ]
            told(None, error)
        return [settled]
