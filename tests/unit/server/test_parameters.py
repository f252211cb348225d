"""Arguments that do not fit are refused by the name of the field."""

from __future__ import annotations

import pytest
from msgspec import Raw

from kqs.errors import CallError
from kqs.job import State
from kqs.server.parameters import HelpQuery, JobQuery, JobsQuery, Parameters, parse


def refusal(model: type[Parameters], argument: bytes) -> str:
    with pytest.raises(CallError) as caught:
        parse(model, Raw(argument))
    assert caught.value.call_code == "bad_call"
    return str(caught.value)


def test_null_and_an_empty_object_leave_every_default() -> None:
    assert parse(JobsQuery, Raw(b"null")) == parse(JobsQuery, Raw(b"{}")) == JobsQuery()


def test_a_state_is_given_as_its_word() -> None:
    assert parse(JobsQuery, Raw(b'{"state":"processing"}')).state is State.PROCESSING


def test_a_string_stands_for_the_only_field() -> None:
    assert parse(JobQuery, Raw(b'"a"')).id == "a"
    assert parse(HelpQuery, Raw(b'"ping"')).name == "ping"


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        (b'{"limit":0}', "limit: "),
        (b'{"limit":1001}', "limit: "),
        (b'{"limit":"5"}', "limit: "),
        (b'{"limit":1.5}', "limit: "),
        (b'{"limit":true}', "limit: "),
        (b'{"type":""}', "type: "),
        (b'{"state":"nwe"}', "state: must be one of new, delayed"),
        (b'{"state":0}', "state: must be one of new, delayed"),
        (b'{"after":5}', "after: "),
        (b'{"limt":5}', 'unknown field "limt"; the nearest known one is "limit"'),
        (b"[]", "argument: "),
        (b'"x"', "argument: "),
    ],
)
def test_what_does_not_fit_is_named(argument: bytes, told: str) -> None:
    assert refusal(JobsQuery, argument).startswith(told)


def test_every_fault_is_told() -> None:
    assert "limit: " in (told := refusal(JobsQuery, b'{"limit":0,"type":5}'))
    assert "type: " in told


def test_a_missing_field_is_named() -> None:
    assert refusal(JobQuery, b"null") == "id: field required"


def test_a_message_is_short_however_long_the_argument() -> None:
    assert len(refusal(JobsQuery, b'{"state":"%b"}' % (b"x" * 10_000))) < 300
    assert len(refusal(JobsQuery, b'{"%b":1}' % (b"x" * 10_000))) < 300


def test_an_argument_and_a_message_have_a_most() -> None:
    assert refusal(JobsQuery, b'{"a":%b}' % (b" " * 20_000)).startswith("argument: expected at most 16384 bytes, got 20")
    assert refusal(JobsQuery, b"{" + b",".join(b'"k%d":1' % number for number in range(1000)) + b"}").count("unknown") == 5
