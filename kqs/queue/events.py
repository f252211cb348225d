"""What happens to jobs: the one place where it is told, to whoever wants to hear it. Call from the loop thread.

As long as nobody does, it costs one look a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from kqs.job import Report, Run
from kqs.queue.ends import Ends


class Events:
    """See the module docstring."""

    def __init__(self, ends: Ends) -> None:
        """Args: ends: of those who wait for single jobs."""
        self.ends = ends

    @property
    def hears_ends(self) -> bool:
        """Tell whether anybody wants to hear how runs end."""
        return bool(self.ends.waiting)

    def reported(self, batch: Sequence[tuple[Run, Report]], accepted: Sequence[bool]) -> None:
        """Take in that reports are durable, and which of them were accepted."""
        if self.ends.waiting:
            self.ends.reported(batch, accepted)
