"""A minute of handlers that do what nobody should, in random order beside good jobs: none of it ends or harms the server."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.asking import Peer, ask, eventually, peer_of, telling
from tests.support.misbehaving_handlers import CASES, ENDS, MODULE
from tests.support.serving import PLAIN_ENVIRON, SERVE, Served, serving

DURATION_S = 60.0
#: the first part of it, in which pools grow and caches fill
WARM_UP_S = 20.0
LANES = 16
GRACE_S = 2
#: what a stop may take beyond its grace: cancelled runs have a second, and what is left of the process two
STOP_MARGIN_S = 6
#: jobs in progress at a time: enough that all lanes are busy, few enough that the bad ones are spread over the minute
IN_PROGRESS = 3 * LANES
GOOD = ("good", "good_at_once", "good_plain")
GOOD_PER_BAD = 2
#: what memory, threads, descriptors and tasks may grow by from the warm-up to the end
GROWTH = {"rss_bytes": 16_000_000, "threads": 40, "descriptors": 30, "tasks": 20}
#: glibc keeps what a thread has freed for that thread, tens of MB each after large pieces; not with a fixed threshold
ENVIRON = PLAIN_ENVIRON | {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MALLOC_ARENA_MAX": "2"}


@dataclass
class Load:
    """What was inserted. cases: of each bad job."""

    order: random.Random
    good: list[str] = field(default_factory=list)
    cases: dict[str, tuple[str, Any]] = field(default_factory=dict)
    _round: Iterator[tuple[str, Any]] = field(default_factory=lambda: iter(()))

    def batch(self) -> list[dict[str, Any]]:
        """Return one bad job, and good ones, in any order. Each case comes once before any comes again."""
        case = next(self._round, None)
        if case is None:
            self._round = iter(self.order.sample(CASES, len(CASES)))
            case = next(self._round)
        bad_id = f"bad-{len(self.cases)}"
        self.cases[bad_id] = case
        jobs: list[dict[str, Any]] = [{"type": case[0], "data": case[1], "id": bad_id}]
        for _ in range(GOOD_PER_BAD):
            good_id = f"good-{len(self.good)}"
            self.good.append(good_id)
            jobs.append({"type": self.order.choice(GOOD), "data": good_id, "id": good_id, "retries": 0, "ghosts": 0})
        self.order.shuffle(jobs)
        return jobs

    @property
    def count(self) -> int:
        return len(self.good) + len(self.cases)


def ended_count(peer: Peer) -> int:
    stats = peer.call("stats")
    return int(stats["jobs_success"] + stats["jobs_fail"])


def run_for(peer: Peer, load: Load, until: float, others: int) -> None:
    """Insert as jobs end. others: jobs that ended besides those of the load."""
    while time.monotonic() < until:
        if load.count + others - ended_count(peer) < IN_PROGRESS:
            peer.call("insert", load.batch())
        else:
            time.sleep(0.01)


def result_of(peer: Peer, type_: str, data: object = None) -> Any:
    job_id = peer.insert(type_, data)
    record = eventually(lambda: peer.call("job", job_id), lambda job: job["state"] in ("success", "fail"))
    assert record["state"] == "success", record
    return record.get("result")


def assert_all_ended(peer: Peer, load: Load, others: int) -> None:
    eventually(lambda: ended_count(peer), lambda count: count == load.count + others, what=f"{load.count + others} ended")
    records = {job_id: peer.call("job", job_id) for job_id in [*load.good, *load.cases]}
    for job_id in load.good:
        record = records[job_id]
        assert (record["state"], record.get("result")) == ("success", job_id), record
        assert [run["state"] for run in record["runs"]] == ["success"], record
    wrong = [(case, records[job_id]) for job_id, case in load.cases.items() if records[job_id]["state"] != ENDS[case[0]]]
    assert not wrong


def assert_every_lane_works(peer: Peer, type_: str) -> None:
    """Run as many jobs as there are lanes, which wait for each other."""
    look(peer)
    ids = peer.call("insert", [{"type": type_, "data": LANES} for _ in range(LANES)])
    for job_id in ids:
        eventually(partial(peer.call, "job", job_id), lambda job: job["state"] == "success", what="through")


def look(peer: Peer) -> dict[str, Any]:
    found: dict[str, Any] = result_of(peer, "look")
    return found


@pytest.mark.slow
@pytest.mark.alone
def test_nothing_that_handlers_do_harms_the_server_or_other_jobs(tmp_path: Path) -> None:
    seed = secrets.randbelow(2**32)
    try:
        misbehave(tmp_path, random.Random(seed))
    except BaseException as error:
        error.add_note(f"seed: {seed}")
        raise


def misbehave(folder: Path, order: random.Random) -> None:
    settings = {
        "WORKER__MODULES": f'["kqs.builtin", "{MODULE}"]',
        "WORKER__CONCURRENCY": str(LANES),
        "WORKER__GRACE_S": str(GRACE_S),
        "STORE__CACHE_BYTES": str(4 * 2**20),
    }
    with serving(folder, SERVE, ENVIRON, **settings) as server, telling(server), peer_of(server) as peer:
        load = Load(order)
        began = time.monotonic()
        run_for(peer, load, began + WARM_UP_S, others=0)
        warm = look(peer)
        run_for(peer, load, began + DURATION_S, others=1)
        assert_all_ended(peer, load, others=1)
        assert_every_lane_works(peer, "barrier")
        assert_every_lane_works(peer, "plain_barrier")
        eventually(lambda: ask(server, "health"), lambda health: health["ok"], what="healthy")
        seen = eventually(lambda: look(peer), lambda now: is_flat(warm, now), what=f"as flat as {warm}")
        assert seen["more_than_once"] == []
        assert seen["good_count"] == len(load.good)
        assert len(load.cases) >= len(CASES), "not every case was met"
        assert_stops(server)


def is_flat(before: dict[str, Any], after: dict[str, Any]) -> bool:
    return all(after[name] <= before[name] + growth for name, growth in GROWTH.items())


def assert_stops(server: Served) -> None:
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < GRACE_S + STOP_MARGIN_S
