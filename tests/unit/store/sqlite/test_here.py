"""The SQLite store on the loop."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kqs.errors import StoreCorruptError, StoreError, StoreUnavailableError
from kqs.store.sqlite.here import StoreHere
from kqs.store.sqlite.session import Session

NODE = "abcdef12"


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "store.sqlite", 1 << 20, 1000, lambda: 1.0)


@pytest.fixture
async def store(session: Session) -> AsyncIterator[StoreHere]:
    store = StoreHere(session)
    await store.start(lambda session: session.open("0" * 32, NODE))
    yield store
    await store.stop()


def _written(session: Session) -> int:
    (written,) = session.db.execute("select last_order from meta").fetchone()
    return int(written)


def _write(session: Session) -> int:
    return session.db.execute("update meta set last_order = 7").rowcount


def _write_and_fail(session: Session) -> None:
    session.db.execute("update meta set last_order = 8")
    raise sqlite3.OperationalError("what a test asked for")


async def test_what_is_asked_is_done_when_call_returns_and_no_thread_is_there(store: StoreHere) -> None:
    threads = {thread.name for thread in threading.enumerate()}
    assert store.call(_write).result() == 1
    assert store.call(_written, durable=True).result() == 7
    assert not [name for name in threads if name == "kqs-store"]


async def test_an_operation_that_fails_leaves_nothing(store: StoreHere) -> None:
    assert await store.call(_write) == 1
    with pytest.raises(StoreError, match="what a test asked for"):
        await store.call(_write_and_fail)
    assert await store.call(_written) == 7


async def test_who_hears_of_it_does_so_before_who_asked_and_may_ask_in_turn(store: StoreHere, session: Session) -> None:
    heard: list[object] = []

    def follows(session: Session) -> None:
        session.tidings.follows = True

    def on_followed() -> None:
        heard.append(store.call(_written).result())

    await store.call(_write)
    store.hearing.on_followed = on_followed
    asked = store.call(follows)
    assert (heard, asked.done()) == ([7], True)


async def test_what_cannot_be_opened_is_told_and_leaves_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    path.write_bytes(b"no database" * 1000)
    session = Session(path, 1 << 20, 1000, lambda: 1.0)
    store = StoreHere(session)
    with pytest.raises(StoreCorruptError):
        await store.start(lambda session: session.open("0" * 32, NODE))
    with pytest.raises(StoreUnavailableError):
        store.call(_written)


async def test_a_stop_closes_it_once_and_nothing_is_taken_afterwards(session: Session) -> None:
    store = StoreHere(session)
    await store.start(lambda session: session.open("0" * 32, NODE))
    await store.stop()
    await store.stop()
    with pytest.raises(StoreUnavailableError):
        store.call(_written)
