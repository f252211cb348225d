"""How many runs are claimed beyond the lanes that are free, so that short ones need not wait for a claim each time. Pure.

As many as the lanes get through in `AHEAD_S`, by how long runs have taken lately, and by how long they had the loop for
themselves, for which lanes wait for each other. Whoever runs them counts in `begun_count` and `busy_s`, which are plain for
the sake of speed, and asks what that means from time to time.
"""

from __future__ import annotations

from kqs.queue.gate import AHEAD_S, TUNE_EVERY

#: however short runs are: what is claimed here begins nowhere else
MAX_AHEAD_PER_LANE = 16
#: the weight of what was seen since the length of a run was looked at last
TUNE_WEIGHT = 0.25
#: how long runs count as taking after some were found to be stuck behind others, in s: nothing is claimed ahead of such
STUCK_RUN_S = 1.0
#: no run counts as shorter, in s
_LEAST_RUN_S = 1e-6


class Ahead:
    """See the module docstring. count: how many runs more than there are lanes may be claimed now."""

    __slots__ = (
        "_lanes",
        "_mean_held_s",
        "_mean_run_s",
        "_tuned_at",
        "_tuned_held_s",
        "begun_count",
        "busy_s",
        "count",
        "tune_at",
    )

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._mean_run_s: float | None = None
        self._mean_held_s = 0.0
        self._tuned_at = 0
        self._tuned_held_s = 0.0
        #: at how many begun runs it is time to `tune`
        self.tune_at = TUNE_EVERY
        self.count = 0
        #: runs that have begun; and how long those took that have ended since the last `tune`, but not in their first step
        self.begun_count = 0
        self.busy_s = 0.0

    def tune(self, held_s: float = 0.0) -> int:
        """Take in how long runs have taken since; return by how many more may be claimed, or fewer if it is negative.

        Args: held_s: how long all runs so far have had the loop for themselves.
        """
        count = self.begun_count - self._tuned_at
        seen_s, seen_held_s = self.busy_s / count, (held_s - self._tuned_held_s) / count
        if self._mean_run_s is None:
            self._mean_run_s, self._mean_held_s = seen_s, seen_held_s
        self._mean_run_s += TUNE_WEIGHT * (seen_s - self._mean_run_s)
        self._mean_held_s += TUNE_WEIGHT * (seen_held_s - self._mean_held_s)
        self.busy_s, self._tuned_at, self._tuned_held_s = 0.0, self.begun_count, held_s
        self.tune_at = self.begun_count + TUNE_EVERY
        each_s = max(self._mean_run_s / self._lanes, self._mean_held_s, _LEAST_RUN_S / self._lanes)
        return self._reach(min(int(AHEAD_S / each_s), self._lanes * MAX_AHEAD_PER_LANE))

    def get_stuck(self) -> int:
        """Take in that runs wait behind others that turned out to be long; return as `tune` does."""
        self._mean_run_s = STUCK_RUN_S
        return self._reach(0)

    @property
    def worth(self) -> int:
        """Return how much room is worth a claim of its own: as runs are so short, more will be free at once."""
        return 1 + self.count // 4

    def _reach(self, count: int) -> int:
        change, self.count = count - self.count, count
        return change
