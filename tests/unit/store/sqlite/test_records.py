from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kqs.job import Accepted
from kqs.states import State
from kqs.store.sqlite import insert, records
from kqs.store.sqlite.session import Session


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path / "s", 1 << 20, 1000, lambda: 1.0)
    session.open("0" * 32, "abcdef12")
    session.begin(durable=False)
    jobs = [Accepted(n, "", False, "rare" if n % 7 == 0 else "mail", 1, 0.0, None, b"1", None) for n in range(1, 30)]
    insert.insert(session, jobs, 1, "w", 1.0)
    yield session
    session.close()


def test_counts_include_the_open_transaction(session: Session) -> None:
    assert records.counts(session) == {"mail": {State.NEW: 25}, "rare": {State.NEW: 4}}
