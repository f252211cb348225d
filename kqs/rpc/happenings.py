"""`events`: what happens to jobs, told to whoever listens, as one intermediate answer each.

Whatever it costs, the jobs come first. What happens waits here until its turn, bounded, and telling it has a small share of
the loop's time; what finds no room, and what a reader does not take, is counted for each reader by its own filter, and told to
it as `{"skipped": N}` in its place. An event is encoded once for all who hear it; for each of them the lines of one turn are
joined, and written in one piece. While nobody listens there is nothing of all this.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from time import perf_counter
from typing import Protocol

import msgspec
from msgspec import UNSET, Raw, UnsetType

from kqs.job import Accepted, Entry, JobRecord, Report, Run
from kqs.queue.events import Batch, Word
from kqs.rpc.backend import Backend
from kqs.rpc.shown import WORDS, JobView, view_of, view_of_end
from kqs.states import State
from kqs.supervisor import Supervisor
from kqs.wire import dialect
from kqs.wire.call import Call

#: events gather so long, in s, for one write a reader
GATHER_S = 0.005
#: a turn takes about so long, in s, and the next one comes after so many times as long: a twenty-fifth of the loop's time
TURN_S = 0.002
REST_FACTOR = 24
#: what is written when the turn is over is part of it too, as the kernel takes it on loopback: in s a write, and a byte
_WRITE_S = 10e-6
_BYTE_S = 0.3e-9
#: events that wait for their turn, and the bytes of their jobs' data
MOST_WAITING = 20_000
MOST_WAITING_BYTES = 16 * 1024 * 1024
#: so many are encoded between two looks at the clock
_STEP_EVENTS = 100
_MOST_OPTIONS = 10_000  # a client may invent types without end

_HERE = b"\0"  # no JSON has it
_encode = msgspec.json.Encoder().encode


class Interest(msgspec.Struct, frozen=True):
    """What a reader wants to hear of; None: all."""

    types: frozenset[str] | None
    words: frozenset[Word] | None

    def count(self, batch: Batch) -> int:
        """Return how many events of a batch it lets through."""
        if self.words is not None and batch.word not in self.words:
            return 0
        if batch.word is Word.WORKER_LOST:
            return int(self.types is None or any(job.type in self.types for job in batch.jobs))
        return len(batch.jobs) if self.types is None else sum([job.type in self.types for job in batch.jobs])


class _EventView(msgspec.Struct, gc=False):
    at: float
    event: str
    id: str | None
    type: str | None
    state: str | None
    attempt: int | None
    job: JobView | UnsetType = UNSET


class _LossView(msgspec.Struct, gc=False):
    at: float
    event: str
    worker: str | None
    runs: int
    ids: list[str]


class Hearer(Protocol):
    """The connection of a reader, as seen from here."""

    def send(self, answers: bytes) -> None:
        """Send whole answers, already encoded."""
        ...

    def settle(self, count: int = 1, *, at_once: bool = False) -> None:
        """Note that something was said, which is written at once if that is all."""
        ...


class Reader:
    """One `events` call."""

    def __init__(self, happenings: Happenings, peer: Hearer, call: Call, wanted: Interest) -> None:
        self._happenings = happenings
        self.peer = peer
        self.call = call
        self.wanted = wanted
        #: events that it should have been told and was not
        self.skipped = 0
        self.is_paused = False
        self.is_over = False
        #: the answer that an event is, but for the event
        self.frame = dialect.progress(call, _HERE)
        self._head, _, self._tail = self.frame.rpartition(_HERE)
        self._between = self._tail + self._head

    def answers(self, events: Sequence[bytes]) -> bytes:
        """Return each event as an answer of its own."""
        return self._head + self._between.join(events) + self._tail

    def withdraw(self) -> bool:
        """Hear nothing more. False: that was so before."""
        if self.is_over:
            return False
        self.is_over = True
        self._happenings.leave(self)
        return True

    def pause(self) -> None:
        """Say nothing until `resume`; what happens meanwhile is skipped."""
        self.is_paused = True

    def resume(self) -> None:
        """Go on."""
        self.is_paused = False
        if self.skipped:
            self._happenings.call_turn()


class _Said:
    """What those with one filter are told next. count: how much that is; events: empty, if all of them are paused."""

    __slots__ = ("_answers", "count", "events", "is_heard")

    def __init__(self, *, is_heard: bool) -> None:
        self.is_heard = is_heard
        self.count = 0
        self.events: list[bytes] = []
        self._answers: dict[bytes, bytes] = {}  # all of it, by the frame of a reader

    def answers_for(self, reader: Reader) -> bytes:
        """Return what a reader is told, who has missed nothing; those whose calls have the same id hear the same."""
        if (answers := self._answers.get(reader.frame)) is None:
            answers = self._answers[reader.frame] = reader.answers(self.events)
        return answers


class _Waiting:
    """A batch that waits for its turn. told: how many of its events have had theirs."""

    __slots__ = ("batch", "told")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.told = 0

    def take(self) -> tuple[Batch, bool]:
        """Return the next few events, and whether they are the last."""
        batch, told = self.batch, self.told
        if batch.word is Word.WORKER_LOST or len(batch.jobs) <= _STEP_EVENTS:
            return batch, True
        self.told = end = told + _STEP_EVENTS
        reports = None if batch.reports is None else batch.reports[told:end]
        return batch._replace(jobs=batch.jobs[told:end], reports=reports), end >= len(batch.jobs)


class Happenings:
    """All readers of a server, and what they have yet to be told. Call from the loop thread."""

    def __init__(self, backend: Backend, supervisor: Supervisor) -> None:
        self._backend = backend
        self._supervisor = supervisor
        self._readers: dict[Reader, None] = {}
        self._waiting: deque[_Waiting | dict[Reader, int]] = deque()  # what is skipped stands where it would have been told
        self._count = 0  # of events in these
        self._bytes = 0  # of their jobs' data
        self._timer: asyncio.TimerHandle | None = None
        self._rests_until = 0.0
        self._options: dict[tuple[str, int], Raw] = {}

    def add(self, reader: Reader) -> None:
        """Tell a reader what happens from now on; what waits to be told has happened just before."""
        if not self._readers:
            self._backend.events.listen(self._hear)
        self._readers[reader] = None

    def leave(self, reader: Reader) -> None:
        """Forget a reader."""
        del self._readers[reader]
        if not self._readers:
            self._backend.events.ignore(self._hear)
            self._waiting.clear()
            self._options.clear()
            self._count = self._bytes = 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def call_turn(self) -> None:
        """Tell what there is, soon."""
        if self._timer is None:
            wait_s = max(GATHER_S, self._rests_until - perf_counter())
            self._timer = self._supervisor.call_later(wait_s, "events", self._turn)

    def _hear(self, batch: Batch) -> None:
        # its bytes are looked at only where there is room for so many: under load there is none, and nearly all is skipped
        count = self._count + _count_of(batch)
        if count <= MOST_WAITING and (size := self._bytes + _bytes_of(batch)) <= MOST_WAITING_BYTES:
            self._count, self._bytes = count, size
            self._waiting.append(_Waiting(batch))
        else:
            self._skip(batch)
        self.call_turn()

    def _skip(self, batch: Batch) -> None:
        if not self._waiting or isinstance(self._waiting[-1], _Waiting):
            self._waiting.append({})
        skipped = self._waiting[-1]
        assert isinstance(skipped, dict)
        counts: dict[Interest, int] = {}
        for reader in self._readers:
            if (count := counts.get(reader.wanted)) is None:
                count = counts[reader.wanted] = reader.wanted.count(batch)
            skipped[reader] = skipped.get(reader, 0) + count

    def _turn(self) -> None:
        self._timer = None
        began = perf_counter()
        written_s = 0.0
        said = self._filters()
        while self._waiting and perf_counter() - began < TURN_S:
            first = self._waiting[0]
            if isinstance(first, _Waiting):
                self._say(self._take(first), said)
            else:
                self._waiting.popleft()
                written_s += self._give(said)
                for reader, count in first.items():
                    reader.skipped += count
                said = self._filters()
        written_s += self._give(said)
        ended = perf_counter()
        self._rests_until = ended + REST_FACTOR * (ended - began + written_s)
        if self._waiting:
            self.call_turn()

    def _filters(self) -> dict[Interest, _Said]:
        said: dict[Interest, _Said] = {}
        for reader in self._readers:
            found = said.setdefault(reader.wanted, _Said(is_heard=False))
            found.is_heard = found.is_heard or not reader.is_paused
        return said

    def _take(self, waiting: _Waiting) -> Batch:
        """Return the next events of what is the first to wait."""
        batch, is_all = waiting.take()
        if is_all:
            self._waiting.popleft()
        self._count -= _count_of(batch)
        self._bytes -= _bytes_of(batch)
        return batch

    def _say(self, batch: Batch, said: dict[Interest, _Said]) -> None:
        encoded: list[bytes] | None = None
        for wanted, one in said.items():
            if not (count := wanted.count(batch)):
                continue
            one.count += count
            if not one.is_heard:
                continue
            if encoded is None:
                encoded = self._encoded(batch)
            if count == len(encoded):
                one.events += encoded
            else:
                types = wanted.types or frozenset()
                one.events += [event for job, event in zip(batch.jobs, encoded, strict=True) if job.type in types]

    def _give(self, said: dict[Interest, _Said]) -> float:
        """Tell all readers what is said to them; return how long it takes to write that, in s."""
        writes = total = 0
        for reader in list(self._readers):
            one = said.get(reader.wanted)
            if one is None or reader.is_paused:
                reader.skipped += 0 if one is None else one.count
                continue
            if reader.skipped:
                answers = reader.answers([_encode({"skipped": reader.skipped}), *one.events])
                reader.skipped = 0
            elif one.events:
                answers = one.answers_for(reader)
            else:
                continue
            writes += 1
            total += len(answers)
            reader.peer.send(answers)
            reader.peer.settle(0, at_once=True)
        return writes * _WRITE_S + total * _BYTE_S

    def _encoded(self, batch: Batch) -> list[bytes]:
        at, word, jobs, state, reports, worker = batch
        if word is Word.WORKER_LOST:
            runs = [job for job in jobs if isinstance(job, Run)]
            return [_encode(_LossView(at, word, worker, len(runs), [run.claim.id for run in runs[:_STEP_EVENTS]]))]
        if reports is not None:
            ended = [(job, report) for job, report in zip(jobs, reports, strict=True) if isinstance(job, Run)]
            return [_encode(self._end_view(at, word, run, report)) for run, report in ended]
        return [_encode(self._view(at, word, job, state)) for job in jobs]

    def _view(self, at: float, word: Word, job: Accepted | Entry | Run | JobRecord, state: State | None) -> _EventView:
        if isinstance(job, Run):
            return _EventView(at, word, job.claim.id, job.type, _word(state), job.attempt)
        if isinstance(job, JobRecord):
            if word is Word.QUEUED or not job.type:
                shown: JobView | UnsetType = UNSET
            else:
                shown = view_of(job, self._options_of(job.type, job.options, job.prio))
            return _EventView(at, word, job.id, job.type or None, job.state.word, job.attempt, shown)
        return _EventView(at, word, job.id, job.type, _word(state), 0 if isinstance(job, Accepted) else None)

    def _end_view(self, at: float, word: Word, run: Run, report: Report) -> _EventView:
        """Return what a report has ended, or lets wait again; as kqs.queue.ends has it."""
        shown = view_of_end(run, report, self._options_of(run.type, run.options, run.prio))
        return _EventView(at, word, run.claim.id, run.type, shown.state, run.attempt, shown)

    def _options_of(self, type_: str, own: bytes | None, prio: int) -> Raw:
        if own is not None:
            return Raw(_encode(self._backend.options(type_, own, prio)))
        key = (type_, prio)
        if (known := self._options.get(key)) is None:
            if len(self._options) >= _MOST_OPTIONS:
                self._options.clear()
            known = self._options[key] = Raw(_encode(self._backend.options(type_, None, prio)))
        return known


def _count_of(batch: Batch) -> int:
    """Return how many events a batch is."""
    return 1 if batch.word is Word.WORKER_LOST else len(batch.jobs)


def _bytes_of(batch: Batch) -> int:
    """Return how many bytes of data its jobs have in memory."""
    return 0 if batch.word is Word.WORKER_LOST else sum([len(job.data) for job in batch.jobs if job.data])


def _word(state: State | None) -> str | None:
    return None if state is None else WORDS[state]
