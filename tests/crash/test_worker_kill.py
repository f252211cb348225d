"""A server, workers elsewhere and their connections are killed at random under load, and every run is accounted for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kqs.config.sections import WorkerSection
from tests.crash.hunt import hunt

pytestmark = pytest.mark.slow

ROUNDS = 50
#: processes of the server's own worker, in a version that has them
CHILDREN = 2 if "processes" in WorkerSection.__struct_fields__ else 0


def test_fifty_deaths_lose_no_job_and_run_none_again_without_a_reason(tmp_path: Path) -> None:
    account = hunt(tmp_path, ROUNDS, seed=20261128, children=CHILDREN)
    deaths = Counter(death.name for death in account.deaths)
    assert deaths.total() == ROUNDS
    assert deaths.keys() == {"server", "work-0", "work-1", "far", "held", *(["child"] if CHILDREN else [])}
    assert len(account.acknowledged) > 10 * ROUNDS
    assert {answer for _, _, answer in account.told} == {True, "stale"}
