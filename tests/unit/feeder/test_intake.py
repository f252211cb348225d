"""What is ready by itself is made in a shorter way, and is the same."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqs.feeder.intake import Intake
from kqs.ids import Ids
from kqs.journal import Kind, Record
from kqs.options import Cascade
from kqs.wire.jobs import decode_jobs

NOW_US = 1_700_000_000_000_000
SETTINGS: dict[str, dict[str, Any]] = {
    "late": {"delay": 3.0},
    "brief": {"expire": 60.0},
    "alone": {"resource": "printer"},
    "soon": {"prio": 3},
}


def an_intake() -> Intake:
    return Intake(Ids("0000beef"), Cascade({}, SETTINGS))


def a_record(text: bytes, order: int = NOW_US, accepted_us: int = NOW_US, *, adopted: bool = False) -> Record:
    jobs = decode_jobs(text)
    return Record(Kind.JOBS, len(jobs), order, text, jobs, accepted_us=accepted_us, adopted=adopted)


@given(
    types=st.lists(st.sampled_from(["mail", "soon", "resize"]), min_size=1, max_size=5),
    order=st.integers(NOW_US, NOW_US + 2_000_000),
)
def test_jobs_of_which_nothing_is_set_are_the_same_in_either_way(types: list[str], order: int) -> None:
    text = b"[%b]" % b",".join(b'{"type":"%b","data":{"to":"%b"}}' % (2 * (type_.encode(),)) for type_ in types)
    intake, record = an_intake(), a_record(text, order)
    ready = intake.ready_types(record)
    assert ready is not None
    assert set(ready) == set(types)
    assert intake.ready(record) == intake.accepted(record)


@pytest.mark.parametrize(
    "text",
    [
        b'{"type":"mail","id":"a"}',
        b'{"type":"mail","prio":1}',
        b'{"type":"mail","delay":1}',
        b'{"type":"mail","after":["a"]}',
        b'{"type":"mail","unique":"a"}',
        b'{"type":"mail","group":"a"}',
        b'{"type":"late"}',
        b'{"type":"brief"}',
        b'{"type":"alone"}',
    ],
)
def test_a_job_that_may_have_to_wait_keeps_its_record_from_being_ready(text: bytes) -> None:
    intake = an_intake()
    assert intake.ready_types(a_record(text)) is None
    assert intake.ready_types(a_record(b'[{"type":"mail"},%b]' % text)) is None


def test_what_is_adopted_not_decoded_or_too_much_is_not_ready() -> None:
    intake, one = an_intake(), b'{"type":"mail"}'
    assert intake.ready_types(a_record(one, adopted=True)) is None
    assert intake.ready_types(Record(Kind.JOBS, 1, NOW_US, one)) is None
    assert intake.ready_types(a_record(b"[%b]" % b",".join(4001 * [one]))) is None
