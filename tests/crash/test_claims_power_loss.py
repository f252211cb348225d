"""Power is cut at any moment of a journal whose listener claims: what may have begun is found claimed, or is in the store."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kqs.journal import Journal, Kind, Record, claimed_orders, claims_record
from tests.support.files import Disk, Op, PowerLossFiles
from tests.support.journal import a_journal, a_record, all_settled, recovered

SEGMENT_BYTES = 1500


class Claiming:
    """A listener that claims records in their batch or by a record that follows, and begins what it claimed when it may.

    eager: it does not wait for the flush, which a sweep must notice.
    """

    def __init__(self, files: PowerLossFiles, rng: random.Random, *, eager: bool = False) -> None:
        self._files = files
        self._rng = rng
        self._eager = eager
        self.held: list[Record] = []

    def before_flush(self, batch: list[Record]) -> None:
        for record in batch:
            record.claimed = record.kind is Kind.JOBS and self._rng.random() < 0.4
        if self._eager:
            self._begin(batch)

    def flushed(self, batch: list[Record]) -> None:
        self.held += [record for record in batch if record.kind is Kind.JOBS and not record.claimed]
        self._begin(batch)

    def failed(self, batch: list[Record]) -> None:
        raise AssertionError("no flush fails here")

    def give_up(self) -> None:
        raise AssertionError("nothing here raises")

    def _begin(self, batch: list[Record]) -> None:
        for record in batch:
            if record.claimed:
                self._mark([range(record.first_order, record.last_order + 1)])
            elif record.kind is Kind.CLAIMS:
                self._mark(claimed_orders(record))

    def _mark(self, ranges: list[range]) -> None:
        for orders in ranges:
            for order in orders:
                self._files.mark(("begun", order))


class Life:
    """One journal's life: jobs, each with an order of its own, claims of what was held, checkpoints, restarts."""

    def __init__(self, files: PowerLossFiles, rng: random.Random, *, eager: bool = False) -> None:
        self._files = files
        self._rng = rng
        self._eager = eager
        self._order = 1

    async def start(self) -> None:
        self.listener = Claiming(self._files, self._rng, eager=self._eager)
        self.journal: Journal = a_journal(
            self._files,
            segment_bytes=SEGMENT_BYTES,
            before_flush=self.listener.before_flush,
            flushed=self.listener.flushed,
        )
        await self.journal.start()

    async def insert(self) -> None:
        for _ in range(self._rng.randrange(1, 4)):
            count = self._rng.choice((1, 1, 3))
            self.journal.append(a_record("j" * self._rng.choice((1, 60, 700)), self._order, count))
            self._order += count
        if self._rng.random() < 0.5:
            self._claim()
        await all_settled(self.journal)

    async def claim(self) -> None:
        self._claim()
        await all_settled(self.journal)

    def _claim(self) -> None:
        """Claim what is held, but for the last order if there are several: a record may be claimed in part."""
        orders = [order for record in self.listener.held for order in range(record.first_order, record.last_order + 1)]
        if orders:
            self.journal.append(claims_record(orders[: max(1, len(orders) - 1)]))
            self.listener.held = []

    async def feed(self) -> None:
        """Let the store have all that is flushed."""
        self._files.mark(("fed", self._order))
        await self.journal.checkpoint(self.journal.durable_seq)
        self.listener.held = []


async def a_life(seed: int, *, eager: bool = False) -> list[Op]:
    rng, files = random.Random(seed), PowerLossFiles()
    life = Life(files, rng, eager=eager)
    await life.start()
    for _ in range(12):
        match rng.randrange(8):
            case 0:
                await life.journal.stop()
                await life.start()
            case 1:
                await life.feed()
            case 2 | 3:
                await life.claim()
            case _:
                await life.insert()
    await life.journal.stop()
    return files.ops


def unclaimed(ops: list[Op]) -> Iterator[str]:
    """Yield which orders any state the power may leave tells as not claimed, though their runs may have begun."""
    rng = random.Random(1)
    disk, begun, fed = Disk(), set[int](), 1
    seen: dict[frozenset[tuple[Path, bytes]], set[int]] = {}
    for index, op in enumerate(ops):
        if op.what == "mark":
            word, value = op.mark
            fed = value if word == "fed" else fed
            begun |= {value} if word == "begun" else set()
        else:
            disk.take(op)
        if not begun:
            continue
        for state in disk.states(rng, 2):
            key = frozenset(state.items())
            if key not in seen:
                seen[key] = found_claimed(state)
            if missing := {order for order in begun if order >= fed} - seen[key]:
                yield f"after operation {index} ({op.what}): {sorted(missing)}"


def found_claimed(state: dict[Path, bytes]) -> set[int]:
    """Return the orders that a start on this disk finds claimed."""
    orders: set[int] = set()
    for record in recovered(PowerLossFiles(state), SEGMENT_BYTES):
        if record.claimed:
            orders |= {*range(record.first_order, record.last_order + 1)}
        elif record.kind is Kind.CLAIMS:
            orders |= {order for claimed in claimed_orders(record) for order in claimed}
    return orders


@pytest.mark.parametrize("seed", range(6))
async def test_no_power_cut_leaves_a_job_unclaimed_that_may_have_begun(seed: int) -> None:
    ops = await a_life(seed)
    assert sum(op.what == "mark" and op.mark[0] == "begun" for op in ops) > 3
    assert list(unclaimed(ops)) == []


async def test_a_run_that_begins_before_its_claim_is_flushed_is_caught() -> None:
    assert list(unclaimed(await a_life(0, eager=True)))
