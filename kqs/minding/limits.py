"""What a command may take: the limits there are, and which of the system's each is. A limit of 0 is none."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Of each of a command's processes: bytes of memory, seconds of CPU time, open files."""

    memory_bytes: int = 0
    cpu_s: int = 0
    open_files: int = 0


#: by limit: the system's name (getrlimit(2)), and how far beyond the soft limit the hard one is: a second of CPU time is left
#: to hear that it is over
RLIMITS = {"memory_bytes": ("RLIMIT_AS", 0), "cpu_s": ("RLIMIT_CPU", 1), "open_files": ("RLIMIT_NOFILE", 0)}
