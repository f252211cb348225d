"""What each call may be told."""

from __future__ import annotations

import pytest
from msgspec import Raw

from kqs.errors import CallError
from kqs.rpc.parameters import JobsQuery, States, SubjectQuery
from kqs.rpc.parsing import parse
from kqs.states import State
from kqs.wire.call import Call


def argument(text: bytes) -> Call:
    return Call("call", Raw(text))


def test_a_state_is_given_as_its_word() -> None:
    assert parse(JobsQuery, argument(b'{"state":"processing"}')).state == States({State.PROCESSING})
    assert parse(JobsQuery, argument(b'{"state":["new","fail","new"]}')).state == States({State.NEW, State.FAIL})


@pytest.mark.parametrize("text", [b'{"schedule":null}', b"{}", b"null"])
def test_a_subject_that_is_null_is_none(text: bytes) -> None:
    with pytest.raises(CallError, match=r"^argument: names no type and no schedule"):
        parse(SubjectQuery, argument(text))


def test_one_subject_may_stand_beside_another_that_is_null() -> None:
    assert parse(SubjectQuery, argument(b'{"type":"a","schedule":null}')).type == "a"


def test_two_subjects_are_one_too_many() -> None:
    with pytest.raises(CallError, match=r"^argument: names a type and a schedule, expected one of them"):
        parse(SubjectQuery, argument(b'{"type":"a","schedule":"b"}'))


def test_a_type_that_no_job_can_have_is_refused_by_its_field() -> None:
    with pytest.raises(CallError, match=r"^type: no job can be of this type"):
        parse(SubjectQuery, argument(b'{"type":"a\\u0007"}'))
