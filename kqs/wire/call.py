"""One call and one answer, whatever the dialect.

Bytes that are already JSON travel as `Raw`; nothing here is decoded twice.
"""

from __future__ import annotations

from enum import Enum

import msgspec
from msgspec import Raw

NULL = Raw(b"null")


class Dialect(Enum):
    """How a line was spoken, and so how its answer is written."""

    QRPC = "qrpc"
    JSONRPC = "jsonrpc"


#: the dialects in which a call may give its parameters as a list, by position
POSITIONAL = frozenset({Dialect.JSONRPC})


class Call(msgspec.Struct, gc=False):
    """One call.

    name: which call. arg: its argument as JSON, as sent (null when there was none). id: the caller's id as JSON, as sent, or
    None when there was none. blob: the decoded binary argument, or None (then `arg` counts).
    notification: JSON-RPC without id; it is never answered.
    batch: index of the JSON-RPC batch it came in on its connection, or -1.
    """

    name: str
    arg: Raw = NULL
    id: Raw | None = None
    blob: bytes | None = None
    dialect: Dialect = Dialect.QRPC
    notification: bool = False
    batch: int = -1


def detached(call: Call) -> Call:
    """Return `call` without its argument, for whoever answers it later: what it came in is not kept in memory then."""
    call_id = None if call.id is None else call.id.copy()
    return Call(call.name, id=call_id, dialect=call.dialect, notification=call.notification, batch=call.batch)


class BadLine(msgspec.Struct, gc=False):
    """A line that is no call; answered as an error, after which the connection goes on. batch: as Call.batch."""

    code: str
    message: str
    id: Raw | None = None
    dialect: Dialect = Dialect.QRPC
    batch: int = -1
