"""One peer's side of the talk: lines in, calls started in their order, answers out. No I/O.

`receive_data` only buffers; `proceed` runs what was received until there is nothing left or the peer has had enough for
now (`is_full`); `data_to_send` takes the answers. Whoever owns the transport calls these, and stops reading while
`is_full`. What was received in one piece is decoded in one piece when all its lines are of one plain kind; a conversation
remembers which kind came last and tries that first. What may take long is done in steps, in slices that all conversations share
(kqs.server.slices); the peer's next calls wait until it is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Raw

from kqs.journal.format import Record
from kqs.log import get_logger
from kqs.server.calls import CALLS, PONG, unknown_call
from kqs.server.context import Context
from kqs.server.inserts import insert_lines
from kqs.server.peer import translate
from kqs.wire import jsonrpc, qrpc
from kqs.wire.call import BadLine, Call, Dialect
from kqs.wire.dialect import decoding_any
from kqs.wire.lines import LineBuffer, TooLong
from kqs.wire.steps import Steps, finish

log = get_logger("kqs.server")

#: Answers are handed to the transport in pieces of about this size, so that its high-water mark is seen in time: a call
#: of 13 bytes may have an answer of thousands.
_OUT_BYTES = 64 * 1024
#: A chunk that is longer begins with a long line, which is decoded in steps: one read more than everybody's right.
_LONG_CHUNK_BYTES = 320 * 1024
#: What is decoded and run at once where the fast ways do not fit: some ms, even of the most costly lines.
_SHORT_BYTES = 4096
_FEW_CALLS = 64
_SHORT_ARGUMENT_BYTES = 16 * 1024
_LONG_LINE_BYTES = 256 * 1024  # as much as one read; a shorter unfinished line is everybody's right
_TRACED_BYTES = 200


class Conversation:
    """See the module docstring.

    changed: called when a deferred call was answered, with True if its answer should be written at once.
    """

    def __init__(self, context: Context, max_line_bytes: int, changed: Callable[[bool], None]) -> None:
        self.context = context
        self.newest_record: Record | None = None
        self.in_flight = 0
        self._max_line_bytes = max_line_bytes
        self._lines = LineBuffer(max_line_bytes)
        self._open_bytes = 0
        self._held: deque[bytes | TooLong | list[Call | BadLine]] = deque()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._changed = changed
        self._dialect = Dialect.QRPC
        self._inserts_came_last = True
        self._batch_number = 0
        self._batches: dict[int, jsonrpc.Batch] = {}
        self._is_working = False  # something that takes long is under way
        self._is_forgotten = False
        self._fault: Exception | None = None

    @property
    def is_full(self) -> bool:
        """Tell whether this peer must wait: for long work of its own, for too many unanswered calls, or for the journal."""
        return self._is_working or self._has_most

    @property
    def _has_most(self) -> bool:
        return self.in_flight >= self.context.max_in_flight or self.context.is_flooded

    @property
    def is_idle(self) -> bool:
        """Tell whether everything that was asked has been answered."""
        return not self.in_flight and not self._held and not self._is_working

    def receive_data(self, data: bytes) -> None:
        """Buffer what arrived."""
        self._held.extend(self._lines.receive_data(data))
        self._count_open_bytes()

    @property
    def is_hoarding(self) -> bool:
        """Tell whether this peer's unfinished line is one of those that take too much memory together."""
        return self._open_bytes > _LONG_LINE_BYTES and self.context.is_overloaded

    def forget(self) -> None:
        """Let go of what was received and not yet run; the peer is gone."""
        self._is_forgotten = True
        self._held.clear()
        self._lines = LineBuffer(self._max_line_bytes)
        self._count_open_bytes()

    def _count_open_bytes(self) -> None:
        open_bytes = self._lines.buffered_bytes
        self.context.open_bytes += open_bytes - self._open_bytes
        self._open_bytes = open_bytes

    def proceed(self) -> bool:
        """Run what was received; True if answers should be taken and `proceed` called again.

        Raises: what work in steps has raised: a fault of ours.
        """
        if self._fault is not None:
            raise self._fault
        while self._held and not self.is_full:
            if self._out_bytes > _OUT_BYTES:
                return True
            piece = self._held.popleft()
            if isinstance(piece, bytes):
                self._run_chunk(piece)
            elif isinstance(piece, list):
                self._run_calls(piece)
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

    def _send_jsonrpc(self, batch: int, answer: bytes) -> None:
        if batch < 0:
            self.send(answer)
        elif (gathered := self._batches[batch].add(answer)) is not None:
            del self._batches[batch]
            self.send(gathered)

    def _run_chunk(self, chunk: bytes) -> None:
        """Run a chunk of complete lines by the first way that fits all of them."""
        if self.context.trace:
            log.debug("<", lines=chunk[:_TRACED_BYTES], size=len(chunk))
        if len(chunk) > _LONG_CHUNK_BYTES:
            self._run_long_line(chunk)
            return
        if self._inserts_came_last:
            done = self._run_inserts(chunk) or self._run_plain_calls(chunk)
        else:
            done = self._run_plain_calls(chunk) or self._run_inserts(chunk)
        if not done:
            self._run_lines(chunk)

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
            self._run_calls(calls[answered:])
        return True

    def _answer_plain(self, calls: Sequence[Call]) -> int:
        """Answer the echoes and pings that `calls` begin with, and return how many: the table's way costs thrice as much."""
        out, end = self._out.append, qrpc.end
        pings = 0
        answered = len(calls)
        for index, call in enumerate(calls):
            if call.name == "echo":
                out(end(call.id, call.arg))
            elif call.name == "ping":
                pings += 1
                out(end(call.id, PONG))
            else:
                answered = index
                break
        self.context.counters.call("ping", pings)
        self.context.counters.call("echo", answered - pings)
        return answered

    def _run_long_line(self, chunk: bytes) -> None:
        """Run the line that `chunk` begins with, and hold the rest."""
        end = chunk.index(b"\n") + 1
        if end < len(chunk):
            self._held.appendleft(chunk[end:])
            chunk = chunk[:end]
        self._work(self._running_lines(chunk))

    def _run_lines(self, chunk: bytes) -> None:
        """Run a chunk of anything, line by line."""
        if len(chunk) <= _SHORT_BYTES:
            finish(self._running_lines(chunk))
        else:
            self._work(self._running_lines(chunk))

    def _running_lines(self, chunk: bytes) -> Steps[None]:
        """Run lines in order, in steps; if the peer has had enough on the way, hold the rest."""
        at = 0
        while at < len(chunk):
            end = chunk.find(b"\n", at) + 1 or len(chunk)
            line = chunk if end - at == len(chunk) else chunk[at:end]
            if end == len(chunk):
                chunk = b""  # a long line must not outlive what is kept of it
            at = end
            calls = yield from self._decoding_line(line)
            line = b""
            rest = yield from self._running_calls(calls)
            if rest or not self._can_go_on:
                if at < len(chunk):
                    self._held.appendleft(chunk[at:])
                self._hold(rest)
                return
            yield

    @property
    def _can_go_on(self) -> bool:
        return not self._has_most and self._out_bytes <= _OUT_BYTES

    def _work(self, steps: Steps[None]) -> None:
        """Do something that takes long; what was received after it waits."""
        self._is_working = True
        self.context.slices.run(self._working(steps))

    def _working(self, steps: Steps[None]) -> Steps[None]:
        try:
            for _ in steps:
                if self._is_forgotten:
                    break
                yield
        except Exception as fault:
            self._fault = fault
        self._is_working = False
        self._changed(False)

    def _decoding_line(self, line: bytes) -> Steps[list[Call | BadLine]]:
        self._batch_number += 1
        members = yield from decoding_any(line, self._dialect, self._batch_number)
        if not members:
            return []
        self._dialect = members[0].dialect
        batch = members[0].batch
        if batch >= 0 and any(isinstance(member, BadLine) or not member.notification for member in members):
            self._batches[batch] = jsonrpc.Batch(members)
        return members

    def _run_calls(self, calls: Sequence[Call | BadLine]) -> None:
        """Run calls in order; if the peer has had enough on the way, hold the rest."""
        if len(calls) <= _FEW_CALLS and not any(map(_is_long, calls)):
            self._hold(finish(self._running_calls(calls)))
        else:
            self._work(self._running_many(calls))

    def _running_many(self, calls: Sequence[Call | BadLine]) -> Steps[None]:
        self._hold((yield from self._running_calls(calls)))

    def _hold(self, calls: list[Call | BadLine]) -> None:
        if calls:
            self._held.appendleft(calls)

    def _running_calls(self, calls: Sequence[Call | BadLine]) -> Steps[list[Call | BadLine]]:
        """Run calls in order, in steps, until the peer has had enough; return the rest."""
        for index, call in enumerate(calls, 1):
            spec = CALLS.get(call.name) if isinstance(call, Call) else None
            if isinstance(call, Call) and spec is not None and spec.in_steps is not None:
                self.context.counters.call(call.name)
                yield from spec.in_steps(self, call)
            else:
                self._run(call)
            if not self._can_go_on:
                return list(calls[index:])
            yield
        return []

    def _run(self, call: Call | BadLine) -> None:
        if isinstance(call, BadLine):
            self.refuse(call, call.code, call.message)
            return
        spec = CALLS.get(call.name)
        if spec is None:
            self.refuse(call, *translate(unknown_call(call.name)))
            return
        self.context.counters.call(call.name)
        spec.run(self, call)


def _is_long(call: Call | BadLine) -> bool:
    return isinstance(call, Call) and len(call.arg) > _SHORT_ARGUMENT_BYTES
