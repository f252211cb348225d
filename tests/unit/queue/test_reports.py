from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from kqs.job import Claim, Report, State
from kqs.queue import reports
from kqs.queue.reports import Reporter
from kqs.store import base
from tests.support.jobs import NOW, a_run


class Commits:
    """A store that takes every report, and notes what came together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def report(self, batch: Sequence[Report]) -> list[bool]:
        self.batches.append([one.claim.order for one in batch])
        return [True] * len(batch)


@pytest.fixture
def commits() -> Commits:
    return Commits()


@pytest.fixture
async def reporter(commits: Commits) -> AsyncIterator[Reporter]:
    async def applied(*_: object) -> None:
        pass

    reporter = Reporter(commits, applied, lambda: None)  # type: ignore[arg-type]
    task = asyncio.get_running_loop().create_task(reporter.run())
    yield reporter
    task.cancel()


def end(reporter: Reporter, number: int, result: bytes | None = None) -> None:
    reporter.add(a_run(number), Report(Claim(number, "", 1, 1), "mail", State.SUCCESS, "success", NOW, result=result))


async def test_reports_that_gather_are_one_commit(reporter: Reporter, commits: Commits) -> None:
    for number in range(5):
        end(reporter, number, b"1")
    assert await reporter.settle(10)
    assert commits.batches == [[0, 1, 2, 3, 4]]


async def test_long_results_are_committed_a_few_at_a_time(
    reporter: Reporter, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "DATA_BYTES", 100)
    for number, length in enumerate((60, 30, 20, 500, 0, 90)):
        end(reporter, number, b"1" * length)
    assert await reporter.settle(10)
    assert commits.batches == [[0, 1], [2], [3], [4, 5]]
    assert reporter.count == 0


async def test_many_reports_are_several_commits(reporter: Reporter, commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "COMMIT_REPORTS", 3)
    for number in range(7):
        end(reporter, number)
    assert await reporter.settle(10)
    assert commits.batches == [[0, 1, 2], [3, 4, 5], [6]]
