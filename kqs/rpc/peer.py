"""A peer as its calls see it: what it is answered, which of its calls are not answered yet, and what it is told of an error.

Nothing is written here: whoever owns the transport takes the answers (`data_to_send`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from msgspec import Raw

from kqs.errors import ERROR_CODES, CallError, JournalError, KqsError, StoreCorruptError
from kqs.journal.format import Record
from kqs.log import get_logger
from kqs.rpc.answers import LITTLE_BYTES
from kqs.rpc.context import Context
from kqs.rpc.standing import Standing
from kqs.rpc.transcript import Transcript
from kqs.wire import dialect, jsonrpc, qrpc
from kqs.wire.call import BadLine, Call

log = get_logger("kqs.rpc")

#: Calls of one connection that wait for the store or for other parts at a time: each is a task, and its answer may be as long
#: as a line. So it is one at first, and again after a long answer.
MAX_TASKS = 16

_encode = msgspec.json.Encoder().encode


class Peer:
    """See the module docstring. Owned by the loop thread.

    is_gone: nobody is there to be answered. has_left: asks whether that is so of a peer that is not read now.
    in_flight, tasks: calls that will be answered later, and those of them that are by tasks; most_in_flight, most_tasks: how
    many may be.
    answers: those that are ready, for `data_to_send`; out_bytes: how long they are. gathered_bytes: how long those are that
    wait for the others of their batch.
    """

    def __init__(
        self, context: Context, where: Callable[[], str], changed: Callable[[bool], None], transcript: Transcript | None
    ) -> None:
        """Args: where: tells where the peer is, for people. changed: called when a deferred call was answered, with True if its
        answer should be written at once. transcript: told what is answered."""
        self.context = context
        self.standing = Standing(context.desk, where)
        self.is_gone = False
        self.has_left: Callable[[], bool] = lambda: False
        self.in_flight = 0
        self.tasks = 0
        self.most_in_flight = context.settings.max_in_flight
        self.most_tasks = 1
        self.answers: list[bytes] = []
        self.out_bytes = 0
        self.gathered_bytes = 0
        self._changed = changed
        self._newest_record: Record | None = None  # of this peer's inserts, while it is not flushed
        self._transcript = transcript
        self._batches: dict[int, jsonrpc.Batch] = {}

    @property
    def answer_bytes(self) -> int:
        """Return how many bytes of answers are held here."""
        return self.out_bytes + self.gathered_bytes

    def data_to_send(self) -> bytes:
        """Take the answers that are ready."""
        out = self.answers
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self.out_bytes = 0
        if self._transcript is not None:
            self._transcript.sent(data)
        return data

    def send(self, answers: bytes) -> None:
        """Queue whole answers, already encoded."""
        self.answers.append(answers)
        self.out_bytes += len(answers)

    def answer(self, call: Call, result: bytes | Raw) -> None:
        """Answer `call` with a result in JSON."""
        self._send_in(call.batch, dialect.end(call, result))

    def event(self, call: Call, value: bytes | Raw) -> None:
        """Give an intermediate answer to `call`, in JSON. It is written when `settle` was called."""
        self.send(dialect.progress(call, value))

    def answer_blob(self, call: Call, blob: bytes) -> None:
        """Answer `call` with binary data, which only qrpc can carry."""
        self.send(qrpc.end_blob(call.id, blob))

    def refuse(self, call: Call | BadLine, code: str, message: str) -> None:
        """Answer `call` with an error."""
        self.context.counters.error(code)
        if self._transcript is not None:
            self._transcript.refused(code, message)
        self._send_in(call.batch, dialect.error(call, code, message))

    def defer(self, count: int = 1) -> None:
        """Note that `count` calls will be answered later."""
        self.in_flight += count

    def settle(self, count: int = 1, *, at_once: bool = False) -> None:
        """Note that `count` deferred calls have just been answered; what was answered is written this tick.

        at_once: no more answers are due in this tick.
        """
        self.in_flight -= count
        self._changed(at_once)

    @property
    def is_inserting(self) -> bool:
        """Tell whether an insert waits for its flush."""
        return self._newest_record is not None

    def await_flush(self, record: Record, count: int = 1) -> None:
        """Note that `count` inserts will be answered when `record`, which was journaled last, is flushed, or later."""
        self._newest_record = record
        self.in_flight += count

    def note_flushed(self, record: Record) -> None:
        """Take in that a record of inserts is settled; they are answered later."""
        if self._newest_record is record:
            self._newest_record = None

    def settle_flushed(self, record: Record, count: int = 1) -> None:
        """Take in that a record is settled, and that the `count` inserts of it have just been answered."""
        if self._newest_record is record:
            self._newest_record = None
        self.in_flight -= count
        self._changed(record.alone)

    def after_earlier_inserts(self, answer: Callable[[], None]) -> None:
        """Give an answer, but not before this peer's earlier inserts are settled."""
        newest = self._newest_record
        if newest is None:
            answer()
            return
        settle_newest = newest.done
        assert settle_newest is not None

        def done(error: JournalError | None) -> None:
            settle_newest(error)
            answer()
            self.settle()

        newest.done = done
        self.defer()

    @property
    def reads(self) -> asyncio.Semaphore:
        """Return what a task must hold to read jobs."""
        return self.context.short_reads if self.most_tasks > 1 else self.context.reads

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Have one of the turns to read, of which there are few: who has left meanwhile keeps none from the others.

        Raises: CallError: the peer is gone.
        """
        async with self.reads:
            if self.is_gone or self.has_left():
                raise CallError("the connection is lost", "busy")
            yield

    def begin_task(self) -> None:
        """Note that a call will be answered by a task."""
        self.tasks += 1
        self.defer()

    def end_task(self, size: int) -> None:
        """Note that the task of a call has answered it, in so many bytes."""
        self.tasks -= 1
        self.most_tasks = MAX_TASKS if size <= LITTLE_BYTES else 1
        self.settle()

    def begin_batch(self, members: Sequence[Call | BadLine]) -> None:
        """Gather the answers to all members of a batch from now on."""
        if any(isinstance(member, BadLine) or not member.notification for member in members):
            self._batches[members[0].batch] = jsonrpc.Batch(members)

    def batch_bytes(self, batch: int) -> int:
        """Return how long the answers are that were gathered of a batch, which is not answered yet."""
        return self._batches[batch].size

    def _send_in(self, batch: int, answer: bytes) -> None:
        """Send the answer to a call of a batch (-1: of none) when those to all others of it are there."""
        if not answer:
            return
        if batch < 0:
            self.send(answer)
            return
        self.gathered_bytes += len(answer)
        self.context.answers.note(len(answer))
        gathering = self._batches[batch]
        if (gathered := gathering.add(answer)) is not None:
            del self._batches[batch]
            self.gathered_bytes -= gathering.size
            self.send(gathered)


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
    if isinstance(error, StoreCorruptError):  # whoever meets it first stops the node, and says why in the log
        return "draining", "the server is stopping: it cannot go on with its store"
    if isinstance(error, KqsError) and error.code != "internal":
        return error.code, ERROR_CODES[error.code]
    fault = secrets.token_hex(8)
    log.error("! unexpected error in a call", fault=fault, exc_info=error)
    return "internal", f"internal error {fault}"
