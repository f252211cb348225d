"""What a terminal is shown while many jobs are changed."""

from __future__ import annotations

import pytest

from kqs.cli.owning import so_far


@pytest.mark.parametrize(
    ("count", "total", "shown"),
    [
        (412_000, 1_000_000, "purge… 412,000 of about 1,000,000"),
        (412_000, None, "purge… 412,000"),
        (1001, 1000, "purge… 1,001 of about 1,001"),
    ],
)
def test_it_says_how_many_of_how_many(count: int, total: int | None, shown: str) -> None:
    assert so_far("purge", count, total) == shown
