"""Handlers that compute and never wait: whoever else is on the loop has a turn between two of them."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from tests.support.asking import peer_of
from tests.support.cores import Wait
from tests.support.serving import serving

#: 1 ms each, far fewer than the server claims ahead of its hundred lanes
RUNS = 2000
#: of two answers, and what the store says: a few slices of 5 ms; without slices most of a second
MEDIAN_WAIT_S = 0.1

BUSY = """
import time
import kqs


@kqs.handler("busy")
async def busy(data):
    end = time.perf_counter() + 0.001
    while time.perf_counter() < end:
        pass
"""


@pytest.mark.alone
def test_a_ping_is_answered_beside_a_hundred_lanes_of_handlers_that_only_compute(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(BUSY)
    with serving(tmp_path, WORKER__MODULES='["busy"]') as server, peer_of(server) as peer:
        peer.call("insert", [{"type": "busy"} for _ in range(RUNS)])
        waits_s: list[float] = []
        runs_done = 0
        while runs_done < RUNS:
            wait = Wait(server.process.pid)
            peer.call("ping")
            runs_done = peer.call("stats")["runs_done"]
            waits_s.append(wait.over_s())
        assert statistics.median(waits_s[1:]) < MEDIAN_WAIT_S
