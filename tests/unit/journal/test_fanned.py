"""The line before jobs whose types have subscribers, and the copies that it makes of them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqs.journal.fanned import copies_of, pack, plan_of, unpack
from kqs.journal.format import Kind, Record, decode_records, encode_frame
from kqs.options import PlainJob

TYPES = st.sampled_from(["order", "é\n", "ping", "bill"])
PLANS = st.dictionaries(TYPES, st.lists(st.text(min_size=1, max_size=5), unique=True, max_size=4), max_size=3)


@given(st.lists(TYPES, min_size=1, max_size=6), PLANS, st.binary(max_size=20))
def test_a_plan_is_read_as_it_was_written_and_makes_one_copy_a_subscriber(
    types: list[str], subscribers: dict[str, list[str]], text: bytes
) -> None:
    jobs = [PlainJob(type_) for type_ in types]
    plan = plan_of(jobs, subscribers)
    assert plan == {type_: some for type_, some in subscribers.items() if some and type_ in types}
    read, rest = unpack(pack(plan, text))
    assert (read, rest) == (plan, text)
    copies = copies_of(jobs, read)
    assert [copy.place for copy in copies] == [*range(len(jobs), len(jobs) + len(copies))]
    assert [(copy.of, copy.type) for copy in copies] == [(n, to) for n, job in enumerate(jobs) for to in plan.get(job.type, ())]


def test_a_plan_stands_in_a_record() -> None:
    record = Record(Kind.FANNED, 2, 7, pack({"order": ["bill"]}, b'{"type":"order"}'), accepted_us=3)
    header, frame = encode_frame([record], 0, 0)
    (read,) = decode_records(header, bytes(frame[-header.length :]))
    assert (read.kind, read.count, read.payload, read.accepted_us) == (Kind.FANNED, 2, record.payload, 3)


def test_what_has_no_plan_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        unpack(b'[{"type":"order"}]')
