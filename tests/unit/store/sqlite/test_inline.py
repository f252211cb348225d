"""Which new jobs the SQLite store takes in on the loop, and which in its thread."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from kqs.config import StoreSection
from kqs.store.sqlite import SqliteStore, insert
from kqs.store.sqlite.store import _FEW_BYTES
from tests.support.clock import FakeClock
from tests.support.jobs import an_accepted
from tests.support.supervising import StrictSupervisor


@pytest.mark.parametrize(
    ("sizes", "is_inline"),
    [
        ([100], True),
        ([_FEW_BYTES], True),
        ([_FEW_BYTES + 1], False),
        ([16 << 20], False),
        ([_FEW_BYTES // 2, _FEW_BYTES // 2 + 1], False),
        ([1] * 5, False),
    ],
)
async def test_only_few_jobs_with_little_data_are_stored_on_the_loop(
    sizes: list[int], is_inline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(tmp_path / "store.sqlite", StoreSection(), FakeClock(), StrictSupervisor())
    await store.open("ab" * 16, "0000beef")
    real, threads = insert.insert, []

    def note(*args: Any, **kwargs: Any) -> list[int]:
        threads.append(threading.get_ident())
        return real(*args, **kwargs)

    monkeypatch.setattr(insert, "insert", note)
    jobs = [an_accepted(number, data=b"x" * size) for number, size in enumerate(sizes)]
    try:
        assert await store.insert(jobs, 1, "w", 1.0) == []
    finally:
        await store.close()
    assert [thread == threading.get_ident() for thread in threads] == [is_inline]
