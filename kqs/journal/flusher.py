"""The flush thread: runs one operation at a time, and hands the outcome back to the loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

_Result = TypeVar("_Result")

#: what became of an operation: (result, None) or (None, error)
Outcome = Callable[[Any, BaseException | None], None]


class Flusher:
    """A dedicated thread: one hop there and one back cost a third of `run_in_executor`. Call from the loop thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: SimpleQueue[tuple[Callable[[], Any], Outcome] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="kqs-journal", daemon=True)
        self._thread.start()

    def submit(self, operation: Callable[[], Any], outcome: Outcome) -> None:
        """Run `operation` in the thread, after those before it; then call `outcome` on the loop."""
        self._work.put((operation, outcome))

    def wait_for(self, operation: Callable[[], _Result]) -> _Result:
        """Run `operation` in the thread, after those before it, and return what it returns; blocks the loop.

        Raises: what it raises.
        """
        done: Future[_Result] = Future()

        def run() -> None:
            try:
                done.set_result(operation())
            except BaseException as error:
                done.set_exception(error)

        self.submit(run, lambda _result, _error: None)
        return done.result()

    async def stop(self) -> None:
        """End the thread after what was submitted; every outcome is called before this returns."""
        ended = asyncio.Event()
        self.submit(lambda: None, lambda _result, _error: ended.set())
        self._work.put(None)
        await ended.wait()
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            operation, outcome = work
            try:
                result, error = operation(), None
            except BaseException as caught:  # a bug is as final for the batch as EIO
                result, error = None, caught
            self._loop.call_soon_threadsafe(outcome, result, error)
