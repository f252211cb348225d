from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

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
from kqs.journal import Recovery
from kqs.startup import Startup
from kqs.store.base import StoreInfo
from tests.support.clock import FakeClock
from tests.support.parts import parts_of
from tests.support.supervising import StrictSupervisor

AWAY = StoreUnavailableError("MongoDB is away")


class Start:
    """One that says in `started` what was started, in order; its store meets `troubles` first, one a try."""

    def __init__(
        self,
        *troubles: StoreError,
        fed_seq: int = 7,
        is_shared: bool = True,
        is_cut: bool = False,
        is_as_stopped: bool = True,
        is_renewed: bool = False,
        skips: bool | JournalError = True,
    ) -> None:
        self.troubles = list(troubles)
        self.queue_troubles: list[StoreError] = []
        self.started: list[str] = []
        self.all_started = asyncio.Event()
        self.feeder = SimpleNamespace(trouble=None, fed_seq=None, start=self._start_feeder, wait_for_store=self._wait_for_store)
        self.ids = Ids("0000beef", last_order=5)
        self._info = StoreInfo(epoch=3, fed_seq=fed_seq, last_order=9)
        recovery = Recovery(
            journal_id="ab" * 16,
            node="0000beef",
            next_seq=10,
            last_order=0,
            checkpoint_seq=4,
            is_cut=is_cut,
            is_as_stopped=is_as_stopped,
            is_renewed=is_renewed,
        )
        queue: Any = SimpleNamespace(start=self._start_queue, clock=FakeClock())
        store: Any = SimpleNamespace(open=self._open, is_shared=is_shared)
        parts = parts_of(
            queue,
            journal=SimpleNamespace(skip_to=self._skip_to, settle_renewal=self._settle_renewal),
            feeder=self.feeder,
            worker=SimpleNamespace(start=self._start_worker),
            desk=SimpleNamespace(start=lambda _store_id: None),
            schedules=SimpleNamespace(start=self._start_schedules),
            inserter=SimpleNamespace(ids=self.ids),
        )
        self.skipped_to = 0
        self._skips = skips
        self.is_settled = False
        self.supervisor = StrictSupervisor()
        self.startup = Startup(store, recovery, parts, self.supervisor)

    async def _settle_renewal(self) -> None:
        self.is_settled = True

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

    async def _start_schedules(self) -> None:
        self.started.append("schedules")
        self.all_started.set()

    def _wait_for_store(self, fed_seq: int) -> None:
        self.feeder.fed_seq = fed_seq


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kqs.startup.STORE_FIRST_S", 0.001)


async def test_a_store_that_is_there_starts_all_in_order() -> None:
    start = Start()
    await start.startup.start()
    assert start.started == ["store", "queue", "worker", "feeder", "schedules"]
    assert start.ids.last_order == 9


async def test_a_store_that_is_away_is_waited_for_and_said_to_be() -> None:
    start = Start(AWAY, AWAY)
    await start.startup.start()
    assert (start.started, start.feeder.fed_seq) == (["store"], 4)
    async with asyncio.timeout(10):
        await start.all_started.wait()
    assert start.feeder.trouble == "the store is not there yet, new jobs wait in the journal: MongoDB is away"
    assert start.started == ["store"] * 3 + ["queue", "worker", "feeder", "schedules"]


async def test_a_store_that_goes_while_the_queue_starts_is_not_opened_again() -> None:
    start = Start()
    start.queue_troubles = [AWAY]
    await start.startup.start()
    async with asyncio.timeout(10):
        await start.all_started.wait()
    assert start.started == ["store", "queue", "queue", "worker", "feeder", "schedules"]


async def test_a_store_of_this_machine_is_not_waited_for() -> None:
    with pytest.raises(StartupError, match="away") as caught:
        await Start(AWAY, is_shared=False).startup.start()
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
    start = Start(*([AWAY] if has_waited else []), trouble)
    error = await end_of(start, has_waited=has_waited)
    assert (str(error), error.exit_code) == (str(trouble), code)


@pytest.mark.parametrize(("fed_seq", "said"), [(3, "cut up to 4"), (11, "ends at record 10")])
@pytest.mark.parametrize("has_waited", [False, True])
async def test_a_store_of_another_age_than_its_journal_ends_the_server(fed_seq: int, said: str, has_waited: bool) -> None:
    error = await end_of(Start(*([AWAY] if has_waited else []), fed_seq=fed_seq), has_waited=has_waited)
    assert said in str(error)
    assert error.exit_code is ExitCode.DATA_DAMAGED


async def end_of(start: Start, *, has_waited: bool) -> StartupError:
    """Return what the start raises, at once or in the background; nothing but the store was started."""
    if has_waited:
        await start.startup.start()
        name, error = await start.supervisor.told()
        assert name == "startup"
    else:
        with pytest.raises(StartupError) as caught:
            await start.startup.start()
        error = caught.value
    assert set(start.started) == {"store"}
    assert isinstance(error, StartupError)
    return error


async def test_a_stop_ends_the_wait() -> None:
    start = Start(*[AWAY] * 1000)
    await start.startup.start()
    await start.startup.stop()
    await start.startup.stop()
    assert start.supervisor.names == []


@pytest.mark.parametrize(
    ("is_shared", "is_cut", "is_as_stopped", "goes_on"),
    [
        (False, True, False, True),
        (False, False, False, True),
        (False, False, True, False),
        (True, True, False, True),
        (True, False, False, False),
    ],
)
async def test_a_journal_that_lost_its_end_goes_on_behind_what_the_store_has(
    is_shared: bool, is_cut: bool, is_as_stopped: bool, goes_on: bool
) -> None:
    start = Start(fed_seq=11, is_shared=is_shared, is_cut=is_cut, is_as_stopped=is_as_stopped)
    if goes_on:
        await start.startup.start()
        assert (start.skipped_to, start.started[-1]) == (11, "schedules")
    else:
        with pytest.raises(StartupError, match="ends at record 10, but the store has 11") as caught:
            await start.startup.start()
        assert caught.value.exit_code is ExitCode.DATA_DAMAGED


@pytest.mark.parametrize(("skips", "code"), [(False, ExitCode.DATA_DAMAGED), (JournalError("full"), ExitCode.IO_FAILED)])
async def test_numbers_that_cannot_be_skipped_end_the_start(skips: bool | JournalError, code: ExitCode) -> None:
    with pytest.raises(StartupError) as caught:
        await Start(fed_seq=11, is_cut=True, skips=skips).startup.start()
    assert caught.value.exit_code is code


@pytest.mark.parametrize("is_shared", [True, False])
async def test_a_store_goes_on_with_a_new_journal_that_takes_the_place_of_its_own(is_shared: bool) -> None:
    start = Start(fed_seq=17, is_shared=is_shared, is_renewed=True)
    await start.startup.start()
    assert (start.skipped_to, start.is_settled) == (17, True)
    await start.startup.stop()


async def test_a_new_journal_is_not_known_before_it_goes_on_behind_what_the_store_has() -> None:
    start = Start(fed_seq=17, is_renewed=True, skips=JournalError("the disk refuses"))
    with pytest.raises(StartupError, match="the disk refuses"):
        await start.startup.start()
    assert not start.is_settled
