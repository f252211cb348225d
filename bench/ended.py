"""Records that have ended, put straight into the store of a server that is down: what retention is measured with."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from kqs.config import StoreSection
from kqs.job import Accepted, Claim, Report
from kqs.service import SystemClock
from kqs.states import State
from kqs.store.sqlite import SqliteStore
from kqs.supervisor import Supervisor

BATCH_JOBS = 4000
#: so long ago they were accepted: before all that the server's journal holds, or it would spare them
AGE_S = 86_400


def put_ended(folder: Path, count: int, size_bytes: int) -> None:
    """Store `count` successes of `size_bytes` each, whose time is over, in the store that the server in `folder` has made."""
    _put_all(folder, count, size_bytes, State.SUCCESS)


def put_failed(folder: Path, count: int, size_bytes: int) -> None:
    """Store `count` failed jobs of `size_bytes` each, kept for ever. As `put_ended`."""
    _put_all(folder, count, size_bytes, State.FAIL)


def _put_all(folder: Path, count: int, size_bytes: int, state: State) -> None:
    (path,) = folder.rglob("*.sqlite")
    asyncio.run(_put(path, count, b'"%s"' % (b"x" * (size_bytes - 2)), state))


async def _put(path: Path, count: int, data: bytes, state: State) -> None:
    with closing(sqlite3.connect(path)) as db:
        journal_id, node = db.execute("select journal_id, node from meta").fetchone()
    supervisor = Supervisor(lambda name, error: sys.exit(f"{name}: {error}"))
    store = SqliteStore(path, StoreSection(), SystemClock(), supervisor)
    info = await store.open(journal_id, node)
    for batch in _batches(count, data, info.epoch, state):
        await store.insert(batch, info.fed_seq, "bench", time.time())
    await store.close()


def _batches(count: int, data: bytes, epoch: int, state: State) -> Iterator[list[Accepted]]:
    first = int((time.time() - AGE_S) * 1_000_000)
    for start in range(0, count, BATCH_JOBS):
        yield [_ended(first + n, data, epoch, state) for n in range(start, min(count, start + BATCH_JOBS))]


def _ended(order: int, data: bytes, epoch: int, state: State) -> Accepted:
    at = order / 1_000_000
    drop_at = at if state is State.SUCCESS else None
    end = Report(Claim(order, "", 1, epoch), "ended", state, state.word, at, drop_at=drop_at)
    return Accepted(order, "", False, "ended", 10_000, 0.0, None, data, None, claimed_at=at, end=end)
