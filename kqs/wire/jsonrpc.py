"""JSON-RPC 2.0, batches and notifications included (https://www.jsonrpc.org/specification).

`params` is the call's argument whatever its form, so an array is one argument. Our code stands in `error.data.code`; the
number is the standard's, or -32000 for what it has no word for. Intermediate answers are notifications of method `event`.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from kqs.errors import CallError
from kqs.wire import envelope, strict
from kqs.wire.call import NULL, BadLine, Call, Dialect

_VERSION = Raw(b'"2.0"')
_KEYS = ("jsonrpc", "id", "method", "params")

#: our code -> the standard's number. `bad_call` of an argument is -32602, see `error`.
NUMBERS = {"bad_json": -32700, "bad_call": -32600, "unknown_call": -32601, "bad_job": -32602, "internal": -32603}
#: Calls in one batch. It bounds how long one line can hold the loop: 16 MB of `[1,1,…]` are 8 million bad calls.
MAX_BATCH_CALLS = 10_000

_BAD_ARGUMENT = -32602
_OTHER = -32000

_encode = msgspec.json.Encoder().encode
_decode_array = msgspec.json.Decoder(list[Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode


def is_jsonrpc(line: bytes) -> bool:
    """Tell whether `line` is spoken in this dialect: it begins an array, or is an object with the key `jsonrpc`."""
    if line.lstrip().startswith(b"["):
        return True
    if b'"jsonrpc"' not in line and not strict.may_hide_key(line):
        return False
    try:
        return "jsonrpc" in _decode_object(line)
    except (ValueError, RecursionError):
        return False


def decode_line(line: bytes, batch: int = 0) -> list[Call | BadLine]:
    """Decode one line, exactly.

    Args: batch: what the members of a batch, if it is one, are to carry as their `batch`.
    Returns: one call or bad line, or those of the batch in order; never none.
    """
    if not line.lstrip().startswith(b"["):
        return [_decode_one(line, -1)]
    try:
        members = _decode_array(line)
        strict.check_text(line)
    except CallError as refused:
        return [_bad(refused)]
    except (ValueError, RecursionError) as malformed:
        return [_bad(strict.not_json(line, malformed))]
    if not members:
        return [_bad(CallError("expected calls, got an empty batch"))]
    if len(members) > MAX_BATCH_CALLS:
        return [_bad(CallError(f"batch: expected at most {MAX_BATCH_CALLS} calls, got {len(members)}", "too_large"))]
    return [_decode_one(bytes(member), batch) for member in members]


def result(call_id: Raw | None, value: Raw | bytes) -> bytes:
    """Return the answer to a call. Args: value: JSON."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (call_id or NULL, value)


def event(call_id: Raw | None, value: Raw | bytes) -> bytes:
    """Return an intermediate answer: a notification that names the call it belongs to. Args: value: JSON."""
    return b'{"jsonrpc":"2.0","method":"event","params":{"id":%b,"result":%b}}\n' % (call_id or NULL, value)


def error(call_id: Raw | None, code: str, message: str, *, of_argument: bool = False) -> bytes:
    """Return the answer to a call that was refused or failed.

    Args: code: of errors.ERROR_CODES. of_argument: the call itself was well formed, so a `bad_call` is about its argument.
    """
    number = _BAD_ARGUMENT if of_argument and code == "bad_call" else NUMBERS.get(code, _OTHER)
    fault = _encode({"code": number, "message": message, "data": {"code": code}})
    return b'{"jsonrpc":"2.0","id":%b,"error":%b}\n' % (call_id or NULL, fault)


class Batch:
    """Gathers the answers to one batch, which leave as one array when the last is there. Notifications have none.

    size: of the answers gathered so far, in bytes.
    """

    def __init__(self, members: Sequence[Call | BadLine]) -> None:
        """Args: members: all of one batch, as decode_line gave them."""
        self._missing = sum(isinstance(member, BadLine) or not member.notification for member in members)
        self._answers: list[bytes] = []
        self.size = 0

    def add(self, answer: bytes) -> bytes | None:
        """Take the answer to one member, a line. Returns: the line that answers the batch, after the last; None before."""
        assert self._missing, "every member was answered"
        self._missing -= 1
        self.size += len(answer)
        self._answers.append(answer.rstrip(b"\n"))
        return None if self._missing else b"[%b]\n" % b",".join(self._answers)


def _decode_one(text: bytes, batch: int) -> Call | BadLine:
    call_id = None
    try:
        found = envelope.read(text)
        call_id = _id_of(found)
        envelope.check_keys(text, found, _KEYS, _KEYS)
        if found.get("jsonrpc") != _VERSION:
            raise CallError('jsonrpc: expected "2.0"')
        return Call(
            name=envelope.name_of("method", found),
            arg=found.get("params", NULL),
            id=call_id,
            dialect=Dialect.JSONRPC,
            notification=call_id is None,
            batch=batch,
        )
    except CallError as refused:
        return _bad(refused, call_id, batch)


def _id_of(found: dict[str, Raw]) -> Raw | None:
    raw = found.get("id")
    return raw if raw is None or raw == NULL else envelope.check_id(raw)


def _bad(refused: CallError, call_id: Raw | None = None, batch: int = -1) -> BadLine:
    return BadLine(refused.call_code, str(refused), call_id, Dialect.JSONRPC, batch)
