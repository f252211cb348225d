"""Who flushes: one operation at a time, whose outcome is told on the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
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

    def __init__(self, _on_death: Callable[[BaseException], None]) -> None:
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
    """See Flusher. A dedicated thread: one hop there and one back cost a third of `run_in_executor`.

    Users' code may end any thread of the process, by an exception that it raises there. All that was submitted fails then.
    """

    def __init__(self, on_death: Callable[[BaseException], None]) -> None:
        """Args: on_death: told on the loop why the thread has ended, if nobody has asked for that."""
        self._loop = asyncio.get_running_loop()
        self._on_death = on_death
        self._death: BaseException | None = None  # once the loop has heard of it
        self._fatal: BaseException | None = None  # and from when it is on: set by the thread
        self._awaited: Future[Any] | None = None  # what the loop waits for, so that it hears of nothing
        self._untold: deque[Outcome] = deque()  # of what the thread has in hand, and of what waits for it
        self._work: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._thread = new_thread(self._run, "kqs-journal")

    def submit(self, operation: Callable[[], Any], outcome: Outcome) -> None:
        """See Flusher.submit."""
        if self._death is not None:
            self._loop.call_soon(outcome, None, self._death)
            return
        self._untold.append(outcome)
        self._work.put(operation)

    def wait_for(self, operation: Callable[[], _Result]) -> _Result:
        """See Flusher.wait_for."""
        done: Future[_Result] = Future()

        def run() -> None:
            try:
                done.set_result(operation())
            except BaseException as error:
                done.set_exception(error)

        # noted before the look, as the thread notes its death before it looks who waits: one of the two sees the other
        self._awaited = done
        if self._fatal is not None:
            raise self._fatal
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
        try:
            while (operation := self._work.get()) is not None:
                self._loop.call_soon_threadsafe(self._tell, *_attempt(operation))
        except BaseException as death:
            self._fatal = death
            if self._awaited is not None:
                with suppress(InvalidStateError):  # it was done before
                    self._awaited.set_exception(death)
            with suppress(RuntimeError):  # the loop has closed: nobody is left to tell
                self._loop.call_soon_threadsafe(self._die, death)

    def _tell(self, result: Any, error: BaseException | None) -> None:
        self._untold.popleft()(result, error)

    def _die(self, death: BaseException) -> None:
        """Let all fail that waits for the thread, and whatever is submitted from now on."""
        self._death = death
        self._on_death(death)
        while self._untold:
            self._tell(None, death)


def _attempt(operation: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return operation(), None
    except BaseException as error:  # a bug is as final for the batch as EIO
        return None, error


class DiskWork(NamedTuple):
    """How a journal's work for its disk is done: flushes, and all else."""

    make_flusher: Callable[[Callable[[BaseException], None]], Flusher]
    offload: Offload


IN_THREADS = DiskWork(ThreadFlusher, in_thread)
ON_LOOP = DiskWork(HereFlusher, at_once)
