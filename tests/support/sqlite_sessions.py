"""A session of SQLite with a transaction that a test is within."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kqs.store.sqlite.session import Session

NOW = 1_700_000_000.0


@contextmanager
def a_session(folder: Path) -> Iterator[Session]:
    """A session at the instant `NOW`, with a file of its own in `folder`; committed at the end."""
    session = Session(folder / "s", 1 << 20, 1000, lambda: NOW)
    session.open("0" * 32, "abcdef12")
    session.begin(durable=False)
    yield session
    session.commit()
    session.close()
