"""One beanstalkd: connected for as long as can be. Call from the loop thread.

Which life of a beanstalkd answers is told by the `id` in its `stats`, new with every start. Job ids are its own and may begin
anew with each life, so nothing is ever asked about a job on a connection to another life than the one it came from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kqs.broker.beanstalkd.body import Bodies
from kqs.broker.beanstalkd.books import Books
from kqs.broker.beanstalkd.census import Census
from kqs.broker.beanstalkd.damaged import Damaged
from kqs.broker.beanstalkd.link import Link, LinkLostError
from kqs.broker.beanstalkd.listener import Listener
from kqs.broker.beanstalkd.session import Handle, Session, send
from kqs.broker.beanstalkd.trio import Trio
from kqs.config import BrokerSection
from kqs.job import Entry
from kqs.log import get_logger
from kqs.pauses import Pauses
from kqs.reasons import reason_of
from kqs.supervisor import Supervisor
from kqs.trouble import Trouble
from kqs.wire.beanstalk.commands import Delete

#: how long a connection may take until it is one, in s
CONNECT_WITHIN_S = 3.0
#: between two tries to connect, in s: the first wait, which doubles, and the longest
BACKOFF_FIRST_S = 0.1
#: short, since what a server held must be put again soon after its return
BACKOFF_LAST_S = 2.0
#: how long a server may be away before what it held is put into others
GIVE_UP_S = 3.0
#: how often a server is asked how it is
POLL_S = 1.0

_log = get_logger("kqs.broker")


class Server:
    """See the module docstring. `run` is the body of its task."""

    def __init__(
        self,
        address: str,
        settings: BrokerSection,
        namespace: str,
        bodies: Bodies,
        listener: Listener,
        supervisor: Supervisor,
    ) -> None:
        """Args: address: HOST:PORT or unix:PATH."""
        self._loop = asyncio.get_running_loop()
        self._books = Books(address, namespace, self._loop.time)
        self._availability = self._books.availability
        self.address = address
        self.shelves = self._books.shelves
        self.instance = ""
        self._settings = settings
        self._bodies = bodies
        self._listener = listener
        self._supervisor = supervisor
        self._damaged = Damaged(address)
        self._session: Session | None = None
        self._tried = asyncio.Event()
        self._given_up: asyncio.TimerHandle | None = None
        self._ready_count = 0  # by its own count at the last poll, and what was put since
        self._away = Trouble(_log, "beanstalkd is away", "beanstalkd is back")

    @property
    def is_up(self) -> bool:
        """Tell whether it is connected."""
        return self._session is not None

    @property
    def problem(self) -> str | None:
        """Return what is wrong, in words, or None."""
        return self._books.problem

    async def tried(self) -> None:
        """Return when it has been reached, or found to be away, for the first time."""
        await self._tried.wait()

    async def run(self) -> None:
        """Stay connected, for ever: whatever goes wrong is tried again."""
        pauses = Pauses(BACKOFF_FIRST_S, BACKOFF_LAST_S)
        try:
            while True:
                if await self._live():
                    pauses.begin_anew()
                self._away.met(server=self.address, reason=self._availability.reason)
                await asyncio.sleep(pauses.next_spread_s())
        finally:
            if self._given_up is not None:
                self._given_up.cancel()

    async def _live(self) -> bool:
        """Connect, and serve until a connection is lost; tell whether it was reached."""
        trio = Trio(self.address, self._go_down, self._supervisor)
        census = Census(trio, self.shelves, self._listener)
        was_reached = False
        try:
            session = await self._connect(trio, census)
            was_reached = True
            await self._serve(session, trio, census)
        except (OSError, LinkLostError, ValueError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            trio.end(reason or f"no answer within {CONNECT_WITHIN_S:g} s")
        finally:
            trio.end("it is not served any more")
            self._damaged.note(trio)
        return was_reached

    async def _connect(self, trio: Trio, census: Census) -> Session:
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                stats = await trio.open()
                await self._damaged.delete(trio)
                ready_counts = await census.count_ready()
            if trio.lost.done():
                raise LinkLostError(trio.lost.result())
        finally:
            self._tried.set()
        session = Session(trio, self._books, self._bodies, stats.max_job_bytes, self._listener)
        self._ready_count = stats.ready_count
        self._go_up(session, trio.instance)
        self._availability.polled(is_draining=stats.is_draining)
        for type_, ready_count in ready_counts.items():
            if ready_count:
                self.shelves.of(type_).note_ready(ready_count)
        self._listener.came_up()
        return session

    def _go_up(self, session: Session, instance: str) -> None:
        if self._given_up is not None:
            self._given_up.cancel()
            self._given_up = None
        self._session = session
        self._availability.reached()
        was, self.instance = self.instance, instance
        if not was:
            _log.info("beanstalkd reached", server=self.address, instance=instance)
        self._away.over(server=self.address, instance=instance)
        if was not in ("", instance):
            self._forget()

    def _go_down(self, reason: str) -> None:
        self._availability.lost(reason)
        if self._session is not None:
            self._session = None
            self._given_up = self._supervisor.call_later(GIVE_UP_S, f"beanstalkd {self.address}", self._forget)

    def _forget(self) -> None:
        """Count on nothing that it held."""
        self._listener.forgotten(self.shelves.clear())

    async def _serve(self, session: Session, trio: Trio, census: Census) -> None:
        """Ask how the server is, and wait for jobs, until a connection is lost."""
        watch = self._supervisor.spawn(
            session.watch(), f"beanstalkd-watch {self.address}", lambda task: _may_end(task, is_lost=trio.lost.done())
        )
        ends: list[asyncio.Future[Any]] = [trio.lost, watch]
        try:
            while not trio.lost.done():
                await asyncio.wait(ends, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
                if watch.done():
                    watch.result()
                if not trio.lost.done():
                    await self._poll(census)
        finally:
            await self._supervisor.end(watch)

    async def _poll(self, census: Census) -> None:
        stats = await census.poll()
        self._ready_count = stats.ready_count
        self._availability.polled(is_draining=stats.is_draining)

    @property
    def takes_puts(self) -> bool:
        """Tell whether it may be given jobs now."""
        return (
            self._availability.takes_puts
            and self._session is not None
            and self._session.has_room
            and self._ready_count < self._settings.max_server_entries
        )

    def put(self, type_: str, entries: Sequence[Entry]) -> None:
        """Send jobs of one type, while `takes_puts`; those that are refused come back by the listener."""
        assert self._session is not None
        self._session.put(type_, entries)
        self._ready_count += len(entries)

    @property
    def can_be_asked(self) -> bool:
        """Tell whether `take` may be called."""
        return self._session is not None and not self._session.is_asked

    def take(self, shares: Mapping[str, int]) -> asyncio.Future[None]:
        """Reserve up to so many ready jobs of each type, which go to the listener; done when they have."""
        assert self._session is not None
        return self._session.take(shares)

    def wake_watch(self) -> None:
        """Look again at which types are wanted."""
        if self._session is not None:
            self._session.wake_watch.set()

    def forget(self, type_: str, entries: Sequence[Entry]) -> None:
        """Delete jobs of one type that wait here."""
        if self._session is not None:
            self._session.forget(type_, entries)

    def delete(self, entries: Iterable[Entry]) -> None:
        """Delete jobs that were reserved here; the store refuses those out of reach, should they be ready again."""
        for link, pairs in _by_link(entries):
            way = link if link.is_open or self._session is None else self._session.takes
            if way.instance == link.instance:
                send(way, [Delete(job_id) for _, job_id in pairs])

    def release(self, entries: Iterable[Entry]) -> None:
        """Give back jobs that were reserved here; those that cannot be come back by the listener."""
        for link, pairs in _by_link(entries):
            given = [entry for entry, _ in pairs]
            if self._session is not None and link.is_open:
                self._session.release(link, given, [job_id for _, job_id in pairs])
            else:
                self._listener.refused(given)


def _may_end(watch: asyncio.Task[None], *, is_lost: bool) -> bool:
    """Tell whether a watch may have ended as it has: with its connection, or of what the server said."""
    if watch.cancelled():
        return False
    error = watch.exception()
    return is_lost if error is None else isinstance(error, (LinkLostError, ValueError))


def _by_link(entries: Iterable[Entry]) -> list[tuple[Link, list[tuple[Entry, int]]]]:
    by_link: dict[Link, list[tuple[Entry, int]]] = {}
    for entry in entries:
        handle = entry.handle
        assert isinstance(handle, Handle), handle
        by_link.setdefault(handle.link, []).append((entry, handle.id))
    return list(by_link.items())
