from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kqs.store.sqlite.session import Session
from tests.support.sqlite_sessions import a_session


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with a_session(tmp_path) as session:
        yield session
