import pytest
from msgspec import Raw

from kqs.wire import jsonrpc
from kqs.wire.call import NULL, BadLine, Call, Dialect
from kqs.wire.jsonrpc import Batch, decoding_line, telling_jsonrpc
from kqs.wire.steps import finish

ONE = Raw(b"1")


def decode_line(line: bytes, batch: int = 0) -> list[Call | BadLine]:
    return finish(decoding_line(line, batch))


def call(name: str, arg: bytes = b"null", call_id: Raw | None = ONE, batch: int = -1) -> Call:
    return Call(name, Raw(arg), call_id, dialect=Dialect.JSONRPC, notification=call_id is None, batch=batch)


def bad(line: bytes, code: str = "bad_call") -> BadLine:
    (found,) = decode_line(line)
    assert isinstance(found, BadLine)
    assert (found.code, found.dialect, found.batch) == (code, Dialect.JSONRPC, -1)
    return found


@pytest.mark.parametrize("line", [b'{"jsonrpc":"2.0"}', b" [1]", b"[", rb'{"\u006asonrpc":"2.0"}'])
def test_it_is_told_by_its_key_or_by_an_array(line: bytes) -> None:
    assert finish(telling_jsonrpc(line))


@pytest.mark.parametrize(
    "line", [b'{"n":"ping"}', b'{"n":"echo","m":{"jsonrpc":"2.0"}}', b'{"jsonrpc"', rb'{"n":"\u0061"}', b""]
)
def test_no_other_line_is_one_of_json_rpc(line: bytes) -> None:
    assert not finish(telling_jsonrpc(line))


@pytest.mark.parametrize("params", [b"[1, 2]", b'{"type":"a"}', b"5", b"null"])
def test_params_are_the_argument(params: bytes) -> None:
    assert decode_line(b'{"jsonrpc":"2.0","id":1,"method":"echo","params":' + params + b"}\n") == [call("echo", params)]


def test_params_may_be_left_out() -> None:
    assert decode_line(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\r\n') == [call("ping")]


def test_without_id_it_is_a_notification_but_a_null_id_is_one() -> None:
    assert decode_line(b'{"jsonrpc":"2.0","method":"ping"}') == [call("ping", call_id=None)]
    assert decode_line(b'{"jsonrpc":"2.0","method":"ping","id":null}') == [call("ping", call_id=NULL)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"jsonrpc":"1.0","method":"a"}', 'jsonrpc: expected "2.0"'),
        (b'{"method":"a"}', 'jsonrpc: expected "2.0"'),
        (b'{"jsonrpc":"2.0"}', "method: missing"),
        (b'{"jsonrpc":"2.0","method":1,"params":"bar"}', "method: expected a text"),
        (b'{"jsonrpc":"2.0","method":"a","param":1}', 'unknown key "param"; the nearest known one is "params"'),
        (b'{"jsonrpc":"2.0","method":"a","method":"b"}', "method: stands twice"),
        (b'{"jsonrpc":"2.0","method":"a","id":1,"id":2}', "id: stands twice"),
        (b'{"jsonrpc":"2.0","method":"a","id":[]}', "id: expected"),
        (b"[]", "expected calls, got an empty batch"),
        (b"5", "expected a call"),
    ],
)
def test_what_is_no_call_is_told_why(line: bytes, message: str) -> None:
    assert bad(line).message.startswith(message)


@pytest.mark.parametrize("line", [b'[{"jsonrpc":', b"[" * 100_000, b"[" * 65 + b"]" * 65, b'["\xff"]', b"[NaN]", b'{"jsonrpc"'])
def test_what_is_no_json_is_told_so(line: bytes) -> None:
    bad(line, "bad_json")


def test_a_bad_call_keeps_its_id() -> None:
    assert bad(b'{"jsonrpc":"2.0","id":1}').id == ONE


def test_a_batch_gives_its_members_in_order() -> None:
    line = b'[{"jsonrpc":"2.0","id":1,"method":"a"}, 5, {"jsonrpc":"2.0","method":"b","params":[]}]'
    first, second, third = decode_line(line, batch=3)
    assert first == call("a", batch=3)
    assert isinstance(second, BadLine)
    assert second.batch == 3
    assert third == call("b", b"[]", None, batch=3)


def test_the_calls_of_a_batch_are_counted_before_they_are_read() -> None:
    assert len(decode_line(b"[" + b"1," * 9_999 + b"1]")) == 10_000
    assert bad(b"[" + b"1," * 10_000 + b"1]", "too_large").message == "batch: expected at most 10000 calls"


def test_a_long_batch_is_read_like_a_short_one() -> None:
    member = b'{"jsonrpc":"2.0","id":1,"method":"echo","params":%b}' % (b'"' + b"x" * 300_000 + b'"')
    found = decode_line(b"[%b]" % b",".join([member, member]), batch=3)
    assert [(one.name, len(one.arg), one.batch) for one in found if isinstance(one, Call)] == [("echo", 300_002, 3)] * 2


def test_answers() -> None:
    assert jsonrpc.result(ONE, b'"pong"') == b'{"jsonrpc":"2.0","id":1,"result":"pong"}\n'
    assert jsonrpc.result(NULL, NULL) == b'{"jsonrpc":"2.0","id":null,"result":null}\n'
    assert jsonrpc.event(ONE, b"5") == b'{"jsonrpc":"2.0","method":"event","params":{"call":1,"value":5}}\n'


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("bad_json", -32700),
        ("bad_call", -32600),
        ("unknown_call", -32601),
        ("bad_job", -32602),
        ("internal", -32603),
        ("no_space", -32000),
    ],
)
def test_errors_have_the_number_of_the_standard(code: str, number: int) -> None:
    wanted = b'{"jsonrpc":"2.0","id":1,"error":{"code":%d,"message":"m","data":{"code":"%b"}}}\n' % (number, code.encode())
    assert jsonrpc.error(ONE, code, "m") == wanted


def test_an_error_of_an_unknown_call_has_a_null_id() -> None:
    assert jsonrpc.error(None, "bad_json", "m").startswith(b'{"jsonrpc":"2.0","id":null,')


def test_a_bad_argument_is_told_from_a_bad_call() -> None:
    assert b"-32602" in jsonrpc.error(ONE, "bad_call", "m", of_argument=True)
    assert b"-32000" in jsonrpc.error(ONE, "stale", "m", of_argument=True)


def test_a_batch_is_answered_when_all_its_members_are() -> None:
    batch = Batch([call("a"), BadLine("bad_call", "m"), call("b", call_id=None)])
    assert batch.add(jsonrpc.result(ONE, b"1")) is None
    answer = batch.add(jsonrpc.error(None, "bad_call", "m"))
    assert answer == b"[" + jsonrpc.result(ONE, b"1").strip() + b"," + jsonrpc.error(None, "bad_call", "m").strip() + b"]\n"


def test_a_batch_of_notifications_takes_no_answer() -> None:
    with pytest.raises(AssertionError):
        Batch([call("a", call_id=None)]).add(b"1\n")
