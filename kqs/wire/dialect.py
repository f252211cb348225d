"""The dialects: in which a line is spoken, which the line itself tells, and how a call of it is answered."""

from __future__ import annotations

from msgspec import Raw

from kqs.wire import jsonrpc, qrpc
from kqs.wire.call import BadLine, Call, Dialect
from kqs.wire.steps import Steps, finish


def decode_any(line: bytes, last: Dialect = Dialect.QRPC, batch: int = 0) -> list[Call | BadLine]:
    """Decode one line of either dialect.

    Args: last: the dialect last spoken on this connection, in which a line that is no JSON is answered. batch: what the
    members of a JSON-RPC batch are to carry as their `batch`.
    Returns: nothing for a blank line, several for a batch, else one.
    """
    return finish(decoding_any(line, last, batch))


def decoding_any(line: bytes, last: Dialect = Dialect.QRPC, batch: int = 0) -> Steps[list[Call | BadLine]]:
    """Decode one line of either dialect, in steps. See decode_any."""
    if not line or line.isspace():
        return []
    if (yield from jsonrpc.telling_jsonrpc(line)):
        calls = yield from jsonrpc.decoding_line(line, batch)
    else:
        calls = [(yield from qrpc.decoding_line(line))]
    for call in calls:
        if isinstance(call, BadLine) and call.code == "bad_json":
            call.dialect = last
    return calls


def end(call: Call, result: Raw | bytes) -> bytes:
    """Return the last answer to a call; nothing where it wants none. Args: result: JSON."""
    if call.dialect is Dialect.QRPC:
        return qrpc.end(call.id, result)
    return b"" if call.notification else jsonrpc.result(call.id, result)


def progress(call: Call, value: Raw | bytes) -> bytes:
    """Return an intermediate answer to a call. Args: value: JSON."""
    return qrpc.progress(call.id, value) if call.dialect is Dialect.QRPC else jsonrpc.event(call.id, value)


def error(call: Call | BadLine, code: str, message: str) -> bytes:
    """Return the answer to what was refused or failed; nothing where it wants none. Args: code: of errors.ERROR_CODES."""
    if call.dialect is Dialect.QRPC:
        return qrpc.error(call.id, code, message)
    if isinstance(call, BadLine):
        return jsonrpc.error(call.id, code, message)
    return b"" if call.notification else jsonrpc.error(call.id, code, message, of_argument=True)
