from __future__ import annotations

import asyncio
import contextlib
import contextvars
import decimal
import itertools
import sys
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import pytest

import kqs
import kqs.worker.breaks
import kqs.worker.worker
from kqs.config import WorkerSection
from kqs.errors import StartupError
from kqs.executor import Executor
from kqs.handlers import JobContext, Registry
from kqs.job import Run
from kqs.minding.command import Command
from kqs.queue.gate import TUNE_EVERY
from kqs.queue.leases import Lease
from kqs.states import State
from kqs.worker import Worker
from kqs.worker.source import Source
from tests.support.jobs import an_accepted
from tests.support.queueing import Rig
from tests.support.remote_works import RemoteRig
from tests.support.turning import idle, until


class Works:
    """A worker over a real queue, with handlers that the test gives. remote: between the two is a connection; None: nothing."""

    def __init__(self, rig: Rig, remote: RemoteRig | None) -> None:
        self.rig = rig
        self.remote = remote
        self.registry = Registry()
        self.workers: list[Worker] = []

    def handle(self, type_: str, function: Callable[..., Any], **options: Any) -> None:
        handler = self.registry.add(type_, function, options)
        self.rig.cascade.set_handler_options(type_, handler.options)

    async def start(self, concurrency: int = 1, grace_s: float = 10, types: Sequence[str] = ()) -> Worker:
        settings = WorkerSection(concurrency=concurrency, grace_s=grace_s, types=list(types))
        supervisor = self.rig.supervisor
        executor = Executor(max(1, concurrency), supervisor)
        source: Source = self.rig.queue.runs if self.remote is None else self.remote.source
        worker = Worker(source, self.registry, executor, settings, "test", supervisor)
        await worker.start()
        self.workers.append(worker)
        return worker

    @property
    def stale_count(self) -> int:
        """Return how many reports came too late where the worker has its runs from."""
        return (self.rig.queue.runs if self.remote is None else self.remote.source).stale_count

    async def stop(self, worker: Worker) -> None:
        """Stop a worker, and have the queue take all that it says."""
        await worker.stop()
        if self.remote is not None:
            await self.remote.stop_worker()
            desk = self.remote.desk
            await until(lambda: not desk.runs_count)
        await self.rig.queue.settle()

    async def ended(self, number: int, state: State = State.SUCCESS) -> Any:
        return await self.rig.until(number, state)


@pytest.fixture(params=["queue", "connection"])
async def works(rig: Rig, request: pytest.FixtureRequest) -> AsyncIterator[Works]:
    remote = RemoteRig(rig) if request.param == "connection" else None
    if remote is not None:
        await remote.start()
    works = Works(rig, remote)
    yield works
    for worker in works.workers:
        await worker.stop()
    if remote is not None:
        await remote.stop()


#: a run that never began goes back otherwise over a connection; and what the queue itself is asked is seen only without one
IN_THE_SERVER = pytest.mark.parametrize("works", ["queue"], indirect=True)


async def within(event: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        await event.wait()


async def test_an_async_handler_runs_and_its_result_is_kept(works: Works) -> None:
    async def double(data: int) -> int:
        return 2 * data

    works.handle("mail", double)
    await works.start()
    await works.rig.accept(an_accepted(1, data=b"21"))
    assert (await works.ended(1)).result == b"42"


async def test_a_plain_handler_runs_in_a_thread(works: Works) -> None:
    works.handle("mail", lambda data: threading.current_thread() is threading.main_thread())
    await works.start()
    await works.rig.accept(an_accepted(1))
    assert (await works.ended(1)).result == b"false"


async def test_jobs_that_waited_before_the_worker_came_are_run(works: Works) -> None:
    async def nothing(data: object) -> None: ...

    await works.rig.accept(*(an_accepted(n) for n in range(300)))
    works.handle("mail", nothing)
    worker = await works.start(concurrency=3)
    for number in range(300):
        await works.ended(number)
    assert (worker.done_count, worker.failed_count) == (300, 0)


async def test_no_more_run_at_a_time_than_there_are_lanes(works: Works) -> None:
    running, most = 0, 0

    async def count(data: object) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    works.handle("mail", count)
    await works.start(concurrency=4)
    await works.rig.accept(*(an_accepted(n) for n in range(500)))
    for number in range(500):
        await works.ended(number)
    assert most == 4


async def test_a_handler_that_raises_is_a_failure_with_its_words(works: Works) -> None:
    async def bad(data: object) -> None:
        raise ValueError("no good")

    works.handle("mail", bad, retries=0)
    worker = await works.start()
    await works.rig.accept(an_accepted(1))
    error = (await works.ended(1, State.FAIL)).error or ""
    assert error.splitlines()[0] == "ValueError: no good"
    assert error.endswith('    raise ValueError("no good")')
    assert worker.failed_count == 1


@pytest.mark.parametrize("name", ["claim", "type", "failures", "ghosts", "interrupted", "expire_at", "handle", "data"])
async def test_a_handler_cannot_change_what_is_known_of_its_run(works: Works, name: str) -> None:
    async def changes(data: object, job: JobContext) -> None:
        setattr(job.run, name, 10**30)

    def changes_plain(data: object, job: JobContext) -> None:
        job.run = None  # type: ignore[assignment]  # that is the fault
        job.end()

    works.handle("changes", changes, retries=0)
    works.handle("changes_plain", changes_plain, retries=0)
    await works.start()
    await works.rig.accept(an_accepted(1, type_="changes"), an_accepted(2, type_="changes_plain"))
    error = (await works.ended(1, State.FAIL)).error
    assert error.startswith("AttributeError")
    await works.ended(2)


async def test_again_and_fail_are_heard(works: Works) -> None:
    async def picky(data: int, job: JobContext) -> None:
        if data:
            raise kqs.Fail("never", final=True)
        if job.attempt == 1:
            raise kqs.Again

    works.handle("mail", picky)
    await works.start()
    await works.rig.accept(an_accepted(1, data=b"0"), an_accepted(2, data=b"1"))
    assert [run.state for run in (await works.ended(1)).runs] == ["again", "success"]
    assert (await works.ended(2, State.FAIL)).error == "never"


async def test_a_run_over_its_ttr_is_cancelled_and_its_lane_goes_on(works: Works) -> None:
    cancelled, begun = asyncio.Event(), asyncio.Event()

    async def hang_once(data: object, job: JobContext) -> None:
        if job.attempt == 1:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    works.handle("mail", hang_once, ttr=5.0)
    await works.start()
    await works.rig.accept(an_accepted(1))
    await within(begun)
    works.rig.clock.advance(6)
    works.rig.queue.runs.look_again()
    await within(cancelled)
    record = await works.ended(1)
    assert (record.ghosts, [run.state for run in record.runs]) == (1, ["ghost", "success"])


async def test_a_handler_that_ignores_its_cancellation_is_refused_as_stale(works: Works) -> None:
    begun = asyncio.Event()

    async def stubborn(data: object, job: JobContext) -> str:
        begun.set()
        if job.attempt == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "late"
        return "in time"

    works.handle("mail", stubborn, ttr=5.0)
    await works.start()
    await works.rig.accept(an_accepted(1))
    await within(begun)
    works.rig.clock.advance(6)
    works.rig.queue.runs.look_again()
    assert (await works.ended(1)).result == b'"in time"'
    assert works.stale_count == 1


async def test_a_stopping_worker_lets_runs_finish(works: Works) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def wait(data: object) -> None:
        begun.set()
        await may_end.wait()

    works.handle("mail", wait)
    worker = await works.start()
    await works.rig.accept(an_accepted(1))
    await within(begun)
    stopping = asyncio.create_task(worker.stop())
    await until(lambda: worker._consumer.stopped)
    await idle()
    may_end.set()
    await stopping
    await works.rig.queue.settle()
    assert (await works.rig.record(1)).state is State.SUCCESS


async def test_who_stops_a_worker_that_is_stopping_waits_for_its_runs_as_well(works: Works) -> None:
    gates = Gates()
    worker = await claim_ahead(works, gates, concurrency=2)
    await works.rig.accept(an_accepted(300, data=b'"gate"'))
    await until(lambda: worker.busy_count)
    first = asyncio.create_task(worker.stop())
    await until(lambda: worker._consumer.stopped)
    again = asyncio.create_task(worker.stop())
    await idle()
    assert not again.done()
    gates.open("gate")
    await again
    assert first.done()
    await works.ended(300)


@pytest.mark.parametrize("has_run", [False, True])
async def test_a_stopped_worker_leaves_no_task_behind_however_often_it_is_stopped(works: Works, has_run: bool) -> None:
    worker = await use(works, good)
    if has_run:
        await run_one(works, 1, type_="good")
    for _ in range(2):
        await worker.stop()
        assert not [name for name in works.rig.supervisor.names if name.startswith("lane")]


async def test_what_outlasts_the_grace_is_given_back(works: Works) -> None:
    begun = asyncio.Event()

    async def hang(data: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    works.handle("mail", hang)
    worker = await works.start(grace_s=0)
    await works.rig.accept(an_accepted(1), an_accepted(2))
    await within(begun)
    await works.stop(worker)
    assert (await works.rig.record(1)).interrupted == 1
    assert (await works.rig.record(2)).state is State.NEW


@IN_THE_SERVER
async def test_runs_claimed_ahead_are_given_back_when_the_ones_before_take_long(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.worker.worker, "STUCK_S", 0.01)
    may_end = asyncio.Event()

    async def quick_or_slow(data: bool) -> None:
        if data:
            await may_end.wait()

    works.handle("mail", quick_or_slow)
    worker = await works.start(concurrency=2)
    await works.rig.accept(*(an_accepted(n, data=b"false") for n in range(500)))
    for number in range(500):
        await works.ended(number)
    assert worker._ahead.count > 0
    await works.rig.accept(*(an_accepted(n, data=b"true") for n in range(500, 510)))
    given_back = await works.ended(509, State.NEW)
    assert (given_back.attempt, given_back.interrupted, given_back.failures, given_back.runs) == (0, 0, 0, [])
    assert worker._ahead.count == 0
    may_end.set()
    ended = [await works.ended(number) for number in range(500, 510)]
    assert {(record.attempt, record.runs[0].attempt, len(record.runs)) for record in ended} == {(1, 1, 1)}
    await until(lambda: not worker.busy_count)
    assert worker._consumer.room == 2 + worker._ahead.count


class HeldLooks:
    """The looks of a worker at what it has claimed ahead: they come when the test says so."""

    def __init__(self, works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
        self._due: list[Callable[[], None]] = []
        self._call_later = works.rig.supervisor.call_later
        monkeypatch.setattr(works.rig.supervisor, "call_later", self._hold)

    def _hold(self, delay_s: float, name: str, callback: Callable[..., None], *args: Any, **options: Any) -> object:
        if name != "worker":
            return self._call_later(delay_s, name, callback, *args, **options)
        self._due.append(partial(callback, *args))
        return None

    @property
    def count(self) -> int:
        """Return how many are to come."""
        return len(self._due)

    def come(self) -> None:
        """Let the one that is to come be now."""
        (look,) = self._due
        self._due.clear()
        look()

    def come_to_an_end(self) -> None:
        """Let all be over that are to come now that nothing waits."""
        while self._due:
            self.come()


class Gates:
    """A handler whose runs end at once, or when the gate opens that their data names."""

    def __init__(self) -> None:
        self._opened: dict[str, asyncio.Event] = {}

    def open(self, name: str) -> None:
        self._opened.setdefault(name, asyncio.Event()).set()

    async def __call__(self, data: str | None) -> None:
        if data is not None:
            await self._opened.setdefault(data, asyncio.Event()).wait()


async def claim_ahead(works: Works, gates: Gates, concurrency: int = 1) -> Worker:
    """Start a worker, and let it run jobs until it claims some ahead."""

    async def call(data: str | None) -> None:
        await gates(data)

    works.handle("mail", call)
    worker = await works.start(concurrency)
    await works.rig.accept(*(an_accepted(n, data=b"null") for n in range(200)))
    for number in range(200):
        await works.ended(number)
    assert worker._ahead.count > 1
    return worker


@IN_THE_SERVER
async def test_runs_that_come_after_a_look_are_looked_at_with_the_next(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, gates = HeldLooks(works, monkeypatch), Gates()
    worker = await claim_ahead(works, gates)
    looks.come_to_an_end()
    await works.rig.accept(an_accepted(300, data=b'"first"'), an_accepted(301, data=b"null"))
    assert (looks.count, worker.waiting_count) == (1, 2)
    gates.open("first")
    await works.ended(301)
    await works.rig.accept(an_accepted(302, data=b'"second"'), an_accepted(303, data=b"null"))
    await until(lambda: worker.waiting_count == 1)
    looks.come()
    assert worker.waiting_count == 1  # what was there at the look before has begun since
    looks.come()
    await works.ended(303, State.NEW)
    assert (worker.waiting_count, worker._ahead.count, looks.count) == (0, 0, 0)
    gates.open("second")
    await works.ended(303)


@IN_THE_SERVER
async def test_no_look_is_to_come_once_all_has_begun(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, gates = HeldLooks(works, monkeypatch), Gates()
    worker = await claim_ahead(works, gates)
    looks.come_to_an_end()
    count = worker._ahead.count
    await works.rig.accept(an_accepted(300, data=b'"gate"'))
    assert looks.count == 1
    await until(lambda: worker.busy_count)
    looks.come()
    assert (looks.count, worker._ahead.count) == (0, count)
    gates.open("gate")
    await works.ended(300)


@IN_THE_SERVER
async def test_a_worker_that_stops_gives_back_what_it_has_claimed_ahead(works: Works) -> None:
    gates = Gates()
    worker = await claim_ahead(works, gates)
    await works.rig.accept(an_accepted(300, data=b'"gate"'), an_accepted(301, data=b"null"))
    await until(lambda: worker.waiting_count == 1)
    draining = asyncio.create_task(worker.drain())
    assert (await works.ended(301, State.NEW)).attempt == 0
    gates.open("gate")
    await draining
    await works.rig.queue.settle()
    assert (await works.rig.record(300)).state is State.SUCCESS
    assert (await works.rig.record(301)).state is State.NEW


async def test_a_drained_worker_has_ended_what_ran_and_takes_nothing_more(works: Works) -> None:
    gates = Gates()
    worker = await claim_ahead(works, gates, concurrency=2)
    await works.rig.accept(an_accepted(300, data=b'"gate"'))
    await until(lambda: worker.busy_count)
    draining = asyncio.create_task(worker.drain())
    await until(lambda: worker._consumer.stopped)
    await idle()
    assert not draining.done()
    await works.rig.accept(an_accepted(301, data=b"null"))
    gates.open("gate")
    async with asyncio.timeout(5):
        await draining
    await works.ended(300)
    assert (await works.rig.record(301)).state is State.NEW


async def test_a_worker_that_runs_nothing_is_drained_at_once(works: Works) -> None:
    worker = await use(works, good)
    async with asyncio.timeout(5):
        await worker.drain()


@pytest.mark.parametrize(("each_s", "least", "most"), [(0.0, 64, 64), (0.0012, 12, 20), (1.0, 0, 0)])
async def test_as_many_runs_are_claimed_ahead_as_lanes_get_through_that_wait_side_by_side(
    works: Works, each_s: float, least: int, most: int
) -> None:
    """Each run ends as the third after it has begun, so one ends in `each_s`."""
    waiting: deque[asyncio.Event] = deque()

    async def wait_for_others(data: object) -> None:
        may_end = asyncio.Event()
        waiting.append(may_end)
        await asyncio.sleep(0)
        works.rig.clock.advance(each_s)
        if len(waiting) == 4:
            waiting.popleft().set()
        await may_end.wait()

    works.handle("mail", wait_for_others)
    worker = await works.start(concurrency=4)
    await works.rig.accept(*(an_accepted(n) for n in range(TUNE_EVERY + 3)))
    for number in range(TUNE_EVERY):
        await works.ended(number)
    for may_end in waiting:
        may_end.set()
    await until(lambda: not worker.busy_count)
    assert least <= worker._ahead.count <= most
    assert (worker._consumer.room, worker._consumer.worth) == (4 + worker._ahead.count, worker._ahead.worth)


@pytest.mark.parametrize("is_told", [False, True])
async def test_as_many_runs_are_claimed_ahead_as_the_loop_gets_through_that_never_let_it_go(
    works: Works, is_told: bool
) -> None:
    async def holds(data: object) -> None:
        works.rig.clock.advance(0.0048)

    async def holds_told(data: object, job: JobContext) -> None:
        works.rig.clock.advance(0.0048)

    works.handle("mail", holds_told if is_told else holds)
    worker = await works.start(concurrency=4)
    await works.rig.accept(*(an_accepted(n) for n in range(TUNE_EVERY)))
    for number in range(TUNE_EVERY):
        await works.ended(number)
    await until(lambda: worker._ahead.count)
    assert worker._ahead.count == 4


async def test_a_command_that_is_not_there_is_told_from_the_start_on(works: Works) -> None:
    works.registry = works.registry.with_commands({"mail": Command(["/nowhere/resize"], "/")})
    worker = await works.start()
    (problem,) = worker.problems()
    assert problem.startswith("the command of type 'mail' cannot be started: ")


async def test_a_worker_without_lanes_takes_nothing(works: Works) -> None:
    async def nothing(data: object) -> None: ...

    works.handle("mail", nothing)
    await works.start(concurrency=0)
    await works.rig.accept(an_accepted(1))
    assert (await works.rig.record(1)).state is State.NEW
    assert not works.rig.queue.admission.is_handled("mail")


async def hold_all_threads(works: Works) -> tuple[Worker, threading.Event]:
    """Start a worker of one lane whose threads are all held by runs past their ttr; a job more is claimed."""
    gate, loop, begun = threading.Event(), asyncio.get_running_loop(), asyncio.Event()

    def hang(data: object) -> None:
        loop.call_soon_threadsafe(begun.set)
        gate.wait(10)

    works.handle("mail", hang, ttr=5.0, ghosts=0)
    works.handle("quick", lambda data: data, ttr=5.0, ghosts=0)
    worker = await works.start(grace_s=0)
    for number in (1, 2):
        begun.clear()
        await works.rig.accept(an_accepted(number))
        await within(begun)
        works.rig.clock.advance(6)
        works.rig.queue.runs.look_again()
        await works.ended(number, State.FAIL)
    await works.rig.accept(an_accepted(3, type_="quick"))
    await works.ended(3, State.PROCESSING)
    return worker, gate


@IN_THE_SERVER
async def test_no_run_is_lost_while_it_waits_for_a_thread(works: Works) -> None:
    worker, gate = await hold_all_threads(works)
    assert worker.problems() == [
        "all threads are held by plain handlers, most of them past their ttr: jobs of plain handlers wait"
    ]
    works.rig.clock.advance(60)
    works.rig.queue.runs.look_again()
    gate.set()
    record = await works.ended(3)
    assert (record.attempt, record.ghosts, worker.problems()) == (1, 0, [])


@IN_THE_SERVER
async def test_a_run_that_waits_for_a_thread_is_given_back_by_a_stop(works: Works) -> None:
    worker, gate = await hold_all_threads(works)
    await works.stop(worker)
    record = await works.rig.record(3)
    assert (record.state, record.attempt, record.interrupted, record.ghosts) == (State.NEW, 0, 0, 0)
    gate.set()


@IN_THE_SERVER
async def test_a_run_that_gets_its_thread_once_the_worker_takes_no_more_goes_back(works: Works) -> None:
    worker, gate = await hold_all_threads(works)
    async with asyncio.timeout(5):
        await worker.drain()
    gate.set()
    assert (await works.ended(3, State.NEW)).attempt == 0
    assert worker.busy_count == 0


@pytest.mark.parametrize("is_plain", [False, True])
async def test_a_run_whose_job_expired_before_it_began_leaves_its_lane_and_thread_to_the_next(
    works: Works, monkeypatch: pytest.MonkeyPatch, is_plain: bool
) -> None:
    ran: list[int] = []

    async def note(data: int) -> None:
        ran.append(data)

    works.handle("mail", ran.append if is_plain else note)
    insert = works.rig.store.insert

    async def slow_insert(*args: Any) -> object:
        known = await insert(*args)
        works.rig.clock.advance(1)
        return known

    monkeypatch.setattr(works.rig.store, "insert", slow_insert)
    await works.start(concurrency=1)
    for number in range(5):
        job = an_accepted(number, data=b"1")
        job.expire_at = works.rig.clock.now() + 0.5
        await works.rig.accept(job)
        assert (await works.ended(number, State.FAIL)).attempt == 0
    await works.rig.accept(an_accepted(9, data=b"9"))
    await works.ended(9)
    assert ran == [9]


async def run_one(works: Works, number: int, data: bytes = b"null", type_: str = "mail", state: State = State.SUCCESS) -> Any:
    await works.rig.accept(an_accepted(number, data=data, type_=type_))
    return await works.ended(number, state)


async def use(works: Works, *functions: Callable[..., Any], **options: Any) -> Worker:
    """Handle types named as the functions are, on one lane."""
    for function in functions:
        works.handle(function.__name__, function, **options)
    return await works.start(grace_s=0)


async def good(data: object) -> str:
    await asyncio.sleep(0)
    return "good"


async def in_a_task_group(data: object) -> None:
    async def bad() -> None:
        raise ValueError

    async with asyncio.TaskGroup() as group:
        group.create_task(bad())
        await asyncio.Event().wait()


async def cancels_itself(data: object) -> None:
    current_task().cancel()


async def cancels_itself_and_waits(data: object) -> None:
    current_task().cancel()
    await asyncio.sleep(0)


async def takes_its_cancellation_back(data: object) -> None:
    current_task().cancel()
    current_task().uncancel()


async def uncancels_too_often(data: object) -> None:
    current_task().uncancel()


async def awaits_the_cancelled(data: object) -> None:
    inner = asyncio.ensure_future(asyncio.sleep(0))
    inner.cancel()
    await inner


async def times_out(data: object) -> None:
    async with asyncio.timeout(0):
        await asyncio.Event().wait()


async def is_cancelled_soon(data: object) -> None:
    asyncio.get_running_loop().call_soon(current_task().cancel)


async def is_cancelled_later(data: object) -> None:
    asyncio.get_running_loop().call_later(0.001, current_task().cancel)


async def is_cancelled_by_a_child(data: object) -> None:
    parent = current_task()

    async def child() -> None:
        await asyncio.sleep(0)
        parent.cancel()

    children.append(asyncio.ensure_future(child()))


async def raises_a_cancellation(data: object) -> None:
    raise asyncio.CancelledError


async def awaits_the_closed(data: object) -> None:
    async def closed() -> None:
        await asyncio.sleep(0)
        raise GeneratorExit

    await asyncio.ensure_future(closed())


async def is_closed_and_waits(data: object) -> None:
    closed = asyncio.get_running_loop().create_future()
    closed.get_loop().call_soon(closed.set_exception, GeneratorExit())
    try:
        await closed
    finally:
        await asyncio.sleep(0)


children: list[asyncio.Future[None]] = []
FAILS = [
    in_a_task_group,
    cancels_itself_and_waits,
    awaits_the_cancelled,
    awaits_the_closed,
    is_closed_and_waits,
    times_out,
    raises_a_cancellation,
]
ENDS_WELL = [
    cancels_itself,
    takes_its_cancellation_back,
    uncancels_too_often,
    is_cancelled_soon,
    is_cancelled_later,
    is_cancelled_by_a_child,
]


def current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


@pytest.mark.parametrize("first", [*FAILS, *ENDS_WELL])
@pytest.mark.parametrize("second", [good, awaits_the_cancelled])
async def test_a_run_begins_in_a_clean_task_whatever_the_one_before_did(
    works: Works, first: Callable[..., Any], second: Callable[..., Any]
) -> None:
    await use(works, *{first, second}, retries=0)
    await run_one(works, 1, type_=first.__name__, state=State.FAIL if first in FAILS else State.SUCCESS)
    for number in range(2, 12):
        record = await run_one(works, number, type_=second.__name__, state=State.SUCCESS if second is good else State.FAIL)
        assert (record.error or "CancelledError").splitlines()[0] == "CancelledError"
        await idle()


async def test_a_handler_that_cancels_every_task_it_is_not_fails_the_runs_beside_it_only(works: Works) -> None:
    begun = asyncio.Event()

    async def waits(data: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def sweeps(data: object) -> None:
        for lane in works.workers[0]._lanes:
            assert lane.task is not None
            if lane.task is not asyncio.current_task():
                lane.task.cancel()

    for function in (good, waits, sweeps):
        works.handle(function.__name__, function, retries=0)
    await works.start(concurrency=3)
    await works.rig.accept(an_accepted(1, type_="waits"))
    await within(begun)
    await run_one(works, 2, type_="sweeps")
    assert str((await works.ended(1, State.FAIL)).error).splitlines()[0] == "CancelledError"
    for number in range(3, 9):
        await run_one(works, number, type_="good")


async def test_a_loss_that_meets_the_handlers_end_leaves_the_next_run_alone(works: Works) -> None:
    begun, ending = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def ends(data: object) -> None:
        begun.set()
        await ending

    await use(works, ends, good, ttr=5.0, ghosts=0)
    await works.rig.accept(an_accepted(1, type_="ends"))
    await within(begun)
    works.rig.clock.advance(6)
    ending.set_result(None)  # the handler is about to go on when its run is lost
    works.rig.queue.runs.look_again()
    await works.ended(1, State.FAIL)
    assert (await run_one(works, 2, type_="good")).attempt == 1


async def test_a_handler_that_waits_sees_no_fault_but_its_own(works: Works) -> None:
    """What it waited for failed, and it has dealt with that: no later exception happens during the handling of the first."""
    seen: list[object] = []

    async def recover(data: object) -> None:
        loop = asyncio.get_running_loop()
        failing: asyncio.Future[None] = loop.create_future()
        loop.call_soon(failing.set_exception, OSError("gone"))
        with contextlib.suppress(OSError):
            await failing
        seen.append(sys.exc_info()[1])
        try:
            raise ValueError
        except ValueError as error:
            seen.append(error.__context__)

    works.handle("mail", recover)
    await works.start()
    await works.rig.accept(an_accepted(1))
    await works.ended(1)
    assert seen == [None, None]


async def test_what_a_handler_first_waited_for_goes_when_the_handler_lets_it_go(works: Works) -> None:
    class Body: ...

    kept: list[bool] = []

    async def fetch(data: object) -> None:
        loop = asyncio.get_running_loop()
        body = Body()
        reference = weakref.ref(body)
        answer: asyncio.Future[Body] = loop.create_future()
        loop.call_soon(answer.set_result, body)
        del body
        await answer
        del answer
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        kept.append(reference() is not None)

    works.handle("mail", fetch)
    await works.start()
    await works.rig.accept(an_accepted(1))
    await works.ended(1)
    assert kept == [False]


@IN_THE_SERVER
async def test_a_worker_that_rests_keeps_nothing_of_its_last_run(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Run] = []
    begin = works.rig.queue.runs.begin

    def begin_seen(run: Run, *args: Any) -> Lease:
        runs.append(run)
        return begin(run, *args)

    async def wait(data: object) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(works.rig.queue.runs, "begin", begin_seen)
    works.handle("mail", wait)
    await works.start()
    await works.rig.accept(an_accepted(1))
    await works.ended(1)
    run = runs.pop()
    await until(lambda: sys.getrefcount(run) <= 3)  # `run`, the closure's cell and the argument


@IN_THE_SERVER
async def test_a_lane_that_ends_of_itself_is_told(works: Works, monkeypatch: pytest.MonkeyPatch) -> None:
    await use(works, good)

    def broken(*_args: object) -> None:
        raise OverflowError("broken")

    monkeypatch.setattr(works.rig.queue.runs, "begin", broken)
    await works.rig.accept(an_accepted(1, type_="good"))
    name, error = await works.rig.supervisor.told()
    assert (name, type(error)) == ("lane-0", OverflowError)


tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")


class NeverEqual:
    def __eq__(self, other: object) -> bool:
        raise SystemExit


def tenant_of(data: object) -> list[object]:
    seen = tenant.get("nobody")
    tenant.set("secret")
    precision = decimal.getcontext().prec
    decimal.getcontext().prec = 5
    return [seen, precision]


async def tenant_of_async(data: object) -> list[object]:
    return tenant_of(data)


async def tenant_of_waiting(data: object) -> list[object]:
    await asyncio.sleep(0)
    return tenant_of(data)


@pytest.mark.parametrize("function", [tenant_of, tenant_of_async, tenant_of_waiting])
@pytest.mark.parametrize("at_start", ["nobody", "everybody"])
async def test_each_run_has_the_context_variables_that_the_server_started_with(
    works: Works, function: Callable[..., Any], at_start: str
) -> None:
    works.handle("mail", function)
    if at_start != "nobody":
        tenant.set(at_start)
    await works.start()
    for number in range(1, 4):
        assert (await run_one(works, number)).result == f'["{at_start}",28]'.encode()


async def test_a_variable_whose_value_cannot_be_compared_ends_no_lane(works: Works) -> None:
    async def sets(data: object) -> None:
        tenant.set(NeverEqual())  # type: ignore[arg-type]  # that is the fault

    tenant.set("everybody")
    await use(works, sets, good)
    for number in range(1, 4):
        await run_one(works, number, type_="sets")
        await run_one(works, number + 3, type_="good")


async def test_a_lane_keeps_its_task_as_long_as_runs_leave_nothing_in_it(works: Works) -> None:
    async def ends(data: object) -> None: ...

    async def waits(data: object) -> None:
        await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await asyncio.sleep(0.001)

    def plain(data: object) -> None: ...

    async def fails(data: object) -> None:
        raise kqs.Fail("no")

    worker = await use(works, ends, waits, plain, fails)
    task = worker._lanes[0].task
    for number, type_ in enumerate(["ends", "waits", "plain", "ends", "waits"]):
        await run_one(works, number, type_=type_)
    await run_one(works, 9, type_="fails", state=State.FAIL)
    assert worker._lanes[0].task is task


class Deaf:
    """A handler that swallows its cancellations until the test lets it end."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.begun = asyncio.Event()

    async def __call__(self, data: object) -> None:
        self.begun.set()
        while not self.may_end.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.may_end.wait()


@pytest.fixture
async def deaf(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Deaf]:
    monkeypatch.setattr(kqs.worker.worker, "DEAF_AFTER_S", 0.0)
    monkeypatch.setattr(kqs.worker.worker, "CANCEL_WAIT_S", 0.01)
    handler = Deaf()
    yield handler
    handler.may_end.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def lose(works: Works, number: int, handler: Deaf) -> None:
    lanes = works.workers[-1]._deaf._lanes
    before = len(lanes)
    handler.begun.clear()
    await works.rig.accept(an_accepted(number, type_="deaf"))
    await within(handler.begun)
    works.rig.clock.advance(6)
    works.rig.queue.runs.look_again()
    await works.ended(number, State.FAIL)
    await until(lambda: len(lanes) > before)
    if works.remote is not None:
        await works.remote.settled()  # so that the server knows how many lanes are left


async def test_a_lane_whose_handler_ignores_its_cancellation_is_replaced(works: Works, deaf: Deaf) -> None:
    async def call(data: object) -> None:
        await deaf(data)

    works.handle("deaf", call, ttr=5.0, ghosts=0)
    works.handle("good", good)
    worker = await works.start()
    await lose(works, 1, deaf)
    await run_one(works, 2, type_="good")
    (problem,) = worker.problems()
    assert problem.startswith("1 handler of type 'deaf' ignores its cancellation, since 20")
    assert worker.busy_count == 0
    deaf.may_end.set()
    await run_one(works, 3, type_="good")
    assert worker.problems() == []
    assert len(worker._lanes) == 1
    assert works.stale_count == 1


async def test_no_more_lanes_are_replaced_than_there_are(works: Works, deaf: Deaf) -> None:
    async def call(data: object) -> None:
        await deaf(data)

    works.handle("deaf", call, ttr=5.0, ghosts=0)
    works.handle("good", good)
    worker = await works.start(grace_s=0)
    await lose(works, 1, deaf)
    await lose(works, 2, deaf)
    assert worker.problems()[-1] == "1 lane is held by such handlers and not replaced: 1 are already"
    await works.rig.accept(an_accepted(3, type_="good"))
    assert (await works.rig.record(3)).state is State.NEW
    deaf.may_end.set()
    await works.ended(3)
    for number in range(4, 9):
        await run_one(works, number, type_="good")
    assert worker.problems() == []
    assert (len(worker._lanes), worker._consumer.room) == (1, 1)


async def test_a_stop_waits_for_no_handler_that_ignores_its_cancellation(works: Works, deaf: Deaf) -> None:
    async def call(data: object) -> None:
        await deaf(data)

    works.handle("deaf", call, ttr=5.0, ghosts=0)
    worker = await works.start(grace_s=-1)
    await lose(works, 1, deaf)
    async with asyncio.timeout(5):
        await worker.stop()


@pytest.mark.parametrize("is_told", [False, True])
async def test_others_get_the_loop_while_runs_never_let_it_go(
    works: Works, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    monkeypatch.setattr(kqs.worker.breaks, "SLICE_S", 0.0)
    turns: list[int] = []
    ended = 0

    async def never_waits(data: object) -> None:
        nonlocal ended
        ended += 1

    async def never_waits_told(data: object, job: JobContext) -> None:
        await never_waits(data)

    def turn() -> None:
        turns.append(ended)
        if ended < 300:
            asyncio.get_running_loop().call_soon(turn)

    works.handle("mail", never_waits_told if is_told else never_waits)
    await works.start(concurrency=50)
    await works.rig.accept(*(an_accepted(n) for n in range(300)))
    turn()
    for number in range(300):
        await works.ended(number)
    assert max(after - before for before, after in itertools.pairwise(turns)) == 1


async def fail(data: object) -> None:
    raise ValueError("no")


async def fail_later(data: object) -> None:
    await asyncio.sleep(0)
    raise ValueError("no")


def fail_plainly(data: object) -> None:
    raise ValueError("no")


@pytest.mark.parametrize("function", [fail, fail_later, fail_plainly])
async def test_a_handler_says_how_long_its_retry_waits(works: Works, function: Callable[..., Any]) -> None:
    works.handle("mail", function, retry_delay=lambda failures: 1000.0 * failures)
    await works.start()
    await works.rig.accept(an_accepted(1))
    record = await works.ended(1, State.RETRY)
    assert record.due_at == pytest.approx(record.runs[0].ended_at + 1000)


async def test_only_the_types_that_are_told_are_run(works: Works) -> None:
    async def nothing(data: object) -> None: ...

    works.handle("mail", nothing)
    works.handle("sms", nothing)
    await works.start(types=["sms"])
    await works.rig.accept(an_accepted(1), an_accepted(2, type_="sms"))
    await works.ended(2)
    assert (await works.rig.record(1)).state is State.NEW
    assert not works.rig.queue.admission.is_handled("mail")


async def test_a_type_without_a_handler_is_refused(works: Works) -> None:
    with pytest.raises(StartupError, match=r"\[worker\] types: no handler for type 'fax'; those with one: none"):
        await works.start(types=["fax"])
