"""When a run is lost: every deadline of every run in progress, on one timer.

Deadlines are gathered in slots of `SLOT_S`; a lease sits in the slot of a deadline it had and moves only when that slot comes
due, so that starting and ending a run cost a look into a table each, and a touch one store. A slot that nobody sits in is
forgotten, so that memory follows the runs in progress, however long their ttr. Call from the loop thread.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import msgspec

from kqs.clock import Clock
from kqs.handlers import JobContext, to_nobody
from kqs.job import Run
from kqs.options import Options
from kqs.supervisor import Judgement, Supervisor

#: a run is found lost at most this long after its deadline; a fifth of the least ttr
SLOT_S = 0.02
#: deadlines beyond this many s from now are never looked at, as if there were none: no server runs for 30 years
HORIZON_S = 1e9
#: slots that are empty and not forgotten yet, at most, beside one for each that is not
SPARE_SLOTS = 64
#: so often, in s, the timer rings at least: how late it is tells how long nobody was heard, whose touch may have come meanwhile
BEAT_S = 1.0

_EMPTY: dict[Lease, None] = {}


class Lease(msgspec.Struct, gc=False, eq=False):
    """One run in progress; made by `Leasing`. Deadlines, and when it began, are on the monotonic clock, in s.

    context: what its handler is given. on_lost: called when it is over without a report.
    on_cancel: of a run that has begun elsewhere; called when the job is cancelled, or deleted: whoever has the run ends it.
    None: it is here, and over with that.
    """

    run: Run
    options: Options
    context: JobContext
    on_lost: Callable[[Lease], None]
    on_cancel: Callable[[Lease], None] | None
    began_at: float
    deadline: float
    limit_deadline: float
    slot: int = -1

    @property
    def next_deadline(self) -> float:
        """Return the deadline that comes first, touches counted; what a handler has put in their place is none."""
        touched_at = self.context.touched_at
        if type(touched_at) is not float:
            touched_at = -math.inf
        return min(max(self.deadline, touched_at + self.options.ttr), self.limit_deadline)

    def is_over_limit(self, now: float) -> bool:
        """Tell whether the run has taken longer than it may, whatever else is true of it. now: monotonic."""
        return self.limit_deadline <= now


class Leasing:
    """Makes leases of the runs of one process, with what they have in common."""

    def __init__(self, clock: Clock, on_save: Callable[[JobContext], None] = to_nobody) -> None:
        """Args: on_save: told, in any thread, that a handler has saved something."""
        self._monotonic = clock.monotonic
        self._on_save = on_save

    def lease(
        self,
        run: Run,
        options: Options,
        on_lost: Callable[[Lease], None],
        now: float | None = None,
        on_cancel: Callable[[Lease], None] | None = None,
    ) -> Lease:
        """Return the lease of a run that begins, or began at `now`. on_lost, on_cancel: see `Lease`."""
        began_at = self._monotonic() if now is None else now
        is_elsewhere = on_cancel is not None
        return Lease(
            run,
            options,
            JobContext(run, options, self._monotonic, on_save=self._on_save),
            on_lost,
            on_cancel,
            began_at,
            # in the server who touches for the handler dies with it, and a dead process's claims go back at the next start
            math.inf if options.auto_touch and not is_elsewhere else began_at + options.ttr,
            math.inf if options.time_limit is None else began_at + options.time_limit,
        )


class Leases:
    """All runs in progress. `expired` is called with each lease whose deadline passed, after it left the table."""

    def __init__(self, clock: Clock, expired: Callable[[Lease], None], supervisor: Supervisor) -> None:
        self._clock = clock
        self._supervisor = supervisor
        self._expired = expired
        self._slots: dict[int, dict[Lease, None]] = {}
        self._heap: list[int] = []  # every number in `_slots`, and others that are not any more
        self._newest = 0  # the slot that was filled last: empty or not, the next lease is likely to want it
        self._timer: Judgement | None = None
        self._timer_slot = 0
        self._forever: set[Lease] = set()

    def __len__(self) -> int:
        return len(self._forever) + sum(len(slot) for slot in self._slots.values())

    def add(self, lease: Lease) -> None:
        """Watch over a run that begins."""
        deadline = lease.deadline if lease.deadline < lease.limit_deadline else lease.limit_deadline
        self._put(lease, deadline)

    def _put(self, lease: Lease, deadline: float) -> None:
        if not deadline - lease.began_at < HORIZON_S:
            lease.slot = 0
            self._forever.add(lease)
            return
        number = int((deadline if deadline > lease.began_at else lease.began_at) / SLOT_S) + 1
        lease.slot = number
        slot = self._slots.get(number)
        if slot is None:
            slot = self._open_slot(number)
        slot[lease] = None
        self._newest = number

    def _open_slot(self, number: int) -> dict[Lease, None]:
        if not self._slots.get(self._newest, True):
            del self._slots[self._newest]
        slot: dict[Lease, None] = {}
        self._slots[number] = slot
        heapq.heappush(self._heap, number)
        if len(self._heap) > 2 * len(self._slots) + SPARE_SLOTS:
            self._heap = list(self._slots)
            heapq.heapify(self._heap)
        self._arm()
        return slot

    def end(self, lease: Lease) -> bool:
        """Forget a run that is over; False if it had been lost or ended before."""
        number, lease.slot = lease.slot, -1
        if number < 0:
            return False
        lease.context.end()
        if number == 0:
            self._forever.remove(lease)
            return True
        slot = self._slots[number]
        del slot[lease]
        if not slot and number != self._newest:
            del self._slots[number]
        return True

    def all(self) -> list[Lease]:
        """Return every run in progress."""
        return [*self._forever, *(lease for slot in self._slots.values() for lease in slot)]

    @property
    def next_deadline(self) -> float:
        """Return when the first run is lost, unless it is touched, monotonic; math.inf: none is."""
        return min((lease.next_deadline for lease in self.all()), default=math.inf)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self) -> None:
        """Let go of the runs whose deadline has passed."""
        now = self._clock.monotonic()
        while self._heap and self._heap[0] * SLOT_S <= now:
            for lease in self._slots.pop(heapq.heappop(self._heap), _EMPTY):
                if (deadline := lease.next_deadline) > now:
                    self._put(lease, deadline)
                else:
                    lease.slot = -1
                    lease.context.end()
                    self._expired(lease)
        self._timer_slot = 0
        self._arm()

    def _arm(self) -> None:
        while self._heap and self._heap[0] not in self._slots:
            heapq.heappop(self._heap)
        if not self._heap or (self._timer_slot and self._timer_slot <= self._heap[0]):
            return
        self.close()
        now = self._clock.monotonic()
        self._timer_slot = min(self._heap[0], int((now + BEAT_S) / SLOT_S))
        wait_s = max(0.0, self._timer_slot * SLOT_S - now)
        self._timer = self._supervisor.judge_later(wait_s, "leases", self.check)
