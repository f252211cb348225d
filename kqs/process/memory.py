"""Memory that is freed goes back to the system.

What a server holds for its clients comes and goes in pieces of any length. glibc cuts those of up to 32 MiB from its heaps once
one that long was freed, and a heap shrinks by itself only to the last piece in use: after a minute under siege three quarters
of what the server took was holes. So long pieces are kept out of the heaps, and the holes are given back now and then.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from contextlib import suppress
from pathlib import Path

# mallopt(3)
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

#: pieces from here on are mapped, each for itself; what is read from a socket at a time is shorter, and mapping that would cost
MAPPED_BYTES = 256 * 1024
#: heaps, beside Python's own: the interpreter lets its threads allocate one at a time
HEAPS = 2
#: between two looks, in s; and by how much the process must have grown since holes were last given back, which takes 2 to 5 ms
LOOK_S = 1.0
GROWN_BYTES = 16 * 1024 * 1024

#: containers made since the last look for cycles before there is another. Jobs are none, but each makes some on its way: with
#: Python's own 700 the collector took 4 % of what 100,000 no-op jobs cost, and five times as many as this made no difference
CONTAINERS = 10_000

_libc = ctypes.CDLL(None)


def map_long_pieces() -> None:
    """Keep long pieces out of the heaps, where the C library can. Call before there are threads."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
        _libc.mallopt(_M_ARENA_MAX, HEAPS)


def collect_seldom() -> None:
    """Look for cycles of garbage not as often as Python does by itself."""
    gc.set_threshold(CONTAINERS, *gc.get_threshold()[1:])


def has_holes() -> bool:
    """Tell whether the C library can give back what is free in its heaps."""
    return hasattr(_libc, "malloc_trim")


async def give_back_holes() -> None:
    """Give back what is free in the heaps whenever the process has grown, for ever. Only where `has_holes`."""
    least_bytes = 0
    while True:
        await asyncio.sleep(LOOK_S)
        with suppress(OSError):  # there may be no descriptor for a look now
            taken_bytes = resident_bytes()
            if taken_bytes - least_bytes >= GROWN_BYTES:
                _libc.malloc_trim(0)
                taken_bytes = least_bytes = resident_bytes()
            least_bytes = min(least_bytes, taken_bytes)


def resident_bytes() -> int:
    """Return how much of this process is in memory. Raises: OSError."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGESIZE")
