"""Every operation of a journal's life is recorded; after each, every state the disk may legally be in is recovered.

Oracle: acknowledged ⊆ recovered ⊆ attempted, in order, records whole. What the store had taken may be gone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kqs.errors import JournalError
from kqs.journal import Journal, Record, kept
from kqs.journal.files import Files
from tests.support.files import Disk, MemoryFiles, Op, PowerLossFiles
from tests.support.journal import a_journal, a_record, all_settled, recovered

SEGMENT_BYTES = 1500


class Account:
    """What was attempted, acknowledged and fed up to some operation."""

    def __init__(self) -> None:
        self.attempted: list[bytes] = []
        self.acknowledged: list[bytes] = []
        self.fed_seq = 0

    def take(self, mark: tuple[str, Any]) -> None:
        word, value = mark
        if word == "fed":
            self.fed_seq = value
        else:
            getattr(self, word).append(value)

    def complaint(self, records: list[Record]) -> str | None:
        for record in records:
            if record.seq >= len(self.attempted) or record.payload != self.attempted[record.seq]:
                return f"record {record.seq} is not what was attempted"
        seqs = [record.seq for record in records]
        if seqs != list(range(seqs[0], seqs[0] + len(seqs)) if seqs else []):
            return f"records out of order: {seqs}"
        lost = {*range(self.fed_seq, len(self.acknowledged))} - set(seqs)
        return f"acknowledged records {sorted(lost)} are lost" if lost else None


def complaints(ops: list[Op], random_count: int = 12) -> Iterator[str]:
    """Yield what is wrong with any state the power may leave behind, at any moment."""
    rng = random.Random(1)
    disk, account = Disk(), Account()
    seen: dict[frozenset[tuple[Path, bytes]], list[Record] | str] = {}
    for index, op in enumerate([Op("mark", mark=("fed", 0)), *ops]):
        account.take(op.mark) if op.what == "mark" else disk.take(op)
        for state in disk.states(rng, random_count):
            key = frozenset(state.items())
            if key not in seen:
                seen[key] = outcome(state, rng)
            found = seen[key]
            if (wrong := found if isinstance(found, str) else account.complaint(found)) is not None:
                yield f"after operation {index} ({op.what}): {wrong}"


def outcome(state: dict[Path, bytes], rng: random.Random) -> list[Record] | str:
    """Recover; then lose power in the middle of that recovery, and recover again to the same."""
    files = PowerLossFiles(state)
    try:
        records = recovered(files, SEGMENT_BYTES)
        disk = Disk()
        start = 4 * len(state)
        for op in files.ops[: rng.randrange(start, len(files.ops) + 1)]:
            disk.take(op)
        for again in disk.states(rng, 1):
            if recovered(MemoryFiles(again), SEGMENT_BYTES) != records:
                return "a second recovery found something else"
    except JournalError as error:
        return f"refused: {error}"
    return records


class Life:
    """One journal's life on a recording disk, with a store that takes what it is fed at once."""

    def __init__(self, files: PowerLossFiles) -> None:
        self.files = files
        self.journal: Journal = a_journal(files, segment_bytes=SEGMENT_BYTES)
        self.count = 0
        self.fed_seq = 0

    async def restart(self) -> None:
        await self.journal.stop()
        self.journal = a_journal(self.files, segment_bytes=SEGMENT_BYTES)
        await self.journal.start()

    async def insert(self, *sizes: int) -> None:
        for size in sizes:
            record = a_record(f"{self.count}:" + chr(97 + self.count % 26) * size)
            record.done = lambda _error, payload=record.payload: self.files.mark(("acknowledged", payload))
            self.files.mark(("attempted", record.payload))
            self.journal.append(record)
            self.count += 1
        await all_settled(self.journal)

    async def feed(self, seq: int) -> None:
        self.fed_seq = max(self.fed_seq, seq)
        self.files.mark(("fed", self.fed_seq))
        await self.journal.checkpoint(seq)


async def a_life(files: PowerLossFiles) -> list[Op]:
    life = Life(files)
    await life.journal.start()
    await life.insert(10)
    await life.insert(700, 5, 300)
    await life.insert(600)
    await life.feed(3)
    await life.insert(1, 2, 3)
    await life.insert(1400)
    await life.restart()
    await life.insert(20, 900)
    await life.feed(9)
    await life.insert(800)
    await life.restart()
    await life.feed(life.journal.durable_seq)
    await life.insert(5)
    await life.journal.stop()
    return files.ops


async def test_no_power_cut_loses_alters_or_invents_a_record() -> None:
    ops = await a_life(PowerLossFiles())
    assert list(complaints(ops)) == []


async def a_random_life(files: PowerLossFiles, rng: random.Random) -> list[Op]:
    life = Life(files)
    await life.journal.start()
    for _ in range(12):
        match rng.randrange(6):
            case 0:
                await life.restart()
            case 1:
                await life.feed(rng.randrange(life.journal.durable_seq + 1))
            case _:
                await life.insert(*(rng.choice((1, 50, 500, 1600)) for _ in range(rng.randrange(1, 4))))
    await life.journal.stop()
    return files.ops


@pytest.mark.parametrize("seed", range(3))
async def test_no_power_cut_in_a_random_life_does_either(seed: int) -> None:
    ops = await a_random_life(PowerLossFiles(), random.Random(seed))
    assert list(complaints(ops, random_count=4)) == []


class NoFlush(PowerLossFiles):
    def flush(self, handle: int) -> None:
        pass


class NoDirectoryFlush(PowerLossFiles):
    def flush_dir(self, path: Path) -> None:
        pass


@pytest.mark.parametrize("files", [NoFlush, NoDirectoryFlush])
async def test_a_forgotten_flush_is_caught(files: Callable[[], PowerLossFiles]) -> None:
    ops = await a_life(files())
    assert any("lost" in complaint or "refused" in complaint for complaint in complaints(ops))


def acknowledged_early(ops: list[Op]) -> list[Op]:
    """Return the life of a journal that acknowledges first and flushes then."""
    early: list[Op] = []
    for op in ops:
        if op.what == "mark" and op.mark[0] == "acknowledged" and early[-1].what == "flush":
            early.insert(len(early) - 1, op)
        else:
            early.append(op)
    return early


async def test_an_acknowledgement_before_the_flush_is_caught() -> None:
    ops = await a_life(PowerLossFiles())
    assert any("lost" in complaint for complaint in complaints(acknowledged_early(ops)))


async def test_an_unlink_before_the_checkpoint_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgotten(_files: Files, _directory: Path, _journal_id: bytes, _seq: int) -> None:
        pass

    life = Life(files := PowerLossFiles())
    await life.journal.start()
    await life.insert(10)
    await life.feed(1)
    monkeypatch.setattr(kept, "write_checkpoint", forgotten)
    await life.insert(1400)
    await life.insert(1400)
    await life.feed(2)
    await life.insert(1400)
    await life.journal.stop()
    assert any("refused" in complaint for complaint in complaints(files.ops))


async def test_a_store_that_is_behind_the_checkpoint_is_caught() -> None:
    life = Life(files := PowerLossFiles())
    await life.journal.start()
    await life.insert(1400)
    await life.insert(1400)
    await life.journal.checkpoint(1)
    await life.journal.stop()
    assert any("lost" in complaint for complaint in complaints(files.ops))
