"""How long jobs gather before the next batch is fed, and how many it has.

What is weighed stands in kqs.feeder.pace; here is what that is asked about. Whenever something stirs, it is asked again:

    lanes want jobs ──▶ those held first can be claimed ──▶ they are, and what waits behind them is held
                    ├─▶ no more of their type may begin, or others of it wait in the broker ──▶ they are held, too
                    └─▶ they cannot ──▶ feed as many as lanes have room for
    lanes will soon take what waits ──▶ feed what is claimed, once its ends have gathered, behind a run
    else ──▶ rest, then feed
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kqs.feeder import pace
from kqs.feeder.claims import Claims
from kqs.feeder.held import Held
from kqs.feeder.waiting import Waiting
from kqs.queue.queue import Queue
from kqs.supervisor import Supervisor

#: what waits is held for lanes as long as these had room within so long, in s
RECENT_S = 0.05


class Gathering:
    """See the module docstring. Call from the loop thread."""

    def __init__(
        self,
        queue: Queue,
        held: Held,
        claims: Claims,
        supervisor: Supervisor,
        *,
        is_ordered: Callable[[], bool],
        may_claim: Callable[[], bool],
    ) -> None:
        """Args: is_ordered: tells whether no job that waits, in memory or on disk, has a right to overtake another.

        may_claim: tells whether held jobs may begin before they are stored.
        """
        self._held = held
        self._claims = claims
        self._admission = queue.admission
        self._asked = queue.asked
        self._monotonic = queue.clock.monotonic
        self._is_ordered = is_ordered
        self._may_claim = may_claim
        self._supervisor = supervisor
        #: is told of what is durable
        self.waiting = Waiting()
        self._speeds = pace.Speeds()
        self._drain = pace.Drain()
        self._is_wanted = False  # by lanes, or by who waits for the store
        self._wanted_at = -math.inf
        self._served_at = -math.inf  # when lanes had room, and no use for what waits here
        self._ran_at = -math.inf  # when jobs began that had just been journaled, and ends had gathered
        self._stirred = asyncio.Event()
        self._looked_at = self._monotonic()
        self._hurried = 0
        self._is_ending = False
        #: jobs of the last batch
        self.fed_jobs = 0

    def start(self, durable_seq: int) -> None:
        """Begin: records below `durable_seq` were flushed no one knows when."""
        self.waiting = Waiting(durable_seq)

    def want(self) -> None:
        """Feed soon: somebody has room for what waits, or needs the store to have it."""
        self._is_wanted = True
        self._stirred.set()

    def end(self) -> None:
        """Let nothing gather any more."""
        self._is_ending = True
        self._stirred.set()

    @contextmanager
    def hurrying(self) -> Iterator[None]:
        """Let nothing gather within the block."""
        self._hurried += 1
        self.want()
        try:
            yield
        finally:
            self._hurried -= 1

    def begun(self, jobs: int) -> None:
        """Take in that lanes took so many of the held jobs."""
        now = self._monotonic()
        self._drain = self._drain.after_claim(jobs, now - self._wanted_at)
        self._wanted_at = now
        self._stirred.set()

    def ran(self, now: float) -> None:
        """Take in that jobs begin that were claimed as they were journaled. now: monotonic, in s."""
        if now - self._held.claimed_since >= pace.ENDS_S:
            self._ran_at = now
            self._supervisor.call_soon("feeder", self._stirred.set)  # their answers go first

    def resume(self) -> None:
        """Count from now: there was nothing to gather."""
        self._looked_at = self._monotonic()

    async def batch_jobs(self, fed_seq: int, durable_seq: Callable[[], int]) -> int:
        """Let more jobs gather as long as that is best; return how many to feed at most.

        Args: fed_seq: the first seq that the store does not have. durable_seq: returns that after the last flushed record.
        """

        came_jobs, since_s = self._look()
        self._speeds = self._speeds.after_batch(came_jobs, since_s, self.fed_jobs)
        age_s = self.waiting.age_s(fed_seq, durable_seq(), self._looked_at)
        rest_s = pace.rest_s(age_s, self._speeds, was_full=self.fed_jobs >= pace.BATCH_JOBS)
        while not (self._hurried or self._is_ending or self._asked.open):
            if self._is_wanted:
                if self._held.is_all_claimed or not self._is_claimed_or_served():
                    return self._wanted_jobs(age_s, came_jobs)
                self._is_wanted = False
            self._stirred.clear()
            if self._is_holding(age_s, came_jobs):
                due_in_s = self._until_due_s
                is_due = due_in_s <= 0 or not await wait(self._stirred, due_in_s)
                if is_due and self._held.claimed_first:
                    return self._held.claimed_first
            elif rest_s > 0:
                await wait(self._stirred, rest_s)
                rest_s = 0.0  # a stir has ended it, too
            else:
                return pace.BATCH_JOBS
            came_jobs, since_s = self._look()
            self._speeds = self._speeds.after_rest(came_jobs, since_s)
            age_s = self.waiting.age_s(fed_seq, durable_seq(), self._looked_at)
        self._is_wanted = False
        return pace.BATCH_JOBS

    def _is_claimed_or_served(self) -> bool:
        """Claim of what waits here what lanes have room for; tell whether that is under way, or nothing would come of it."""
        return self._may_claim() and self._is_ordered() and (self._claims.of_held() or self._is_served())

    def _is_served(self) -> bool:
        """Tell whether what waits here would give nobody a job now, and those who asked for some will be back soon."""
        type_ = self._held.type
        if type_ is None or not self._admission.is_served(type_):
            return False
        self._served_at = self._monotonic()
        return True

    def _wanted_jobs(self, age_s: float, came_jobs: int) -> int:
        self._is_wanted = False
        self._wanted_at = self._monotonic()
        room = self._admission.room + self._held.claimed_first
        return pace.most_jobs(room, age_s, came_jobs, is_ordered=self._is_ordered())

    @property
    def _until_due_s(self) -> float:
        """Return how much longer the ends of claimed jobs may gather, while the others wait for lanes."""
        if not self._held.claimed_first:
            return pace.GATHER_S
        since = self._held.claimed_since
        return 0.0 if self._ran_at >= since + pace.ENDS_S else since + pace.ENDS_MOST_S - self._monotonic()

    def _is_holding(self, age_s: float, came_jobs: int) -> bool:
        """Tell whether only what is claimed may be fed now: lanes that had room will soon have it again for the others.

        Not if they may have a right to overtake one another, or would wait for too long.
        """
        held = self._held
        if held.is_all_claimed or self._claims.are_of_held:
            return True
        was_wanted = self._monotonic() - max(self._wanted_at, self._served_at) < RECENT_S
        if not was_wanted or not self._is_ordered() or age_s > pace.HOLD_S or pace.is_passed_by(age_s, came_jobs):
            return False
        return self._drain.is_soon(held.count - held.claimed_first)

    def _look(self) -> tuple[int, float]:
        """Return how many jobs came since the last look, and how long ago that was."""
        before, self._looked_at = self._looked_at, self._monotonic()
        return self.waiting.take_jobs(), self._looked_at - before


async def wait(event: asyncio.Event, at_most_s: float) -> bool:
    """Return when `event` is set, or after so long; tell whether it is set."""
    try:
        async with asyncio.timeout(at_most_s):
            await event.wait()
    except TimeoutError:
        pass
    return event.is_set()
