"""How far runs are, on its way into the store.

Only what a run has said last counts, so one value a run gathers here. Those that somebody waits for go as soon as the store has
taken the ones before, and a rest in proportion is over; those of handlers when `SAVE_S` is, and that makes all before survive a
power cut as well. What a run has said last goes in with its report, if it has not before; a success leaves nothing.

Invariants:

1. Of a run that is over nothing is written but by its report.
2. Who waits is told that a value is kept only when the store has it, or the report that brings it or ends the need for it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from kqs.errors import StoreUnavailableError
from kqs.handlers import JobContext
from kqs.job import NO_PROGRESS, Claim, Progress, Report, Run
from kqs.log import get_logger
from kqs.pauses import STORE_FIRST_S, STORE_LONGEST_S, Pauses
from kqs.queue.noted import Noted, saved_by
from kqs.queue.wishes import Wishes
from kqs.states import State
from kqs.store.base import Store
from kqs.supervisor import Supervisor, when_done
from kqs.trouble import Trouble

log = get_logger("kqs.queue")

#: how long what handlers save gathers, and how long what was saved may be lost in a power cut, in s
SAVE_S = 1.0
#: between two writes that somebody waits for: at least so long, in s, and so many times what the last one took
LEAST_REST_S = 0.02
REST_SHARE = 9
#: one operation of the store: so many runs at most, and about so many bytes, so that neither others nor the loop wait long
SAVE_RUNS = 1000
SAVE_BYTES = 1024 * 1024
#: no more is taken from remote workers while so much waits for the store
MOST_BYTES = 64 * 1024 * 1024

#: told whether what was said is kept; False: the run was over
Told = Callable[[bool], None]


class _Said:
    """What one run says. value: to be written; writing: being written. is_kept: the store may have some of it.

    told, writing_told: who waits for either. is_over: the run is, and `close` has said what its report brings; is_settled: that
    is in the store.
    """

    __slots__ = ("claim", "is_kept", "is_over", "is_settled", "told", "value", "writing", "writing_told")

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.value: bytes | None = None
        self.writing: bytes | None = None
        self.told: list[Told] = []
        self.writing_told: list[Told] = []
        self.is_kept = self.is_over = self.is_settled = False


class Saves:
    """See the module docstring. Call from the loop thread, but for `note`."""

    def __init__(self, store: Store, supervisor: Supervisor, is_unstored: Callable[[Claim], bool], wishes: Wishes) -> None:
        """Args: is_unstored: tells of a claim whether the store is yet to have it."""
        self._store = store
        self._supervisor = supervisor
        self._is_unstored = is_unstored
        self._wishes = wishes
        self._loop = asyncio.get_running_loop()
        self._noted = Noted(supervisor, self._take_later)
        #: takes in, in any thread, that a handler has saved something
        self.note = self._noted.note
        self._runs: dict[Claim, _Said] = {}  # that have said something, and are not over
        self._asked: dict[Claim, _Said] = {}  # of these, those with a value that somebody waits for
        self._lazy: dict[Claim, _Said] = {}  # and the others with a value
        self._kept_back: dict[Claim, _Said] = {}  # those whose jobs the store is yet to have
        self._ending: dict[Claim, _Said] = {}  # runs that are over, whose report is on its way
        self._bytes = 0  # of values that the store does not have
        self._rested_at = 0.0  # of the loop's clock
        self._tick_at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        self._task: asyncio.Task[None] | None = None
        self._pauses = Pauses(STORE_FIRST_S, STORE_LONGEST_S)
        self._is_stopped = False
        self._lasting = Trouble(log, "the store refuses progress, trying again", "the store takes progress again")
        self.trouble: str | None = None

    def __bool__(self) -> bool:
        """Tell whether any run that is not over has said something."""
        return bool(self._runs)

    @property
    def is_full(self) -> bool:
        """Tell whether so much waits for the store that others must try again later."""
        return self._bytes > MOST_BYTES

    def _take_later(self) -> None:
        """Look in a while what was noted: who saves in a loop is asked for the last of it."""
        self._tick_at = min(self._tick_at, self._loop.time() + SAVE_S)
        self._arm()

    def add(self, run: Run, value: bytes, told: Told) -> None:
        """Take what is said of a run in progress; `told` is called when it is kept, or will never be."""
        said = self._set(run, value)
        said.told.append(told)
        if self._lazy.pop(run.claim, None) is not None:
            self._asked[run.claim] = said
        elif run.claim in self._kept_back:
            self._wishes.sooner()
        self._arm()

    def _set(self, run: Run, value: bytes) -> _Said:
        said = self._runs.get(run.claim)
        if said is None:
            said = self._runs[run.claim] = _Said(run.claim)
        if said.value is None:
            self._wait(said)
        else:
            self._bytes -= len(said.value)
        said.value = value
        self._bytes += len(value)
        return said

    def _wait(self, said: _Said) -> None:
        """Have a run wait for its write."""
        if self._is_unstored(said.claim):
            self._kept_back[said.claim] = said
        elif said.told:
            self._asked[said.claim] = said
        else:
            self._lazy[said.claim] = said

    def look_again(self) -> None:
        """Take in that the store has got jobs."""
        if self._kept_back:
            kept_back, self._kept_back = self._kept_back, {}
            for said in kept_back.values():
                self._wait(said)
            self._arm()

    def close(self, context: JobContext, report: Report) -> None:
        """Let the report of a run that is over bring what it has said last, if the store does not have it."""
        run = context.run
        if (saved := saved_by(context)) is not None:
            self._set(run, saved)
        said = self._runs.pop(run.claim, None)
        if said is None:
            if report.state is State.SUCCESS and run.progress is not None:
                report.progress = NO_PROGRESS
            return
        value = said.writing
        if said.value is not None:
            value, said.value = said.value, None
            self._bytes -= len(value)
            for waiting in (self._asked, self._lazy, self._kept_back):
                waiting.pop(run.claim, None)
        said.is_over = True
        if report.state is not State.SUCCESS:
            report.progress = value
        elif said.is_kept or run.progress is not None:
            report.progress = NO_PROGRESS
        if report.progress is None:
            _settle(said, ok=True)
        else:
            self._ending[run.claim] = said

    def applied(self, batch: Sequence[tuple[Run, Report]], accepted: Sequence[bool]) -> None:
        """Take in that reports are in the store, or were stale, some of which may have brought something."""
        if not self._ending:
            return
        for (run, report), ok in zip(batch, accepted, strict=True):
            if report.progress is not None and (said := self._ending.pop(run.claim, None)) is not None:
                _settle(said, ok=ok)

    async def settle(self, within_s: float) -> bool:
        """Return True when all that was said so far is in the store, False if it is not after `within_s`."""
        self._take_noted()
        try:
            async with asyncio.timeout(within_s):
                while self._asked or self._lazy or self._task is not None:
                    self._tick_at = 0.0
                    self._arm()
                    if self._task is not None:
                        await asyncio.wait([self._task])
        except TimeoutError:
            return False
        return not self._kept_back

    async def stop(self) -> None:
        """Write no more."""
        self._is_stopped = True
        self._cancel_timer()
        await self._supervisor.end(self._task)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._rings_at = math.inf

    def _arm(self) -> None:
        """Write what is due, or see to it that somebody looks when it is."""
        if self._task is not None or self._is_stopped:
            return
        if self._lazy:
            self._tick_at = min(self._tick_at, self._loop.time() + SAVE_S)
        due_at = min(self._tick_at, self._rested_at) if self._asked else self._tick_at
        wait_s = due_at - self._loop.time()
        if wait_s <= 0:
            self._cancel_timer()
            self._task = self._supervisor.spawn(self._write(), "progress", when_done)
        elif due_at < self._rings_at:  # uvloop's handle of what is due at once does not tell when that is
            self._cancel_timer()
            self._rings_at = due_at
            self._timer = self._supervisor.call_later(wait_s, "progress", self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._rings_at = math.inf
        self._arm()

    async def _write(self) -> None:
        began_at = self._loop.time()
        is_tick = began_at >= self._tick_at
        if is_tick:
            self._tick_at = math.inf
        try:
            for part in self._parts(is_tick=is_tick):
                await self._write_part(part)
            if is_tick:
                await self._store.save([], durable=True)
        except StoreUnavailableError as error:
            self.trouble = str(error)
            self._lasting.met(error=str(error))
            await asyncio.sleep(self._pauses.next_s())
            self._tick_at = 0.0 if is_tick else self._tick_at
        else:
            self.trouble = None
            self._lasting.over()
            self._pauses.begin_anew()
            now = self._loop.time()
            self._rested_at = now + min(max(LEAST_REST_S, REST_SHARE * (now - began_at)), SAVE_S)
            if not is_tick:
                self._tick_at = min(self._tick_at, now + SAVE_S)
        finally:
            self._task = None
        self._arm()

    def _take_noted(self) -> None:
        for context, saved in self._noted.take():
            self._set(context.run, saved)

    def _parts(self, *, is_tick: bool) -> Iterator[list[_Said]]:
        """Yield what is to be written, as operations of the store; a tick writes all.

        Each is taken as it is asked for: thousands at a time would hold the loop, and some runs are over when their turn comes.
        """
        due = [*self._asked.values(), *(self._lazy.values() if is_tick else ())]
        noted = (self._set(context.run, saved) for context, saved in (self._noted.take() if is_tick else ()))
        part: list[_Said] = []
        size = 0
        for said in chain(due, noted):
            if said.value is None or said.writing is not None or said.claim in self._kept_back:
                continue
            self._asked.pop(said.claim, None)
            self._lazy.pop(said.claim, None)
            size += len(said.value)
            said.writing, said.value = said.value, None
            said.writing_told, said.told = said.told, []
            said.is_kept = True
            part.append(said)
            if len(part) == SAVE_RUNS or size > SAVE_BYTES:
                yield part
                part, size = [], 0
        if part:
            yield part

    async def _write_part(self, part: list[_Said]) -> None:
        values = [said.writing for said in part]
        progress = [Progress(said.claim, value) for said, value in zip(part, values, strict=True) if value is not None]
        try:
            verdicts = await self._store.save(progress, durable=False)
        except StoreUnavailableError:
            self._take_back(part)
            raise
        for said, ok in zip(part, verdicts, strict=True):
            self._let_go(said)
            told, said.writing_told = said.writing_told, []
            for one in told:
                one(ok)

    def _take_back(self, part: list[_Said]) -> None:
        """Take in that values were not written: they wait again, unless the run has said more since, or is over."""
        for said in part:
            value, told = said.writing, said.writing_told
            self._let_go(said)
            said.told[:0] = told
            said.writing_told = []
            if said.is_settled:
                _settle(said, ok=True)
            elif not said.is_over and said.value is None:
                said.value = value
                self._bytes += len(value or b"")
                self._wait(said)
            elif not said.is_over and said.told and self._lazy.pop(said.claim, None) is not None:
                self._asked[said.claim] = said

    def _let_go(self, said: _Said) -> None:
        self._bytes -= len(said.writing or b"")
        said.writing = None


def _settle(said: _Said, *, ok: bool) -> None:
    said.is_settled = True
    told, said.told = said.told, []
    for one in told:
        one(ok)
