from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec
import pytest

from kqs.feeder import intake
from kqs.feeder.held import Held, Reach
from kqs.feeder.intake import Intake
from kqs.ids import Ids
from kqs.job import Accepted
from kqs.journal import Kind, Record
from kqs.options import Cascade, Job, JobFields, PlainJob
from kqs.wire.jobs import decode_jobs

ORDER = 1_000_000
NOW = 5.0


class CountingIntake(Intake):
    """Notes how many jobs each step takes in."""

    def __init__(self) -> None:
        super().__init__(Ids("0000beef"), Cascade({}, {}))
        self.steps: list[int] = []

    def accept(self, record: Record, jobs: Sequence[Job], first_order: int) -> list[Accepted]:
        self.steps.append(len(jobs))
        return super().accept(record, jobs, first_order)


def an_array(seq: int, count: int, order: int, *, is_live: bool) -> Record:
    payload = b"[" + b",".join(b'{"type":"mail","data":%d}' % number for number in range(count)) + b"]"
    return Record(Kind.JOBS, count, order, payload, decode_jobs(payload) if is_live else None, seq=seq)


@pytest.mark.parametrize("is_live", [True, False], ids=["live", "read back"])
def test_a_long_array_is_taken_in_slices_in_order(is_live: bool) -> None:
    held = Held(CountingIntake())
    held.add(an_array(0, 10_001, ORDER, is_live=is_live), NOW)
    held.add(an_array(1, 2, ORDER + 20_000, is_live=is_live), NOW)
    batches = []
    while held:
        batches.append(held.take(4000))
    assert [len(batch.jobs) for batch in batches] == [4000, 4000, 2003]
    assert [job.order for batch in batches for job in batch.jobs] == [
        *range(ORDER, ORDER + 10_001),
        *range(ORDER + 20_000, ORDER + 20_002),
    ]
    assert [int(job.data) for batch in batches for job in batch.jobs] == [*range(10_001), 0, 1]
    assert [batch.reach for batch in batches] == [Reach(0, ORDER), Reach(0, ORDER), Reach(2, ORDER + 20_002)]


@pytest.mark.parametrize("is_live", [True, False], ids=["live", "read back"])
def test_a_slice_of_a_long_array_costs_what_the_slice_costs(is_live: bool) -> None:
    counting = CountingIntake()
    held = Held(counting)
    held.add(an_array(0, 20_000, ORDER, is_live=is_live), NOW)
    for _ in range(10):
        held.take(100)
    assert counting.steps == [100] * 10


def test_what_was_taken_of_a_long_array_is_let_go() -> None:
    held = Held(CountingIntake())
    record = an_array(0, 20_000, ORDER, is_live=True)
    assert record.jobs is not None
    job = record.jobs[0]
    held.add(record, NOW)
    held.take(8000)
    assert sys.getrefcount(job) == 2
    assert record.jobs is None


def test_an_array_that_is_read_back_is_not_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def noted(text: bytes) -> list[PlainJob | JobFields]:
        decoded.append(text)
        return decode_jobs(text)

    monkeypatch.setattr(intake, "replay_jobs", noted)
    held = Held(CountingIntake())
    held.add(an_array(0, 20_000, ORDER, is_live=False), NOW)
    held.take(100)
    assert [len(msgspec.json.decode(text)) for text in decoded] == [intake.PIECE_JOBS]


def test_an_array_too_long_to_look_through_counts_as_one_with_jobs_that_overtake() -> None:
    held = Held(CountingIntake())
    assert held.add(an_array(0, 2, ORDER, is_live=True), NOW) == ("mail",)
    assert held.type == "mail"
    assert held.add(an_array(1, intake.PIECE_JOBS + 1, ORDER + 10, is_live=True), NOW) == ()
    assert held.type is None


@pytest.mark.parametrize("count", [1, 9000])
def test_a_record_that_cannot_be_decoded_is_named(count: int) -> None:
    held = Held(CountingIntake())
    payload = b"[" + b",".join([b'{"typ":"mail"}'] * count) + b"]"
    held.add(Record(Kind.JOBS, count, ORDER, payload, seq=7), NOW)
    with pytest.raises(msgspec.DecodeError) as caught:
        held.take(4000)
    assert caught.value.__notes__ == [f"in record 7 of the journal: {count} jobs from order {ORDER} on"]


def sizes(held: Held) -> list[int]:
    found = []
    while held:
        found.append(len(held.take(4000).jobs))
    return found


@pytest.mark.parametrize("is_live", [True, False], ids=["live", "read back"])
def test_a_batch_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch, is_live: bool) -> None:
    each = len(an_array(0, 10, ORDER, is_live=True).payload) // 10
    monkeypatch.setattr("kqs.feeder.held.BATCH_BYTES", 4 * each)
    held = Held(CountingIntake())
    held.add(an_array(0, 10, ORDER, is_live=is_live), NOW)
    for seq in range(1, 10):
        held.add(an_array(seq, 1, ORDER + 100 * seq, is_live=is_live), NOW)
    found = sizes(held)
    assert sum(found) == 19
    assert max(found) <= 6
    assert len(found) <= 6


def test_a_job_longer_than_a_batch_is_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kqs.feeder.held.BATCH_BYTES", 10)
    held = Held(CountingIntake())
    for seq in range(3):
        held.add(an_array(seq, 2, ORDER + 10 * seq, is_live=True), NOW)
    assert sizes(held) == [1] * 6


def a_claimed(seq: int, count: int, order: int) -> Record:
    record = an_array(seq, count, order, is_live=True)
    record.claimed = True
    return record


def test_claimed_records_stand_apart_if_nothing_waits_before_them() -> None:
    held = Held(CountingIntake())
    held.add(a_claimed(0, 3, ORDER), NOW)
    held.add(a_claimed(1, 2, ORDER + 10), NOW + 1)
    assert (held.is_all_claimed, held.claimed_first, held.claimed_since, held.count) == (True, 5, NOW, 5)
    held.add(an_array(2, 4, ORDER + 20, is_live=True), NOW + 2)
    held.add(a_claimed(3, 1, ORDER + 30), NOW + 3)
    assert (held.is_all_claimed, held.claimed_first, held.count) == (False, 5, 10)
    assert held.take(3).reach == Reach(1, ORDER + 3)
    assert (held.claimed_first, held.claimed_since, held.count) == (2, NOW + 1, 7)


def test_the_first_that_wait_are_claimed_as_whole_records_and_in_part() -> None:
    held = Held(CountingIntake())
    held.add(an_array(0, 3, ORDER, is_live=True), NOW)
    held.add(an_array(1, 3, ORDER + 10, is_live=True), NOW)
    assert [job.order for job in held.unclaimed(4)] == [ORDER, ORDER + 1, ORDER + 2, ORDER + 10]
    assert held.claim(4, NOW) == 2
    assert (held.claimed_first, held.is_all_claimed) == (3, False)
    assert [job.order for job in held.unclaimed(9)] == [ORDER + 11, ORDER + 12]
    assert held.claim(2, NOW) == 2
    assert (held.claimed_first, held.is_all_claimed) == (6, True)
    assert held.unclaimed(9) == []


def test_a_claim_of_whole_records_ends_behind_the_last_of_them() -> None:
    held = Held(CountingIntake())
    held.add(an_array(0, 3, ORDER, is_live=True), NOW)
    held.add(an_array(1, 3, ORDER + 10, is_live=True), NOW)
    assert len(held.unclaimed(3)) == 3
    assert held.claim(3, NOW) == 1
    assert held.claimed_first == 3


def test_nothing_is_claimed_while_a_long_record_is_taken_in_part() -> None:
    held = Held(CountingIntake())
    held.add(an_array(0, 20_000, ORDER, is_live=True), NOW)
    held.add(an_array(1, 1, ORDER + 30_000, is_live=True), NOW)
    held.take(100)
    assert held.unclaimed(9) == []


def test_it_is_full_of_too_many_jobs_or_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    record = an_array(0, 3, ORDER, is_live=True)
    for name, most in (("MAX_JOBS", 3), ("MAX_BYTES", len(record.payload))):
        with monkeypatch.context() as patches:
            patches.setattr(f"kqs.feeder.held.{name}", most)
            held = Held(CountingIntake())
            held.add(record, NOW)
            assert not held.is_full
            held.add(an_array(1, 1, ORDER + 10, is_live=True), NOW)
            assert held.is_full
            held.take(3)
            assert not held.is_full


def test_a_batch_tells_the_bytes_of_its_records() -> None:
    held = Held(CountingIntake())
    records = [an_array(seq, 2, ORDER + 10 * seq, is_live=True) for seq in range(3)]
    for record in records:
        held.add(record, NOW)
    assert held.take(4).size_bytes == len(records[0].payload) + len(records[1].payload)
