"""A connection as the calls see it, and what a peer is told of an error."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from kqs.errors import ERROR_CODES, CallError, KqsError
from kqs.journal.format import Record
from kqs.log import get_logger
from kqs.rpc.context import Context
from kqs.rpc.standing import Standing
from kqs.wire.call import Call

log = get_logger("kqs.rpc")

_encode = msgspec.json.Encoder().encode


class Peer(Protocol):
    """The connection, as a call sees it."""

    context: Context
    is_gone: bool  # nobody is there to be answered
    newest_record: Record | None  # of this connection's inserts, while it is not flushed
    standing: Standing

    def send(self, answers: bytes) -> None:
        """Send whole answers, already encoded."""
        ...

    def answer(self, call: Call, result: bytes | Raw) -> None:
        """Answer `call` with a result in JSON."""
        ...

    def event(self, call: Call, value: bytes | Raw) -> None:
        """Give an intermediate answer to `call`, in JSON; `settle` must follow."""
        ...

    def answer_blob(self, call: Call, blob: bytes) -> None:
        """Answer `call` with binary data."""
        ...

    def refuse(self, call: Call, code: str, message: str) -> None:
        """Answer `call` with an error."""
        ...

    def defer(self, count: int = 1) -> None:
        """Note that `count` calls will be answered later."""
        ...

    def settle(self, count: int = 1, *, at_once: bool = False) -> None:
        """Note that `count` deferred calls have just been answered; what was answered is written this tick."""
        ...

    @property
    def reads(self) -> asyncio.Semaphore:
        """Return what a task must hold to read jobs."""
        ...

    def begin_task(self) -> None:
        """Note that a call will be answered by a task."""
        ...

    def end_task(self, size: int) -> None:
        """Note that the task of a call has answered it, in so many bytes."""
        ...


def answer_later(peer: Peer, call: Call, work: Callable[[], Awaitable[Any]]) -> None:
    """Answer a call, which is detached, by a task: with what `work` returns, as JSON, or why it raises."""
    peer.begin_task()
    peer.context.spawn(_answering(peer, call, work), f"call {call.name}")


async def _answering(peer: Peer, call: Call, work: Callable[[], Awaitable[Any]]) -> None:
    result = b""
    try:
        result = _encode(await work())
    except Exception as error:
        peer.refuse(call, *translate(error))
    else:
        peer.answer(call, result)
    finally:
        peer.end_task(len(result))


def translate(error: Exception) -> tuple[str, str]:
    """Return the code and message that a peer gets for `error`.

    Only a CallError's own words were written for the peer. Any other text may hold paths or data: a known kind of error
    is told by its code's meaning, and an unexpected one is logged under a random id, which is all the peer gets.
    """
    if isinstance(error, CallError):
        return error.call_code, str(error)
    if isinstance(error, KqsError) and error.code != "internal":
        return error.code, ERROR_CODES[error.code]
    fault = secrets.token_hex(8)
    log.error("! unexpected error in a call", fault=fault, exc_info=error)
    return "internal", f"internal error {fault}"
