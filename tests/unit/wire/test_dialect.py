import pytest

from kqs.wire.call import BadLine, Call, Dialect
from kqs.wire.dialect import decode_any


def test_the_line_tells_its_dialect() -> None:
    (first,) = decode_any(b'{"n":"ping"}\n', Dialect.JSONRPC)
    (second,) = decode_any(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n', Dialect.QRPC)
    assert (first.dialect, second.dialect) == (Dialect.QRPC, Dialect.JSONRPC)


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b"  \n"])
def test_a_blank_line_is_nothing(line: bytes) -> None:
    assert decode_any(line) == []


@pytest.mark.parametrize("last", Dialect)
@pytest.mark.parametrize("line", [b"nonsense\n", b'{"jsonrpc":"2.0",\n', b"[{]\n", b'[{"n":"\xff"}]\n'])
def test_no_json_is_answered_in_the_dialect_last_spoken(line: bytes, last: Dialect) -> None:
    (found,) = decode_any(line, last)
    assert isinstance(found, BadLine)
    assert (found.code, found.dialect) == ("bad_json", last)


def test_a_bad_call_is_answered_in_its_own_dialect() -> None:
    (first,) = decode_any(b'{"n":5}\n', Dialect.JSONRPC)
    (second,) = decode_any(b"[]\n", Dialect.QRPC)
    assert (first.dialect, second.dialect) == (Dialect.QRPC, Dialect.JSONRPC)


def test_members_of_a_batch_carry_its_number() -> None:
    found = decode_any(b'[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","method":"b"}]', batch=4)
    assert [call.batch for call in found if isinstance(call, Call)] == [4, 4]
