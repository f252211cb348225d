import os
from pathlib import Path

from tests.crash.torture import Plan, torture

ROUNDS = int(os.environ.get("KQS_TORTURE_ROUNDS", "30"))


def test_thirty_kills_under_load_lose_and_alter_nothing(tmp_path: Path) -> None:
    account = torture(tmp_path, Plan(ROUNDS, seed=20261122))
    assert account.kills == ROUNDS
    assert len(account.acknowledged) > 10 * ROUNDS
    assert account.far_runs > ROUNDS
