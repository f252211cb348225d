"""A journal against a list: appends, flushes, restarts, power cuts and checkpoints in any order."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kqs.errors import JournalError
from kqs.journal.format import (
    FRAME_BYTES,
    HEADER_BYTES,
    Kind,
    Record,
    SegmentHeader,
    decode_frame_header,
    decode_header,
    decode_records,
    encode_frame,
    encode_header,
    payload_is_intact,
)
from tests.support.clock import FakeClock
from tests.support.files import Disk, FaultyFiles, MemoryFiles, PowerLossFiles
from tests.support.journal import Heard, Told, a_journal, a_record, all_records, all_settled, claims, recovered
from tests.support.turning import run_within

U64 = st.integers(0, 2**63 - 1)
ID = st.binary(min_size=16, max_size=16)
RECORD = st.builds(Record, st.sampled_from(Kind), st.integers(1, 999), st.integers(0, 2**60), st.binary(max_size=99))
RECORDS = st.lists(RECORD, min_size=1)


def written(record: Record) -> tuple[Kind, int, int, bytes]:
    """Return what of a record is on disk, but for its seq."""
    return record.kind, record.count, record.first_order, record.payload


@given(st.builds(SegmentHeader, U64, ID, ID, st.binary(min_size=4, max_size=4), U64, ID, U64, st.integers(0, 65535)))
def test_a_header_comes_back_as_it_was(header: SegmentHeader) -> None:
    assert decode_header(encode_header(header)) == header


@given(RECORDS, st.integers(0, 2**60), st.integers(0, 2**32 - 1))
def test_a_frame_comes_back_as_it_was(records: list[Record], first_seq: int, salt: int) -> None:
    _, frame = encode_frame(records, first_seq, salt)
    header = decode_frame_header(bytes(frame), 0, salt)
    assert header is not None
    payload = bytes(frame[FRAME_BYTES:])
    assert payload_is_intact(header, payload, salt)
    back = decode_records(header, payload)
    assert [record.seq for record in back] == list(range(first_seq, first_seq + len(records)))
    assert [*map(written, back)] == [*map(written, records)]
    assert header.first_order == min(record.first_order for record in records)
    assert header.last_order == max(record.last_order for record in records)


@given(st.binary(max_size=3 * HEADER_BYTES), st.integers(0, 2**32 - 1))
def test_foreign_bytes_are_no_frame(data: bytes, salt: int) -> None:
    assert decode_frame_header(data, 0, salt) is None


class JournalMachine(RuleBasedStateMachine):
    """`kept` is what must come back, from record `start` on; `loose` was appended and not flushed.

    None stands for a record of a torn batch, whose number no other gets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.files = PowerLossFiles()
        self.kept: list[bytes | None] = []
        self.loose: list[bytes | None] = []
        self.start_seq = 0
        self.orders = 1
        self.faults: list[Exception] = []

    def run(self, work: Any) -> Any:
        return run_within(self.loop, work, 10)

    def make(self) -> None:
        self.heard = Heard()
        self.journal = a_journal(self.files, segment_bytes=600, batch_records=3, batch_bytes=300, on_fault=self.faults.append)
        self.journal.listen(self.heard)

    def stop(self) -> None:
        self.run(self.journal.stop())
        assert (self.heard.open, self.heard.failed_batches, self.faults) == (None, [], [])
        assert sum(map(len, self.heard.flushed_batches)) == self.journal.stats()["records"]

    @initialize()
    def begin(self) -> None:
        self.make()
        recovery = self.run(self.journal.start())
        assert recovery.next_seq == len(self.kept)

    @rule(sizes=st.lists(st.integers(0, 700), min_size=1, max_size=5))
    def append(self, sizes: list[int]) -> None:
        async def append() -> None:
            for size in sizes:
                record = a_record(f"{self.orders}:{'x' * size}", self.orders)
                self.orders += 1
                self.loose.append(record.payload)
                self.journal.append(record)

        self.run(append())

    @rule()
    def flush(self) -> None:
        self.run(all_settled(self.journal))
        self.kept += self.loose
        self.loose = []

    @rule()
    def restart(self) -> None:
        self.stop()
        self.kept += self.loose
        self.loose = []
        self.begin()

    @rule(share=st.floats(0, 1))
    def checkpoint(self, share: float) -> None:
        self.flush()
        seq = int(share * len(self.kept))
        self.run(self.journal.checkpoint(seq))
        self.start_seq = max(self.start_seq, seq)

    @rule(seed=st.integers(0, 2**32))
    def lose_power(self, seed: int) -> None:
        rng = random.Random(seed)
        ops = list(self.files.ops)
        self.stop()
        disk = Disk()
        for op in ops:
            disk.take(op)
        states = list(disk.states(rng, 2))
        self.files = PowerLossFiles(rng.choice(states))
        self.make()
        recovery = self.run(self.journal.start())
        attempted = self.kept + self.loose
        records = self.run(all_records(self.journal, self.start_seq))
        end = max([len(self.kept), *(record.seq + 1 for record in records)])
        assert end <= min(recovery.next_seq, len(attempted))
        self.kept = attempted[:end] + [None] * (recovery.next_seq - end)
        self.loose = []

    @invariant()
    def what_was_acknowledged_can_be_read(self) -> None:
        records = self.run(all_records(self.journal, self.start_seq))
        expected = [*enumerate(self.kept + self.loose)][self.start_seq :]
        expected = [(seq, payload) for seq, payload in expected if payload is not None]
        assert [(record.seq, record.payload) for record in records] == expected[: len(records)]
        assert len(records) >= sum(seq < len(self.kept) for seq, _ in expected)
        assert [record.claimed for record in records] == [*map(claims, records)]

    def teardown(self) -> None:
        self.stop()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=40, stateful_step_count=25)


class FailingClock(FakeClock):
    """One that raises when it is asked for the `fails_at`th time from now, as nothing expects of it."""

    fails_at = 0

    def monotonic(self) -> float:
        self.fails_at -= 1
        if self.fails_at == 0:
            raise ValueError("a clock's fault")
        return super().monotonic()


class Fails:
    """A listener's method that raises after all, now and then."""

    def __init__(self, method: Callable[[list[Record]], None]) -> None:
        self._method = method
        self.is_armed = False

    def __call__(self, batch: list[Record]) -> None:
        self._method(batch)
        if self.is_armed:
            self.is_armed = False
            raise ValueError("a listener's fault")


METHODS = ("before_flush", "during_flush", "flushed", "failed")
STEP = st.one_of(
    st.tuples(st.just("append"), st.lists(st.integers(0, 700), min_size=1, max_size=5)),
    st.tuples(st.just("alone"), st.integers(0, 300)),
    st.tuples(st.just("ticks"), st.integers(1, 4)),
    st.tuples(st.just("flush"), st.none()),
    st.tuples(
        st.just("call"),
        st.sampled_from(["write", "begin_flush", "flush", "create", "allocate", "rename", "identity_of", "free_bytes"]),
    ),
    st.tuples(st.just("clock"), st.integers(1, 8)),
    st.tuples(st.just("listener"), st.sampled_from(METHODS)),
)


class FailingLife:
    """A journal of which anything may fail, and what was heard of it."""

    def __init__(self) -> None:
        self.files = FaultyFiles(MemoryFiles())
        self.clock = FailingClock()
        self.heard = Heard()
        self.told = Told()
        self.faults: list[Exception] = []
        self.methods = {name: Fails(getattr(self.heard, name)) for name in METHODS}
        bounds = {"segment_bytes": 600, "batch_records": 3, "batch_bytes": 300}
        self.journal = a_journal(self.files, self.clock, on_fault=self.faults.append, **bounds, **self.methods)
        self.appended: list[bytes] = []

    async def take(self, what: str, how: Any) -> None:
        match what:
            case "append":
                self.append(*how)
            case "alone":
                self.journal._commit._inline._lone_ticks = 17
                self.append(how)
                self.journal.flush_if_alone()
            case "ticks":
                for _ in range(how):
                    await asyncio.sleep(0)
            case "flush":
                await all_settled(self.journal)
            case "call":
                failing = iter([OSError(errno.EIO, "gone")])
                self.files.plan = lambda _index, name: next(failing, None) if name == how else None
            case "clock":
                self.clock.fails_at = how
            case "listener":
                self.methods[how].is_armed = True

    def append(self, *sizes: int) -> None:
        for size in sizes:
            record = self.told.of(a_record(f"{len(self.appended)}:{'x' * size}", len(self.appended)))
            with suppress(JournalError):
                self.journal.append(record)
                self.appended.append(record.payload)

    def check(self) -> None:
        flushed = [record for batch in self.heard.flushed_batches for record in batch]
        failed = [record.payload for batch in self.heard.failed_batches for record in batch]
        assert self.heard.open is None
        assert [payload for payload, _ in self.told.news] == self.appended
        assert [record.payload for record in flushed] == self.told.acknowledged
        assert {*failed} <= {*self.told.failed}
        assert set(map(str, self.faults)) <= {"a listener's fault", "a clock's fault"}
        kept = {record.payload: record.claimed for record in recovered(self.files.inner, 600)}
        assert {record.payload: record.claimed for record in flushed}.items() <= kept.items()


@given(st.lists(STEP, max_size=30))
@settings(max_examples=150)
def test_whatever_fails_each_record_and_each_batch_ends_once(steps: list[tuple[str, Any]]) -> None:
    async def live() -> None:
        life = FailingLife()
        async with asyncio.timeout(10):
            await life.journal.start()
            for step in steps:
                await life.take(*step)
            await life.journal.stop()
        life.check()

    asyncio.run(live())
