"""Which name an open file has now, without a stat: the first write after one has to note its time exactly, since Linux 6.13."""

from __future__ import annotations

import os


def _has_own_proc() -> bool:
    """Tell whether /proc counts processes as the system does that this one belongs to; else a number there may be another's."""
    try:
        return os.readlink("/proc/self") == str(os.getpid())  # noqa: PTH115 - as below
    except OSError:
        return False


_HAS_OWN_PROC = _has_own_proc()


def name_of(handle: int) -> str | None:
    """Return how the system names an open file: otherwise once it, or a folder above it, was renamed or removed.

    None: it does not say.
    """
    # to follow /proc/self takes 15 of 25 us, where the processor has forgotten the way
    process = os.getpid() if _HAS_OWN_PROC else "self"
    try:
        return os.readlink(f"/proc/{process}/fd/{handle}")  # noqa: PTH115 - half the time, and it is asked for each flush
    except OSError:
        return None
