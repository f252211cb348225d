"""Whether jobs that are journaled are new: what the store says of them, for whoever waits to hear it.

An insert is kept once it is flushed, before the store has its jobs. Whether it made a job, or was joined to one that waits,
only the store can say; nearly nobody asks, and then nothing is looked at here. Nobody waits for ever: whoever has heard nothing
in `WITHIN_S`, or when the queue stops, is told that the job is kept and will be decided about.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress

from kqs.clock import Clock
from kqs.errors import CallError, StoreUnavailableError
from kqs.inserter import Found, Question
from kqs.job import Accepted
from kqs.pauses import STORE_FIRST_S, Pauses
from kqs.store.base import Known, Store
from kqs.supervisor import Supervisor

#: how long an insert waits for a store that is behind; shorter than a server's stop
WITHIN_S = 5.0
#: jobs that are asked about at a time; one array may be all of them
MOST_JOBS = 100_000
#: the longest wait between two tries of a store that refuses, in s: an insert would not wait for another as long as elsewhere
LONGEST_WAIT_S = 1.0

_LATE = "the job is kept, but the store is behind: insert it again to hear what became of it"
_STOPPED = "the job is kept, but the server stops before its store has it: insert it again to hear what became of it"


class Asked:
    """See the module docstring. Call from the loop thread; `run` is the body of its task."""

    def __init__(self, store: Store, clock: Clock, supervisor: Supervisor) -> None:
        self._store = store
        self._monotonic = clock.monotonic
        self._supervisor = supervisor
        #: by order; while there are any, the store should have what is journaled, soon
        self.open: dict[int, Question] = {}
        self._flushed: deque[tuple[float, Question]] = deque()  # and when it is told that it must wait no longer
        self._decided: list[Question] = []  # which are to last
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def check_room(self, count: int) -> None:
        """See VerdictsPort."""
        if self.open and len(self.open) + count > MOST_JOBS:
            raise CallError("too many inserts wait to hear whether they are new, try again later", "busy")

    def ask(self, question: Question) -> None:
        """See VerdictsPort."""
        self.open.update(dict.fromkeys(question.left, question))

    def flushed(self, question: Question) -> None:
        """See VerdictsPort."""
        if self._is_closed:
            self._give_up([question], _STOPPED)
            return
        self._flushed.append((self._monotonic() + WITHIN_S, question))
        self._set_timer()

    def withdraw(self, question: Question) -> None:
        """See VerdictsPort."""
        question.is_over = True
        for order in question.left:
            del self.open[order]
        question.left.clear()

    def stored(self, jobs: Sequence[Accepted], known: Known) -> None:
        """Take in what became of jobs: what is not among the known was stored."""
        refused = known.old
        for job in jobs:
            order = job.order
            question = self.open.pop(order, None)
            if question is None:
                continue
            question.left.discard(order)
            if order in known.joined:
                question.joined[order] = known.joined[order]
            elif order in refused:
                question.known.add(order)
            if not question.left:
                if question.is_lasting:
                    self._decided.append(question)
                    self._wake.set()
                else:
                    self._tell([question])

    async def run(self) -> None:
        """Tell what is decided of unique keys, when no replay can decide anew; for ever. All else was told at once."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            decided, self._decided = self._decided, []
            await self._sync(decided)
            self._tell(decided)

    async def _sync(self, questions: Sequence[Question]) -> None:
        """Return when the store has durably decided, or nobody waits for that any more."""
        pauses = Pauses(STORE_FIRST_S, LONGEST_WAIT_S)
        while not all(question.is_over for question in questions):
            with suppress(StoreUnavailableError):
                await self._store.sync()
                return
            await asyncio.sleep(pauses.next_s())

    def _tell(self, questions: Iterable[Question]) -> None:
        for question in questions:
            if not question.is_over:
                question.is_over = True
                question.told(Found(question.known, question.joined))

    def close(self) -> None:
        """Tell all who wait, or will, that they hear nothing here: a slow disk may flush more jobs yet."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._give_up([question for _, question in self._flushed], _STOPPED)
        self._flushed.clear()

    def _give_up(self, questions: Sequence[Question], why: str) -> None:
        for question in questions:
            if not question.is_over:
                self.withdraw(question)
                question.told(CallError(why, "timeout"))

    def _set_timer(self) -> None:
        if self._timer is None and self._flushed:
            wait_s = max(0.0, self._flushed[0][0] - self._monotonic())
            self._timer = self._supervisor.call_later(wait_s, "queue", self._ring)

    def _ring(self) -> None:
        self._timer = None
        now = self._monotonic()
        late: list[Question] = []
        while self._flushed and (self._flushed[0][1].is_over or self._flushed[0][0] <= now):
            late.append(self._flushed.popleft()[1])
        self._give_up(late, _LATE)
        self._set_timer()
