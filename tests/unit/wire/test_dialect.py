import pytest

from kqs.wire import dialect, jsonrpc, qrpc
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


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        (
            b'{"id":1,"n":"a"}\n',
            (
                b'{"v":1,"id":1,"e":null,"s":"end","m":2}\n',
                b'{"v":1,"id":1,"e":null,"s":"ok","m":2}\n',
                b'{"v":1,"id":1,"e":{"_isError__":1,"name":"Error","message":"no","code":"bad_call"},"s":"err"}\n',
            ),
        ),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"a"}\n',
            (
                b'{"jsonrpc":"2.0","id":1,"result":2}\n',
                b'{"jsonrpc":"2.0","method":"event","params":{"call":1,"value":2}}\n',
                b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no","data":{"code":"bad_call"}}}\n',
            ),
        ),
        (
            b'{"jsonrpc":"2.0","method":"a"}\n',
            (b"", b'{"jsonrpc":"2.0","method":"event","params":{"call":null,"value":2}}\n', b""),
        ),
    ],
)
def test_a_call_is_answered_in_its_dialect(line: bytes, answers: tuple[bytes, bytes, bytes]) -> None:
    (call,) = decode_any(line)
    assert isinstance(call, Call)
    assert (dialect.end(call, b"2"), dialect.progress(call, b"2"), dialect.error(call, "bad_call", "no")) == answers


@pytest.mark.parametrize("line", [b'{"id":1,"n":5}\n', b'{"jsonrpc":"2.0","id":1,"method":5}\n'])
def test_a_bad_line_is_told_what_is_wrong_with_it(line: bytes) -> None:
    (bad,) = decode_any(line)
    assert isinstance(bad, BadLine)
    error = qrpc.error if bad.dialect is Dialect.QRPC else jsonrpc.error
    assert dialect.error(bad, bad.code, bad.message) == error(bad.id, bad.code, bad.message)
