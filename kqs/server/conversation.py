"""One peer's side of the talk: lines in, calls started in their order, answers out. No I/O.

`receive_data` only buffers; `proceed` runs what was received until there is nothing left or the peer must wait (`is_full`);
`data_to_send` takes the answers. Whoever owns the transport calls these, and stops reading while `is_full`. What was received
in one piece is decoded in one piece when all its lines are of one plain kind; a conversation remembers which kind came last
and tries that first.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import structlog
from msgspec import Raw

from kqs.journal.format import Record
from kqs.nearest import unknown_name
from kqs.server.answers import LITTLE_BYTES
from kqs.server.calls import CALLS, PONG
from kqs.server.context import Context
from kqs.server.inserts import insert_lines
from kqs.server.turns import clock
from kqs.wire import jsonrpc, qrpc
from kqs.wire.call import NULL, BadLine, Call, Dialect
from kqs.wire.dialect import decode_any
from kqs.wire.foreign import Greeting
from kqs.wire.lines import LineBuffer, TooLong

log = structlog.get_logger("kqs.server")

#: Answers are handed to the transport in pieces of about this size, so that its high-water mark is seen in time: a call
#: of 13 bytes may have an answer of thousands.
_OUT_BYTES = 64 * 1024
#: Calls of one JSON-RPC batch: its answers can only leave together, so their number bounds what must be held.
MAX_BATCH_CALLS = 10_000
#: Calls of one connection that wait for the store or for other parts at a time: each is a task, and its answer may be as long
#: as a line. So it is one at first, and again after a long answer.
MAX_TASKS = 16
#: What is not all inserts is run in pieces of about this size, since a decoded call takes many times its bytes, and one that
#: must wait is kept decoded.
_PIECE_BYTES = 8 * 1024
_CALL_BYTES = 256  # what a decoded call takes
_TRACED_BYTES = 200
_KEEPING = ("insert", "adopt")
_NOT_ADMINISTRATION = (*_KEEPING, "echo")


class _Lines(NamedTuple):
    """Lines of a piece that must be run one by one."""

    lines: bytes


class _Rest(NamedTuple):
    """Calls of a piece that were decoded and must wait. size: of what they take in memory, in bytes."""

    calls: list[Call | BadLine]
    size: int


class Conversation:
    """See the module docstring.

    changed: called when a deferred call was answered, with True if its answer should be written at once.
    tasks: how many calls are being answered by tasks. is_foreign: another protocol is spoken here. may_keep: None, or what
    tells whether more than administration may be done here.
    """

    def __init__(self, context: Context, max_line_bytes: int, changed: Callable[[bool], None]) -> None:
        self.context = context
        self.newest_record: Record | None = None
        self.in_flight = 0
        self.tasks = 0
        self.is_gone = False
        self.is_foreign = False
        self.may_keep: Callable[[], bool] | None = None  # of a connection that only administration may have
        self._max_line_bytes = max_line_bytes
        self._lines = LineBuffer(max_line_bytes)
        self._had_short_answer = False
        self._greeting: Greeting | None = Greeting()
        self._open_bytes = 0
        self._waiting_bytes = 0
        self._held: deque[bytes | TooLong | _Lines | _Rest] = deque()
        self._is_waiting = False  # what comes next must wait for others
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._changed = changed
        self._dialect = Dialect.QRPC
        self._inserts_came_last = True
        self._batch_number = 0
        self._batches: dict[int, jsonrpc.Batch] = {}
        self._gathered_bytes = 0
        self._until = math.inf

    @property
    def is_full(self) -> bool:
        """Tell whether this peer must wait: too many calls unanswered, or what it asks next is too much for the server now."""
        most_tasks = MAX_TASKS if self._had_short_answer else 1
        return self.in_flight >= self.context.max_in_flight or self.tasks >= most_tasks or self._is_waiting

    @property
    def is_idle(self) -> bool:
        """Tell whether everything that was asked has been answered."""
        return not self.in_flight and not self._held

    @property
    def open_bytes(self) -> int:
        """Return how many bytes of an unfinished line are held."""
        return self._lines.buffered_bytes

    @property
    def waiting_bytes(self) -> int:
        """Return how many bytes of lines wait to be run, as `count_received` last saw them."""
        return self._waiting_bytes

    @property
    def has_many_waiting(self) -> bool:
        """Tell whether more than one piece waits to be run."""
        return len(self._held) > 1

    @property
    def answer_bytes(self) -> int:
        """Return how many bytes of answers are held here."""
        return self._out_bytes + self._gathered_bytes

    def receive_data(self, data: bytes) -> None:
        """Buffer what arrived, unless it shows that another protocol is spoken here: then `is_foreign`."""
        if self._greeting is not None:
            is_foreign = self._greeting.is_foreign(data)
            if is_foreign is not None:
                self._greeting = None
                self.is_foreign = is_foreign
            if is_foreign:
                return
        self._held.extend(self._lines.receive_data(data))

    def forget(self) -> None:
        """Let go of what was received and not yet run; the peer is gone."""
        self.is_gone = True
        self.drop()

    def drop(self) -> None:
        """Let go of what was received and not yet run."""
        self._held.clear()
        self.drop_line()

    def drop_line(self) -> None:
        """Let go of the unfinished line."""
        self._lines = LineBuffer(self._max_line_bytes)
        self.count_received()

    def count_received(self) -> None:
        """Have what is held of received lines counted with that of all others."""
        lines = self.context.lines
        open_bytes, waiting_bytes = self._lines.buffered_bytes, sum(map(_size_of, self._held)) if self._held else 0
        lines.open_bytes += open_bytes - self._open_bytes
        lines.waiting_bytes += waiting_bytes - self._waiting_bytes
        self._open_bytes, self._waiting_bytes = open_bytes, waiting_bytes

    @property
    def has_much(self) -> bool:
        """Tell whether more than a little is to be run."""
        return len(self._held) > 1 or (bool(self._held) and _size_of(self._held[0]) > _PIECE_BYTES)

    def proceed(self, until: float = math.inf) -> bool:
        """Run what was received; True if answers should be taken and `proceed` called again.

        until: by `turns.clock`, when to return at the latest, but for what was begun.
        """
        self._is_waiting = False
        self._until = until
        while self._held and not self.is_full:
            if self._out_bytes > _OUT_BYTES or clock() > until:
                return True
            piece = self._held.popleft()
            if isinstance(piece, bytes):
                self._run_chunk(piece)
            elif isinstance(piece, _Lines):
                self._run_lines(piece.lines)
            elif isinstance(piece, _Rest):
                self._run_calls(piece.calls, piece.size)
            else:
                self._run(BadLine("too_large", f"line: expected at most {self._max_line_bytes} bytes", dialect=self._dialect))
        return False

    def data_to_send(self) -> bytes:
        """Take the answers that are ready."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_bytes = 0
        if self.context.trace:
            log.debug(">", lines=data[:_TRACED_BYTES], size=len(data))
        return data

    def send(self, answers: bytes) -> None:
        """Queue whole answers, already encoded."""
        self._out.append(answers)
        self._out_bytes += len(answers)

    def answer(self, call: Call, result: bytes | Raw) -> None:
        """Answer `call` with a result in JSON."""
        if call.dialect is Dialect.QRPC:
            self.send(qrpc.end(call.id, result))
        elif not call.notification:
            self._send_jsonrpc(call.batch, jsonrpc.result(call.id, result))

    def answer_blob(self, call: Call, blob: bytes) -> None:
        """Answer `call` with binary data, which only qrpc can carry."""
        self.send(qrpc.end_blob(call.id, blob))

    def refuse(self, call: Call | BadLine, code: str, message: str) -> None:
        """Answer `call` with an error."""
        self.context.counters.error(code)
        if self.context.trace:
            log.debug("!", code=code, message=message)
        if call.dialect is Dialect.QRPC:
            self.send(qrpc.error(call.id, code, message))
        elif isinstance(call, BadLine):
            self._send_jsonrpc(call.batch, jsonrpc.error(call.id, code, message))
        elif not call.notification:
            self._send_jsonrpc(call.batch, jsonrpc.error(call.id, code, message, of_argument=True))

    def defer(self, count: int = 1) -> None:
        """Note that `count` calls will be answered later."""
        self.in_flight += count

    def settle(self, count: int = 1, *, at_once: bool = False) -> None:
        """Note that `count` deferred calls have just been answered; at_once: no more answers are due in this tick."""
        self.in_flight -= count
        self._changed(at_once)

    @property
    def reads(self) -> asyncio.Semaphore:
        """Return what a task must hold to read jobs."""
        return self.context.short_reads if self._had_short_answer else self.context.reads

    def begin_task(self) -> None:
        """Note that a call will be answered by a task."""
        self.tasks += 1
        self.defer()

    def end_task(self, size: int) -> None:
        """Note that the task of a call has answered it, in so many bytes."""
        self.tasks -= 1
        self._had_short_answer = size <= LITTLE_BYTES
        self.settle()

    def _send_jsonrpc(self, batch: int, answer: bytes) -> None:
        if batch < 0:
            self.send(answer)
            return
        self._gathered_bytes += len(answer)
        self.context.answers.note(len(answer))
        gathering = self._batches[batch]
        if (gathered := gathering.add(answer)) is not None:
            del self._batches[batch]
            self._gathered_bytes -= gathering.size
            self.send(gathered)

    def _run_chunk(self, chunk: bytes) -> None:
        """Run a chunk of complete lines by the first way that fits all of them."""
        if self.context.trace:
            log.debug("<", lines=chunk[:_TRACED_BYTES], size=len(chunk))
        if self.may_keep is not None:
            if self.may_keep():
                self.may_keep = None
            else:
                self._run_lines(chunk)
                return
        if self.context.is_flooded or (self.context.answers.is_crowded and len(chunk) > _PIECE_BYTES):
            done = self._run_restrained(chunk)
        elif self._inserts_came_last:
            done = self._run_inserts(chunk) or self._cut_up(chunk) or self._run_plain_calls(chunk)
        else:
            done = self._cut_up(chunk) or self._run_plain_calls(chunk) or self._run_inserts(chunk)
        if not done:
            self._run_lines(chunk)

    def _run_restrained(self, chunk: bytes) -> bool:
        """Run of a chunk what the server can bear although the journal is behind, or it is crowded, and hold the rest.

        No insert is run while the journal is behind, and else nothing of more than a piece but inserts.
        """
        if self.context.is_flooded:
            if self._cut_up(chunk):
                return True
            calls = qrpc.decode_calls(chunk) if len(chunk) <= _PIECE_BYTES else None
            if calls is not None and not any(call.name in _KEEPING for call in calls):
                self._run_calls(calls, len(chunk))
                return True
        elif self._run_inserts(chunk) or self._cut_up(chunk):
            return True
        self._held.appendleft(chunk)
        self._is_waiting = True
        return True

    def _cut_up(self, chunk: bytes) -> bool:
        """Hold a chunk of many lines as pieces, to be run one by one; False if it is one already."""
        if len(chunk) <= _PIECE_BYTES:
            return False
        pieces = []
        at = 0
        while at < len(chunk):
            end = chunk.rfind(b"\n", at, at + _PIECE_BYTES) + 1 or chunk.index(b"\n", at) + 1
            pieces.append(chunk[at:end])
            at = end
        if len(pieces) == 1:
            return False
        self._held.extendleft(reversed(pieces))
        return True

    def _run_inserts(self, chunk: bytes) -> bool:
        inserts = qrpc.decode_inserts(chunk)
        if inserts is None or not insert_lines(self, chunk, inserts):
            return False
        self.context.counters.call("insert", len(inserts.jobs))
        self._dialect = Dialect.QRPC
        self._inserts_came_last = True
        return True

    def _run_plain_calls(self, chunk: bytes) -> bool:
        calls = qrpc.decode_calls(chunk)
        if calls is None:
            return False
        self._dialect = Dialect.QRPC
        self._inserts_came_last = False
        answered = self._answer_plain(calls)
        if answered < len(calls):
            self._run_calls(calls[answered:], len(chunk))
        return True

    def _answer_plain(self, calls: Sequence[Call]) -> int:
        """Answer the echoes and pings that `calls` begin with, and return how many: the table's way costs thrice as much."""
        out, end = self._out.append, qrpc.end
        before = len(self._out)
        pings = 0
        answered = len(calls)
        for index, call in enumerate(calls):
            if call.name == "echo":
                out(end(call.id, call.arg))
            elif call.name == "ping" and call.arg is NULL:
                pings += 1
                out(end(call.id, PONG))
            else:
                answered = index
                break
        self._out_bytes += sum(map(len, self._out[before:]))
        self.context.counters.call("ping", pings)
        self.context.counters.call("echo", answered - pings)
        return answered

    def _run_lines(self, chunk: bytes) -> None:
        """Run the first line of a chunk of anything, and hold the others."""
        line, _, others = chunk.partition(b"\n")
        if others:
            self._held.appendleft(_Lines(others))
        if calls := self._decode_line(line):
            self._run_calls(calls, len(line))

    def _decode_line(self, line: bytes) -> list[Call | BadLine]:
        self._batch_number += 1
        members = decode_any(line, self._dialect, self._batch_number)
        if not members:
            return []
        self._dialect = members[0].dialect
        if len(members) > MAX_BATCH_CALLS:
            return [BadLine("too_large", f"batch: expected at most {MAX_BATCH_CALLS} calls", dialect=self._dialect)]
        batch = members[0].batch
        if batch >= 0 and any(isinstance(member, BadLine) or not member.notification for member in members):
            self._batches[batch] = jsonrpc.Batch(members)
        return members

    def _run_calls(self, calls: Sequence[Call | BadLine], size: int) -> None:
        """Run calls in order; if the peer has had enough on the way, hold the rest. size: of what they came in, in bytes."""
        for index, call in enumerate(calls):
            self._is_waiting = self._must_wait(call)
            has_had_enough = self._out_bytes > _OUT_BYTES or self.is_full or clock() > self._until
            if (index and has_had_enough) or self._is_waiting:
                rest = list(calls[index:])
                self._held.appendleft(_Rest(rest, size * len(rest) // len(calls) + _CALL_BYTES * len(rest)))
                break
            self._run(call)

    def _must_wait(self, call: Call | BadLine) -> bool:
        """Tell whether the server, not the peer, is why `call` cannot be run now."""
        context = self.context
        if context.is_flooded and isinstance(call, Call) and call.name in _KEEPING:
            return True
        return self._gathered_bytes > LITTLE_BYTES and context.answers.is_crowded

    def _run(self, call: Call | BadLine) -> None:
        if isinstance(call, BadLine):
            self.refuse(call, call.code, call.message)
            return
        spec = CALLS.get(call.name)
        if spec is None:
            self.refuse(call, "unknown_call", unknown_name("call", call.name, CALLS))
            return
        if call.batch >= 0 and not call.notification and self._batches[call.batch].size > self._max_line_bytes:
            self.refuse(
                call, "too_large", f"batch: its answers are longer than {self._max_line_bytes} bytes, ask for fewer at once"
            )
            return
        if self.may_keep is not None and call.name in _NOT_ADMINISTRATION:
            self.refuse(call, "busy", f"too many connections for {call.name}, try again later")
            return
        self.context.counters.call(call.name)
        spec.run(self, call)


def _size_of(piece: bytes | TooLong | _Lines | _Rest) -> int:
    if isinstance(piece, bytes):
        return len(piece)
    if isinstance(piece, _Lines):
        return len(piece.lines)
    return piece.size if isinstance(piece, _Rest) else 0
