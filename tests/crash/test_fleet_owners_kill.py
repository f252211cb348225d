"""Owners of jobs that two or three servers share are answered what is so, whatever befalls any of these."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.fleet_owners import own

pytestmark = pytest.mark.slow

ROUNDS = 4  # so that each thing befalls them once


@pytest.mark.parametrize(("servers", "beanstalkds"), [(2, 1), (3, 0)], ids=["two on a beanstalkd", "three"])
def test_what_owners_were_answered_by_any_server_is_so_whatever_befalls_them(
    tmp_path: Path, uri: str, servers: int, beanstalkds: int
) -> None:
    account = own(tmp_path, uri, ROUNDS, seed=20261201, servers=servers, beanstalkds=beanstalkds)
    assert account.kills
    assert account.held_up
    assert account.awaited_count
    assert len(account.accepted) > 10 * ROUNDS
    for verb in ("cancel", "delete", "retry"):
        assert account.changed[verb], verb
