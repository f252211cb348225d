"""Which dialect a line is spoken in: the line itself tells."""

from __future__ import annotations

from kqs.wire import jsonrpc, qrpc
from kqs.wire.call import BadLine, Call, Dialect


def decode_any(line: bytes, last: Dialect = Dialect.QRPC, batch: int = 0) -> list[Call | BadLine]:
    """Decode one line of either dialect.

    Args: last: the dialect last spoken on this connection, in which a line that is no JSON is answered. batch: what the
    members of a JSON-RPC batch are to carry as their `batch`.
    Returns: nothing for a blank line, several for a batch, else one.
    """
    if not line.strip():
        return []
    calls = jsonrpc.decode_line(line, batch) if jsonrpc.is_jsonrpc(line) else [qrpc.decode_line(line)]
    for call in calls:
        if isinstance(call, BadLine) and call.code == "bad_json":
            call.dialect = last
    return calls
