"""A journal against a list: appends, flushes, restarts, power cuts and checkpoints in any order."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

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
from tests.support.files import Disk, PowerLossFiles
from tests.support.journal import a_journal, a_record, all_records

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

    def run(self, work: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(10):
                return await work

        return self.loop.run_until_complete(bounded())

    @initialize()
    def begin(self) -> None:
        self.journal = a_journal(self.files, segment_bytes=600, batch_records=3, batch_bytes=300)
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
        self.run(self.journal.flush())
        self.kept += self.loose
        self.loose = []

    @rule()
    def restart(self) -> None:
        self.run(self.journal.stop())
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
        self.run(self.journal.stop())
        disk = Disk()
        for op in ops:
            disk.take(op)
        states = list(disk.states(rng, 2))
        self.files = PowerLossFiles(rng.choice(states))
        self.journal = a_journal(self.files, segment_bytes=600, batch_records=3, batch_bytes=300)
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

    def teardown(self) -> None:
        self.run(self.journal.stop())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


TestJournalMachine = JournalMachine.TestCase
TestJournalMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
