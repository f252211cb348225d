"""Handlers that do what nobody should, each in a way that ends by itself, and good ones that tell whether it reached them.

A module for a real server. `ENDS` says how the job of each bad one ends: a failure is kept, its server is not harmed.
"""

from __future__ import annotations

import _thread
import asyncio
import concurrent.futures
import contextlib
import contextvars
import ctypes
import decimal
import gc
import locale
import logging
import math
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures.process import BrokenProcessPool
from decimal import Decimal
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog
from pydantic import BaseModel, field_validator

import kqs

MODULE = "tests.support.misbehaving_handlers"

SUCCESS, FAIL = "success", "fail"

#: how the job of each bad handler ends
ENDS: dict[str, str] = {}

#: handlers that are not run, and why
LEFT_OUT: tuple[tuple[str, str], ...] = (
    ("closing a descriptor that is not its own", "what the number means next is the server's"),
    ("raising into its thread after its end", "it may hit the next handler there, whose failure it is then"),
    ("blocking SIGTERM", "the children of other handlers inherit that, and cannot be terminated"),
    ("cancelling every task of the loop", "those that other handlers made are among them"),
    ("a task factory that raises", "those of other handlers are made by it"),
)

FORK = multiprocessing.get_context("fork")
#: how long a handler holds the loop, in s
HOG_S = 0.1

_Function = TypeVar("_Function", bound=Callable[..., Any])


def bad(end: str, **options: Any) -> Callable[[_Function], _Function]:
    """Register a handler under its name; its one run ends its job."""

    def register(function: _Function) -> _Function:
        ENDS[function.__name__] = end
        return kqs.handler(function.__name__, retries=0, ghosts=0, **options)(function)

    return register


_RUNS: Counter[str] = Counter()
_LEAKED: contextvars.ContextVar[str] = contextvars.ContextVar("leaked", default="")
_PRECISION = decimal.getcontext().prec
_BARRIER: set[str] = set()


def _check_surroundings() -> None:
    assert _LEAKED.get() == "", "a context variable of another run"
    assert decimal.getcontext().prec == _PRECISION, "another run's decimal context"
    assert Decimal(1) / 4 == Decimal("0.25")
    assert not decimal.getcontext().traps[decimal.Inexact]


@kqs.handler("good")
async def good(data: Any, job: kqs.JobContext) -> Any:
    _RUNS[job.id] += 1
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    assert task.get_name().startswith("lane-")
    _check_surroundings()
    try:
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()
    except TimeoutError:
        return data
    raise AssertionError("no timeout")


@kqs.handler("good_at_once")
async def good_at_once(data: Any, job: kqs.JobContext) -> Any:
    _RUNS[job.id] += 1
    _check_surroundings()
    return data


@kqs.handler("good_plain")
def good_plain(data: Any, job: kqs.JobContext) -> Any:
    _RUNS[job.id] += 1
    _check_surroundings()
    time.sleep(0.01)
    return data


@kqs.handler("barrier", ttr=30, retries=0)
async def barrier(count: int, job: kqs.JobContext) -> None:
    """Return when so many of these run at a time."""
    _BARRIER.add(job.id)
    while len(_BARRIER) < count:  # noqa: ASYNC110 - an event of the loop may be what does not work
        await asyncio.sleep(0.01)


@kqs.handler("plain_barrier", ttr=30, retries=0)
def plain_barrier(count: int, job: kqs.JobContext) -> None:
    _BARRIER.add(job.id)
    while len(_BARRIER) < count:
        time.sleep(0.01)


@kqs.handler("look")
async def look(data: Any) -> Any:
    """Return what the process holds once what nobody needs is given back, and which good jobs ran how often."""
    _BARRIER.clear()
    gc.enable()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(open("/proc/self/statm").read().split()[1])  # noqa: ASYNC230, SIM115, PTH123 - no thread of the pool
    return {
        "rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "tasks": len(asyncio.all_tasks()),
        "good_count": len(_RUNS),
        "more_than_once": [job_id for job_id, count in _RUNS.items() if count > 1],
    }


class Panic(BaseException):
    """As native extensions raise it."""


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)

    __repr__ = __str__


class LiarError(Exception):
    @property  # type: ignore[misc]  # that is the fault
    def __class__(self) -> Any:
        raise KeyboardInterrupt


class Raiser:
    """Raises whatever is done with it."""

    def _fail(self, *_: object) -> Any:
        raise Panic("touched")

    __eq__ = __hash__ = __bool__ = __str__ = __repr__ = __float__ = __iter__ = __len__ = _fail


class HollowAgain(kqs.Again):
    def __init__(self) -> None:
        pass


class HollowFail(kqs.Fail):
    def __init__(self) -> None:
        pass


class OddAgain(kqs.Again):
    def __init__(self, delay: object) -> None:
        self.delay = delay  # type: ignore[assignment]  # that is the fault


class OddFail(kqs.Fail):
    def __init__(self, reason: object, final: object) -> None:
        self.reason, self.final = reason, final  # type: ignore[assignment]  # that is the fault


def _chain(count: int) -> BaseException:
    fault: BaseException = ValueError("first")
    for _ in range(count):
        following = ValueError("next")
        following.__cause__ = fault
        fault = following
    return fault


def _nested_group(depth: int) -> Exception:
    group: Exception = ValueError("innermost")
    for _ in range(depth):
        group = ExceptionGroup("group", [group])
    return group


def _circular() -> BaseException:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def _odd_notes() -> BaseException:
    fault = ValueError("with notes")
    fault.__notes__ = Raiser()  # type: ignore[assignment]  # that is the fault
    return fault


RAISED: dict[str, Callable[[], BaseException]] = {
    "panic": lambda: Panic("native"),
    "keyboard_interrupt": KeyboardInterrupt,
    "system_exit": lambda: SystemExit(0),
    "system_exit_with_an_object": lambda: SystemExit(Raiser()),
    "generator_exit": GeneratorExit,
    "stop_iteration": lambda: StopIteration(1),
    "stop_async_iteration": StopAsyncIteration,
    "memory_error": MemoryError,
    "unspeakable": UnspeakableError,
    "liar": LiarError,
    "raiser": lambda: ValueError(Raiser()),
    "group": lambda: BaseExceptionGroup("all", [KeyboardInterrupt(), SystemExit(3), asyncio.CancelledError()]),
    "nested_group": lambda: _nested_group(400),
    "chain": lambda: _chain(1000),
    "circular_cause": _circular,
    "odd_notes": _odd_notes,
    "long_message": lambda: ValueError("x" * 5_000_000),
    "odd_message": lambda: ValueError("a\x00b\ud800c\x1b[2J\n"),
    "cancelled": asyncio.CancelledError,
    "cancelled_future": concurrent.futures.CancelledError,
    "again_decimal": lambda: OddAgain(Decimal("1.5")),
    "again_nan": lambda: OddAgain(math.nan),
    "again_huge": lambda: OddAgain(10**400),
    "again_text": lambda: OddAgain("soon"),
    "again_raiser": lambda: OddAgain(Raiser()),
    "again_refused": lambda: kqs.Again(delay=-1),
    "again_hollow": HollowAgain,
    "fail_hollow": HollowFail,
    "fail_odd": lambda: OddFail(Raiser(), Raiser()),
    "fail_bytes": lambda: OddFail(b"\xff", None),
}


@bad(FAIL)
async def raises(name: str) -> None:
    raise RAISED[name]()


@bad(FAIL)
def plain_raises(name: str) -> None:
    raise RAISED[name]()


@bad(FAIL)
async def raises_in_a_task(name: str) -> None:
    async def child() -> None:
        await asyncio.sleep(0)
        raise RAISED[name]()

    await asyncio.ensure_future(child())


@bad(FAIL)
async def recursion(data: Any) -> Any:
    return await recursion(data)


@bad(FAIL)
def plain_recursion(data: Any) -> Any:
    return plain_recursion(data)


class Exiting(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def _exit(cls, name: str) -> str:
        raise {"exit": SystemExit, "interrupt": KeyboardInterrupt, "panic": Panic, "unspeakable": UnspeakableError}[name]


@bad(FAIL)
async def validator(data: Exiting) -> None: ...


@bad(FAIL)
def plain_validator(data: Exiting) -> None: ...


class FloatModel(BaseModel):
    value: float


class OddDict(dict[str, Any]):
    __iter__ = keys = values = items = Raiser._fail


def _circular_list() -> list[Any]:
    items: list[Any] = [1]
    items.append({"again": items})
    return items


def _deep_list() -> list[Any]:
    items: list[Any] = []
    for _ in range(100_000):
        items = [items]
    return items


async def _coroutine() -> None: ...


def _generator() -> Generator[int, None, None]:
    yield 1


RETURNED: dict[str, Callable[[], Any]] = {
    "nan": lambda: math.nan,
    "infinity_inside": lambda: {"a": [1, {"b": [math.inf]}]},
    "model_with_nan": lambda: FloatModel.model_construct(value=math.nan),
    "decimal_nan": lambda: [Decimal("NaN")],
    "huge_int": lambda: 10**5000,
    "circular": _circular_list,
    "deep": _deep_list,
    "too_long": lambda: "x" * 20_000_000,
    "coroutine": _coroutine,
    "generator": _generator,
    "object": object,
    "raiser": Raiser,
    "raw": lambda: msgspec.Raw(b"[1,"),
    "not_utf8": lambda: msgspec.Raw(b'"\xff"'),
    "surrogate": lambda: "\ud800",
    "class": lambda: Raiser,
}


@bad(FAIL)
async def returns(name: str) -> Any:
    return RETURNED[name]()


@bad(FAIL)
def plain_returns(name: str) -> Any:
    return RETURNED[name]()


@bad(SUCCESS)
def returns_bytes(data: Any) -> Any:
    return b"\xff\xfe"


def _task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def _fail_soon() -> None:
    await asyncio.sleep(0.01)
    raise ValueError("in a task")


async def _raise(fault: type[BaseException]) -> None:
    raise fault


@bad(FAIL)
async def task_group(data: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_fail_soon())
        await asyncio.sleep(10)


@bad(FAIL)
async def task_group_exits(data: Any) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_raise(SystemExit))
        await asyncio.sleep(10)


@bad(FAIL)
async def cancels_itself(data: Any) -> None:
    _task().cancel()
    await asyncio.sleep(10)


@bad(SUCCESS)
async def cancels_itself_last(data: Any) -> None:
    _task().cancel()


@bad(SUCCESS)
async def cancels_and_uncancels(data: Any) -> None:
    _task().cancel()
    _task().uncancel()


@bad(SUCCESS)
async def cancels_itself_later(data: Any) -> None:
    asyncio.get_running_loop().call_later(0.02, _task().cancel)


@bad(SUCCESS)
async def uncancels_too_often(data: Any) -> None:
    for _ in range(100):
        _task().uncancel()


@bad(FAIL)
async def awaits_cancelled(data: Any) -> None:
    task = asyncio.create_task(asyncio.sleep(10))
    task.cancel()
    await task


@bad(FAIL)
async def timeout_expires(data: Any) -> None:
    async with asyncio.timeout(0.01):
        await asyncio.sleep(10)


@bad(SUCCESS)
async def timeout_left_open(data: Any) -> None:
    await asyncio.timeout(0.02).__aenter__()


@bad(FAIL, ttr=0.3)
async def deaf(data: Any) -> None:
    """Swallows its cancellation, for a while."""
    until = time.monotonic() + 3
    while time.monotonic() < until:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            _task().uncancel()


@bad(FAIL, ttr=0.3)
async def fails_when_cancelled(data: Any) -> None:
    try:
        await asyncio.sleep(10)
    finally:
        raise SystemExit


@bad(FAIL, ttr=0.3)
async def returns_when_cancelled(data: Any) -> str:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(10)
    return "late"


@bad(FAIL, ttr=0.3, time_limit=0.6)
async def touches_past_its_limit(data: Any, job: kqs.JobContext) -> None:
    while True:
        job.touch()
        await asyncio.sleep(0.05)


@bad(FAIL, ttr=0.3)
def plain_past_its_ttr(data: Any) -> str:
    time.sleep(1)
    return "late"


@bad(FAIL, ttr=0.3)
def plain_raises_past_its_ttr(data: Any) -> None:
    time.sleep(1)
    raise SystemExit


@bad(FAIL, ttr=0.3, time_limit=0.6)
def plain_touches_past_its_limit(data: Any, job: kqs.JobContext) -> None:
    while job.touch():
        time.sleep(0.02)


@bad(SUCCESS)
async def leaks_variables(data: Any) -> None:
    _LEAKED.set("async")
    decimal.getcontext().prec = 2
    decimal.getcontext().traps[decimal.Inexact] = True


@bad(SUCCESS)
async def leaks_a_decimal_context(data: Any) -> None:
    decimal.setcontext(decimal.Context(prec=1))


@bad(SUCCESS)
async def leaks_an_odd_variable(data: Any) -> None:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("odd")
    variable.set(Raiser())


@bad(SUCCESS)
def plain_leaks_variables(data: Any) -> None:
    _LEAKED.set("plain")
    decimal.getcontext().prec = 2
    decimal.getcontext().traps[decimal.Inexact] = True


@bad(SUCCESS)
async def renames_its_task(data: Any) -> None:
    _task().set_name("renamed")


@bad(SUCCESS)
async def watches_its_task(data: Any) -> None:
    _task().add_done_callback(lambda _: sys.exit(1))


@bad(SUCCESS)
async def leaves_tasks_that_fail(data: Any) -> None:
    for fault in (ValueError, SystemExit, KeyboardInterrupt, Panic, asyncio.CancelledError):
        asyncio.get_running_loop().create_task(_raise(fault))


@bad(SUCCESS)
async def leaves_callbacks_that_fail(data: Any) -> None:
    loop = asyncio.get_running_loop()
    loop.call_soon(sys.exit, 3)
    loop.call_soon(_thread.interrupt_main, signal.SIGUSR1)
    loop.call_later(0.01, lambda: 1 / 0)
    loop.call_later(0.02, sys.exit)


@bad(SUCCESS)
async def leaves_a_coroutine(data: Any) -> None:
    _coroutine()  # type: ignore[unused-coroutine]  # that is the fault
    _generator().send(None)


@bad(SUCCESS)
async def leaves_a_deaf_task(data: Any) -> None:
    asyncio.get_running_loop().create_task(deaf(data))


@bad(SUCCESS)
async def stops_the_loop(data: Any) -> None:
    asyncio.get_running_loop().stop()


@bad(FAIL)
async def closes_the_loop(data: Any) -> None:
    asyncio.get_running_loop().close()


@bad(FAIL)
async def runs_the_loop(data: Any) -> None:
    asyncio.get_running_loop().run_until_complete(asyncio.sleep(0))


@bad(FAIL)
async def runs_another_loop(data: Any) -> None:
    asyncio.run(_coroutine())


@bad(SUCCESS)
def plain_runs_another_loop(data: Any) -> None:
    asyncio.run(_coroutine())
    asyncio.set_event_loop(asyncio.new_event_loop())


@bad(SUCCESS)
async def sets_an_exception_handler(data: Any) -> None:
    def fail(_loop: object, _context: object) -> None:
        raise SystemExit

    asyncio.get_running_loop().set_exception_handler(fail)
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)


@bad(SUCCESS)
async def sets_a_task_factory(data: Any) -> None:
    def factory(loop: Any, coroutine: Any, **options: Any) -> Any:
        return asyncio.Task(coroutine, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(factory)


@bad(SUCCESS)
async def debugs_the_loop(data: Any) -> None:
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    await asyncio.sleep(0.05)
    loop.set_debug(False)


@bad(SUCCESS)
async def shuts_the_executor(data: Any) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(4))


@bad(SUCCESS)
async def sets_no_loop(data: Any) -> None:
    asyncio.set_event_loop(None)


@bad(SUCCESS)
async def hogs_the_loop(data: Any) -> None:
    time.sleep(HOG_S)  # noqa: ASYNC251 - that is the fault


@bad(SUCCESS)
async def floods_the_loop(data: Any) -> None:
    until = time.monotonic() + HOG_S

    def again() -> None:
        if time.monotonic() < until:
            asyncio.get_running_loop().call_soon(again)

    for _ in range(10):
        again()


@bad(SUCCESS)
async def holds_threads_of_the_loop(data: Any) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(20):
        loop.run_in_executor(None, time.sleep, 0.2)
    await asyncio.to_thread(time.sleep, 0.2)


def _fork_and(do: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        do()
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _fork_and_kill() -> None:
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@bad(SUCCESS)
async def forks(name: str) -> int:
    return _fork_and({"return": lambda: None, "raise": lambda: 1 / 0, "exit": sys.exit}[name])


@bad(SUCCESS)
def plain_forks(name: str) -> int:
    return _fork_and({"return": lambda: None, "raise": lambda: 1 / 0, "exit": sys.exit}[name])


@bad(SUCCESS)
async def kills_its_child(data: Any) -> None:
    _fork_and_kill()


@bad(SUCCESS)
def plain_kills_its_child(data: Any) -> None:
    _fork_and_kill()


@bad(SUCCESS)
async def terminates_a_process(data: Any) -> None:
    child = FORK.Process(target=time.sleep, args=(60,))
    child.start()
    child.terminate()
    child.join()


@bad(SUCCESS, ttr=60)
def breaks_a_pool(data: Any) -> str:
    pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=FORK)
    try:
        pool.submit(os._exit, 3).result(5)
    except (BrokenProcessPool, TimeoutError):
        return "broken"
    finally:
        for child in list((pool._processes or {}).values()):
            child.kill()
        pool.shutdown(wait=False, cancel_futures=True)
    raise AssertionError("the child came back")


@bad(SUCCESS)
def leaves_a_zombie(data: Any) -> None:
    subprocess.Popen(["true"])


def _ignore(*_: object) -> None: ...


@bad(SUCCESS)
async def changes_its_place(data: Any) -> None:
    os.chdir(random.choice(["/", "/tmp"]))
    os.umask(0o777)


@bad(SUCCESS)
async def changes_signals(data: Any) -> None:
    signal.signal(signal.SIGUSR1, _ignore)
    signal.signal(signal.SIGCHLD, _ignore)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, _ignore)
    signal.raise_signal(signal.SIGUSR1)
    signal.raise_signal(signal.SIGUSR2)
    loop.remove_signal_handler(signal.SIGUSR2)
    signal.set_wakeup_fd(-1)


@bad(SUCCESS)
async def blocks_signals(data: Any) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGCHLD})


@bad(FAIL)
def plain_changes_signals(data: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@bad(SUCCESS)
async def configures_logging(data: Any) -> None:
    logging.basicConfig(force=True, level=logging.DEBUG, handlers=[logging.NullHandler()])
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    logging.disable(logging.CRITICAL)
    logging.shutdown()


@bad(SUCCESS)
async def configures_structlog(data: Any) -> None:
    structlog.configure(processors=[Raiser._fail], cache_logger_on_first_use=True)
    structlog.contextvars.bind_contextvars(event=Raiser())


@bad(SUCCESS)
async def prints_much(data: Any) -> None:
    print("x" * 1_000_000)


@bad(SUCCESS)
async def replaces_streams(data: Any) -> None:
    sys.stdout = sys.stderr = random.choice([None, open(os.devnull, "w")])  # noqa: ASYNC230, SIM115, PTH123


@bad(SUCCESS)
async def sets_hooks(data: Any) -> None:
    sys.excepthook = sys.unraisablehook = threading.excepthook = Raiser._fail  # type: ignore[assignment]  # that is the fault


@bad(SUCCESS)
async def changes_collection(data: Any) -> None:
    gc.disable()
    gc.set_threshold(1)
    for _ in range(100):
        _circular_list()


@bad(SUCCESS)
async def changes_the_interpreter(data: Any) -> None:
    sys.setswitchinterval(0.02)
    sys.set_int_max_str_digits(640)
    socket.setdefaulttimeout(0.001)
    random.seed(0)


@bad(SUCCESS)
async def changes_the_environment(data: Any) -> None:
    os.environ.clear()
    os.environ["TZ"] = "Asia/Kathmandu"
    time.tzset()
    locale.setlocale(locale.LC_ALL, "C")
    sys.path.clear()


@bad(SUCCESS)
async def makes_warnings_errors(data: Any) -> None:
    warnings.simplefilter("error")


@bad(SUCCESS)
async def leaves_descriptors(data: Any) -> None:
    socket.socketpair()
    open(os.devnull)  # noqa: ASYNC230, SIM115, PTH123


_LOCAL = threading.local()


@bad(SUCCESS)
def leaks_into_its_thread(data: Any) -> None:
    _LOCAL.value = bytearray(10_000)
    threading.current_thread().name = "renamed"


@bad(SUCCESS)
def starts_threads(data: Any) -> None:
    for target in (partial(time.sleep, 0.3), sys.exit, partial(next, iter(()))):
        threading.Thread(target=target).start()


def _raise_into(thread_id: int, fault: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(fault))


@bad(FAIL)
def raises_into_its_thread(data: Any) -> None:
    _raise_into(threading.get_ident(), SystemExit)
    for _ in range(10):
        time.sleep(0.01)


@bad(FAIL)
def exits_its_thread(data: Any) -> None:
    _thread.exit()


async def _on_the_loop(do: Callable[[asyncio.AbstractEventLoop], object]) -> None:
    loop = asyncio.get_running_loop()
    thread = threading.Thread(target=do, args=(loop,))
    thread.start()
    await asyncio.sleep(0.01)


@bad(SUCCESS)
async def stops_the_loop_from_a_thread(data: Any) -> None:
    await _on_the_loop(lambda loop: loop.call_soon_threadsafe(loop.stop))


@bad(SUCCESS)
async def exits_from_a_thread(data: Any) -> None:
    await _on_the_loop(lambda loop: loop.call_soon_threadsafe(sys.exit))


@bad(SUCCESS)
async def fails_from_a_thread(data: Any) -> None:
    await _on_the_loop(lambda loop: asyncio.run_coroutine_threadsafe(_raise(SystemExit), loop))


@bad(SUCCESS)
async def touches_after_its_end(data: Any, job: kqs.JobContext) -> None:
    threading.Timer(0.05, job.touch).start()
    asyncio.get_running_loop().call_later(0.05, job.touch)


#: (type, data) of one job for each way to misbehave
CASES: list[tuple[str, Any]] = []
for _type in ENDS:
    match _type.removeprefix("plain_"):
        case "raises" | "raises_in_a_task":
            CASES += [(_type, name) for name in RAISED]
        case "returns":
            CASES += [(_type, name) for name in RETURNED]
        case "validator":
            CASES += [(_type, {"name": name}) for name in ("exit", "interrupt", "panic", "unspeakable")]
        case "forks":
            CASES += [(_type, name) for name in ("return", "raise", "exit")]
        case _:
            CASES.append((_type, None))
