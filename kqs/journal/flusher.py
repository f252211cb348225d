"""Who flushes: one operation at a time, whose outcome is told on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeVar

from kqs.newthread import new_thread
from kqs.process.threads import Offload, at_once, in_thread

_Result = TypeVar("_Result")

#: what became of an operation: (result, None) or (None, error)
Outcome = Callable[[Any, BaseException | None], None]


class Flusher(Protocol):
    """Call from the loop thread."""

    def submit(self, operation: Callable[[], Any], outcome: Outcome) -> None:
        """Run `operation`, after those before it; then, in a later turn of the loop, call `outcome`."""
        ...

    def wait_for(self, operation: Callable[[], _Result]) -> _Result:
        """Run `operation`, after those before it, and return what it returns; blocks the loop. Raises: what it raises."""
        ...

    async def stop(self) -> None:
        """Take no more; every outcome is called before this returns."""
        ...


class HereFlusher:
    """See Flusher. On the loop, where the files are in memory."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def submit(self, operation: Callable[[], Any], outcome: Outcome) -> None:
        """See Flusher.submit."""
        self._loop.call_soon(outcome, *_attempt(operation))

    def wait_for(self, operation: Callable[[], _Result]) -> _Result:
        """See Flusher.wait_for."""
        return operation()

    async def stop(self) -> None:
        """See Flusher.stop."""
        await asyncio.sleep(0)


class ThreadFlusher:
    """See Flusher. A dedicated thread: one hop there and one back cost a third of `run_in_executor`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: SimpleQueue[tuple[Callable[[], Any], Outcome] | None] = SimpleQueue()
        self._thread = new_thread(self._run, "kqs-journal")

    def submit(self, operation: Callable[[], Any], outcome: Outcome) -> None:
        """See Flusher.submit."""
        self._work.put((operation, outcome))

    def wait_for(self, operation: Callable[[], _Result]) -> _Result:
        """See Flusher.wait_for."""
        done: Future[_Result] = Future()

        def run() -> None:
            try:
                done.set_result(operation())
            except BaseException as error:
                done.set_exception(error)

        self.submit(run, lambda _result, _error: None)
        return done.result()

    async def stop(self) -> None:
        """See Flusher.stop. The thread has ended then."""
        ended = asyncio.Event()
        self.submit(lambda: None, lambda _result, _error: ended.set())
        self._work.put(None)
        await ended.wait()
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            operation, outcome = work
            self._loop.call_soon_threadsafe(outcome, *_attempt(operation))


def _attempt(operation: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return operation(), None
    except BaseException as error:  # a bug is as final for the batch as EIO
        return None, error


class DiskWork(NamedTuple):
    """How a journal's work for its disk is done: flushes, and all else."""

    make_flusher: Callable[[], Flusher]
    offload: Offload


IN_THREADS = DiskWork(ThreadFlusher, in_thread)
ON_LOOP = DiskWork(HereFlusher, at_once)
