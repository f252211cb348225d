"""`kqs serve` as a test of full disks wants it: what a disk has room for again is found at once, not after seconds.

    python -m tests.support.small_disk_server

Run it as `kqs serve` is run; settings come from the environment.
"""

from __future__ import annotations

import sys

import kqs.feeder.checkpoints
import kqs.journal.disk
from kqs.cli import run

#: what the servers of such tests use in place of 2 and 1 s
AFTER_S = 0.1
LOOK_S = 0.05


def serve() -> int:
    """Serve with checkpoints and looks at the disk that come soon; return the exit code."""
    kqs.feeder.checkpoints.AFTER_S = AFTER_S
    kqs.journal.disk.Disk.LOOK_S = LOOK_S
    return run(["serve"])


if __name__ == "__main__":
    sys.exit(serve())
