"""How much of jobs' data is shown to whoever is given many at a time."""

from __future__ import annotations

from kqs.store import base


def most_shown(body_bytes: int, jobs_count: int) -> int:
    """Return how long the data of each of so many jobs may be that is shown, in bytes, where none is of over `body_bytes`."""
    return min(body_bytes, base.DATA_BYTES // max(jobs_count, 1))
