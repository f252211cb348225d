"""Which commits of the SQLite store are flushed before they are told: those that hold the end of a run."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kqs.config import StoreSection
from kqs.job import Accepted, Claim, Report
from kqs.states import State
from kqs.store.sayings import Topic
from kqs.store.sqlite import SqliteStore
from kqs.store.sqlite.session import Session
from tests.support.clock import FakeClock
from tests.support.jobs import NOW, an_accepted
from tests.support.supervising import StrictSupervisor

#: what `pragma synchronous` answers
NORMAL, FULL = 1, 2


def an_end(job: Accepted, **changes: Any) -> Report:
    return Report(Claim(job.order, job.id, 1, 1), job.type, State.SUCCESS, "success", NOW, **changes)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "store.sqlite", StoreSection(), FakeClock(), StrictSupervisor())
    await store.open("ab" * 16, "0000beef")
    yield store
    await store.close()


@pytest.fixture
def commits(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Of each commit, how it is flushed, and whether the loop's thread waits for it."""
    seen: list[tuple[int, bool]] = []
    loop_thread, commit = threading.get_ident(), Session.commit

    def note(session: Session, *, owing: bool = False) -> None:
        (how,) = session.db.execute("pragma synchronous").fetchone()
        seen.append((how, threading.get_ident() == loop_thread))
        commit(session, owing=owing)

    monkeypatch.setattr(Session, "commit", note)
    return seen


@pytest.mark.parametrize("result", [None, b"1"])
@pytest.mark.parametrize("others", [0, 3, 300])
async def test_what_is_stored_with_its_end_is_flushed_as_a_report_is_and_on_the_loop_where_it_is_little(
    store: SqliteStore, commits: list[tuple[int, bool]], result: bytes | None, others: int
) -> None:
    jobs = [an_accepted(number) for number in range(others + 1)]
    jobs[-1].claimed_at = NOW
    jobs[-1].end = an_end(jobs[-1], result=result)
    assert await store.insert(jobs, 1, "w", NOW) == []
    assert await store.report([jobs[-1].end]) == [True]
    assert [how for how, _ in commits] == [FULL] * 2
    assert commits[0][1] is (others <= 3)


async def test_a_long_result_is_flushed_in_the_thread(store: SqliteStore, commits: list[tuple[int, bool]]) -> None:
    job = an_accepted()
    job.claimed_at = NOW
    job.end = an_end(job, result=b"1" * 100_000)
    assert await store.insert([job], 1, "w", NOW) == []
    assert await store.report([job.end]) == [True]
    assert commits == [(FULL, False)] * 2


async def test_what_follows_a_durable_commit_waits_for_no_flush(store: SqliteStore, commits: list[tuple[int, bool]]) -> None:
    jobs = [an_accepted(number) for number in range(2)]
    jobs[0].claimed_at = NOW
    jobs[0].end = an_end(jobs[0])
    await store.insert(jobs[:1], 1, "w", NOW)
    await store.insert(jobs[1:], 2, "w", NOW)
    assert commits == [(FULL, True), (NORMAL, True)]


@pytest.mark.parametrize("claimed_at", [0.0, NOW])
async def test_job_without_an_end_waits_for_no_flush(
    store: SqliteStore, commits: list[tuple[int, bool]], claimed_at: float
) -> None:
    job = an_accepted()
    job.claimed_at = claimed_at
    await store.insert([job], 1, "w", NOW)
    assert commits == [(NORMAL, True)]


def many() -> list[Accepted]:
    """Return so many jobs that their commit owes nothing."""
    return [an_accepted(number) for number in range(300)]


def written_bytes(tmp_path: Path) -> int:
    """Return how much the store has written to its WAL: what it does not write there, it does not flush."""
    return (tmp_path / "store.sqlite-wal").stat().st_size


async def test_a_sync_flushes_what_earlier_commits_have_not_though_it_has_nothing_new_to_say(
    store: SqliteStore, tmp_path: Path
) -> None:
    await store.insert(many(), 1, "w", NOW)
    before = written_bytes(tmp_path)
    assert await store.sync() == 1
    once = written_bytes(tmp_path)
    assert once > before
    assert await store.sync() == 1
    assert written_bytes(tmp_path) == once, "all is flushed"


async def test_a_commit_that_only_says_again_what_is_kept_is_no_flush_of_others(store: SqliteStore, tmp_path: Path) -> None:
    await store.say(Topic.LIMITS, "mail", b"{}")
    await store.insert(many(), 1, "w", NOW)
    before = written_bytes(tmp_path)
    await store.say(Topic.LIMITS, "mail", b"{}")
    assert written_bytes(tmp_path) == before, "SQLite writes no page whose row is overwritten by itself"
    await store.sync()
    assert written_bytes(tmp_path) > before
