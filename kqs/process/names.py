"""Which name an open file has now, without a stat: the first write after one has to note its time exactly, since Linux 6.13."""

from __future__ import annotations

import os


def name_of(handle: int) -> str | None:
    """Return how the system names an open file: otherwise once it, or a folder above it, was renamed or removed.

    None: it does not say.
    """
    try:
        return os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115 - half the time, and it is asked before each flush
    except OSError:
        return None
