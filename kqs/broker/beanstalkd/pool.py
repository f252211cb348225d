"""All beanstalkds as one: puts are spread over those that take them, reserves go where jobs are.

Each server is looked after by a task of its own, so that one that is lost, slow or refuses holds up nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from kqs.broker.beanstalkd.body import Bodies
from kqs.broker.beanstalkd.listener import Listener
from kqs.broker.beanstalkd.server import Server
from kqs.broker.beanstalkd.session import Handle
from kqs.config import BrokerSection
from kqs.job import Entry
from kqs.supervisor import Supervisor

#: a start waits so long for servers to be reached, in s; those that are not join later
FIRST_TRY_S = 1.0


class Pool:
    """See the module docstring. Call from the loop thread."""

    def __init__(
        self, settings: BrokerSection, namespace: str, bodies: Bodies, listener: Listener, supervisor: Supervisor
    ) -> None:
        self._servers = [
            Server(address, settings, namespace, bodies, listener, supervisor) for address in dict.fromkeys(settings.servers)
        ]
        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._turn = 0

    async def start(self) -> None:
        """Begin to connect; return when every server has been reached or found to be away, or after `FIRST_TRY_S`."""
        for server in self._servers:
            self._tasks.append(self._supervisor.spawn(server.run(), f"beanstalkd {server.address}"))
        try:
            async with asyncio.timeout(FIRST_TRY_S):
                for server in self._servers:
                    await server.tried()
        except TimeoutError:
            pass

    async def stop(self) -> None:
        """Disconnect, which gives back all that is reserved. Idempotent."""
        tasks, self._tasks = self._tasks, []
        await self._supervisor.end(*tasks)

    def problems(self) -> list[str]:
        """Return what is wrong, in words."""
        return [problem for server in self._servers if (problem := server.problem)]

    def count(self, type_: str) -> int:
        """Return how many jobs of a type they are believed to hold."""
        return sum(shelf.count for server in self._servers if (shelf := server.shelves.get(type_)))

    def crowd(self, type_: str) -> int:
        """Return how many jobs of a type they hold, counting those that we do not know to have put."""
        return sum(shelf.count + shelf.strangers for server in self._servers if (shelf := server.shelves.get(type_)))

    def knows(self, type_: str, order: int) -> bool:
        """Tell whether one of them is believed to hold this job."""
        shelves = (server.shelves.get(type_) for server in self._servers)
        return any(shelf is not None and (order in shelf.known or order in shelf.vanished) for shelf in shelves)

    def waiting(self, types: Iterable[str], count: int) -> dict[str, int]:
        """Return how many jobs of each type it is worth asking for now, from 1 to `count`."""
        waiting = {type_: sum(number for _, number in self._having(type_, count)) for type_ in types}
        return {type_: min(number, count) for type_, number in waiting.items() if number}

    def _having(self, type_: str, count: int) -> list[tuple[Server, int]]:
        """Return whom it is worth asking now, and for how many, at most `count` each."""
        now = self._loop.time()
        return [
            (server, count if shelf.is_hinted else min(len(shelf.known), count))
            for server in self._servers
            if server.can_be_asked and (shelf := server.shelves.get(type_)) and shelf.may_have(now)
        ]

    def forget_idle_shelves(self) -> None:
        """Let go of types of which nothing is held."""
        for server in self._servers:
            server.shelves.forget_idle()

    @property
    def takes_puts(self) -> bool:
        """Tell whether any server may be given jobs now."""
        return any(server.takes_puts for server in self._servers)

    def place(self, type_: str, entries: Sequence[Entry]) -> bool:
        """Put jobs of one type, in rank order, on the servers that take them; False when none does."""
        servers = [server for server in self._servers if server.takes_puts]
        if not servers:
            return False
        count = len(servers)
        for place, server in enumerate(servers):
            part = entries[(place + self._turn) % count :: count]
            if part:
                server.put(type_, part)
        self._turn += len(entries)
        return True

    def take(self, shares: Mapping[str, int]) -> list[asyncio.Future[None]]:
        """Reserve up to so many jobs of each type, which go to the listener.

        Returns: a future for each server that was asked, done when it has answered.
        """
        by_server: dict[Server, dict[str, int]] = {}
        for type_, count in shares.items():
            for server, part in self._split(type_, count):
                by_server.setdefault(server, {})[type_] = part
        return [server.take(parts) for server, parts in by_server.items()]

    def _split(self, type_: str, count: int) -> list[tuple[Server, int]]:
        """Return whom to ask for how many: in proportion to what they hold, at most `count` in all."""
        having = self._having(type_, count)
        total = sum(number for _, number in having)
        if total <= count:
            return having
        shares = [(number * count // total, number * count % total, server) for server, number in having]
        left = count - sum(share for share, _, _ in shares)
        shares.sort(key=lambda share: -share[1])
        split = [(server, share + (place < left)) for place, (share, _, server) in enumerate(shares)]
        return [(server, share) for server, share in split if share]

    def unanswered_puts(self, types: Iterable[str], *, only_resting: bool = False) -> list[asyncio.Future[None]]:
        """Return a future for each batch of puts of these types that is unanswered.

        Args: only_resting: only those that an empty answer has to be asked for again after.
        """
        shelves = (server.shelves.get(type_) for server in self._servers if server.is_up for type_ in types)
        return [
            put
            for shelf in shelves
            if shelf is not None and (shelf.is_resting or not only_resting)
            for put in shelf.unanswered_puts
        ]

    def forget(self, type_: str, entries: Sequence[Entry]) -> None:
        """Delete waiting jobs of one type, wherever they are."""
        for server in self._servers:
            server.forget(type_, entries)

    def delete(self, entries: Iterable[Entry]) -> None:
        """Delete reserved jobs."""
        for server, own in self._by_server(entries):
            server.delete(own)

    def release(self, entries: Iterable[Entry]) -> None:
        """Give back reserved jobs."""
        for server, own in self._by_server(entries):
            server.release(own)

    def _by_server(self, entries: Iterable[Entry]) -> list[tuple[Server, list[Entry]]]:
        own: dict[str, list[Entry]] = {}
        for entry in entries:
            assert isinstance(entry.handle, Handle), entry
            own.setdefault(entry.handle.server, []).append(entry)
        return [(server, own[server.address]) for server in self._servers if server.address in own]

    def wake_watches(self) -> None:
        """Have every server look again at which types are wanted."""
        for server in self._servers:
            server.wake_watch()
