"""What the queue wishes of whoever brings it jobs, the feeder, which says how each is granted."""

from __future__ import annotations

from collections.abc import Callable


class Wishes:
    """See the module docstring. Call from the loop thread.

    more: somebody has room and nothing is ready, so let go of new jobs that are held back. sooner: have jobs stored, soon, that
    are not yet.
    """

    def __init__(self) -> None:
        self.more: Callable[[], None] = _in_vain
        self.sooner: Callable[[], None] = _in_vain


def _in_vain() -> None:
    return None
