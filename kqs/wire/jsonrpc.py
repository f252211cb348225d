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
from kqs.wire.members import Reader
from kqs.wire.scan import runs
from kqs.wire.steps import Steps

_VERSION = Raw(b'"2.0"')
_NO_JSONRPC = {b'"jsonrpc"': 0}
_KEYS = ("jsonrpc", "id", "method", "params")
_READER = Reader(*_KEYS)

#: our code -> the standard's number. `bad_call` of an argument is -32602, see `error`.
NUMBERS = {"bad_json": -32700, "bad_call": -32600, "unknown_call": -32601, "bad_job": -32602, "internal": -32603}
#: Calls in one batch. It bounds how long one line can hold the loop: 16 MB of `[1,1,…]` are 8 million bad calls.
MAX_BATCH_CALLS = 10_000

_BAD_ARGUMENT = -32602
_OTHER = -32000

_encode = msgspec.json.Encoder().encode
_decode_array = msgspec.json.Decoder(list[Raw]).decode


def telling_jsonrpc(line: bytes) -> Steps[bool]:
    """Tell, in steps, whether `line` is spoken in this dialect: it begins an array, or is an object with the key `jsonrpc`."""
    if line.lstrip().startswith(b"["):
        return True
    is_suspect = strict.may_hold_unseen(line, _NO_JSONRPC)
    yield
    if not is_suspect:
        return False
    try:
        found = _READER.read(line)
    except (ValueError, RecursionError):
        return False
    yield
    return "jsonrpc" in found


def decoding_line(line: bytes, batch: int = 0) -> Steps[list[Call | BadLine]]:
    """Decode one line exactly, in steps.

    Args: batch: what the members of a batch, if it is one, are to carry as their `batch`.
    Returns: one call or bad line, or those of the batch in order; never none.
    """
    if not line.lstrip().startswith(b"["):
        return [(yield from _decoding_one(line, -1))]
    try:
        members = yield from _decoding_batch(line)
    except CallError as refused:
        return [_bad(refused)]
    calls = []
    for member in members:
        calls.append((yield from _decoding_one(bytes(member), batch)))
        yield
    return calls


def _decoding_batch(line: bytes) -> Steps[list[Raw]]:
    yield from strict.checking_json(line)
    members: list[Raw] = []
    for run in runs(line):
        yield
        if run is not None:
            members += _decode_array(run[1])
            if len(members) > MAX_BATCH_CALLS:
                raise CallError(f"batch: expected at most {MAX_BATCH_CALLS} calls", "too_large")
    if not members:
        raise CallError("expected calls, got an empty batch")
    return members


def result(call_id: Raw | None, value: Raw | bytes) -> bytes:
    """Return the answer to a call. Args: value: JSON."""
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (call_id or NULL, value)


def event(call_id: Raw | None, value: Raw | bytes) -> bytes:
    """Return an intermediate answer: a notification that names the call it belongs to. Args: value: JSON."""
    return b'{"jsonrpc":"2.0","method":"event","params":{"call":%b,"value":%b}}\n' % (call_id or NULL, value)


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
        """Args: members: all of one batch, as decoding_line gave them."""
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


def _decoding_one(text: bytes, batch: int) -> Steps[Call | BadLine]:
    call_id = None
    try:
        read = yield from envelope.reading(text, _READER, _KEYS, is_checked=batch >= 0)
        found = read.found
        call_id = _id_of(found)
        if read.fault is not None:
            raise CallError(read.fault)
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
