"""Progress in SQLite: rows of its own, which cost those nothing who do not use it, and which damage does not let through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kqs.job import NO_PROGRESS, Accepted, Entry, Progress, Report, Run
from kqs.states import State
from kqs.store.sqlite import claim, insert, progress, records, report, retention
from kqs.store.sqlite.session import Session

NOW = 1_700_000_000.0
ORDERS = range(1, 6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def session(path: Path) -> Iterator[Session]:
    session = opened(path)
    insert.insert(session, [Accepted(n, made(n), False, "mail", 1, 0.0, None, b"1", None) for n in ORDERS], 1, "w", NOW)
    yield session
    session.commit()
    session.close()


def opened(path: Path) -> Session:
    session = Session(path, 1 << 20, 1000, lambda: NOW)
    session.open("0" * 32, "abcdef12")
    session.begin(durable=False)
    return session


def made(order: int) -> str:
    return f"{order:013x}-abcdef12"


def claimed(session: Session) -> list[Run]:
    return claim.claim(session, [Entry(n, made(n), "mail", 1) for n in ORDERS], "w", NOW)


def told(run: Run, state: State = State.RETRY, **changes: Any) -> Report:
    return Report(run.claim, "mail", state, state.word, NOW, **changes)


def statements(session: Session) -> list[str]:
    seen: list[str] = []
    session.db.set_trace_callback(seen.append)
    return seen


def test_who_does_not_use_it_pays_nothing(session: Session) -> None:
    seen = statements(session)
    for _ in range(2):
        runs = claimed(session)
        assert report.report(session, [told(run) for run in runs]) == [True] * 5
    runs = claimed(session)
    report.report(session, [told(run, State.SUCCESS, drop_at=NOW) for run in runs])
    assert records.job(session, made(1)) is None
    assert retention.sweep(session, NOW, 99, 99) == 5
    assert not [statement for statement in seen if "from progress" in statement or "into progress" in statement]


def test_first_runs_are_not_looked_for(session: Session) -> None:
    session.has_progress = True
    seen = statements(session)
    claimed(session)
    assert len([statement for statement in seen if "from progress" in statement and "json_each('[]')" not in statement]) == 0


@pytest.mark.parametrize(
    "change",
    [
        "data = cast('{\"at\":2}' as blob)",
        "data = '{\"at\":1}x'",
        "data = 7",
        "crc32c = crc32c + 1",
        "crc32c = x'01'",
        "crc32c = 'text'",
    ],
)
def test_what_is_damaged_is_none_and_its_neighbours_are_there(session: Session, change: str) -> None:
    runs = claimed(session)
    progress.save(session, [Progress(run.claim, b'{"at":1}') for run in runs], durable=False)
    session.db.execute(f"update progress set {change} where ord = 3")
    report.report(session, [told(run) for run in runs])
    assert [run.progress for run in claimed(session)] == [b'{"at":1}', b'{"at":1}', None, b'{"at":1}', b'{"at":1}']
    record = records.job(session, made(3))
    assert record is not None
    assert record.progress is None


def test_a_row_that_damage_gave_to_another_job_is_none(session: Session) -> None:
    runs = claimed(session)
    progress.save(session, [Progress(runs[0].claim, b"1")], durable=False)
    session.db.execute("update progress set ord = 2")
    report.report(session, [told(run) for run in runs])
    assert [run.progress for run in claimed(session)] == [None] * 5


def test_rows_go_with_their_jobs_and_with_their_success(session: Session) -> None:
    runs = claimed(session)
    progress.save(session, [Progress(run.claim, b"1") for run in runs], durable=False)
    ends = [
        told(runs[0], State.SUCCESS, progress=NO_PROGRESS),
        told(runs[1], State.FAIL, drop_at=NOW),
        told(runs[2], State.FAIL, progress=b"2"),
        told(runs[3], State.GHOST),
    ]
    assert report.report(session, ends) == [True] * 4
    assert retention.sweep(session, NOW, 99, 99) == 1
    assert session.db.execute("select ord, data from progress").fetchall() == [(3, b"2"), (4, b"1"), (5, b"1")]


def test_a_store_that_is_opened_again_knows_whether_there_is_any(path: Path, session: Session) -> None:
    runs = claimed(session)
    assert not session.has_progress
    progress.save(session, [Progress(runs[0].claim, b"1")], durable=False)
    session.commit()
    session.close()
    again = opened(path)
    assert again.has_progress
    again.commit()
    again.close()
    session.open("0" * 32, "abcdef12")
    session.begin(durable=False)


def test_an_orphan_says_only_that_there_is_some(path: Path, session: Session) -> None:
    runs = claimed(session)
    progress.save(session, [Progress(runs[0].claim, b"1")], durable=False)
    session.commit()
    session.close()
    session.open("0" * 32, "abcdef12")
    session.begin(durable=False)
    assert [run.progress for run in claim.orphans(session, 99)] == [NO_PROGRESS, None, None, None, None]
