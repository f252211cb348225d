from __future__ import annotations

import pytest

from kqs.feeder import held
from kqs.feeder.held import Held, Reach
from kqs.job import Accepted
from kqs.journal import Kind, Record


def accepted(record: Record) -> list[Accepted]:
    return [Accepted(record.first_order + n, "", False, "t", 1, 0.0, None, b"", None) for n in range(record.count)]


def a_held(*records: tuple[int, int]) -> Held:
    """Hold records of so many jobs and bytes."""
    kept, order = Held(accepted), 1
    for seq, (count, size) in enumerate(records):
        kept.add(Record(Kind.JOBS, count, order, b"x" * size, seq=seq))
        order += count
    return kept


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "BATCH_BYTES", 100)


def sizes(kept: Held, most: int = 1000) -> list[int]:
    found = []
    while kept:
        found.append(len(kept.take(most).jobs))
    return found


def test_a_batch_is_bounded_in_bytes() -> None:
    assert sizes(a_held(*[(1, 40)] * 7)) == [3, 3, 1]


def test_a_long_record_is_fed_in_parts_and_counts_when_all_of_it_was() -> None:
    kept = a_held((10, 400), (1, 1))
    reaches = []
    while kept:
        reaches.append(kept.take(1000).reach)
    assert reaches == [*[Reach(0, 1)] * 4, Reach(1, 11), Reach(2, 12)]
    assert sizes(a_held((10, 400))) == [2, 2, 2, 2, 2]


def test_a_job_longer_than_a_batch_is_a_batch() -> None:
    assert sizes(a_held((1, 900), (1, 900))) == [1, 1]


def test_jobs_are_bounded_as_well() -> None:
    assert sizes(a_held((5, 5), (5, 5)), 4) == [4, 4, 2]


def test_a_record_without_bytes_is_taken_whole() -> None:
    assert sizes(a_held((3, 0))) == [3]
