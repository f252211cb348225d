"""Since when the first record that is not in the store has been durable, and how many jobs came since one looked."""

from __future__ import annotations

import math
from collections import deque

#: records that were flushed within so long count as one: that is how exact an age is
_STEP_S = 0.01
#: so many of those are told apart: ages beyond 20 s are told as less than they are
_MAX_MARKS = 2000


class Waiting:
    """See the module docstring. Times are of one monotonic clock, in s; records count by their seqs, in order."""

    def __init__(self, durable_seq: int = 0) -> None:
        """Args: durable_seq: records below it were flushed no one knows when."""
        self._marks: deque[tuple[int, float]] = deque(maxlen=_MAX_MARKS)  # seq of a record, when it was flushed
        self._old_seq = durable_seq
        self._jobs = 0

    def flushed(self, first_seq: int, jobs: int, now: float) -> None:
        """Note `jobs` in records from `first_seq` on."""
        self._jobs += jobs
        if not self._marks or now - self._marks[-1][1] >= _STEP_S:
            self._marks.append((first_seq, now))

    def take_jobs(self) -> int:
        """Return how many jobs came since the last call."""
        jobs, self._jobs = self._jobs, 0
        return jobs

    def age_s(self, fed_seq: int, durable_seq: int, now: float) -> float:
        """Return how long the record `fed_seq`, the first that the store does not have, has been durable; 0 when it has all."""
        if fed_seq >= durable_seq:
            self._marks.clear()
            return 0.0
        marks = self._marks
        while len(marks) > 1 and marks[1][0] <= fed_seq:
            marks.popleft()
        if fed_seq < self._old_seq or not marks:
            return math.inf
        return now - marks[0][1]
