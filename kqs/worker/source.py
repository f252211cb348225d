"""Where a worker's runs come from and their ends go to: a port. The queue is one, in the server; a connection to it is another.

Whatever it is, a run is somebody's from its delivery to its report or its loss, and nothing counts that is said of it later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from kqs.clock import Clock
from kqs.job import Run
from kqs.outcome import Outcome
from kqs.queue.consumer import Consumer
from kqs.queue.leases import Lease


class Source(Protocol):
    """See the module docstring. Call from the loop thread."""

    @property
    def clock(self) -> Clock:
        """Return the clock that deadlines are on."""
        ...

    def add_consumer(self, consumer: Consumer) -> None:
        """Begin to deliver runs to `consumer`, as far as it has room."""
        ...

    async def remove_consumer(self, consumer: Consumer) -> None:
        """Deliver nothing more to `consumer`; what was on its way has been delivered when this returns. Idempotent."""
        ...

    @property
    def is_certain(self) -> Callable[[Run], bool]:
        """Return what tells of a delivered run that it may begin at once, so that `may_begin` need not be asked."""
        ...

    def may_begin(self, run: Run, consumer: Consumer, /) -> bool:
        """Tell whether a delivered run may begin; if not, it is over, or will be delivered to `consumer` once more."""
        ...

    def begin(self, run: Run, on_lost: Callable[[Lease], None], now: float | None = None) -> Lease:
        """Take in that a run has begun which `may_begin`; `on_lost` is called if it is lost. now: when it began, monotonic.

        `left` must follow a loss.
        """
        ...

    def report(self, lease: Lease, outcome: Outcome) -> bool:
        """Take a run's report; False if it was lost before: the report is stale and changes nothing."""
        ...

    def end(self, run: Run, outcome: Outcome) -> None:
        """Take the report of a run that ended in the step in which it began."""
        ...

    def interrupt(self, lease: Lease) -> bool:
        """Give back a run that is being ended; `left` must follow. False: it was lost or has ended before."""
        ...

    def left(self, lease: Lease) -> None:
        """Take in that the handler of a run that was lost or interrupted has ended. Idempotent."""
        ...

    def give_back(self, run: Run) -> None:
        """Give back a delivered run that never began."""
        ...
