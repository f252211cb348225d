"""The contract of everything that runs in the background, and the real clock.

`start` does the set-up, raises what is wrong with it, and leaves the work to tasks it owns; `stop` is idempotent, tolerates
never started, is bounded in time, and returns when all is stopped. The node's supervisor (kqs.supervisor)
makes its tasks, and stops the node when one ends unasked.
"""

from __future__ import annotations

import time
from typing import Protocol


class Service(Protocol):
    """See the module docstring."""

    async def start(self) -> None:
        """Set up, then background the work. Raises what prevents it; nothing is left running then."""
        ...

    async def stop(self) -> None:
        """End, in bounded time. Idempotent."""
        ...


class SystemClock:
    """The machine's own clocks."""

    # the functions themselves: a frame around each would cost every job as much as the call
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
