"""One beanstalkd: connected for as long as can be, and what it is believed to hold. Call from the loop thread.

Its three connections live and die together. When they are lost, it makes ready again what they had reserved, and who holds
such a job finds out by the store's claim.

Which life of a beanstalkd answers is told by the `id` in its `stats`, new with every start. Job ids are its own and may begin
anew with each life, so nothing is ever asked about a job on a connection to another life than the one it came from.

A job that it read back damaged from a torn binlog ends the connection that reserves it, and would end the next one too: it is
deleted first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from kqs.broker.beanstalkd.body import Bodies, Foreign
from kqs.broker.beanstalkd.link import Link, LinkLostError
from kqs.broker.beanstalkd.listener import Listener
from kqs.broker.beanstalkd.session import Handle, Session, send
from kqs.broker.beanstalkd.shelf import Shelf, Shelves
from kqs.job import Entry
from kqs.log import get_logger
from kqs.tasks import spawn
from kqs.trouble import Trouble
from kqs.wire.beanstalk.commands import Delete, ListTubes, Stats, StatsTube
from kqs.wire.beanstalk.tubes import type_of
from kqs.wire.beanstalk.values import Ok, Reply, Word

CONNECT_WITHIN_S = 3.0
BACKOFF_FIRST_S = 0.1
#: short, since what a server held must be put again soon after its return
BACKOFF_LAST_S = 2.0
#: how long a server may be away before what it held is put into others
GIVE_UP_S = 3.0
#: how often a server is asked how it is
POLL_S = 1.0
#: how long a server that refused a put is left alone
REFUSED_S = 2.0
#: how long after meeting a job of another store that is a problem
FOREIGN_S = 60.0
#: a job of another store is put aside so long, in s, for its own server to come by; for a second more with each
#: `FOREIGN_STEP` met in a minute, since that server may be no more
FOREIGN_DELAY_S = 1
FOREIGN_STEP = 1000
#: tubes that are looked into at a connect; looking takes a server the longer, the more tubes it has
MAX_TUBES = 1000
#: what a server takes unless it says otherwise (`-z`)
_DEFAULT_JOB_BYTES = 65_535

_log = get_logger("kqs.broker")


class Server:
    """See the module docstring. `run` is the body of its task."""

    def __init__(self, address: str, namespace: str, max_jobs: int, bodies: Bodies, listener: Listener) -> None:
        """Args: address: HOST:PORT or unix:PATH. max_jobs: how many ready jobs it may hold."""
        self.address = address
        self._namespace = namespace
        self._bodies = bodies
        self.shelves = Shelves(namespace)
        self.instance = ""
        self._max_jobs = max_jobs
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._links: list[Link] = []
        self._session: Session | None = None
        self._lost: asyncio.Future[str] = self._loop.create_future()
        self._tried = asyncio.Event()
        self._given_up: asyncio.TimerHandle | None = None
        self._refusing_until = 0.0
        self._max_job_bytes = _DEFAULT_JOB_BYTES
        self._foreign_store = ""
        self._foreign_minute = self._foreign_count = 0
        self._foreign_until = 0.0
        self._damaged = ("", 0)  # life and id of a job to be deleted, or an empty life
        self._ready_count = 0  # by its own count at the last poll, and what was put since
        self._is_draining = False
        self._away = Trouble(_log, "beanstalkd is away", "beanstalkd is back")
        self._refusals = Trouble(_log, "beanstalkd refuses jobs", "beanstalkd takes jobs again")
        self._trouble = "not reached yet"

    @property
    def is_up(self) -> bool:
        """Tell whether it is connected."""
        return self._session is not None

    @property
    def problem(self) -> str | None:
        """Return what is wrong, in words, or None."""
        if self._session is None:
            return f"beanstalkd {self.address} is away: {self._trouble}"
        if self._is_draining:
            return f"beanstalkd {self.address} is draining: it takes no new jobs"
        if self._refusing_until > self._loop.time():
            return f"beanstalkd {self.address}: {self._trouble}"
        if self._foreign_until > self._loop.time():
            return (
                f"beanstalkd {self.address} has jobs of another store, {self._foreign_store}, in tubes of ours: "
                "servers that share it but no store need a [server] namespace of their own"
            )
        return None

    # -- life -----------------------------------------------------------------------------------------------------------

    async def tried(self) -> None:
        """Return when it has been reached, or found to be away, for the first time."""
        await self._tried.wait()

    async def run(self) -> None:
        """Stay connected, for ever: whatever goes wrong is tried again."""
        backoff_s = BACKOFF_FIRST_S
        try:
            while True:
                if session := await self._connect():
                    backoff_s = BACKOFF_FIRST_S
                    await self._serve(session)
                self._go_down()
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 jitter
                backoff_s = min(2 * backoff_s, BACKOFF_LAST_S)
        finally:
            self._go_down()
            if self._given_up is not None:
                self._given_up.cancel()

    async def _connect(self) -> Session | None:
        self._lost = self._loop.create_future()
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                for _ in range(3):
                    link = await Link.open(self.address, self._link_lost)
                    self._links.append(link)
                    (stats,) = await link.ask(Stats())
                    self._take_stats(link, stats)
                await self._delete_damaged(link)
                ready_counts = await self._count_ready(link)
        except (OSError, LinkLostError, ValueError) as error:
            self._be_away(str(error) or f"no answer within {CONNECT_WITHIN_S:g} s")
            return None
        finally:
            self._tried.set()
        if self._lost.done():
            self._be_away(self._lost.result())
            return None
        session = Session(
            self.address,
            self._links,
            self.shelves,
            self._bodies,
            self._max_job_bytes,
            self._listener,
            self._put_refused,
            self._met_foreign,
        )
        self._go_up(session, ready_counts)
        return session

    def _take_stats(self, link: Link, reply: Reply) -> None:
        """Note how the server is. Raises: ValueError: it is not a beanstalkd that we can use."""
        if not isinstance(reply, Ok):
            raise ValueError(f"stats were answered by {reply}")
        stats = reply.stats()
        instance = stats.get("id") or stats.get("pid", "")
        if not instance:
            raise ValueError("its stats name no id")
        link.instance = instance
        if any(other.instance != instance for other in self._links):
            raise ValueError("its connections lead to different servers")
        self._is_draining = stats.get("draining") == "true"
        self._ready_count = int(stats.get("current-jobs-ready", 0))
        self._max_job_bytes = int(stats.get("max-job-size", _DEFAULT_JOB_BYTES))

    async def _delete_damaged(self, link: Link) -> None:
        instance, job_id = self._damaged
        if instance == link.instance:
            (reply,) = await link.ask(Delete(job_id))
            _log.warning("deleted a job with a damaged body", server=self.address, job=job_id, answer=str(reply))
        self._damaged = ("", 0)

    async def _count_ready(self, link: Link) -> dict[str, int]:
        """Return how many jobs are ready of the types that have tubes, from an earlier life of ours or from others."""
        (listed,) = await link.ask(ListTubes())
        names = listed.names() if isinstance(listed, Ok) else []
        types = [type_ for name in names[:MAX_TUBES] if (type_ := type_of(name, self._namespace)) is not None]
        if not types:
            return {}
        replies = await link.ask(*[StatsTube(self.shelves.tube_of(type_)) for type_ in types])
        return {type_: _tube_stats(reply).ready_count for type_, reply in zip(types, replies, strict=True)}

    def _go_up(self, session: Session, ready_counts: Mapping[str, int]) -> None:
        if self._given_up is not None:
            self._given_up.cancel()
            self._given_up = None
        was, self.instance = self.instance, session.instance
        self._refusing_until = 0.0
        self._session = session
        self._trouble = ""
        if not was:
            _log.info("beanstalkd reached", server=self.address, instance=self.instance)
        self._away.over(server=self.address, instance=self.instance)
        if was not in ("", self.instance):
            self._forget()
        for type_, ready_count in ready_counts.items():
            if ready_count:
                self.shelves.of(type_).note_ready(ready_count)
        self._listener.came_up()

    def _be_away(self, reason: str) -> None:
        self._away.met(server=self.address, reason=reason)
        self._trouble = reason

    def _go_down(self) -> None:
        if self._session is not None:
            self._session = None
            self._given_up = self._loop.call_later(GIVE_UP_S, self._forget)
        links, self._links = self._links, []
        for link in links:
            if link.damaged_id is not None:
                self._damaged = (link.instance, link.damaged_id)
            link.abort("another connection to this server was lost")

    def _link_lost(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)
        self._go_down()

    def _forget(self) -> None:
        """Count on nothing that it held."""
        self._listener.forgotten(self.shelves.clear())

    async def _serve(self, session: Session) -> None:
        """Ask how the server is, and wait for jobs, until a connection is lost."""
        watch = spawn(session.watch(), name=f"beanstalkd-watch {self.address}")
        ends: list[asyncio.Future[Any]] = [self._lost, watch]
        try:
            while not self._lost.done():
                await asyncio.wait(ends, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
                if watch.done():
                    watch.result()
                if not self._lost.done():
                    await self._poll(session)
            self._be_away(self._lost.result())
        except (LinkLostError, ValueError) as error:
            self._be_away(str(error))
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _poll(self, session: Session) -> None:
        if self._loop.time() > self._refusing_until + REFUSED_S:  # it has been sent jobs again, and refused none
            self._refusals.over(server=self.address)
        for link in (session.puts, session.takes):
            (stats,) = await link.ask(Stats())
            self._take_stats(link, stats)
        for shelf in self.shelves:
            if shelf.vanished:
                await self._look_for(session, shelf)
            elif shelf.strangers or (shelf.known and self._listener.is_partial(shelf.type)):
                await self._count(session, shelf)

    async def _look_for(self, session: Session, shelf: Shelf) -> None:
        """Find out what became of jobs that we had put and that are not to be had."""
        tube = await self._ask_about(session, shelf)
        if tube.ready_count >= len(shelf.vanished):
            shelf.asleep_until = self._loop.time() + tube.paused_s
            shelf.restore()
        elif tube.ready_count + tube.delayed_count >= len(shelf.vanished) and not shelf.has_waited:
            # a server of another store has put them aside, as our session does with its jobs; or these are its jobs
            shelf.asleep_until = self._loop.time() + FOREIGN_DELAY_S + 1
            shelf.restore()
            shelf.has_waited = True
        else:
            shelf.vanished.clear()
            self._listener.forgotten([shelf.type])

    async def _count(self, session: Session, shelf: Shelf) -> None:
        """Find out whether others have made room, by taking jobs that we had put, or what was there before."""
        tube = await self._ask_about(session, shelf)
        if shelf.strangers:
            shelf.asleep_until = self._loop.time() + tube.paused_s
            shelf.note_ready(tube.ready_count)
            self._listener.made_room(shelf.type)
        left_count = tube.ready_count + tube.delayed_count
        if not shelf.known or not shelf.is_settled or left_count >= len(shelf.known) // 2:
            return
        shelf.keep_last(left_count)
        if left_count:
            self._listener.made_room(shelf.type)
        else:
            self._listener.forgotten([shelf.type])

    @staticmethod
    async def _ask_about(session: Session, shelf: Shelf) -> _TubeStats:
        (reply,) = await session.takes.ask(StatsTube(shelf.tube))
        return _tube_stats(reply)

    # -- jobs -----------------------------------------------------------------------------------------------------------

    @property
    def takes_puts(self) -> bool:
        """Tell whether it may be given jobs now."""
        return (
            self._session is not None
            and self._session.has_room
            and not self._is_draining
            and self._refusing_until <= self._loop.time()
            and self._ready_count < self._max_jobs
        )

    def put(self, type_: str, entries: Sequence[Entry]) -> None:
        """Send jobs of one type, while `takes_puts`; those that are refused come back by the listener."""
        assert self._session is not None
        self._session.put(type_, entries)
        self._ready_count += len(entries)

    def _put_refused(self, reply: Reply) -> None:
        if reply is Word.DRAINING:
            self._is_draining = True
            return
        trouble = f"it refuses jobs: {reply.name if isinstance(reply, Word) else 'BURIED, out of memory or its binlog fails'}"
        self._refusals.met(server=self.address, reason=trouble)
        self._trouble = trouble
        self._refusing_until = self._loop.time() + REFUSED_S

    def _met_foreign(self, job: Foreign) -> int:
        now = self._loop.time()
        if self._foreign_until <= now:
            _log.warning("jobs of another store in our tubes", server=self.address, store=job.store_id)
        self._foreign_store = job.store_id
        self._foreign_until = now + FOREIGN_S
        if self._foreign_minute != (minute := int(now // 60)):
            self._foreign_minute, self._foreign_count = minute, 0
        self._foreign_count += 1
        return FOREIGN_DELAY_S + self._foreign_count // FOREIGN_STEP

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


class _TubeStats(NamedTuple):
    """delayed_count: jobs put aside by those whose they are not. paused_s: how long it is paused still."""

    ready_count: int
    delayed_count: int
    paused_s: int


def _tube_stats(reply: Reply) -> _TubeStats:
    """Return what `stats-tube` was answered, zeros for a tube that is not there. Raises: ValueError: no number."""
    stats = reply.stats() if isinstance(reply, Ok) else {}
    return _TubeStats(*(int(stats.get(name, 0)) for name in ("current-jobs-ready", "current-jobs-delayed", "pause-time-left")))


def _by_link(entries: Iterable[Entry]) -> list[tuple[Link, list[tuple[Entry, int]]]]:
    by_link: dict[Link, list[tuple[Entry, int]]] = {}
    for entry in entries:
        handle = entry.handle
        assert isinstance(handle, Handle), handle
        by_link.setdefault(handle.link, []).append((entry, handle.id))
    return list(by_link.items())
