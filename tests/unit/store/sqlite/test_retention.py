from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kqs.job import Accepted, Claim, Report
from kqs.states import State
from kqs.store.sqlite import insert, report, retention
from kqs.store.sqlite.session import Session


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path / "s", 1 << 20, 10, lambda: 1.0)
    session.open("0" * 32, "abcdef12")
    session.begin(durable=False)
    jobs = [Accepted(n, "", False, "mail", 1, 0.0, None, b"x" * 100, None, claimed_at=1.0) for n in (1, 2)]
    insert.insert(session, jobs, 1, "w", 1.0)
    report.report(session, [Report(Claim(1, "", 1, 1), "mail", State.SUCCESS, "success", 1.0, drop_at=2.0)])
    yield session
    session.close()


def bulk_orders(session: Session) -> list[int]:
    return [order for (order,) in session.db.execute("select ord from bulk order by ord")]


def test_swept_job_takes_its_bulk_data_along(session: Session) -> None:
    assert bulk_orders(session) == [1, 2]
    assert retention.sweep(session, 5.0, 10, 99) == 1
    assert bulk_orders(session) == [2]


def test_trimmed_job_takes_its_bulk_data_along(session: Session) -> None:
    assert retention.trim_successes(session, 0, 10, 99) == 1
    assert bulk_orders(session) == [2]
