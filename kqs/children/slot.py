"""The place of one child process: who has it, and when the next one comes. Call from the loop thread."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from kqs.children.child import Child, End
from kqs.children.words import TOO_MUCH_MEMORY
from kqs.log import get_logger
from kqs.supervisor import Supervisor, with_its_answer
from kqs.trouble import Trouble
from kqs.words.phrases import counted

log = get_logger("kqs.children")

pause = asyncio.sleep

#: between an end and the next start, in s: the first time, and at most; it doubles with each in a row
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 10.0
#: who has lived so long, in s, did not fall at its start
STEADY_S = 10.0
#: who has died so often in so many seconds is told of, though each has lived a while: what kills it comes back. Once an hour or
#: so is a note
MANY_DEATHS = 3
LATELY_S = 600.0
#: a start that takes longer lets others start, and later is told of, in s
STARTING_S = 10.0
START_S = 30.0


class Others(Protocol):
    """Who is beside those in their places.

    starting: held by each who starts: among many who start at once nobody would be there soon.
    """

    starting: asyncio.Semaphore

    async def room(self) -> None:
        """Return when those who leave are few enough for one more."""
        ...

    def add(self, child: Child, ended: asyncio.Task[End]) -> None:
        """Take one."""
        ...


class Slot:
    """See the module docstring. restarts_count: how often somebody ended who was not to."""

    def __init__(self, number: int, make: Callable[[int], Child], others: Others, supervisor: Supervisor) -> None:
        self._number = number
        self._make = make
        self._others = others
        self._supervisor = supervisor
        self._unfit = Trouble(log, "a child process cannot start, trying again", "child processes start again")
        self._falls = 0  # in a row
        self._how = ""
        # when, of those who had lived a while: no more of them die in so long
        self._deaths: deque[float] = deque(maxlen=int(LATELY_S / STEADY_S))
        self._how_died = ""
        self.child: Child | None = None
        self.ended: asyncio.Task[End] | None = None
        self.restarts_count = 0
        self.recycled_count = 0

    @property
    def pid(self) -> int:
        """Return the process that asks for jobs here; 0: none does."""
        return self.child.pid if self.child is not None and self.child.is_ready else 0

    async def keep(self) -> None:
        """Let one child follow the other, for ever."""
        while True:
            await self._others.room()
            async with self._others.starting:
                self.child = child = self._make(self._number)
                self.ended = ended = self._supervisor.spawn(child.run(), f"child-{self._number}", with_its_answer)
                await _first_of(ended, child.ready, STARTING_S)
            if child.is_ready:
                self._unfit.over(child=self._number)
            await _first_of(ended, child.leaving)
            self.child = self.ended = None
            wait_s = self._note_leaving(child, ended) if child.leaving.done() else self._note_end(child, ended.result())
            await pause(wait_s)

    def _note_end(self, child: Child, end: End) -> float:
        self.restarts_count += 1
        if child.lived_s >= STEADY_S:
            self._deaths.append(time.monotonic())
            self._how_died = end.how
        wait_s = self._fall(child, end.how)
        told = {"child": child.number, "pid": child.pid or None, "runs": end.runs_count, "lived_s": round(child.lived_s, 1)}
        told |= {"again_in_s": round(wait_s, 1)}
        if child.why_unfit:
            self._unfit.met(error=end.how, **told)
        else:
            log.warning("a child process has died, starting another", how=end.how, **told)
        return wait_s

    def _note_leaving(self, child: Child, ended: asyncio.Task[End]) -> float:
        why = child.leaving.result()
        self.recycled_count += 1
        log.info("a child process is about to leave, starting another", child=child.number, pid=child.pid, reason=why)
        self._others.add(child, ended)
        if why == TOO_MUCH_MEMORY and child.lived_s < STEADY_S:
            return self._fall(child, f"it takes more memory than {why} soon after its start")
        return 0.0

    def _fall(self, child: Child, how: str) -> float:
        """Return how long to wait for the next one."""
        self._falls = 1 if child.lived_s >= STEADY_S else self._falls + 1
        self._how = how
        return float(min(FIRST_WAIT_S * 2 ** min(self._falls - 1, 20), LONGEST_WAIT_S))

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        child = self.child
        if child is None:
            return [f"child {self._number} does not run, and will be started again: {self._how}"] if self._how else []
        if child.is_ready and child.lived_s >= STEADY_S:
            self._falls, self._how = 0, ""
        problems = [f"child {self._number}: {problem}" for problem in child.problems()]
        if self._falls > 1 or (self._falls and not child.is_ready):
            problems.append(
                f"child {self._number} has ended {counted(self._falls, 'time')} in a row, the last time: {self._how}"
            )
        elif not child.is_ready and child.lived_s >= START_S:
            problems.append(f"child {self._number} has been starting for {child.lived_s:.0f} s")
        elif (count := self._deaths_lately()) >= MANY_DEATHS:
            often = f"{count} times in {LATELY_S / 60:.0f} minutes"
            problems.append(f"child {self._number} has died {often}, the last time: {self._how_died}")
        return problems

    def _deaths_lately(self) -> int:
        while self._deaths and self._deaths[0] < time.monotonic() - LATELY_S:
            self._deaths.popleft()
        return len(self._deaths)


async def _first_of(ended: asyncio.Future[Any], other: asyncio.Future[Any], within_s: float | None = None) -> None:
    """Return when one is done, or after `within_s`."""
    await asyncio.wait([ended, other], timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
