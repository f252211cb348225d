"""No fork while a store's thread is within SQLite."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from posix import _exit as leave_now

import pytest

from kqs.store.sqlite import forking
from kqs.store.sqlite.here import StoreHere
from kqs.store.sqlite.session import Session
from kqs.store.sqlite.thread import StoreThread
from tests.support.supervising import StrictSupervisor


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "store.sqlite", 1 << 20, 1000, lambda: 1.0)


def _open(session: Session) -> object:
    return session.open("0" * 32, "abcdef12")


def _fork() -> int:
    """Return how a child has ended that leaves at once."""
    child = os.fork()
    if not child:
        leave_now(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
async def gate(session: Session) -> AsyncIterator[threading.Event]:
    """Has a store be in the midst of something until it is set."""
    opened, entered = threading.Event(), threading.Event()
    store = StoreThread(session, StrictSupervisor())
    await store.start(_open)

    def enter(_session: Session) -> bool:
        entered.set()
        return opened.wait()

    done = store.call(enter)
    await asyncio.to_thread(entered.wait)
    yield opened
    opened.set()
    assert await done
    await store.stop()


async def test_a_fork_waits_until_what_a_store_does_is_done(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "_LONGEST_S", 60.0)
    asked = threading.Event()
    hold = forking._forks.hold

    def ask() -> None:
        asked.set()
        hold()

    monkeypatch.setattr(forking._forks, "hold", ask)
    with ThreadPoolExecutor(1) as forker:
        holding = asyncio.wrap_future(forker.submit(forking._forks.hold))
        await asyncio.to_thread(asked.wait)
        assert not holding.done()
        gate.set()
        await holding
        forker.submit(forking._forks.release).result()
    assert await asyncio.to_thread(_fork) == 7


async def test_a_store_that_hangs_holds_up_no_fork_for_long(gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking, "_LONGEST_S", 0.01)
    assert await asyncio.to_thread(_fork) == 7
    assert not gate.is_set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what a hook of forks raises is dropped
def test_a_signal_that_interrupts_a_fork_leaves_no_store_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    free, taken = threading.Lock(), threading.Lock()
    monkeypatch.setattr(forking, "_LONGEST_S", 60.0)
    monkeypatch.setattr(forking._forks, "locks", {free: None, taken: None})
    before = signal.signal(signal.SIGALRM, interrupted)
    with taken:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert _fork() == 7
    signal.signal(signal.SIGALRM, before)
    assert not free.locked()


async def test_two_forks_at_once_leave_no_store_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    locks = [threading.Lock() for _ in range(3)]
    monkeypatch.setattr(forking._forks, "locks", dict.fromkeys(locks))
    first = threading.Event()

    def hold() -> None:
        forking._forks.hold()
        first.set()

    monkeypatch.setattr(forking, "_LONGEST_S", 0.01)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        one.submit(hold)
        first.wait()
        other.submit(forking._forks.hold).result()  # in vain
        one.submit(forking._forks.release).result()
        other.submit(forking._forks.release).result()
    assert not any(lock.locked() for lock in locks)


@pytest.mark.parametrize("is_here", [True, False])
async def test_a_store_that_is_closed_is_waited_for_no_more(session: Session, is_here: bool) -> None:
    before = len(forking._forks.locks)
    store = StoreHere(session) if is_here else StoreThread(session, StrictSupervisor())
    await store.start(_open)
    assert len(forking._forks.locks) == before + 1
    await store.stop()
    assert len(forking._forks.locks) == before
