"""One peer's side of the talk: lines in, calls started in their order, answers out. No I/O.

`receive_data` only buffers (kqs.rpc.received); `proceed` runs what was received until there is nothing left or the peer must
wait (`is_full`); `peer.data_to_send` takes the answers. Whoever owns the transport calls these, and stops reading while
`is_full`. What was received in one piece is decoded in one piece when all its lines are of one plain kind; a conversation
remembers which kind came last and tries that first. What may take long is done in steps, in slices that all conversations share
(kqs.rpc.slices); the peer's next calls wait until it is over, and what is worked on counts as received until then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from msgspec import Raw

from kqs.rpc.answers import LITTLE_BYTES
from kqs.rpc.calls import CALLS, PONG, CallSpec, unknown_call
from kqs.rpc.context import Context
from kqs.rpc.inserts import insert_lines
from kqs.rpc.lines import Lines
from kqs.rpc.peer import Peer, translate
from kqs.rpc.received import LONG_CHUNK_BYTES, PIECE_BYTES, Received, Rest, SingleLines
from kqs.rpc.transcript import Transcript
from kqs.rpc.turns import clock
from kqs.wire import dialect, qrpc
from kqs.wire.call import NULL, BadLine, Call, Dialect
from kqs.wire.steps import Steps, finish

#: Answers are handed to the transport in pieces of about this size, so that its high-water mark is seen in time: a call
#: of 13 bytes may have an answer of thousands.
_OUT_BYTES = 64 * 1024
#: What is decoded and run at once where the fast ways do not fit: some ms, even of the most costly lines.
_SHORT_BYTES = 4096
_SHORT_ARGUMENT_BYTES = 16 * 1024
_INSERTING = ("insert", "adopt", "batch")
#: what becomes records of the journal, and waits while that is far behind
_KEEPING = (*_INSERTING, "fire")
_NOT_ADMINISTRATION = (*_INSERTING, "echo", "reserve", "work")


class Conversation:
    """See the module docstring.

    peer: who is answered. received: what is to be run. may_keep: None, or what tells whether more than administration may be
    done here.
    """

    def __init__(
        self,
        context: Context,
        max_line_bytes: int,
        changed: Callable[[bool], None],
        where: Callable[[], str],
        lines: Lines | None = None,
    ) -> None:
        """Args: where: as Peer's. changed: the same, and called when something that took long is over. lines: with which what
        is received counts; None: with that of all others."""
        self.context = context
        self._transcript = Transcript() if context.trace else None
        self.peer = Peer(context, where, changed, self._transcript)
        self.received = Received(max_line_bytes, context.lines if lines is None else lines)
        self.may_keep: Callable[[], bool] | None = None
        self._max_line_bytes = max_line_bytes
        self._changed = changed
        self._is_waiting = False  # what comes next must wait for others
        self._dialect = Dialect.QRPC
        self._inserts_came_last = True
        self._batch_number = 0
        self._until = math.inf
        self._work: Steps[None] | None = None  # something that takes long and is under way
        self._fault: Exception | None = None

    @property
    def is_full(self) -> bool:
        """Tell whether this peer must wait.

        For long work of its own, for too many unanswered calls, or because what it asks next is too much for the server now.
        """
        peer = self.peer
        return (
            self._work is not None or self._is_waiting or peer.in_flight >= peer.most_in_flight or peer.tasks >= peer.most_tasks
        )

    @property
    def is_idle(self) -> bool:
        """Tell whether everything that was asked has been answered."""
        peer = self.peer
        return not peer.in_flight and not self.received.pieces and self._work is None and not peer.standing.is_waiting

    def receive_data(self, data: bytes) -> None:
        """Buffer what arrived."""
        standing = self.peer.standing
        if standing.party is not None:
            standing.note_heard()
        self.received.receive_data(data)

    def forget(self) -> None:
        """Let go of what was received and not yet run; the peer is gone."""
        self.peer.is_gone = True
        self.drop()
        self.peer.standing.leave()

    def drop(self) -> None:
        """Let go of what was received and not yet run, or is worked on."""
        if self._work is not None:
            self._work.close()
            self._end_work()
        self.received.drop()

    def proceed(self, until: float = math.inf) -> bool:
        """Run what was received; True if answers should be taken and `proceed` called again.

        until: by `turns.clock`, when to return at the latest, but for what was begun; one piece is run in any case.
        Raises: what work in steps has raised: a fault of ours.
        """
        if self._fault is not None:
            raise self._fault
        self._is_waiting = False
        self._until = until
        pieces = self.received.pieces
        while pieces and not self.is_full:
            if self.peer.out_bytes > _OUT_BYTES:
                return True
            piece = pieces.popleft()
            if isinstance(piece, bytes):
                self._run_chunk(piece)
            elif isinstance(piece, SingleLines):
                self._run_lines(piece.lines)
            elif isinstance(piece, Rest):
                self._run_calls(piece.calls, piece.size)
            else:
                message = f"line: expected at most {self._max_line_bytes} bytes"
                self.peer.refuse(BadLine("too_large", message, dialect=self._dialect), "too_large", message)
            if pieces and clock() > until:
                return True
        return False

    def _run_chunk(self, chunk: bytes) -> None:
        """Run a chunk of complete lines by the first way that fits all of them."""
        if self._transcript is not None:
            self._transcript.received(chunk)
        if self.may_keep is not None:
            if self.may_keep():
                self.may_keep = None
            else:
                self._run_lines(chunk)
                return
        if self.context.is_flooded:
            done = self._run_flooded(chunk)
        elif len(chunk) > LONG_CHUNK_BYTES:
            done = self._run_long_line(chunk)
        elif self.context.answers.is_crowded and len(chunk) > PIECE_BYTES:
            done = self._run_inserts(chunk) or self.received.cut_up(chunk) or self._put_off(chunk)
        elif self._inserts_came_last:
            done = self._run_inserts(chunk) or self.received.cut_up(chunk) or self._run_plain_calls(chunk)
        else:
            done = self.received.cut_up(chunk) or self._run_plain_calls(chunk) or self._run_inserts(chunk)
        if not done:
            self._run_lines(chunk)

    def _run_flooded(self, chunk: bytes) -> bool:
        """Run of a chunk what needs no journal, which is behind, and hold the rest; nothing of more than a piece is run."""
        if self.received.cut_up(chunk):
            return True
        calls = qrpc.decode_calls(chunk) if len(chunk) <= PIECE_BYTES else None
        if calls is None or any(call.name in _KEEPING for call in calls):
            return self._put_off(chunk)
        self._run_calls(calls, len(chunk))
        return True

    def _run_long_line(self, chunk: bytes) -> bool:
        """Run the line that `chunk` begins with, and hold the rest."""
        end = chunk.index(b"\n") + 1
        if end < len(chunk):
            self.received.put_back(chunk[end:])
        self._run_lines(chunk[:end])
        return True

    def _put_off(self, chunk: bytes) -> bool:
        """Hold a chunk until others have made room."""
        self.received.put_back(chunk)
        self._is_waiting = True
        return True

    def _run_inserts(self, chunk: bytes) -> bool:
        inserts = qrpc.decode_inserts(chunk)
        if inserts is None or not insert_lines(self.peer, chunk, inserts):
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
        self._inserts_came_last = len(calls) == 1 and calls[0].name == "insert"  # the next one may be plain
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
            self.peer.send(qrpc.ends([call.id for call in calls[:answered]], results))
            self.context.counters.call("ping", pings)
            self.context.counters.call("echo", answered - pings)
        return answered

    def _run_lines(self, chunk: bytes) -> None:
        """Run the first line of a chunk of anything, and hold the others."""
        line, _, others = chunk.partition(b"\n")
        if others:
            self.received.put_back(SingleLines(others))
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
        if members[0].batch >= 0:
            self.peer.begin_batch(members)
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
                self.received.put_back_calls(rest, size * len(rest) // len(calls))
                return
            if isinstance(call, BadLine):
                self.peer.refuse(call, call.code, call.message)
            elif (spec := self._permitted(call)) is not None:
                self.context.counters.call(call.name)
                steps = self._begun(spec, call)
                if steps is not None:
                    yield from steps
            yield

    def _begun(self, spec: CallSpec, call: Call) -> Steps[None] | None:
        """Run a call, or return its steps; refuse it for whatever it raises: that is no reason to cut the peer off."""
        try:
            return spec.run(self.peer, call)
        except Exception as fault:
            self.peer.refuse(call, *translate(fault))
            return None

    @property
    def _has_had_enough(self) -> bool:
        peer = self.peer
        has_most = peer.in_flight >= peer.most_in_flight or peer.tasks >= peer.most_tasks
        # the time of what is worked on is not this peer's, but that of the slices
        return has_most or peer.out_bytes > _OUT_BYTES or (self._work is None and clock() > self._until)

    def _begin_work(self, steps: Steps[None], size: int) -> None:
        """Do something that takes long; what was received after it waits. size: of what it was received in, in bytes."""
        self._work = self._working(steps)
        self.received.worked_on_bytes = size
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
        self.received.worked_on_bytes = 0

    def _must_wait(self, call: Call | BadLine) -> bool:
        """Tell whether the server, not the peer, is why `call` cannot be run now."""
        context = self.context
        is_keeping = isinstance(call, Call) and call.name in _KEEPING
        if is_keeping and context.is_flooded:
            return True
        if not context.answers.is_crowded:
            return False
        return self.peer.gathered_bytes > LITTLE_BYTES or (not is_keeping and _is_long(call))

    def _permitted(self, call: Call) -> CallSpec | None:
        """Return what is to be done for `call`; None if it was refused."""
        spec = CALLS.get(call.name)
        if spec is None:
            self.peer.refuse(call, *translate(unknown_call(call.name)))
        elif call.batch >= 0 and not call.notification and self.peer.batch_bytes(call.batch) > self._max_line_bytes:
            self.peer.refuse(
                call, "too_large", f"batch: its answers are longer than {self._max_line_bytes} bytes, ask for fewer at once"
            )
        elif self.may_keep is not None and call.name in _NOT_ADMINISTRATION:
            self.peer.refuse(call, "busy", f"too many connections for {call.name}, try again later")
        else:
            return spec
        return None


def _is_long(call: Call | BadLine) -> bool:
    return isinstance(call, Call) and len(call.blob or call.arg) > _SHORT_ARGUMENT_BYTES
