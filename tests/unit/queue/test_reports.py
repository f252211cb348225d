from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from kqs.errors import StoreDoubtError
from kqs.job import Accepted, Claim, Report, Run
from kqs.queue import reports
from kqs.queue.reports import Reporter
from kqs.queue.wishes import Wishes
from kqs.states import State
from kqs.store import base
from tests.support.jobs import NOW, a_run, an_accepted


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

    store: Any = commits  # as much of one as is asked
    reporter = Reporter(store, applied, Wishes(), lambda _, report: report, (), lambda: None)
    task = asyncio.get_running_loop().create_task(reporter.run())
    yield reporter
    task.cancel()
    with suppress(asyncio.CancelledError, StoreDoubtError):
        await task


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


class Cancels(Commits):
    """A store in which the jobs of even numbers are cancelled: of a report of one it wants to hear what it is then."""

    async def report(self, batch: Sequence[Report]) -> list[bool | None]:  # type: ignore[override]  # what a store may answer
        await super().report(batch)
        return [None if one.claim.order % 2 == 0 and one.state is not State.CANCELLED else True for one in batch]


async def test_reports_that_stand_are_told_before_those_of_cancelled_jobs_are_judged_anew() -> None:
    store: Any = Cancels()
    told: list[tuple[list[tuple[int, State]], list[int]]] = []

    async def applied(batch: list[tuple[Run, Report]], accepted: Sequence[bool]) -> None:
        assert all(accepted)
        told.append(([(report.claim.order, report.state) for _, report in batch], list(map(len, store.batches))))

    def cancelled(_run: Run, report: Report) -> Report:
        return replace(report, state=State.CANCELLED)

    reporter = Reporter(store, applied, Wishes(), cancelled, (), lambda: None)
    batch = [(a_run(n), Report(Claim(n, "", 1, 1), "mail", State.RETRY, "again", NOW)) for n in (1, 2, 3, 4)]
    await reporter.commit(batch, applied)
    assert told == [
        ([(1, State.RETRY), (3, State.RETRY)], [4]),
        ([(2, State.CANCELLED), (4, State.CANCELLED)], [4, 2]),
    ]


async def test_of_one_job_reports_are_told_in_their_order_though_an_earlier_one_is_judged_anew() -> None:
    store: Any = Cancels()
    told: list[list[State]] = []

    async def applied(batch: list[tuple[Run, Report]], _accepted: Sequence[bool]) -> None:
        told.append([report.state for _, report in batch])

    reporter = Reporter(store, applied, Wishes(), lambda _, report: replace(report, state=State.CANCELLED), (), lambda: None)
    states = (State.GHOST, State.CANCELLED)
    await reporter.commit([(a_run(2), Report(Claim(2, "", 1, 1), "mail", state, "", NOW)) for state in states], applied)
    assert told == [[State.CANCELLED, State.CANCELLED]]


async def test_many_reports_are_several_commits(reporter: Reporter, commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "COMMIT_REPORTS", 3)
    for number in range(7):
        end(reporter, number)
    assert await reporter.settle(10)
    assert commits.batches == [[0, 1, 2], [3, 4, 5], [6]]


@pytest.mark.parametrize("comes", ["before", "after"])
async def test_a_store_in_doubt_is_not_waited_for(
    reporter: Reporter, commits: Commits, monkeypatch: pytest.MonkeyPatch, comes: str
) -> None:
    asked = asyncio.Event()

    async def doubt(_: Sequence[Report]) -> list[bool]:
        asked.set()
        raise StoreDoubtError("a flush failed")

    monkeypatch.setattr(commits, "report", doubt)
    end(reporter, 1)
    if comes == "after":
        await asked.wait()
        end(reporter, 2)
    async with asyncio.timeout(10):
        await reporter.settle(None)
    assert reporter.count == {"before": 1, "after": 2}[comes]


class Told:
    """What was told of reports, by number, and how many wait for their jobs to be stored."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.said: dict[int, bool] = {}
        self.waiting = 0

    def tell(self, number: int) -> None:
        self.waiting += self.reporter.tell(a_report(number)[1].claim, lambda ok: self.said.update({number: ok}))


def a_report(number: int, state: State = State.SUCCESS, id_: str = "mine") -> tuple[Run, Report]:
    run = replace(a_run(), claim=Claim(number, id_, 1, 1))
    return run, Report(run.claim, "mail", state, "success", NOW)


def a_job(number: int) -> Accepted:
    return replace(an_accepted(), order=number, id="mine", claimed_at=NOW)


async def test_who_asks_is_told_when_the_report_is_stored_and_not_before(reporter: Reporter, commits: Commits) -> None:
    told = Told(reporter)
    reporter.add(*a_report(1))
    told.tell(1)
    assert told.said == {}
    assert await reporter.settle(10)
    assert (told.said, told.waiting) == ({1: True}, 0)


async def test_who_asks_is_told_that_the_report_was_stale(
    reporter: Reporter, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(batch: Sequence[Report]) -> list[bool]:
        return [one.claim.order != 2 for one in batch]

    monkeypatch.setattr(commits, "report", refuse)
    told = Told(reporter)
    for number in (1, 2):
        reporter.add(*a_report(number))
        told.tell(number)
    assert await reporter.settle(10)
    assert told.said == {1: True, 2: False}
    assert reporter._told == {}


async def test_an_end_that_goes_in_with_its_job_is_told_with_it(reporter: Reporter, commits: Commits) -> None:
    told, job = Told(reporter), a_job(1)
    reporter.keep_back([job])
    reporter.add(*a_report(1))
    told.tell(1)
    assert told.waiting == 1
    reporter.attach([job])
    assert job.end is not None
    assert told.said == {}
    assert reporter.let_go([job], ()) == []
    assert (told.said, commits.batches, reporter._told) == ({1: True}, [], {})


async def test_a_run_of_another_servers_job_that_has_the_same_order_is_none_of_a_job_that_is_not_stored(
    reporter: Reporter, commits: Commits
) -> None:
    job = a_job(1)
    reporter.keep_back([job])
    reporter.add(*a_report(1, id_="theirs"))
    assert await reporter.settle(10)
    assert commits.batches == [[1]]
    reporter.attach([job])
    assert job.end is None
    reporter.add(*a_report(1))
    reporter.add(*a_report(1, id_="theirs"))
    reporter.attach([job])
    assert job.end is not None
    assert job.end.claim.id == "mine"


async def test_who_reports_runs_of_two_jobs_of_one_order_is_told_of_each(
    reporter: Reporter, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(batch: Sequence[Report]) -> list[bool]:
        return [one.claim.id == "mine" for one in batch]

    monkeypatch.setattr(commits, "report", refuse)
    said: dict[str, bool] = {}
    both = [a_report(1, id_=name) for name in ("theirs", "mine")]
    for run, report in both:
        reporter.add(run, report)
    for run, _ in reversed(both):
        reporter.tell(run.claim, partial(said.__setitem__, run.claim.id))
    assert await reporter.settle(10)
    assert said == {"mine": True, "theirs": False}


async def test_what_does_not_end_its_job_is_told_when_it_has_followed(reporter: Reporter, commits: Commits) -> None:
    told, job = Told(reporter), a_job(1)
    reporter.keep_back([job])
    reporter.add(*a_report(1, State.RETRY))
    told.tell(1)
    reporter.attach([job])
    assert reporter.let_go([job], ()) == []
    assert told.said == {}
    assert await reporter.settle(10)
    assert (told.said, commits.batches) == ({1: True}, [[1]])


async def test_an_end_of_a_job_that_was_known_before_is_told_as_the_store_judges_it(
    reporter: Reporter, commits: Commits
) -> None:
    told, job = Told(reporter), a_job(1)
    reporter.keep_back([job])
    reporter.add(*a_report(1))
    told.tell(1)
    reporter.attach([job])
    reporter.let_go([job], [1])
    assert await reporter.settle(10)
    assert (told.said, commits.batches) == ({1: True}, [[1]])


async def test_who_waits_for_what_was_reported_is_not_held_up_by_what_follows(
    reporter: Reporter, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load there is always one more."""
    take = commits.report

    async def followed(batch: Sequence[Report]) -> list[bool]:
        if len(commits.batches) < 1000:
            reporter.add(*a_report(100 + len(commits.batches)))
        await asyncio.sleep(0)
        return await take(batch)

    monkeypatch.setattr(commits, "report", followed)
    for number in range(3):
        reporter.add(*a_report(number))
    async with asyncio.timeout(10):
        await reporter.passed()
        assert commits.batches[0] == [0, 1, 2]
        assert len(commits.batches) < 5
        reporter.add(*a_report(7))
        gone = asyncio.ensure_future(reporter.passed())
        await asyncio.sleep(0)
        gone.cancel()
        await reporter.passed()
        assert any(7 in batch for batch in commits.batches)
    assert len(commits.batches) < 10


async def test_there_is_nothing_to_wait_for_when_nothing_was_reported(reporter: Reporter) -> None:
    await asyncio.wait_for(reporter.passed(), 1)


async def test_many_reports_have_passed_when_the_last_of_their_commits_is_done(
    reporter: Reporter, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "COMMIT_REPORTS", 3)
    for number in range(7):
        end(reporter, number)
    await asyncio.wait_for(reporter.passed(), 10)
    assert commits.batches == [[0, 1, 2], [3, 4, 5], [6]]


def waiting_end(reporter: Reporter, number: int, state: State = State.SUCCESS, **of_run: object) -> None:
    """Report the end of a run for which nobody waits."""
    report = Report(Claim(number, "", 1, 1), "mail", state, state.word, NOW)
    reporter.add(replace(a_run(number), **of_run), report, may_wait=True)


@pytest.fixture
async def gathering(reporter: Reporter, commits: Commits, monkeypatch: pytest.MonkeyPatch) -> Reporter:
    """A reporter whose last commit began just now, so that ends gather for a long time."""
    monkeypatch.setattr(reports, "GATHER_S", 1000.0)
    end(reporter, 0)
    assert await reporter.settle(10)
    return reporter


async def test_ends_for_which_nobody_waits_gather_until_some_report_is_urgent(gathering: Reporter, commits: Commits) -> None:
    for number in (1, 2):
        waiting_end(gathering, number)
        for _ in range(5):
            await asyncio.sleep(0)
    assert commits.batches == [[0]]
    end(gathering, 3)
    assert await gathering.settle(10)
    assert commits.batches == [[0], [1, 2, 3]]


def many_ends(reporter: Reporter) -> None:
    for number in range(2, reports.GATHER_COUNT + 1):
        waiting_end(reporter, number)


@pytest.mark.parametrize(
    "make_urgent",
    [
        lambda reporter: reporter.tell(a_report(1)[1].claim, lambda ok: None),
        lambda reporter: waiting_end(reporter, 2, State.RETRY),
        lambda reporter: waiting_end(reporter, 2, resource="r"),
        lambda reporter: waiting_end(reporter, 2, handle=object()),
        many_ends,
    ],
    ids=["who waits for a report", "a retry", "a held resource", "a place in a broker", "many ends"],
)
async def test_what_somebody_waits_for_is_urgent(
    gathering: Reporter, commits: Commits, make_urgent: Callable[[Reporter], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = asyncio.Event()
    monkeypatch.setattr(gathering, "_applied", lambda *_: _told(committed))
    waiting_end(gathering, 1)
    make_urgent(gathering)
    await asyncio.wait_for(committed.wait(), 10)
    assert commits.batches[1][0] == 1


async def _told(event: asyncio.Event) -> None:
    event.set()


async def test_who_waits_for_earlier_reports_does_not_wait_until_ends_have_gathered(gathering: Reporter) -> None:
    waiting_end(gathering, 1)
    await asyncio.wait_for(gathering.passed(), 10)
    assert gathering.count == 0


async def test_ends_that_come_seldom_do_not_gather(
    gathering: Reporter, commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed = asyncio.Event()
    monkeypatch.setattr(gathering, "_applied", lambda *_: _told(committed))
    gathering._began_at -= reports.GATHER_S
    waiting_end(gathering, 1)
    await asyncio.wait_for(committed.wait(), 10)
    assert commits.batches == [[0], [1]]
