from itertools import pairwise

import pytest

from kqs.conformance import speech
from kqs.conformance.speech import Speech, in_pieces
from kqs.wire.call import BadLine, Call
from kqs.wire.lines import DEFAULT_LINE_BYTES

QRPC = b'{"id":1,"n":"ping"}\n'
JSONRPC = b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n'


def heard(*pieces: bytes) -> list[Call | BadLine]:
    speaking = Speech()
    return [call for piece in pieces for call in speaking.receive_data(piece)]


def call_of(line: bytes) -> Call:
    (call,) = heard(line)
    assert isinstance(call, Call)
    return call


def test_a_call_is_heard_however_it_is_cut() -> None:
    for at in range(len(QRPC)):
        assert [call.name for call in heard(QRPC[:at], QRPC[at:]) if isinstance(call, Call)] == ["ping"]


def test_empty_lines_are_nothing() -> None:
    assert heard(b"\n\r\n\n") == []


def test_each_dialect_is_answered_in_its_own() -> None:
    assert speech.answer(call_of(QRPC), [1]) == b'{"v":1,"id":1,"e":null,"s":"end","m":[1]}\n'
    assert speech.answer(call_of(JSONRPC), [1]) == b'{"jsonrpc":"2.0","id":1,"result":[1]}\n'
    assert speech.event(call_of(QRPC), 2) == b'{"v":1,"id":1,"e":null,"s":"ok","m":2}\n'
    assert b'"method":"event"' in speech.event(call_of(JSONRPC), 2)
    assert b'"code":"stale"' in speech.refusal(call_of(QRPC), "stale", "over")
    assert b'"data":{"code":"stale"}' in speech.refusal(call_of(JSONRPC), "stale", "over")


def test_a_notification_is_not_answered() -> None:
    assert speech.answer(call_of(b'{"jsonrpc":"2.0","method":"ping"}\n'), 1) == b""


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"hello\n", "bad_json"),
        (b"[" + JSONRPC[:-1] + b"]\n", "unsupported"),
        (b"x" * (DEFAULT_LINE_BYTES + 1), "too_large"),
    ],
)
def test_what_is_no_call_is_told(line: bytes, code: str) -> None:
    (bad,) = heard(line)
    assert isinstance(bad, BadLine)
    assert bad.code == code


def test_pieces_cut_through_characters_and_before_the_newline() -> None:
    line = '{"a":"é \U0001f600"}\n'.encode()
    pieces = in_pieces(line, 3)
    assert b"".join(pieces) == line
    assert pieces[-1] == b"\n"
    assert any(first[-1] >= 0xC0 and 0x80 <= second[0] < 0xC0 for first, second in pairwise(pieces))


@pytest.mark.parametrize(
    ("text", "count", "pieces"),
    [
        ("abcdef", 3, ["ab", "cd", "ef", "\n"]),
        ("abcdefg", 3, ["abc", "def", "g", "\n"]),
        ("abcdefg", 1, ["abcdefg", "\n"]),
        ("ab", 5, ["a", "b", "\n"]),
        ("", 3, ["\n"]),
    ],
)
def test_a_line_is_cut_into_so_many_pieces_of_one_length_and_its_newline(text: str, count: int, pieces: list[str]) -> None:
    assert in_pieces(f"{text}\n".encode(), count) == [piece.encode() for piece in pieces]


def test_every_character_of_several_bytes_is_cut_through_at_each_of_them() -> None:
    line = "aÀÿ\U0001f600b\n".encode()
    assert in_pieces(line, 1) == [b"a\xc3", b"\x80\xc3", b"\xbf\xf0", b"\x9f", b"\x98", b"\x80b", b"\n"]
