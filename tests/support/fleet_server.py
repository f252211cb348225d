"""`kqs serve` as a test of many servers wants it: with a wall clock that is wrong, and leases that are soon over.

    python -m tests.support.fleet_server SKEW_S

Run it as `kqs serve` is run; settings come from the environment.
"""

from __future__ import annotations

import sys
import time

import kqs.queue.housekeeping
import kqs.service
import kqs.store.mongo.opened
import kqs.store.mongo.servers
import kqs.store.mongo.tallies
from kqs.cli import run

#: what the servers of a test fleet use in place of 30, 5, 5, 60 and 30 s, and of 50 times what a count took
LEASE_S = 4.0
BEAT_S = 0.5
HOUSEKEEPING_S = 0.5
RECOUNT_S = 1.0
SETTLE_S = 3.0
RECOUNT_SHARE = 2


def serve(skew_s: float) -> int:
    """Serve with short leases and a wall clock that is `skew_s` ahead; return the exit code."""
    kqs.store.mongo.servers.LEASE_S = LEASE_S
    kqs.store.mongo.servers.BEAT_S = BEAT_S
    vars(kqs.store.mongo.opened)["BEAT_S"] = BEAT_S  # the name that it has imported
    kqs.store.mongo.tallies.RECOUNT_S = RECOUNT_S
    kqs.store.mongo.tallies.SETTLE_S = SETTLE_S
    kqs.store.mongo.tallies.RECOUNT_SHARE = RECOUNT_SHARE
    kqs.queue.housekeeping.HOUSEKEEPING_S = HOUSEKEEPING_S
    kqs.service.SystemClock.now = staticmethod(lambda: time.time() + skew_s)
    return run(["serve"])


if __name__ == "__main__":
    sys.exit(serve(float(sys.argv[1])))
