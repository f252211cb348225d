"""A node inside a program: several in one process, left and entered again, with nothing changed around them."""

from __future__ import annotations

import asyncio
import decimal
import gc
import logging
import resource
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kqs.config import Config, JournalSection, StoreSection, WorkerSection
from kqs.core import Core
from kqs.errors import CallError, ExitCode, JournalClosedError, StartupError
from kqs.handlers import Registry
from tests.support.supervising import StrictSupervisor


def a_config(folder: Path, **sections: Any) -> Config:
    settings = {"journal": JournalSection(dir=folder, min_free_bytes=0), "worker": WorkerSection(concurrency=2)}
    return Config(**(settings | sections))


def a_core(
    folder: Path,
    *handlers: Callable[..., Any],
    on_journal: Callable[[], None] = lambda: None,
    supervisor: StrictSupervisor | None = None,
    **sections: Any,
) -> Core:
    registry = Registry()
    for handler in handlers:
        registry.add(handler.__name__, handler, {})
    return Core(a_config(folder, **sections), registry, supervisor or StrictSupervisor(), on_journal)


async def ended(core: Core, job_id: str) -> dict[str, Any]:
    """Wait for a job's end; it has no event that a test could await."""
    async with asyncio.timeout(20):
        while (job := await core.backend.job(job_id)) is None or not job["ended_at"]:  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)
    return job


async def double(data: int) -> int:
    return 2 * data


def triple(data: int) -> int:
    return 3 * data


async def test_a_core_runs_what_it_is_given(tmp_path: Path) -> None:
    async with a_core(tmp_path, double, triple) as core:
        ids = await core.inserter.insert(b'[{"type":"double","data":21},{"type":"triple","data":14}]')
        assert [bytes((await ended(core, job_id))["result"]) for job_id in ids] == [b"42", b"42"]
        assert (await core.backend.health(draining=False))["ok"]


async def test_two_cores_in_one_process_know_nothing_of_each_other(tmp_path: Path) -> None:
    ran: dict[str, list[int]] = {"one": [], "two": []}
    all_ran = asyncio.Event()

    def note_as(name: str) -> Callable[..., Any]:
        async def note(data: int) -> None:
            ran[name].append(data)
            if sum(map(len, ran.values())) == 202:
                all_ran.set()

        return note

    async with a_core(tmp_path / "one", note_as("one")) as one, a_core(tmp_path / "two", note_as("two")) as two:
        for core, numbers in ((one, range(100)), (two, range(100, 200))):
            for number in numbers:
                await core.inserter.insert(b'{"type":"note","data":%d}' % number)
        (last_of_one,) = await one.inserter.insert(b'{"type":"note","data":-1}')
        (last_of_two,) = await two.inserter.insert(b'{"type":"note","data":-2}')
        await ended(one, last_of_one)
        await ended(two, last_of_two)
        assert await two.backend.job(last_of_one) is None
        async with asyncio.timeout(20):
            await all_ran.wait()
    assert sorted(ran["one"]) == [-1, *range(100)]
    assert sorted(ran["two"]) == [-2, *range(100, 200)]


async def results(folder: Path, number: int) -> list[bytes]:
    """Enter a core three times, and return what its jobs have made."""
    made = []
    for _ in range(3):
        async with a_core(folder, double, triple) as core:
            ids: list[str] = []
            for data in range(100):
                ids += await core.inserter.insert(b'[{"type":"double","data":%d},{"type":"triple","data":%d}]' % (data, number))
            made += [bytes((await ended(core, job_id))["result"]) for job_id in ids]
    return made


def test_cores_in_several_threads_know_nothing_of_each_other_and_change_nothing_around_them(tmp_path: Path) -> None:
    before = state_of_the_process()
    all_are_there = threading.Barrier(4)

    def run(number: int) -> list[bytes]:
        all_are_there.wait()
        return asyncio.run(results(tmp_path / str(number), number))

    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(run, range(4)))
    doubles = [b"%d" % (2 * data) for data in range(100)]
    assert [one[0::2] for one in made] == [3 * doubles] * 4
    assert [set(one[1::2]) for one in made] == [{b"%d" % (3 * number)} for number in range(4)]
    assert state_of_the_process() == before


async def test_one_that_is_left_goes_on_where_it_was_when_it_is_entered_again(tmp_path: Path) -> None:
    core = a_core(tmp_path, worker=WorkerSection(concurrency=0))
    async with core:
        (job_id,) = await core.inserter.insert(b'{"type":"double","data":4}')
    with pytest.raises(JournalClosedError):
        await core.inserter.insert(b'{"type":"double"}')
    async with core:
        job = await core.backend.job(job_id)
        assert job is not None
        assert job["state"] == "new"
    async with a_core(tmp_path, double) as other:
        assert bytes((await ended(other, job_id))["result"]) == b"8"


async def test_a_journal_has_one_core_at_a_time(tmp_path: Path) -> None:
    async with a_core(tmp_path):
        with pytest.raises(StartupError, match="in use") as caught:
            await a_core(tmp_path).__aenter__()
        assert caught.value.exit_code is ExitCode.TEMPORARY


async def test_one_that_rests_runs_nothing_more_and_still_takes_jobs(tmp_path: Path) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def waits(data: object) -> None:
        begun.set()
        await go_on.wait()

    async with a_core(tmp_path, waits) as core:
        (job_id,) = await core.inserter.insert(b'{"type":"waits"}')
        await begun.wait()
        resting = asyncio.ensure_future(core.rest())
        await asyncio.sleep(0)
        (late_id,) = await core.inserter.insert(b'{"type":"waits"}')
        assert not resting.done()
        go_on.set()
        await resting
        assert (await ended(core, job_id))["state"] == "success"
        job = await core.backend.job(late_id)
        assert job is not None
        assert job["state"] == "new"


def refuse() -> None:
    raise StartupError("the socket is in use", ExitCode.UNAVAILABLE)


async def test_a_start_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    supervisor = StrictSupervisor()
    with pytest.raises(StartupError, match="the socket is in use"):
        await a_core(tmp_path, on_journal=refuse, supervisor=supervisor).__aenter__()
    (tmp_path / "store").mkdir()
    with pytest.raises(StartupError):
        await a_core(tmp_path, store=StoreSection(uri=str(tmp_path / "store")), supervisor=supervisor).__aenter__()
    assert supervisor.names == []
    async with a_core(tmp_path, double) as core:
        (job_id,) = await core.inserter.insert(b'{"type":"double","data":1}')
        await ended(core, job_id)


async def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    for turns in range(12):
        starting = asyncio.ensure_future(a_core(tmp_path, double).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0.002)
        starting.cancel()
        await asyncio.wait([starting])
        if not starting.cancelled():
            await starting.result().__aexit__(None, None, None)
    async with a_core(tmp_path, double) as core:
        (job_id,) = await core.inserter.insert(b'{"type":"double","data":1}')
        await ended(core, job_id)


async def test_a_fault_of_one_is_told_to_its_owner_and_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = StrictSupervisor()
    ill_core = a_core(tmp_path / "two", double, supervisor=supervisor)
    async with a_core(tmp_path / "one", double) as well, ill_core as ill:
        (job_id,) = await ill.inserter.insert(b'{"type":"double","data":1}')
        await ended(ill, job_id)
        (feeder,) = [task for task, watched in supervisor._watched.items() if watched.name == "feeder"]
        feeder.cancel()
        name, _ = await supervisor.told()
        assert name == "feeder"
        (job_id,) = await well.inserter.insert(b'{"type":"double","data":1}')
        await ended(well, job_id)


async def test_what_is_no_job_is_refused(tmp_path: Path) -> None:
    async with a_core(tmp_path) as core:
        with pytest.raises(CallError):
            await core.inserter.insert(b'{"type":7}')


def state_of_the_process() -> list[object]:
    context = decimal.DefaultContext
    return [
        sys.getswitchinterval(),
        resource.getrlimit(resource.RLIMIT_NOFILE),
        [signal.getsignal(number) for number in signal.valid_signals()],
        list(logging.getLogger().handlers),
        logging.getLogger().level,
        sys.excepthook,
        threading.excepthook,
        gc.get_threshold(),
        (context.prec, context.rounding, dict(context.traps)),
        Path.cwd(),
    ]


async def test_the_process_around_it_stays_as_it_is(tmp_path: Path) -> None:
    before = state_of_the_process()
    with decimal.localcontext() as changed:
        changed.prec = 50
        async with a_core(tmp_path, double, triple) as core:
            ids = await core.inserter.insert(b'[{"type":"double","data":1},{"type":"triple","data":1}]')
            for job_id in ids:
                await ended(core, job_id)
            assert state_of_the_process() == before
    assert state_of_the_process() == before
    assert not [thread for thread in threading.enumerate() if thread.name in ("kqs-store", "kqs-journal")]
