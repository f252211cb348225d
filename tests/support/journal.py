"""Pieces for tests of the journal."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kqs.config import JournalSection
from kqs.errors import JournalError
from kqs.journal import Journal, Kind, Record
from kqs.journal.reader import FrameReader
from kqs.journal.recovery import recover
from kqs.journal.scan import Found, scan
from tests.support.clock import FakeClock
from tests.support.files import MemoryFiles

DIR = Path("/journal")


def a_section(
    dir: Path = DIR,  # noqa: A002 - the setting's name
    segment_bytes: int = 4096,
    min_free_bytes: int = 0,
    **settings: int,
) -> JournalSection:
    return JournalSection(dir, segment_bytes, min_free_bytes, **settings)


def a_record(text: str = "x", first_order: int = 1, count: int = 1) -> Record:
    return Record(Kind.JOBS, count, first_order, text.encode())


async def appended(journal: Journal, record: Record) -> None:
    """Append `record` and return when it is durable. Raises: what `append` raises, and what its batch failed of."""
    settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(error: JournalError | None) -> None:
        if settled.done():
            return
        if error is None:
            settled.set_result(None)
        else:
            settled.set_exception(error)

    record.done = done
    journal.append(record)
    await settled


async def all_settled(journal: Journal) -> None:
    """Return when every record appended before is durable, or has failed."""
    await journal._commit.flush()


class Told:
    """Collects what `done` was told, by payload."""

    def __init__(self) -> None:
        self.news: list[tuple[bytes, Exception | None]] = []

    def of(self, record: Record) -> Record:
        record.done = lambda error: self.news.append((record.payload, error))
        return record

    @property
    def acknowledged(self) -> list[bytes]:
        return [payload for payload, error in self.news if error is None]

    @property
    def failed(self) -> list[bytes]:
        return [payload for payload, error in self.news if error is not None]


class Heard:
    """A listener that claims every second order, and sees to it that it hears of one batch at a time, in order."""

    def __init__(self) -> None:
        self.open: list[Record] | None = None
        self.prepared: list[Record] | None = None
        self.flushed_batches: list[list[Record]] = []
        self.failed_batches: list[list[Record]] = []

    def before_flush(self, batch: list[Record]) -> None:
        assert self.open is None
        assert batch
        self.open = batch
        self.prepared = None
        for record in batch:
            record.claimed = claims(record)

    def during_flush(self, batch: list[Record]) -> None:
        assert self.open is batch
        assert self.prepared is None
        self.prepared = batch

    def flushed(self, batch: list[Record]) -> None:
        assert self.open is batch
        assert self.prepared is batch or not any(record.claimed for record in batch)
        assert [record.seq for record in batch] == [*range(batch[0].seq, batch[0].seq + len(batch))]
        self.open = None
        self.flushed_batches.append(batch)

    def failed(self, batch: list[Record]) -> None:
        assert self.open is batch
        self.open = None
        self.failed_batches.append(batch)

    def give_up(self) -> None:
        raise AssertionError("nothing here raises")


def claims(record: Record) -> bool:
    """Tell whether `Heard` claims a record."""
    return record.first_order % 2 == 0


def a_journal(files: Any, clock: FakeClock | None = None, **settings: Any) -> Journal:
    """Return a journal. settings: of it, or what it calls, also the methods of a listener."""
    names = ("on_low", "owed", "on_fault")
    called = {name: settings.pop(name) for name in names if name in settings}
    of_batches = ("before_flush", "during_flush", "flushed", "failed")
    methods: dict[str, Any] = {**dict.fromkeys(of_batches, _ignore), "give_up": lambda: None}
    heard = {name: settings.pop(name) for name in methods if name in settings}
    journal = Journal(a_section(**settings), clock or FakeClock(), files, **called)
    if heard:
        journal.listen(SimpleNamespace(**methods | heard))
    return journal


def _ignore(_batch: list[Record]) -> None:
    pass


async def until_accepting(journal: Journal) -> None:
    """Return once `append` would take a record; the journal tells nobody, so this asks on every turn of the loop."""
    async with asyncio.timeout(10):
        while not journal.accepting:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def all_records(journal: Journal, from_seq: int = 0) -> list[Record]:
    return [record async for records in journal.read(from_seq) for record in records]


def records_in(files: Any, found: Found) -> list[Record]:
    """Return every record a scan found, through the frames themselves."""
    records = []
    for segment in found.segments:
        handle = files.open(DIR / segment.name)
        reader = FrameReader(files, handle, segment.salt, 128, segment.end, segment.header.first_seq)
        records += reader.take(1 << 30)
    return records


def recovered(files: Any, segment_bytes: int = 4096) -> list[Record]:
    """Recover what is on `files`, as a start would, and return every record of it."""
    recover(files, a_section(segment_bytes=segment_bytes))
    return records_in(files, scan(files, DIR))


async def a_disk_with(*batches: list[str], **settings: Any) -> MemoryFiles:
    """Return a disk on which a journal wrote these batches and was then killed."""
    files = MemoryFiles()
    journal = a_journal(files, **settings)
    await journal.start()
    for batch in batches:
        for text in batch:
            journal.append(a_record(text))
        await all_settled(journal)
    names = files.snapshot()
    await journal.stop()
    return MemoryFiles({path: data for path, data in names.items() if path.name != "lock"})
