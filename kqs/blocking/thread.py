"""A thread with a loop of its own, in which calls of any other thread are carried out."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import TypeVar

from kqs.client import ConnectionLostError

T = TypeVar("T")


class LoopThread:
    """See the module docstring. It keeps no program from its end."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._stopping: asyncio.Event
        self._gate = threading.Lock()
        self._is_over = False  # what is begun from then on might never come to its turn
        self._thread = threading.Thread(target=lambda: asyncio.run(self._turn()), name="kqs-blocking", daemon=True)
        self._thread.start()
        self._loop = self._started.result()

    @property
    def is_alive(self) -> bool:
        """Tell whether it was not stopped."""
        return self._thread.is_alive()

    @property
    def is_elsewhere(self) -> bool:
        """Tell whether it is that of a process which this one was forked from."""
        return os.getpid() != self._pid

    def begin(self, make: Callable[[], Awaitable[T]]) -> Future[T]:
        """Have what `make` returns awaited in the thread, in the order of these calls.

        Raises: RuntimeError: from a coroutine of this loop, which would wait for itself, or in a forked process, where the
            thread is not. ConnectionLostError: it was closed.
        """
        if self.is_elsewhere:
            raise RuntimeError(f"the queue belongs to process {self._pid}: open another after the fork")
        if threading.current_thread() is self._thread:
            raise RuntimeError("an async handler would wait for itself: call the blocking queue from a plain `def` handler")

        async def made() -> T:
            return await make()

        with self._gate:
            if self._is_over:
                raise ConnectionLostError("the queue was closed")
            return asyncio.run_coroutine_threadsafe(made(), self._loop)

    def end(self, future: Future[T]) -> T:
        """Return what was begun, when it is done. Interrupted, by Ctrl-C for one, it is cancelled."""
        try:
            return future.result()
        except CancelledError:
            raise ConnectionLostError("the queue was closed") from None
        except BaseException:
            future.cancel()
            raise

    def run(self, make: Callable[[], Awaitable[T]]) -> T:
        """Begin it, and return when it is done. Raises: as `begin`."""
        return self.end(self.begin(make))

    def stop(self) -> None:
        """End the thread; what is under way in it is cancelled. Idempotent. Raises: RuntimeError: from a coroutine of it."""
        if self.is_elsewhere:
            return
        if threading.current_thread() is self._thread:
            raise RuntimeError("an async handler would wait for its own end")
        try:
            self._loop.call_soon_threadsafe(self._stopping.set)
        except RuntimeError:
            return  # its loop is closed
        self._thread.join()

    async def _turn(self) -> None:
        self._stopping = asyncio.Event()
        self._started.set_result(asyncio.get_running_loop())
        try:
            await self._stopping.wait()
        finally:
            with self._gate:  # what was begun before is a task by the loop's next turn, so that asyncio.run cancels it
                self._is_over = True
