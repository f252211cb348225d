"""Claims of jobs that were journaled before: what a record says of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqs.journal import Kind, Record, claimed_orders, claims_record
from kqs.journal.format import MalformedError

orders_in_row = st.lists(st.integers(0, 1 << 62), min_size=1, unique=True).map(sorted)


@given(orders_in_row)
def test_a_record_names_the_orders_that_it_was_made_of(orders: list[int]) -> None:
    assert [order for some in claimed_orders(claims_record(orders)) for order in some] == orders


def test_orders_in_a_row_are_one_line() -> None:
    record = claims_record([0x6000000000001, 0x6000000000002, 0x6000000000003, 0x6000000000009])
    assert record.payload == b"6000000000001-6000000000003\n6000000000009-6000000000009\n"
    assert (record.kind, record.count) == (Kind.CLAIMS, 0)


@pytest.mark.parametrize(
    "payload", [b"6000000000001-6000000000003", b"x\n", b"6000000000001-6000000000003\n?", b"\n6000000000001-6000000000003\n"]
)
def test_what_does_not_tell_claims_is_malformed(payload: bytes) -> None:
    with pytest.raises(MalformedError, match="record 7"):
        claimed_orders(Record(Kind.CLAIMS, 0, 0, payload, seq=7))
