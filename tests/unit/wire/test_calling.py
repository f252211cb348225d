import json
from collections.abc import Iterable
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kqs.errors import CallError
from kqs.wire.calling import AnswerReader, Trouble, call_line

STREAM = (
    b'{"v":1,"id":1,"e":null,"s":"end","m":{"a":[1,2]}}\n'
    b'{"v":1,"id":2,"e":{"_isError__":1,"message":"no","code":"bad_job"},"s":"err"}\n'
)


def answers(pieces: Iterable[bytes]) -> list[tuple[int | None, bytes, Trouble | None, str]]:
    reader = AnswerReader()
    return [(one.id, bytes(one.m), one.e, one.s) for piece in pieces for one in reader.receive_data(piece)]


def test_call_is_one_line_with_its_argument_last() -> None:
    line = call_line(7, b'"echo"', b'{"a":1}')
    assert json.loads(line) == {"v": 1, "id": 7, "n": "echo", "m": {"a": 1}}
    assert line.endswith(b'"m":{"a":1}}\n')


@given(st.lists(st.integers(0, len(STREAM)), max_size=6))
def test_any_split_gives_the_same_answers(cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(STREAM)]
    assert answers(STREAM[a:b] for a, b in pairwise(ends)) == [
        (1, b'{"a":[1,2]}', None, "end"),
        (2, b"null", Trouble("no", "bad_job"), "err"),
    ]


def test_answer_may_lack_its_id() -> None:
    assert answers([b'{"v":1,"id":null,"e":{"message":"x"},"s":"err"}\n']) == [(None, b"null", Trouble("x", "internal"), "err")]


def test_what_is_no_answer_is_told() -> None:
    with pytest.raises(msgspec.MsgspecError):
        answers([b"HTTP/1.1 400\r\n"])


def test_the_end_of_a_line_is_not_waited_for_without_end() -> None:
    reader = AnswerReader(max_answer_bytes=100)
    piece = b'{"m":"' + b"x" * 44
    assert list(reader.receive_data(piece)) == list(reader.receive_data(piece)) == []
    with pytest.raises(msgspec.DecodeError, match="no end after 100 bytes"):
        list(reader.receive_data(b"x"))


def test_trouble_becomes_the_error_with_its_code() -> None:
    error = Trouble("no space", "no_space").error()
    assert isinstance(error, CallError)
    assert (error.call_code, str(error)) == ("no_space", "no space")


def test_unknown_code_stays_readable() -> None:
    error = Trouble("x", "of_tomorrow").error()
    assert (error.call_code, str(error)) == ("internal", "of_tomorrow: x")
