"""One peer's side of the talk: lines in, calls started in their order, answers out. No I/O.

`receive_data` only buffers; `proceed` runs what was received until there is nothing left or the peer must wait (`is_full`);
`data_to_send` takes the answers. Whoever owns the transport calls these, and stops reading while `is_full`. What was received
in one piece is decoded in one piece when all its lines are of one plain kind; a conversation remembers which kind came last
and tries that first. What may take long is done in steps, in slices that all conversations share (kqs.rpc.slices); the
peer's next calls wait until it is over, and what is worked on counts as received until then.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec import Raw

from kqs.journal.format import Record
from kqs.log import get_logger
from kqs.rpc.answers import LITTLE_BYTES
from kqs.rpc.calls import CALLS, PONG, CallSpec, unknown_call
from kqs.rpc.context import Context
from kqs.rpc.inserts import insert_lines
from kqs.rpc.lines import Lines
from kqs.rpc.peer import translate
from kqs.rpc.standing import Standing
from kqs.rpc.turns import clock
from kqs.wire import dialect, jsonrpc, qrpc
from kqs.wire.call import NULL, BadLine, Call, Dialect
from kqs.wire.lines import LineBuffer, TooLong
from kqs.wire.steps import Steps, finish

log = get_logger("kqs.rpc")

#: Answers are handed to the transport in pieces of about this size, so that its high-water mark is seen in time: a call
#: of 13 bytes may have an answer of thousands.
_OUT_BYTES = 64 * 1024
#: A chunk that is longer begins with a long line, which is decoded in steps: one read more than everybody's right.
_LONG_CHUNK_BYTES = 320 * 1024
#: What is decoded and run at once where the fast ways do not fit: some ms, even of the most costly lines.
_SHORT_BYTES = 4096
_SHORT_ARGUMENT_BYTES = 16 * 1024
#: Calls of one connection that wait for the store or for other parts at a time: each is a task, and its answer may be as long
#: as a line. So it is one at first, and again after a long answer.
MAX_TASKS = 16
#: What is not all inserts is run in pieces of about this size, since a decoded call takes many times its bytes, and one that
#: must wait is kept decoded.
_PIECE_BYTES = 8 * 1024
_CALL_BYTES = 256  # what a decoded call takes
_TRACED_BYTES = 200
_LETTER_ESCAPE = re.compile(rb"\\u00[4-7]")
_KEEPING = ("insert", "adopt")
_NOT_ADMINISTRATION = (*_KEEPING, "echo", "reserve", "work")


class _Lines(NamedTuple):
    """Lines of a piece that must be run one by one."""

    lines: bytes


class _Rest(NamedTuple):
    """Calls of a piece that were decoded and must wait. size: of what they take in memory, in bytes."""

    calls: list[Call | BadLine]
    size: int


def _may_name_credentials(lines: bytes) -> bool:
    """Tell whether an old client's `auth` may stand in lines, however it is spelt."""
    return b"auth" in lines.lower() or _LETTER_ESCAPE.search(lines) is not None


class Conversation:
    """See the module docstring.

    changed: called when a deferred call was answered, with True if its answer should be written at once.
    answers: those that are ready, for `data_to_send`. is_counted: `count_received` has found something. tasks: calls that are
    being answered by tasks. may_keep: None, or what tells whether more than administration may be done here.
    """

    def __init__(
        self,
        context: Context,
        max_line_bytes: int,
        changed: Callable[[bool], None],
        where: Callable[[], str],
        lines: Lines | None = None,
    ) -> None:
        """Args: where: tells where the peer is, for people. lines: with which what is received counts; None: with that of all
        others."""
        self.context = context
        self.lines = context.lines if lines is None else lines
        self.newest_record: Record | None = None
        self.standing = Standing(context.desk, where)
        self.in_flight = 0
        self.tasks = 0
        self.is_gone = False
        self.may_keep: Callable[[], bool] | None = None  # of a connection that only administration may have
        self._max_line_bytes = max_line_bytes
        self._max_in_flight = context.max_in_flight
        self._lines = LineBuffer(max_line_bytes)
        self._most_tasks = 1
        self._open_bytes = 0
        self._waiting_bytes = 0
        self.is_counted = False
        self._held: deque[bytes | TooLong | _Lines | _Rest] = deque()
        self._is_waiting = False  # what comes next must wait for others
        self.answers: list[bytes] = []
        self._out_bytes = 0
        self._changed = changed
        self._dialect = Dialect.QRPC
        self._inserts_came_last = True
        self._may_hear_credentials = False
        self._batch_number = 0
        self._batches: dict[int, jsonrpc.Batch] = {}
        self._gathered_bytes = 0
        self._until = math.inf
        self._work: Steps[None] | None = None  # something that takes long and is under way
        self._work_bytes = 0
        self._fault: Exception | None = None

    @property
    def is_full(self) -> bool:
        """Tell whether this peer must wait.

        For long work of its own, for too many unanswered calls, or because what it asks next is too much for the server now.
        """
        return (
            self._work is not None
            or self._is_waiting
            or self.in_flight >= self._max_in_flight
            or self.tasks >= self._most_tasks
        )

    @property
    def is_idle(self) -> bool:
        """Tell whether everything that was asked has been answered."""
        return not self.in_flight and not self._held and self._work is None and not self.standing.is_waiting

    @property
    def open_bytes(self) -> int:
        """Return how many bytes of an unfinished line are held."""
        return self._lines.buffered_bytes

    @property
    def waiting_bytes(self) -> int:
        """Return how many bytes of lines wait to be run, or are worked on and not long, as `count_received` last saw them."""
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
        """Buffer what arrived."""
        self.standing.note_heard()
        self._held.extend(self._lines.receive_data(data))

    def forget(self) -> None:
        """Let go of what was received and not yet run; the peer is gone."""
        self.is_gone = True
        self.drop()
        self.standing.leave()

    def drop(self) -> None:
        """Let go of what was received and not yet run, or is worked on."""
        self._held.clear()
        if self._work is not None:
            self._work.close()
            self._end_work()
        self.drop_line()

    def drop_line(self) -> None:
        """Let go of the unfinished line."""
        self._lines = LineBuffer(self._max_line_bytes)
        self.count_received()

    def count_received(self) -> None:
        """Have what is held of received lines counted with that of all others.

        A long line that is worked on still counts as it did before its end came, which is when it can be turned away.
        """
        if not (self.is_counted or self._held or self._lines.open_line or self._work_bytes):
            return
        lines = self.lines
        open_bytes = self._lines.buffered_bytes
        waiting_bytes = sum(map(_size_of, self._held)) if self._held else 0
        if self._work_bytes > _LONG_CHUNK_BYTES:
            open_bytes += self._work_bytes
        else:
            waiting_bytes += self._work_bytes
        lines.open_bytes += open_bytes - self._open_bytes
        lines.waiting_bytes += waiting_bytes - self._waiting_bytes
        self._open_bytes, self._waiting_bytes = open_bytes, waiting_bytes
        self.is_counted = bool(open_bytes or waiting_bytes)

    @property
    def has_much(self) -> bool:
        """Tell whether more than a little is to be run."""
        return len(self._held) > 1 or (bool(self._held) and _size_of(self._held[0]) > _PIECE_BYTES)

    def proceed(self, until: float = math.inf) -> bool:
        """Run what was received; True if answers should be taken and `proceed` called again.

        until: by `turns.clock`, when to return at the latest, but for what was begun; one piece is run in any case.
        Raises: what work in steps has raised: a fault of ours.
        """
        if self._fault is not None:
            raise self._fault
        self._is_waiting = False
        self._until = until
        while self._held and not self.is_full:
            if self._out_bytes > _OUT_BYTES:
                return True
            piece = self._held.popleft()
            if isinstance(piece, bytes):
                self._run_chunk(piece)
            elif isinstance(piece, _Lines):
                self._run_lines(piece.lines)
            elif isinstance(piece, _Rest):
                self._run_calls(piece.calls, piece.size)
            else:
                message = f"line: expected at most {self._max_line_bytes} bytes"
                self.refuse(BadLine("too_large", message, dialect=self._dialect), "too_large", message)
            if self._held and clock() > until:
                return True
        return False

    def data_to_send(self) -> bytes:
        """Take the answers that are ready."""
        out = self.answers
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_bytes = 0
        if self.context.trace:
            log.debug(">", lines=self._traced(data), size=len(data))
        return data

    def send(self, answers: bytes) -> None:
        """Queue whole answers, already encoded."""
        self.answers.append(answers)
        self._out_bytes += len(answers)

    def _traced(self, lines: bytes) -> bytes:
        """Return what of lines may stand in a log.

        Nothing where an old client's credentials may stand, nor after that: who breaks a call over several lines sends them in
        lines of their own, and what is wrong with those is answered by showing them.
        """
        if self._may_hear_credentials or _may_name_credentials(lines) or b"\\u" in lines:
            return b"(not shown, may hold credentials)"
        return lines[:_TRACED_BYTES]

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
        if self.context.trace:
            log.debug("!", code=code, message=self._traced(message.encode()))
        self._send_in(call.batch, dialect.error(call, code, message))

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
        return self.context.short_reads if self._most_tasks > 1 else self.context.reads

    def begin_task(self) -> None:
        """Note that a call will be answered by a task."""
        self.tasks += 1
        self.defer()

    def end_task(self, size: int) -> None:
        """Note that the task of a call has answered it, in so many bytes."""
        self.tasks -= 1
        self._most_tasks = MAX_TASKS if size <= LITTLE_BYTES else 1
        self.settle()

    def _send_in(self, batch: int, answer: bytes) -> None:
        """Send the answer to a call of a batch (-1: of none) when those to all others of it are there."""
        if not answer:
            return
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
            self._may_hear_credentials = self._may_hear_credentials or _may_name_credentials(chunk)
            log.debug("<", lines=self._traced(chunk), size=len(chunk))
        if self.may_keep is not None:
            if self.may_keep():
                self.may_keep = None
            else:
                self._run_lines(chunk)
                return
        if self.context.is_flooded:
            done = self._run_flooded(chunk)
        elif len(chunk) > _LONG_CHUNK_BYTES:
            done = self._run_long_line(chunk)
        elif self.context.answers.is_crowded and len(chunk) > _PIECE_BYTES:
            done = self._run_inserts(chunk) or self._cut_up(chunk) or self._put_off(chunk)
        elif self._inserts_came_last:
            done = self._run_inserts(chunk) or self._cut_up(chunk) or self._run_plain_calls(chunk)
        else:
            done = self._cut_up(chunk) or self._run_plain_calls(chunk) or self._run_inserts(chunk)
        if not done:
            self._run_lines(chunk)

    def _run_flooded(self, chunk: bytes) -> bool:
        """Run of a chunk what needs no journal, which is behind, and hold the rest; nothing of more than a piece is run."""
        if self._cut_up(chunk):
            return True
        calls = qrpc.decode_calls(chunk) if len(chunk) <= _PIECE_BYTES else None
        if calls is None or any(call.name in _KEEPING for call in calls):
            return self._put_off(chunk)
        self._run_calls(calls, len(chunk))
        return True

    def _run_long_line(self, chunk: bytes) -> bool:
        """Run the line that `chunk` begins with, and hold the rest."""
        end = chunk.index(b"\n") + 1
        if end < len(chunk):
            self._held.appendleft(chunk[end:])
        self._run_lines(chunk[:end])
        return True

    def _put_off(self, chunk: bytes) -> bool:
        """Hold a chunk until others have made room."""
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
        """Answer the echoes and pings that `calls` begin with, and return how many: the table's way costs ten times as much."""
        results: list[Raw] = []
        pings = 0
        for call in calls:
            if call.name == "echo":
                results.append(call.arg)
            elif call.name == "ping" and call.arg is NULL:
                pings += 1
                results.append(PONG)
            else:
                break
        answered = len(results)
        if answered:
            self.send(qrpc.ends([call.id for call in calls[:answered]], results))
            self.context.counters.call("ping", pings)
            self.context.counters.call("echo", answered - pings)
        return answered

    def _run_lines(self, chunk: bytes) -> None:
        """Run the first line of a chunk of anything, and hold the others."""
        line, _, others = chunk.partition(b"\n")
        if others:
            self._held.appendleft(_Lines(others))
        size = len(line)
        work = self._running_line(line)
        del line, chunk  # a long line must not outlive what is kept of it
        if size <= _SHORT_BYTES:
            finish(work)
        else:
            self._begin_work(work, size)

    def _running_line(self, line: bytes) -> Steps[None]:
        size = len(line)
        calls = yield from self._decoding_line(line)
        del line
        yield from self._running_calls(calls, size)

    def _decoding_line(self, line: bytes) -> Steps[list[Call | BadLine]]:
        self._batch_number += 1
        members = yield from dialect.decoding_any(line, self._dialect, self._batch_number)
        if not members:
            return []
        self._dialect = members[0].dialect
        batch = members[0].batch
        if batch >= 0 and any(isinstance(member, BadLine) or not member.notification for member in members):
            self._batches[batch] = jsonrpc.Batch(members)
        return members

    def _run_calls(self, calls: Sequence[Call | BadLine], size: int) -> None:
        """Run calls in order; if the peer has had enough on the way, hold the rest. size: of what they came in, in bytes."""
        if any(map(_is_long, calls)):
            self._begin_work(self._running_calls(calls, size), size)
        else:
            finish(self._running_calls(calls, size))

    def _running_calls(self, calls: Sequence[Call | BadLine], size: int) -> Steps[None]:
        """Run calls in order, in steps; if the peer has had enough on the way, hold the rest."""
        for index, call in enumerate(calls):
            self._is_waiting = self._must_wait(call)
            if self._is_waiting or (index and self._has_had_enough):
                rest = list(calls[index:])
                self._held.appendleft(_Rest(rest, size * len(rest) // len(calls) + _CALL_BYTES * len(rest)))
                return
            if isinstance(call, BadLine):
                self.refuse(call, call.code, call.message)
            elif (spec := self._permitted(call)) is not None:
                self.context.counters.call(call.name)
                steps = self._begun(spec, call)
                if steps is not None:
                    yield from steps
            yield

    def _begun(self, spec: CallSpec, call: Call) -> Steps[None] | None:
        """Run a call, or return its steps; refuse it for whatever it raises: that is no reason to cut the peer off."""
        try:
            return spec.run(self, call)
        except Exception as fault:
            self.refuse(call, *translate(fault))
            return None

    @property
    def _has_had_enough(self) -> bool:
        has_most = self.in_flight >= self._max_in_flight or self.tasks >= self._most_tasks
        # the time of what is worked on is not this peer's, but that of the slices
        return has_most or self._out_bytes > _OUT_BYTES or (self._work is None and clock() > self._until)

    def _begin_work(self, steps: Steps[None], size: int) -> None:
        """Do something that takes long; what was received after it waits. size: of what it was received in, in bytes."""
        self._work = self._working(steps)
        self._work_bytes = size
        self.context.slices.run(self._work, size)

    def _working(self, steps: Steps[None]) -> Steps[None]:
        try:
            yield from steps
        except Exception as fault:
            self._fault = fault
        del steps
        self._end_work()
        self._changed(False)

    def _end_work(self) -> None:
        self._work = None
        self._work_bytes = 0

    def _must_wait(self, call: Call | BadLine) -> bool:
        """Tell whether the server, not the peer, is why `call` cannot be run now."""
        context = self.context
        is_keeping = isinstance(call, Call) and call.name in _KEEPING
        if is_keeping and context.is_flooded:
            return True
        if not context.answers.is_crowded:
            return False
        return self._gathered_bytes > LITTLE_BYTES or (not is_keeping and _is_long(call))

    def _permitted(self, call: Call) -> CallSpec | None:
        """Return what is to be done for `call`; None if it was refused."""
        spec = CALLS.get(call.name)
        if spec is None:
            self.refuse(call, *translate(unknown_call(call.name)))
        elif call.batch >= 0 and not call.notification and self._batches[call.batch].size > self._max_line_bytes:
            self.refuse(
                call, "too_large", f"batch: its answers are longer than {self._max_line_bytes} bytes, ask for fewer at once"
            )
        elif self.may_keep is not None and call.name in _NOT_ADMINISTRATION:
            self.refuse(call, "busy", f"too many connections for {call.name}, try again later")
        else:
            return spec
        return None


def _is_long(call: Call | BadLine) -> bool:
    return isinstance(call, Call) and len(call.blob or call.arg) > _SHORT_ARGUMENT_BYTES


def _size_of(piece: bytes | TooLong | _Lines | _Rest) -> int:
    if isinstance(piece, bytes):
        return len(piece)
    if isinstance(piece, _Lines):
        return len(piece.lines)
    return piece.size if isinstance(piece, _Rest) else 0
