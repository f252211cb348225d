"""Arguments that do not fit are refused by the name of the field."""

from __future__ import annotations

import sys

import pytest
from msgspec import Raw

from kqs.errors import CallError
from kqs.rpc import parsing
from kqs.rpc.parameters import HelpQuery, JobQuery, JobsQuery, NoQuery, ScheduleQuery
from kqs.rpc.parsing import AnyParameters, Parameters
from kqs.wire.call import Call, Dialect


def parse(model: type[AnyParameters], argument: Raw, dialect: Dialect = Dialect.QRPC) -> AnyParameters:
    return parsing.parse(model, Call("call", argument, dialect=dialect))


def refusal(model: type[Parameters], argument: bytes, dialect: Dialect = Dialect.QRPC) -> str:
    with pytest.raises(CallError) as caught:
        parse(model, Raw(argument), dialect)
    assert caught.value.call_code == "bad_call"
    return str(caught.value)


def test_null_and_an_empty_object_leave_every_default() -> None:
    assert parse(JobsQuery, Raw(b"null")) == parse(JobsQuery, Raw(b"{}")) == JobsQuery()


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
        (b'{"state":[null,"new"]}', "state: must be one of new, delayed"),
        (b'{"after":5}', "after: "),
        (b'{"cursor":"ff\\n"}', "cursor: "),
        (b'{"cursor":"8000000000000000"}', "cursor: "),
        (b'{"type":"a","type":"b"}', "type: stands twice"),
        (b'{"type":"a","ty\\u0070e":"b"}', "type: stands twice"),
        (b'{"ids":["a"],"x":{"ttr":1,"ttr":1}}', "ttr: stands twice"),
        (b'{"limt":5}', 'unknown field "limt"; the nearest known one is "limit"'),
        (b'["x"]', "call takes its parameters by name"),
        (b"5", "argument: "),
        (b'"x"', "argument: "),
    ],
)
def test_what_does_not_fit_is_named(argument: bytes, told: str) -> None:
    assert refusal(JobsQuery, argument).startswith(told)


@pytest.mark.parametrize("digits", ["9" * 5000, "-" + "9" * 5000, "9" * 5000 + ".5", "1e400"])
@pytest.mark.parametrize("argument", ['{"newest":true,"limit":%s}', '{"limit":[[%s]]}', '{"limit": {"a":%s}}'])
def test_a_number_that_nothing_reads_is_told_by_its_field(argument: str, digits: str) -> None:
    told = refusal(JobsQuery, (argument % digits).encode())
    assert told.startswith("limit: expected no number out of range, got ")
    assert len(told) < 150


def test_where_no_field_has_such_a_number_it_is_the_argument_or_an_unknown_field() -> None:
    digits = b"9" * 5000
    assert refusal(JobsQuery, digits).startswith("argument: expected no number out of range")
    assert refusal(JobsQuery, b'{"limt":%b}' % digits) == 'unknown field "limt"; the nearest known one is "limit"'


def test_a_long_number_that_can_be_read_is_refused_by_what_was_expected() -> None:
    assert refusal(JobsQuery, b'{"limit":%b}' % (b"9" * 4000)).startswith("limit: expected an integer from 1 to 1000, got 999")


def test_a_number_is_refused_also_where_a_handler_has_bounded_what_python_writes() -> None:
    bound = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(640)
    try:
        assert refusal(JobsQuery, b'{"limit":%b}' % (b"9" * 700)).startswith("limit: expected no number out of range")
    finally:
        sys.set_int_max_str_digits(bound)


def test_the_nearest_field_is_told_as_it_is_said() -> None:
    assert refusal(ScheduleQuery, b'{"name":"a","fron":1}') == 'unknown field "fron"; the nearest known one is "from"'


def test_every_fault_is_told() -> None:
    assert "limit: " in (told := refusal(JobsQuery, b'{"limit":0,"type":5}'))
    assert "type: " in told


def test_a_missing_field_is_named() -> None:
    assert refusal(JobQuery, b"null") == "id: field required"


def test_a_message_is_short_however_long_the_argument() -> None:
    assert len(refusal(JobsQuery, b'{"state":"%b"}' % (b"x" * 10_000))) < 300
    assert len(refusal(JobsQuery, b'{"%b":1}' % (b"x" * 10_000))) < 300


def test_an_argument_and_a_message_have_a_most() -> None:
    assert refusal(JobQuery, b'{"a":%b}' % (b" " * 20_000)).startswith("argument: expected at most 16000 bytes, got 20")
    assert refusal(JobsQuery, b'{"a":%b}' % (b" " * 300_000)).startswith("argument: expected at most 266666 bytes, got 30")
    assert refusal(JobsQuery, b"{" + b",".join(b'"k%d":1' % number for number in range(1000)) + b"}").count("unknown") == 5


@pytest.mark.parametrize("argument", [b"null", b"{}", b"[]", b"{ }", b"[ ]"])
@pytest.mark.parametrize("model", [NoQuery, HelpQuery, JobsQuery])
def test_nothing_may_be_said_in_several_ways(model: type[Parameters], argument: bytes) -> None:
    assert parse(model, Raw(argument)) == model()


@pytest.mark.parametrize("argument", [b"0", b"false", b'""', b'"x"', b'{"a":1}', b'["a"]', b"[null]"])
def test_a_call_without_parameters_takes_none(argument: bytes) -> None:
    refusal(NoQuery, argument)
    refusal(NoQuery, argument, Dialect.JSONRPC)


def test_json_rpc_may_give_an_only_parameter_by_its_position() -> None:
    assert parse(JobQuery, Raw(b'["a"]'), Dialect.JSONRPC).id == "a"
    assert parse(JobQuery, Raw(b'[{"id":"a"}]'), Dialect.JSONRPC).id == "a"
    assert parse(HelpQuery, Raw(b'["ping"]'), Dialect.JSONRPC).name == "ping"
    assert "takes 1 parameter, got" in refusal(JobQuery, b'["a","b"]', Dialect.JSONRPC)
    assert "by name" in refusal(JobsQuery, b'["a"]', Dialect.JSONRPC)
    assert "by name" in refusal(JobQuery, b'["a"]')


def test_binary_data_is_no_argument_of_these() -> None:
    with pytest.raises(CallError, match="takes no binary data"):
        parsing.parse(NoQuery, Call("ping", blob=b"x"))


def test_an_argument_longer_than_any_is_refused_unread() -> None:
    assert "at most" in refusal(JobQuery, b'"%b"' % (b"x" * 20_000))
    assert len(refusal(JobQuery, b'"%b"' % (b"x" * 10**6))) < 300
