"""Makes methods that wait of those that are awaited. Types, names and docstrings go over.

Whose class has such methods has `thread`, where they are carried out, and `behind`, whose methods they are.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from kqs.blocking.thread import LoopThread
from kqs.client import ConnectionLostError

P = ParamSpec("P")
T = TypeVar("T")


def waits(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """Return the method that returns when `method` is done."""

    @functools.wraps(method)
    def wait(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = self.thread.run(lambda: getattr(self.behind, method.__name__)(*args, **kwargs))
        return result

    return wait


def calls(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Return the method that has the thread call `method`, which is no coroutine."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        async def called() -> T:
            result: T = getattr(self.behind, method.__name__)(*args, **kwargs)
            return result

        done: T = self.thread.run(called)
        return done

    return call


class Each(Iterator[T], Generic[T]):
    """What an iterator of the loop yields. The first is asked for at once, so that nothing after this is missed.

    `close`, or leaving `with`, wants no more of it.
    """

    def __init__(self, thread: LoopThread, made: AsyncIterator[T]) -> None:
        self._thread = thread
        self._made = made
        self._one_at_a_time = asyncio.Lock()
        self._is_closed = False
        self._is_taken = False
        self._asked: Future[T] = thread.begin(self._ask)

    def __next__(self) -> T:
        if self._is_taken and not self._is_closed:
            self._asked = self._thread.begin(self._ask)
        self._is_taken = True
        try:
            return self._thread.end(self._asked)
        except StopAsyncIteration:
            raise StopIteration from None
        except ConnectionLostError:
            if self._is_closed:
                raise StopIteration from None
            raise

    def close(self) -> None:
        """Want no more; who waits for one is told that there is none. Idempotent."""
        self._is_closed = True
        self._asked.cancel()
        self._thread.run(self._end)

    async def _ask(self) -> T:
        async with self._one_at_a_time:
            return await anext(self._made)

    async def _end(self) -> None:
        async with self._one_at_a_time:
            await self._made.aclose()  # type: ignore[attr-defined]  # all that come here are generators

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None) -> None:
        self.close()


def iterates(method: Callable[Concatenate[Any, P], AsyncIterator[T]]) -> Callable[Concatenate[Any, P], Each[T]]:
    """Return the method that yields as `method` does."""

    @functools.wraps(method)
    def iterate(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Each[T]:
        return Each(self.thread, getattr(self.behind, method.__name__)(*args, **kwargs))

    return iterate
