"""The server's own few threads, for what waits for a disk or a name server.

All of one kind are started together, before the first of them is needed, so that handlers which take every thread that the
system gives take none of these.

The loop's default executor belongs to handlers: they may hold all of its threads (`asyncio.to_thread`) as long as they like.
So may their look-ups hold those of the loop's `getaddrinfo`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import Any, ParamSpec, Protocol, TypeVar

from kqs.newthread import no_thread

P = ParamSpec("P")
T = TypeVar("T")


class _Threads:
    """Threads of this process. A forked one has others: it has none of its parent's, and would wait for them for ever."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._pid = 0  # whose they are
        self._executor: ThreadPoolExecutor

    def start(self) -> None:
        """Start them, unless they are there. Raises: OSError: the system refuses one, and none is started."""
        if self._pid == os.getpid():
            return
        executor = ThreadPoolExecutor(self._count, thread_name_prefix=self._name)
        are_there = Event()
        try:
            for _ in range(self._count):  # each piece of work that finds none idle has one started
                executor.submit(are_there.wait)
        except RuntimeError as error:
            executor.shutdown(wait=False)
            raise no_thread() from error
        finally:
            are_there.set()
        self._executor = executor
        self._pid = os.getpid()

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self.start()
        return self._executor.submit(work, *args, **kwargs)


#: the journal's reader, its checkpoints, its close and the end of the store: one each at a time
_disk_threads = _Threads(4, "kqs-disk")
#: apart from those, since a name server that is away holds a thread for half a minute
_name_threads = _Threads(4, "kqs-names")


def start_threads(*, disk: bool) -> None:
    """Start these threads before users' code can keep the system from it. Idempotent. disk: those for a disk, too.

    Raises: OSError: the system refuses one.
    """
    _name_threads.start()
    if disk:
        _disk_threads.start()


class Offload(Protocol):
    """How work is done that may wait for a disk: `in_thread`, or `at_once`."""

    def __call__(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        """Return what `work` returns. Raises: what it raises."""
        ...


async def at_once(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `work` returns, done here: its files are in memory. Raises: what it raises."""
    return work(*args, **kwargs)


async def in_thread(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `work` returns in a thread. Raises: what it raises. Cancelling does not end it once it has begun."""
    return await asyncio.wrap_future(_disk_threads.submit(work, *args, **kwargs))


async def addresses_of(host: str | None) -> list[str]:
    """Return the addresses of `host`, or those to listen on where every one of this machine is meant (None), in their order.

    Raises: OSError, UnicodeError: the name is unknown, or no name.
    """

    def look_up() -> list[str]:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))

    return await asyncio.wrap_future(_name_threads.submit(look_up))
