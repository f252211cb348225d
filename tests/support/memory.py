"""How much memory a process takes."""

from __future__ import annotations

from pathlib import Path

MIB = 1024 * 1024


def resident_bytes(pid: int, *, most: bool = False) -> int:
    """Return how much of the process is in memory. most: since it began."""
    name = "VmHWM:" if most else "VmRSS:"
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
