"""The three connections to one life of a beanstalkd, which live and die together. Call from the loop thread.

`puts` carries puts, `takes` the reserves that do not wait, `waits` the one that does. When one of them is lost the server makes
ready again what was reserved on it, and who holds such a job finds out by the store's claim; so the others are ended too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kqs.broker.beanstalkd.link import Link
from kqs.broker.beanstalkd.stats import ServerStats, server_stats
from kqs.supervisor import Supervisor
from kqs.wire.beanstalk.commands import Stats
from kqs.wire.beanstalk.values import Reply

_COUNT = 3


class Trio:
    """See the module docstring. lost: done, with the reason, when the first of them has ended. instance: of their server."""

    def __init__(self, address: str, on_lost: Callable[[str], None], supervisor: Supervisor) -> None:
        """Args: on_lost: told once, with the reason, before anybody else hears of it."""
        self._address = address
        self._on_lost = on_lost
        self._supervisor = supervisor
        self.links: list[Link] = []
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.instance = ""

    @property
    def puts(self) -> Link:
        """Return the one for puts."""
        return self.links[0]

    @property
    def takes(self) -> Link:
        """Return the one for all that is answered at once."""
        return self.links[1]

    @property
    def waits(self) -> Link:
        """Return the one for a reserve that waits."""
        return self.links[2]

    async def open(self) -> ServerStats:
        """Connect. Raises: OSError, LinkLostError, ValueError: it is not a beanstalkd that we can use."""
        for _ in range(_COUNT):
            link = await Link.open(self._address, self.end, self._supervisor)
            self.links.append(link)
            if self.lost.done():
                link.abort(self.lost.result())
            (reply,) = await link.ask(Stats())
            self.instance = self.instance or server_stats(reply).instance
            stats = self.checked(reply)
            link.instance = self.instance
        return stats

    def checked(self, reply: Reply) -> ServerStats:
        """Return what `stats` was answered. Raises: ValueError: by no beanstalkd, or by another one."""
        stats = server_stats(reply)
        if stats.instance != self.instance:
            raise ValueError("its connections lead to different servers")
        return stats

    def end(self, reason: str) -> None:
        """End all three, unless they have ended. Idempotent."""
        if not self.lost.done():
            self.lost.set_result(reason)
            self._on_lost(reason)
            for link in self.links:
                link.abort("another connection to this server was lost")
