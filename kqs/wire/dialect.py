"""Which dialect a line is spoken in: the line itself tells."""

from __future__ import annotations

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
