import os
from pathlib import Path

from tests.crash.owners import own

ROUNDS = int(os.environ.get("KQS_OWNERS_ROUNDS", "6"))


def test_what_owners_were_answered_is_so_over_kills(tmp_path: Path) -> None:
    account = own(tmp_path, ROUNDS, seed=20261128)
    assert len(account.kills) == ROUNDS
    assert len(account.acknowledged) > 10 * ROUNDS
    for verb in ("cancel", "delete", "purge", "retry"):
        assert account.changed(verb), verb
    assert account.joined
    assert account.limited
    assert account.fanned
    assert account.held > ROUNDS
