"""How many jobs of each type come and end, and how long they wait and run: counted by batch, timed by sample.

Memory is bounded: a type costs some kilobytes at most, and of `MAX_TYPES` who has been quiet for longest is forgotten.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from kqs.job import Accepted, Report, Run, instant_of
from kqs.states import ENDED, State

T = TypeVar("T")

#: types that are metered; beyond them, those are forgotten of which nothing was heard for longest
MAX_TYPES = 1000
#: over which rates are told, in s; counted by slots of so many s
WINDOWS_S = (60, 300, 900)
SLOT_S = 10
#: jobs of one batch that are timed, evenly spread over it: 0.6 µs each, and batches under load have thousands
SAMPLES = 128
#: as there are so many samples, all so far count half
MOST_SAMPLES = 10_000
#: the shortest time told, in s, and steps from there to twice as much
LEAST_S = 0.001
STEPS = 4

_SLOTS = WINDOWS_S[-1] // SLOT_S


class Rate:
    """How many in each of the last slots."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, count: int, slot: int) -> None:
        """Take in that so many came in this slot, which is none before an earlier one."""
        counts = self._counts
        counts[slot] = counts.get(slot, 0) + count
        while len(counts) > _SLOTS + 1:
            del counts[next(iter(counts))]

    def per_s(self, now: float, since: float) -> list[float]:
        """Return how many a second, over each of WINDOWS_S, or for as long as there is something to count. Monotonic, in s."""
        slot = int(now // SLOT_S)
        rates = []
        for window_s in WINDOWS_S:
            first = slot - window_s // SLOT_S
            count = sum([n for at, n in self._counts.items() if at >= first])
            span_s = min(now - first * SLOT_S, now - since)
            rates.append(round(count / max(span_s, 1.0), 3))
        return rates


class Times:
    """How long things took, by a logarithmic scale: what is told is at most a fifth too long."""

    __slots__ = ("_count", "_steps")

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}
        self._count = 0

    def add(self, seconds: float) -> None:
        """Take in one."""
        step = math.ceil(math.log2(seconds / LEAST_S) * STEPS) if seconds > LEAST_S else 0
        self._steps[step] = self._steps.get(step, 0) + 1
        self._count += 1
        if self._count >= MOST_SAMPLES:
            self._steps = {step: half for step, n in self._steps.items() if (half := n // 2)}
            self._count = sum(self._steps.values())

    def quantiles(self) -> dict[str, float] | None:
        """Return p50, p95 and p99 in s, None if there was none."""
        if not self._count:
            return None
        told, steps, reached = {}, iter(sorted(self._steps.items())), 0
        step = 0
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            while reached < share * self._count:
                step, count = next(steps)
                reached += count
            told[name] = float(f"{LEAST_S * 2 ** (step / STEPS):.3g}")
        return told


class Metered:
    """What is known of one type."""

    __slots__ = ("came", "ended", "ran", "waited")

    def __init__(self) -> None:
        self.came = Rate()
        self.ended = Rate()
        self.waited = Times()
        self.ran = Times()


class Meter:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._types: OrderedDict[str, Metered] = OrderedDict()
        self._since = monotonic()

    @property
    def types(self) -> Collection[str]:
        """Return the types that something is known of."""
        return self._types.keys()

    def shown(self, type_: str) -> dict[str, Any]:
        """Return rates and times of a type, by the names under which they are shown to owners."""
        found, now = self._types.get(type_) or Metered(), self._monotonic()
        return {
            "in_per_s": found.came.per_s(now, self._since),
            "out_per_s": found.ended.per_s(now, self._since),
            "wait_s": found.waited.quantiles(),
            "run_s": found.ran.quantiles(),
        }

    def stored(self, jobs: Sequence[Accepted]) -> None:
        """Take in new jobs that are stored, some of them with the end of their run."""
        slot = int(self._monotonic() // SLOT_S)
        for type_, count in _by_type(jobs):
            self._of(type_).came.add(count, slot)
        ended = [job for job in jobs if job.end is not None]
        if ended:
            for type_, count in _by_type(ended):
                self._of(type_).ended.add(count, slot)
            for job in _some(ended):
                assert job.end is not None
                self._time(job.end, job.claimed_at, None if job.due_at else job.order)

    def reported(self, batch: Sequence[tuple[Run, Report]]) -> None:
        """Take in reports of runs that the store has accepted."""
        slot = int(self._monotonic() // SLOT_S)
        for type_, count in _by_type([report for _, report in batch if report.state in ENDED]):
            self._of(type_).ended.add(count, slot)
        for run, report in _some(batch):
            is_first = run.claim.attempt == 1 and run.waited_as == State.NEW
            self._time(report, run.started_at, run.claim.order if is_first else None)

    def _time(self, report: Report, began_at: float, order: int | None) -> None:
        """Take in how long a run took; and, unless `order` is None, how long its job has waited before."""
        if report.has_begun:
            metered = self._of(report.type)
            metered.ran.add(report.ended_at - began_at)
            if order is not None:
                metered.waited.add(began_at - instant_of(order))

    def _of(self, type_: str) -> Metered:
        metered = self._types.get(type_)
        if metered is None:
            if len(self._types) >= MAX_TYPES:
                self._types.popitem(last=False)
            metered = self._types[type_] = Metered()
        else:
            self._types.move_to_end(type_)
        return metered


def _by_type(jobs: Sequence[Accepted] | Sequence[Report]) -> Iterable[tuple[str, int]]:
    """Return how many there are of each type; one alone, which is the rule, need not be counted."""
    types = {job.type for job in jobs}
    return [(types.pop(), len(jobs))] if len(types) == 1 else Counter([job.type for job in jobs]).items()


def _some(batch: Sequence[T]) -> Sequence[T]:
    return batch if len(batch) <= SAMPLES else batch[:: -(-len(batch) // SAMPLES)]
