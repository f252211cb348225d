"""What a run that is over leaves to others: its report goes to the store, and its slot to the next of its type.

Its handler may still be at it then. Until that has ended, or for a while (`leaving.py`), nobody else has its slot, nor its
resource, which the store gives on with the report.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kqs.job import Claim, Report, Run
from kqs.queue.admission import Admission
from kqs.queue.leaving import Leaving
from kqs.queue.reports import Reporter
from kqs.supervisor import Supervisor


class Ending:
    """See the module docstring. Call from the loop thread.

    over: takes the report of a run that nobody is at any more; as long as no type has limits, it is the reporter's own.
    """

    def __init__(self, reporter: Reporter, admission: Admission, supervisor: Supervisor) -> None:
        self._reporter = reporter
        self._admission = admission
        self._gates = admission.limits.gates
        self._leaving = Leaving[Claim](supervisor, "queue")
        self.over: Callable[[Run, Report], None] = reporter.add

    def limited(self, is_any: bool) -> None:
        """Take in whether any type has limits: then it counts when a run is over."""
        self.over = self._over_limited if is_any else self._reporter.add

    def _over_limited(self, run: Run, report: Report) -> None:
        self._add_limited(run, report)
        self._free(run, report)

    def over_left(self, run: Run, report: Report) -> None:
        """As `over`, of a run whose handler is being ended: nobody has its slot or its resource before it has `left`."""
        if run.resource is not None:
            self._leaving.add(run.claim, lambda: self.over(run, report))
            return
        self._add_limited(run, report)
        if self._gates:
            self._leaving.add(run.claim, partial(self._free, run, report))

    def _add_limited(self, run: Run, report: Report) -> None:
        # each commit of ends is flushed, and what the next runs of a limited type wait for is a claim
        self._reporter.add(run, report, may_wait=run.type in self._gates)

    def _free(self, run: Run, report: Report) -> None:
        self._admission.over(run, has_begun=report.has_begun)

    def left(self, claim: Claim) -> bool:
        """Take in that nobody is at a run any more; False: it is none that has to be left. Idempotent."""
        return self._leaving.left(claim)

    def __contains__(self, claim: Claim) -> bool:
        """Tell whether a run is over, and its handler may still be at it."""
        return claim in self._leaving

    def close(self) -> None:
        """Wait for no handler any more."""
        self._leaving.close()
