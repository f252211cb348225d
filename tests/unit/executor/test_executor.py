from __future__ import annotations

import asyncio
import ctypes
import decimal
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs

import kqs
import kqs.executor.executor
import kqs.executor.threads
from kqs.executor import Executor, Suspended, share_decimal_settings
from kqs.executor.outcomes import judge_result
from kqs.handlers import JobContext, Registry
from kqs.job import Claim, Run
from kqs.options import Options
from kqs.outcome import Again, Failed, Ok, Outcome
from tests.support.supervising import StrictSupervisor


class Size(BaseModel):
    width: int


class NoNumber(int):
    def __le__(self, other: object) -> bool:
        raise ValueError("delay: expected a number of seconds from 0 to 10000000000, got me")

    __ge__ = __le__


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.fixture
async def executor() -> AsyncIterator[Executor]:
    executor = Executor(2, StrictSupervisor())
    yield executor
    executor.close()


async def execute(executor: Executor, function: Callable[..., Any], data: bytes = b"null") -> Outcome:
    run = Run(Claim(1, "id-1", 2, 1), "resize", 10_000, data, None)
    handler = Registry().add("resize", function)
    await executor.admit(handler)
    return await executor.execute(run, handler, JobContext(run, Options(), lambda: 0.0))


def begin(executor: Executor, function: Callable[..., Any], data: bytes = b"null") -> tuple[Run, Outcome | Suspended]:
    """Begin a run of a handler that is taken for an `async def`, whatever it returns."""
    run = Run(Claim(1, "id-1", 2, 1), "resize", 10_000, data, None)

    async def handle(data: Any) -> None: ...

    handler = Registry().add("resize", handle)
    return run, executor.begin(run, msgspec.structs.replace(handler, function=function))


def both(body: Callable[[Any], Any]) -> list[Callable[..., Any]]:
    """The same handler as plain def and as async def."""

    def plain(data: Any) -> Any:
        return body(data)

    async def coroutine(data: Any) -> Any:
        return body(data)

    return [plain, coroutine]


def raising(fault: BaseException) -> Callable[[Any], Any]:
    def body(data: Any) -> Any:
        raise fault

    return body


def without_trace(outcome: Outcome) -> Outcome:
    if not isinstance(outcome, Failed):
        return outcome
    return Failed(outcome.reason.partition("\n")[0], outcome.final, outcome.delay_s)


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        (lambda data: None, Ok(None)),
        (lambda data: {"twice": data["n"] * 2}, Ok(b'{"twice":6}')),
        (lambda data: Size(width=3), Ok(b'{"width":3}')),
        (raising(kqs.Again()), Again(None)),
        (raising(kqs.Again(2.5)), Again(2.5)),
        (raising(kqs.Fail("no such user")), Failed("no such user", final=True)),
        (raising(kqs.Fail("busy", final=False)), Failed("busy", final=False)),
        (raising(OSError("disk on fire")), Failed("OSError: disk on fire")),
        (raising(KeyError()), Failed("KeyError")),
        (raising(OSError("caf\udce9")), Failed("OSError: caf\\udce9")),
        (raising(UnspeakableError()), Failed("UnspeakableError: (cannot be shown)")),
        (raising(kqs.Fail(OSError("gone"))), Failed("gone", final=True)),  # type: ignore[arg-type]  # that is the fault
        (raising(SystemExit(1)), Failed("SystemExit: 1")),
        (lambda data: object(), Failed("the handler's result cannot be written as JSON: object is no JSON type", final=True)),
    ],
)
async def test_what_a_handler_does_is_its_outcome(executor: Executor, body: Callable[[Any], Any], outcome: Outcome) -> None:
    for function in both(body):
        assert without_trace(await execute(executor, function, b'{"n":3}')) == outcome


def typed(size: Size) -> int:
    return size.width


async def typed_async(size: Size) -> int:
    return size.width


@pytest.mark.parametrize("function", [typed, typed_async])
async def test_data_that_does_not_fit_the_model_fails_for_good(executor: Executor, function: Callable[..., Any]) -> None:
    assert await execute(executor, function, b'{"width":3}') == Ok(b"3")
    outcome = await execute(executor, function, b'{"width":"wide"}')
    assert isinstance(outcome, Failed)
    assert outcome.final
    assert outcome.reason.startswith("data does not fit: 1 validation error for Size\nwidth\n")


async def test_a_number_out_of_range_fails_for_good(executor: Executor) -> None:
    for function in both(lambda data: data):
        assert await execute(executor, function, b"1e400") == Failed("data: number out of range", final=True)


async def test_the_job_is_handed_over_to_those_who_want_it(executor: Executor) -> None:
    def plain(data: Any, job: kqs.JobContext) -> Any:
        return [job.id, job.attempt, job.touch(), threading.current_thread() is threading.main_thread()]

    async def coroutine(data: Any, job: kqs.JobContext) -> Any:
        return plain(data, job)

    assert await execute(executor, plain) == Ok(b'["id-1",2,true,false]')
    assert await execute(executor, coroutine) == Ok(b'["id-1",2,true,true]')


async def test_a_failure_is_logged_with_its_trace(executor: Executor) -> None:
    for function in both(lambda data: 1 / 0):
        with capture_logs() as lines:
            await execute(executor, function)
        (line,) = lines
        assert (line["job"], line["reason"]) == ("id-1", "ZeroDivisionError: division by zero")
        assert line["exception"].splitlines()[0] == "Traceback (most recent call last):"
        assert line["exception"].splitlines()[-1] == "ZeroDivisionError: division by zero"


async def test_a_trace_begins_where_the_authors_code_does(executor: Executor) -> None:
    for function in both(lambda data: 1 / 0):
        with capture_logs() as lines:
            outcome = await execute(executor, function)
        assert isinstance(outcome, Failed)
        for trace in (outcome.reason, lines[0]["exception"]):
            files = re.findall(r'^ +File "(.+)", line', trace, re.M)
            assert files == [__file__, __file__]


async def test_a_forgotten_await_is_explained(executor: Executor) -> None:
    async def inner() -> None: ...

    outcome = await execute(executor, lambda data: inner())
    assert isinstance(outcome, Failed)
    assert "make the handler an `async def`" in outcome.reason


async def test_cancelling_the_caller_cancels_the_handler(executor: Executor) -> None:
    started = asyncio.Event()

    async def endless(data: Any) -> None:
        started.set()
        await asyncio.Future()

    task = asyncio.ensure_future(execute(executor, endless))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_plain_handlers_run_side_by_side(executor: Executor) -> None:
    meeting = threading.Barrier(2)
    outcomes = await asyncio.gather(*(execute(executor, lambda data: meeting.wait(10) >= 0) for _ in range(2)))
    assert outcomes == [Ok(b"true"), Ok(b"true")]


async def test_a_thread_past_its_time_goes_on_unheard_and_is_replaced(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.executor.threads, "END_WITHIN_S", 0.01)
    gate, started = threading.Event(), threading.Barrier(3)

    def stuck(data: Any) -> None:
        started.wait(10)
        gate.wait(10)

    lost = [asyncio.ensure_future(execute(executor, stuck)) for _ in range(2)]
    await asyncio.to_thread(started.wait, 10)
    for task in lost:
        task.cancel()
    assert await execute(executor, lambda data: 1) == Ok(b"1")
    await asyncio.wait(lost)
    gate.set()
    assert await execute(executor, lambda data: 2) == Ok(b"2")
    assert all(task.cancelled() for task in lost)


async def test_a_cancelled_call_is_over_when_its_thread_is(executor: Executor) -> None:
    gate, started = threading.Event(), threading.Event()
    done: list[str] = []

    def slow(data: Any) -> None:
        started.set()
        gate.wait(10)
        done.append("ended")

    task = asyncio.ensure_future(execute(executor, slow))
    task.add_done_callback(lambda _task: done.append("over"))
    await asyncio.to_thread(started.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    await asyncio.wait([task])
    assert (done, task.cancelled()) == (["ended", "over"], True)


async def test_a_call_cancelled_before_its_thread_never_runs(executor: Executor) -> None:
    ran: list[int] = []
    task = asyncio.ensure_future(execute(executor, lambda data: ran.append(1)))
    executor._threads._max_count = 0  # no thread takes it yet
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    executor._threads._max_count = 1
    assert await execute(executor, lambda data: 2) == Ok(b"2")
    assert not ran


def raise_in(thread: int, fault: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(fault))


async def test_a_thread_that_another_ends_during_a_run_fails_that_run_only(executor: Executor) -> None:
    def ends_itself(data: Any) -> None:
        raise_in(threading.get_ident(), KeyboardInterrupt)
        for _ in range(1000):
            pass

    for _ in range(10):
        assert without_trace(await execute(executor, ends_itself)) == Failed("KeyboardInterrupt")
        assert await execute(executor, lambda data: 1) == Ok(b"1")


async def test_a_run_waits_for_a_thread_that_cannot_be_started(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kqs.executor.threads, "START_AGAIN_S", 0.001)
    refused, start = asyncio.Event(), threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        refused.set()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    running = asyncio.ensure_future(execute(executor, lambda data: 1))
    await refused.wait()
    assert executor.problems() == ["no thread can be started for plain handlers, trying again: can't start new thread"]
    monkeypatch.setattr(threading.Thread, "start", start)
    assert await running == Ok(b"1")
    assert executor.problems() == []


async def test_a_run_waits_while_a_handler_has_left_no_excepthook_to_make_threads_with(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.executor.threads, "START_AGAIN_S", 0.001)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "excepthook", None)
        running = asyncio.ensure_future(execute(executor, lambda data: 1))
        await asyncio.sleep(0)
        assert executor.problems() == ["no thread can be started for plain handlers, trying again: sys.excepthook is None"]
    assert await running == Ok(b"1")
    assert executor.problems() == []


async def test_a_run_that_no_longer_waits_for_a_thread_leaves_its_place(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = asyncio.Event()

    def refuse(self: threading.Thread) -> None:
        refused.set()
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        for _ in range(10):
            refused.clear()
            waiting = asyncio.ensure_future(execute(executor, lambda data: 1))
            await refused.wait()
            waiting.cancel()
            await asyncio.wait([waiting])
    assert await execute(executor, lambda data: 2) == Ok(b"2")


async def test_a_closed_coroutine_is_no_failure_of_its_handler(executor: Executor) -> None:
    async def endless(data: Any) -> None:
        await asyncio.Future()

    running = execute(executor, endless)
    running.send(None)
    running.close()  # raises RuntimeError if the run were judged


async def test_a_handler_that_waits_is_ended_with_the_run_that_is_closed(executor: Executor) -> None:
    ended: list[str] = []

    async def endless(data: Any) -> None:
        try:
            await asyncio.Future()
        finally:
            ended.append("it")

    run, handling = begin(executor, endless)
    assert isinstance(handling, Suspended)
    running = executor.finish(run, handling)
    running.send(None)
    running.close()  # raises RuntimeError if the run were judged
    assert ended == ["it"]


async def test_whatever_a_handler_returns_to_wait_for_is_waited_for(executor: Executor) -> None:
    """A decorator may make a task of a coroutine, or hand out a future; a task is begun, and cancelled, with its run."""

    async def double(data: int) -> int:
        await asyncio.sleep(0)
        return 2 * data

    run, handling = begin(executor, lambda data: asyncio.ensure_future(double(data)), b"21")
    assert isinstance(handling, Suspended)
    assert await executor.finish(run, handling) == Ok(b"42")

    tasks: list[asyncio.Task[None]] = []

    def endless(data: Any) -> asyncio.Task[None]:
        tasks.append(asyncio.ensure_future(asyncio.sleep(3600)))
        return tasks[0]

    async def run_endless() -> None:
        run, handling = begin(executor, endless)
        assert isinstance(handling, Suspended)
        await executor.finish(run, handling)

    running = asyncio.ensure_future(run_endless())
    asyncio.get_running_loop().call_soon(running.cancel)
    await asyncio.wait([running])
    assert tasks[0].cancelled()


async def test_what_modules_set_in_the_decimal_context_holds_for_each_run() -> None:
    kept = decimal.DefaultContext.copy()
    try:
        with decimal.localcontext() as changed:
            changed.prec = 50
            share_decimal_settings()
            executor = Executor(1, StrictSupervisor())

        def change(_data: object) -> int:
            before, decimal.getcontext().prec = decimal.getcontext().prec, 3
            return before

        for function in both(change):
            for _ in range(2):
                outcome = await executor_context_run(executor, function)
                assert outcome == Ok(b"50")
        executor.close()
    finally:
        decimal.DefaultContext.prec = kept.prec


async def executor_context_run(executor: Executor, function: Callable[..., Any]) -> Outcome:
    """Execute as a lane does: in a task of the executor's own context."""
    loop = asyncio.get_running_loop()
    return await asyncio.Task(execute(executor, function), loop=loop, context=executor.context.copy())


async def test_threads_do_not_hold_up_the_end_of_the_process(executor: Executor) -> None:
    assert await execute(executor, lambda data: threading.current_thread().daemon) == Ok(b"true")


def test_a_thread_that_ends_after_the_loop_is_quiet() -> None:
    gate, started = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def stuck(data: Any) -> None:
        threads.append(threading.current_thread())
        started.set()
        gate.wait(10)

    async def main() -> None:
        task = asyncio.ensure_future(execute(Executor(1, StrictSupervisor()), stuck))
        await asyncio.to_thread(started.wait, 10)
        task.cancel()

    asyncio.run(main())
    gate.set()
    threads[0].join(10)
    assert not threads[0].is_alive()


@pytest.mark.parametrize(
    "delay", [-1, 1e308, 10**400, float("nan"), float("inf"), -float("inf"), Decimal("1.5"), "5", True, [], NoNumber(5)]
)
def test_a_delay_that_is_no_wait_is_refused(delay: Any) -> None:
    with pytest.raises(ValueError, match="delay: expected a number of seconds from 0 to 10000000000, got "):
        kqs.Again(delay)


@pytest.mark.parametrize("delay", [None, 0, 2, 2.5, 1e10])
def test_a_delay_has_a_most(delay: float | None) -> None:
    assert kqs.Again(delay).delay == delay


async def test_a_dismissed_run_leaves_its_thread_to_another() -> None:
    executor, registry = Executor(1, StrictSupervisor()), Registry()
    plain = registry.add("plain", lambda data: None)
    for _ in range(10):
        async with asyncio.timeout(10):
            await executor.admit(plain)
        executor.dismiss(plain)
    executor.dismiss(registry.add("async", _nothing))
    executor.close()


async def _nothing(data: object) -> None: ...


@pytest.mark.parametrize("fault", [kqs.Again(delay=1), kqs.Fail("closed"), ValueError("once for all")])
async def test_an_exception_that_is_raised_again_and_again_keeps_nothing_of_the_runs_before(
    executor: Executor, fault: Exception
) -> None:
    for function in both(raising(fault)):
        with capture_logs() as logs:
            for _ in range(3):
                await execute(executor, function)
        assert fault.__traceback__ is None
        assert len({line.get("exception") for line in logs}) <= 1


async def test_so_does_one_of_a_validator(executor: Executor) -> None:
    refused = ValueError("never fits")

    class Refusing(BaseModel):
        @classmethod
        def model_validate_json(cls, *_: object, **__: object) -> Any:
            raise refused

    async def function(data: Any) -> None: ...

    function.__annotations__["data"] = Refusing
    assert await execute(executor, function) == Failed("data: never fits", final=True)
    assert refused.__traceback__ is None


async def test_long_results_that_are_there_at_once_are_written_one_a_turn(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kqs.executor.executor, "LONG_S", -1.0)
    together = asyncio.Event()
    turn = 0
    written: list[int] = []

    def note(result: object, run: Run) -> Outcome:
        written.append(turn)
        return judge_result(result, run)

    monkeypatch.setattr(kqs.executor.executor, "judge_result", note)

    async def handler(_data: object) -> str:
        await together.wait()
        return "long"

    runs = [asyncio.create_task(execute(executor, handler)) for _ in range(5)]
    await asyncio.sleep(0)
    together.set()
    while not all(run.done() for run in runs):
        turn += 1
        await asyncio.sleep(0)
    assert [run.result() for run in runs] == [Ok(b'"long"')] * 5
    assert len(set(written)) == 5


async def test_a_result_that_waits_for_its_turn_may_be_cancelled(executor: Executor) -> None:
    executor._must_wait = True

    async def handler(_data: object) -> str:
        await asyncio.sleep(0)
        return "long"

    run = asyncio.create_task(execute(executor, handler))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not run.done()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
