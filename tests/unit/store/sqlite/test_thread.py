from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kqs.errors import StoreUnavailableError
from kqs.store.sqlite import connection, thread
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.thread import StoreThread
from tests.support.supervising import StrictSupervisor


class CountingSession(Session):
    """Notes what is begun, committed and undone."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, 1 << 20, 1000, lambda: 1.0)
        self.log: list[str] = []
        self.tidied = threading.Event()

    def begin(self, *, durable: bool, copies: bool = True) -> None:
        self.log.append("durable" if durable else "begin")
        super().begin(durable=durable, copies=copies)

    def commit(self, *, owing: bool = False) -> None:
        super().commit(owing=owing)
        self.log.append("commit")

    def rollback(self, error: BaseException) -> None:
        super().rollback(error)
        self.log.append("rollback")

    def tidy(self) -> None:
        super().tidy()
        self.tidied_by = threading.current_thread()
        self.tidied.set()


@pytest.fixture
def session(tmp_path: Path) -> CountingSession:
    return CountingSession(tmp_path / "store.sqlite")


@pytest.fixture
def supervisor() -> StrictSupervisor:
    return StrictSupervisor()


@pytest.fixture
async def store(session: CountingSession, supervisor: StrictSupervisor) -> AsyncIterator[StoreThread]:
    store = StoreThread(session, supervisor)
    await store.start(lambda session: session.open("0" * 32, "abcdef12"))
    yield store
    await store.stop()


@pytest.fixture
async def gate(store: StoreThread) -> AsyncIterator[threading.Event]:
    """Keeps the thread busy until it is set, so that what is asked meanwhile gathers."""
    opened, entered = threading.Event(), threading.Event()

    def wait(_: Session) -> None:
        entered.set()
        assert opened.wait(5)

    blocked = store.call(wait)
    await asyncio.to_thread(entered.wait)
    yield opened
    opened.set()
    await blocked


def write(value: int) -> Any:
    return lambda session: session.db.execute("update meta set last_order = ?", (value,)).rowcount


async def test_operations_that_gathered_share_a_commit(
    store: StoreThread, session: CountingSession, gate: threading.Event
) -> None:
    asked = [store.call(write(n)) for n in range(5)]
    gate.set()
    assert await asyncio.gather(*asked) == [1] * 5
    assert session.log == ["begin", "commit"] * 2


async def test_one_durable_operation_makes_the_commit_durable(
    store: StoreThread, session: CountingSession, gate: threading.Event
) -> None:
    asked = [store.call(write(1)), store.call(Session.sync, durable=True)]
    gate.set()
    await asyncio.gather(*asked)
    assert session.log[2:] == ["durable", "commit"]


async def test_a_small_durable_operation_is_flushed_on_the_loop_unless_another_is_before_it(
    store: StoreThread, session: CountingSession, gate: threading.Event
) -> None:
    def sync(session: Session) -> int:
        threads.append(threading.get_ident())
        return session.sync()

    threads: list[int] = []
    gathered = store.call(sync, durable=True, small=True)
    assert not gathered.done()
    gate.set()
    assert await gathered == 0
    at_once = store.call(sync, durable=True, small=True)
    assert at_once.done()
    assert threads[0] != threads[1] == threading.get_ident()
    assert session.log == ["begin", "commit", "durable", "commit", "durable", "commit"]


async def test_results_come_in_the_order_asked(store: StoreThread, gate: threading.Event) -> None:
    told: list[int] = []

    def tell(n: int, _done: object) -> None:
        told.append(n)

    asked = [store.call(write(n)) for n in range(5)]
    for n, future in enumerate(asked):
        future.add_done_callback(partial(tell, n))
    gate.set()
    await asyncio.gather(*asked)
    assert told == [0, 1, 2, 3, 4]


async def test_only_the_guilty_operation_fails(store: StoreThread, session: CountingSession, gate: threading.Event) -> None:
    asked = [store.call(write(1)), store.call(lambda _: 1 / 0), store.call(write(2))]
    gate.set()
    first, second, third = await asyncio.gather(*asked, return_exceptions=True)
    assert (first, type(second), third) == (1, ZeroDivisionError, 1)
    assert session.log[2:] == ["begin", "rollback", "begin", "commit", "begin", "rollback", "begin", "commit"]


async def test_idle_thread_copies_the_wal_into_the_file(
    store: StoreThread, session: CountingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "_IDLE_S", 0.001)
    await store.call(write(1))
    assert await asyncio.to_thread(session.tidied.wait, 5)
    assert await store.call(lambda session: session.space.is_untidy) is False


async def test_the_wal_that_commits_on_the_loop_have_left_is_copied_by_the_thread(
    session: CountingSession, supervisor: StrictSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread, "_IDLE_S", 60.0)
    monkeypatch.setattr(connection, "WAL_PAGES", 80)
    store = StoreThread(session, supervisor)
    await store.start(lambda session: session.open("0" * 32, "abcdef12"))
    for value in range(9):
        await store.call(write(value), small=True)
    assert not session.tidied.is_set()
    await store.call(write(9), small=True)
    assert await asyncio.to_thread(session.tidied.wait, 5)
    assert session.tidied_by.name == "kqs-store"
    await store.stop()


async def test_failed_start_leaves_nothing_and_can_be_repeated(session: CountingSession) -> None:
    store = StoreThread(session, StrictSupervisor())
    with pytest.raises(ZeroDivisionError):
        await store.start(lambda _: 1 / 0)
    assert not [one for one in threading.enumerate() if one.name == "kqs-store"]
    await store.start(lambda session: session.open("0" * 32, "abcdef12"))
    assert [await store.call(write(n)) for n in range(2)] == [1, 1]
    await store.stop()


async def test_a_connection_given_up_in_a_quiet_moment_ends_nothing(
    store: StoreThread, session: CountingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Session) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    await store.call(write(1))
    with pytest.raises(StoreUnavailableError):
        await store.call(fail, small=True)
    await asyncio.to_thread(session.tidied.wait, 10)
    async with asyncio.timeout(10):
        assert await store.call(write(2)) == 1


async def test_whoever_waits_for_a_thread_that_ends_unasked_is_told_and_so_is_who_asks_later(
    session: CountingSession, store: StoreThread, supervisor: StrictSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_error: Exception) -> None:
        raise RuntimeError("a bug in the rollback")

    def raise_error(_session: Session) -> None:
        raise ValueError("the operation failed")

    monkeypatch.setattr(session, "rollback", fail)
    async with asyncio.timeout(10):
        for _ in range(2):
            with pytest.raises(RuntimeError, match="the store's thread ended: RuntimeError: a bug in the rollback"):
                await store.call(raise_error)
        await store.stop()
    assert (await supervisor.told())[0] == "store thread"


async def test_a_thread_that_ends_between_two_operations_is_told_to_the_next(
    session: CountingSession, store: StoreThread, supervisor: StrictSupervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("a bug in the tidying")

    monkeypatch.setattr(session, "shrink", fail)
    session.space.wants_shrink = True
    async with asyncio.timeout(10):
        await store.call(lambda _session: None)
        assert store._thread is not None
        await asyncio.to_thread(store._thread.join)
        assert (await supervisor.told())[0] == "store thread"
        with pytest.raises(RuntimeError, match="the store's thread ended: RuntimeError: a bug in the tidying"):
            await store.call(lambda _session: None)


async def test_what_a_signals_handler_raises_on_the_loop_leaves_no_transaction_open(
    store: StoreThread, session: CountingSession
) -> None:
    def interrupted(session: Session) -> None:
        write(7)(session)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await store.call(interrupted, small=True)
    assert await store.call(write(8)) == 1
    assert session.log == ["begin", "rollback", "begin", "commit"]
