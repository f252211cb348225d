"""Who has reset its connection after its end of input.

Such a peer is read no more, so the loop does not look at its socket, and only what is written next would tell that it is gone:
a call that waits for a job's end writes nothing for as long as a week. So these sockets stand in a set of the kernel's own that
tells of nothing but broken connections, and the loop looks at that. Where there is no epoll, or no descriptor left for one,
nothing is heard.
"""

from __future__ import annotations

import asyncio
import select
import sys
from collections.abc import Callable
from contextlib import suppress

from kqs.server import sockets
from kqs.supervisor import Supervisor

#: sockets that are told of in one turn of the loop
_AT_ONCE = 1000


class Resets:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._broken: dict[int, Callable[[], None]] = {}
        if sys.platform == "linux":
            self._epoll: select.epoll | None = None

    def watch(self, number: int, broken: Callable[[], None]) -> None:
        """Call `broken` once when the connection of this descriptor is broken, unless `forget` comes before."""
        if sys.platform == "linux":
            with suppress(OSError):  # the answers that are due are worth more than to hear of it
                if self._epoll is None:
                    self._epoll = select.epoll()
                    guard, numbers = self._supervisor.guard, self._epoll.fileno()
                    asyncio.get_running_loop().add_reader(numbers, guard, "resets", self._look, self._epoll)
                # told once: what a fork of the process keeps open cannot be taken out again after it was closed here
                self._epoll.register(number, select.EPOLLONESHOT)
                self._broken[number] = broken

    def forget(self, number: int) -> None:
        """Call nothing for this descriptor, be it open or not. Idempotent."""
        if sys.platform == "linux" and self._broken.pop(number, None) is not None and self._epoll is not None:
            with suppress(OSError):  # it was closed meanwhile
                self._epoll.unregister(number)

    def close(self) -> None:
        """Look at nothing more. Idempotent."""
        self._broken.clear()
        if sys.platform == "linux" and self._epoll is not None:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    if sys.platform == "linux":

        def _look(self, epoll: select.epoll) -> None:
            for number, _ in epoll.poll(0, _AT_ONCE):
                if number in self._broken and sockets.is_broken(number):  # the number may be that of another by now
                    broken = self._broken[number]
                    self.forget(number)
                    broken()
