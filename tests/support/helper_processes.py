"""The processes that a test of commands or children begins in this one: measured, and told from those of other tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from kqs.commands import keeper
from kqs.minding.tree import children

WITHIN_S = 20
#: what coverage tells the processes of which it is to measure
MEASURED = "COVERAGE_PROCESS_CONFIG"


@pytest.fixture(autouse=True)
def helper_processes_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    if MEASURED in os.environ:
        monkeypatch.setattr(keeper, "FLAGS", ("-X", "utf8"))
        monkeypatch.setattr(keeper, "ENVIRON", (MEASURED,))


_others: set[int] = set()


@pytest.fixture(autouse=True)
def servers_of_other_tests_are_not_ours() -> None:
    _others.clear()
    _others.update(children(os.getpid()))


def helpers() -> list[int]:
    """Return the processes that the test has begun, of which those are left that have not ended."""
    return [child for child in children(os.getpid()) if child not in _others]


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not look():  # noqa: ASYNC110 - other processes have no event
            await asyncio.sleep(0.01)
