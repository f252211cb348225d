from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

import kqs.startup
from kqs.errors import (
    ExitCode,
    JournalError,
    StartupError,
    StoreCorruptError,
    StoreDoubtError,
    StoreError,
    StoreUnavailableError,
)
from kqs.ids import Ids
from kqs.startup import Startup
from kqs.store.base import StoreInfo
from tests.support.supervising import StrictSupervisor

AWAY = StoreUnavailableError("MongoDB is away")


class Parts:
    """Whatever a startup starts: `started` says what, in order; the store meets `troubles` first, one a try."""

    def __init__(
        self,
        *troubles: StoreError,
        fed_seq: int = 7,
        may_wait: bool = True,
        is_cut: bool = False,
        is_as_stopped: bool = True,
        skips: bool | JournalError = True,
    ) -> None:
        self.troubles = list(troubles)
        self.queue_troubles: list[StoreError] = []
        self.started: list[str] = []
        self.all_started = asyncio.Event()
        self.feeder = SimpleNamespace(trouble=None, fed_seq=None, start=self._start_feeder, wait_for_store=self._wait_for_store)
        self.ids = Ids("0000beef", last_order=5)
        self._info = StoreInfo(epoch=3, fed_seq=fed_seq, last_order=9)
        recovery: Any = SimpleNamespace(
            journal_id="ab" * 16,
            node="0000beef",
            checkpoint_seq=4,
            next_seq=10,
            is_cut=is_cut,
            is_as_stopped=is_as_stopped,
        )
        parts: tuple[Any, Any, Any, Any, Any, Any, Any] = (
            SimpleNamespace(open=self._open),
            recovery,
            self.ids,
            SimpleNamespace(start=self._start_queue),
            SimpleNamespace(start=self._start_worker),
            self.feeder,
            SimpleNamespace(start=lambda _store_id: None),
        )
        self.skipped_to = 0
        self._skips = skips
        self.supervisor = StrictSupervisor()
        self.startup = Startup(*parts, self.supervisor, may_wait=may_wait, skip_to=self._skip_to)

    def _skip_to(self, seq: int) -> bool:
        self.skipped_to = seq
        if isinstance(self._skips, JournalError):
            raise self._skips
        return self._skips

    async def _open(self, _journal_id: str, _node: str) -> StoreInfo:
        self.started.append("store")
        if self.troubles:
            raise self.troubles.pop(0)
        return self._info

    async def _start_queue(self, info: StoreInfo) -> None:
        assert info is self._info
        self.started.append("queue")
        if self.queue_troubles:
            raise self.queue_troubles.pop(0)

    async def _start_worker(self) -> None:
        self.started.append("worker")

    async def _start_feeder(self, info: StoreInfo) -> None:
        assert info is self._info
        self.started.append("feeder")
        self.all_started.set()

    def _wait_for_store(self, fed_seq: int) -> None:
        self.feeder.fed_seq = fed_seq


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.startup, "FIRST_WAIT_S", 0.001)


async def test_a_store_that_is_there_starts_all_in_order() -> None:
    parts = Parts()
    await parts.startup.start()
    assert parts.started == ["store", "queue", "worker", "feeder"]
    assert parts.ids.last_order == 9


async def test_a_store_that_is_away_is_waited_for_and_said_to_be() -> None:
    parts = Parts(AWAY, AWAY)
    await parts.startup.start()
    assert (parts.started, parts.feeder.fed_seq) == (["store"], 4)
    async with asyncio.timeout(10):
        await parts.all_started.wait()
    assert parts.feeder.trouble == "the store is not there yet, new jobs wait in the journal: MongoDB is away"
    assert parts.started == ["store"] * 3 + ["queue", "worker", "feeder"]


async def test_a_store_that_goes_while_the_queue_starts_is_not_opened_again() -> None:
    parts = Parts()
    parts.queue_troubles = [AWAY]
    await parts.startup.start()
    async with asyncio.timeout(10):
        await parts.all_started.wait()
    assert parts.started == ["store", "queue", "queue", "worker", "feeder"]


async def test_a_store_of_this_machine_is_not_waited_for() -> None:
    with pytest.raises(StartupError, match="away") as caught:
        await Parts(AWAY, may_wait=False).startup.start()
    assert caught.value.exit_code is ExitCode.IO_FAILED


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (StoreCorruptError("of version 99"), ExitCode.DATA_DAMAGED),
        (StoreDoubtError("a restart goes on"), ExitCode.IO_FAILED),
        (StoreError("not authorised"), ExitCode.IO_FAILED),
    ],
)
@pytest.mark.parametrize("has_waited", [False, True])
async def test_a_store_that_refuses_ends_the_server(trouble: StoreError, code: ExitCode, has_waited: bool) -> None:
    parts = Parts(*([AWAY] if has_waited else []), trouble)
    error = await end_of(parts, has_waited=has_waited)
    assert (str(error), error.exit_code) == (str(trouble), code)


@pytest.mark.parametrize(("fed_seq", "said"), [(3, "cut up to 4"), (11, "ends at record 10")])
@pytest.mark.parametrize("has_waited", [False, True])
async def test_a_store_of_another_age_than_its_journal_ends_the_server(fed_seq: int, said: str, has_waited: bool) -> None:
    error = await end_of(Parts(*([AWAY] if has_waited else []), fed_seq=fed_seq), has_waited=has_waited)
    assert said in str(error)
    assert error.exit_code is ExitCode.DATA_DAMAGED


async def end_of(parts: Parts, *, has_waited: bool) -> StartupError:
    """Return what the start raises, at once or in the background; nothing but the store was started."""
    if has_waited:
        await parts.startup.start()
        name, error = await parts.supervisor.told()
        assert name == "startup"
    else:
        with pytest.raises(StartupError) as caught:
            await parts.startup.start()
        error = caught.value
    assert set(parts.started) == {"store"}
    assert isinstance(error, StartupError)
    return error


async def test_a_stop_ends_the_wait() -> None:
    parts = Parts(*[AWAY] * 1000)
    await parts.startup.start()
    await parts.startup.stop()
    await parts.startup.stop()
    assert parts.supervisor.names == []


@pytest.mark.parametrize(
    ("may_wait", "is_cut", "is_as_stopped", "goes_on"),
    [
        (False, True, False, True),
        (False, False, False, True),
        (False, False, True, False),
        (True, True, False, True),
        (True, False, False, False),
    ],
)
async def test_a_journal_that_lost_its_end_goes_on_behind_what_the_store_has(
    may_wait: bool, is_cut: bool, is_as_stopped: bool, goes_on: bool
) -> None:
    parts = Parts(fed_seq=11, may_wait=may_wait, is_cut=is_cut, is_as_stopped=is_as_stopped)
    if goes_on:
        await parts.startup.start()
        assert (parts.skipped_to, parts.started[-1]) == (11, "feeder")
    else:
        with pytest.raises(StartupError, match="ends at record 10, but the store has 11") as caught:
            await parts.startup.start()
        assert caught.value.exit_code is ExitCode.DATA_DAMAGED


@pytest.mark.parametrize(("skips", "code"), [(False, ExitCode.DATA_DAMAGED), (JournalError("full"), ExitCode.IO_FAILED)])
async def test_numbers_that_cannot_be_skipped_end_the_start(skips: bool | JournalError, code: ExitCode) -> None:
    with pytest.raises(StartupError) as caught:
        await Parts(fed_seq=11, is_cut=True, skips=skips).startup.start()
    assert caught.value.exit_code is code
