"""One beanstalkd: three connections that live and die together, and what it is believed to hold.

`puts` carries puts, `takes` the reserves that do not wait, `waits` the one that does; deletes and releases go where the job was
reserved, since the server ties a reservation to its connection. A connection that is lost ends all three: the server makes
ready again what they had reserved, and who holds such a job finds out by the store's claim.

Which life of a beanstalkd answers is told by the `id` in its `stats`, new with every start. Job ids are its own and may begin
anew with each life, so nothing is ever asked about a job on a connection to another life than the one it came from.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import structlog

from kqs.broker.beanstalkd.body import decode_body, encode_body
from kqs.broker.beanstalkd.link import Link, LinkLostError
from kqs.broker.beanstalkd.shelf import Shelf
from kqs.job import Entry
from kqs.wire.beanstalk.commands import (
    MAX_U32,
    Bury,
    Command,
    Delete,
    Ignore,
    Put,
    Release,
    ReserveWithTimeout,
    Stats,
    StatsTube,
    Use,
    Watch,
)
from kqs.wire.beanstalk.tubes import tube_of
from kqs.wire.beanstalk.values import Buried, Inserted, Ok, Reply, Reserved, Word

CONNECT_WITHIN_S = 3.0
BACKOFF_FIRST_S = 0.1
#: short, since what a server held must be put again soon after its return
BACKOFF_LAST_S = 2.0
#: how long a server may be away before what it held is put into others
GIVE_UP_S = 3.0
#: how often a server is asked how it is
POLL_S = 1.0
#: how long a reserve waits in the server; what is watched can change only in between
WAIT_S = 1
#: puts without an answer, beyond which jobs stay in the store
MAX_PUTS_IN_FLIGHT = 20_000
#: how long a server that refused a put is left alone, unless it says before that it takes them again
REFUSED_S = 2.0
#: the last second of a ttr makes a server answer DEADLINE_SOON, and 0 counts as 1
MIN_TTR_S = 10

_RESERVE_NOW = ReserveWithTimeout(0)
_RESERVE = ReserveWithTimeout(WAIT_S)
_log = structlog.get_logger("kqs.broker")

#: a shelf that was asked, its `begun_count` then (None: a put was under way), and where its replies end
_Asked = tuple[Shelf, int | None, int]


class Handle(NamedTuple):
    """Where a reserved job came from."""

    server: Server
    link: Link
    id: int


class Listener:
    """Who is told what becomes of a server's jobs; the pool."""

    def taken(self, entry: Entry) -> None:
        """A job has been reserved."""
        raise NotImplementedError

    def refused(self, entries: Sequence[Entry]) -> None:
        """Jobs of one type could not be put, or given back."""
        raise NotImplementedError

    def forgotten(self, types: Iterable[str]) -> None:
        """Whatever of these types the server held is not to be counted on any more."""
        raise NotImplementedError

    def made_room(self, type_: str) -> None:
        """Others have taken jobs of this type."""
        raise NotImplementedError

    def answered(self) -> None:
        """The server has answered, and may be asked again."""
        raise NotImplementedError

    def came_up(self) -> None:
        """The server takes jobs again."""
        raise NotImplementedError

    def is_partial(self, type_: str) -> bool:
        """Tell whether more jobs of a type wait for room here."""
        raise NotImplementedError

    def wanted(self) -> Iterable[str]:
        """Return the types that somebody would take jobs of."""
        raise NotImplementedError


class Server:
    """See the module docstring. `run` is the body of its task. trouble: why it cannot be used in full, or ""."""

    def __init__(self, address: str, namespace: str, max_jobs: int, listener: Listener) -> None:
        """Args: address: HOST:PORT or unix:PATH. max_jobs: how many ready jobs it may hold."""
        self.address = address
        self._namespace = namespace
        self._max_jobs = max_jobs
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._shelves: dict[str, Shelf] = {}
        self._links: list[Link] = []
        self._lost: asyncio.Future[str] = self._loop.create_future()
        self._tried = asyncio.Event()
        self._given_up: asyncio.TimerHandle | None = None
        self._refusing_until = 0.0
        self._ready_count = 0  # by its own count at the last poll, and what was put since
        self._is_draining = False
        self._using = ""
        self._taking_from = ""
        self._watching: set[str] = set()
        self._take: asyncio.Future[None] | None = None
        self.wake_watch = asyncio.Event()
        self.is_up = False
        self.instance = ""
        self.trouble = "not reached yet"

    # -- what it holds --------------------------------------------------------------------------------------------------

    def shelf(self, type_: str) -> Shelf | None:
        """Return what is believed of a type, or None when nothing was ever put or seen."""
        return self._shelves.get(type_)

    @property
    def shelves(self) -> Iterable[Shelf]:
        """Return what is believed of each type."""
        return self._shelves.values()

    @property
    def takes_puts(self) -> bool:
        """Tell whether it may be given jobs now."""
        return (
            self.is_up
            and not self._is_draining
            and self._refusing_until <= self._loop.time()
            and self._puts.in_flight < MAX_PUTS_IN_FLIGHT
            and self._ready_count < self._max_jobs
        )

    def forget_idle_shelves(self) -> None:
        """Let go of types of which nothing is here."""
        for shelf in [shelf for shelf in self._shelves.values() if not shelf.count and shelf.is_settled]:
            del self._shelves[shelf.type]

    def _shelf_of(self, type_: str) -> Shelf:
        shelf = self._shelves.get(type_)
        if shelf is None:
            shelf = self._shelves[type_] = Shelf(type_, tube_of(type_, self._namespace))
        return shelf

    # -- life -----------------------------------------------------------------------------------------------------------

    async def tried(self) -> None:
        """Return when it has been reached, or found to be away, for the first time."""
        await self._tried.wait()

    async def run(self) -> None:
        """Stay connected, for ever: whatever goes wrong is tried again."""
        backoff_s = BACKOFF_FIRST_S
        try:
            while True:
                if await self._connect():
                    backoff_s = BACKOFF_FIRST_S
                    await self._serve()
                self._go_down()
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))  # noqa: S311 jitter
                backoff_s = min(2 * backoff_s, BACKOFF_LAST_S)
        finally:
            self._go_down()
            if self._given_up is not None:
                self._given_up.cancel()

    async def _connect(self) -> bool:
        self._lost = self._loop.create_future()
        try:
            async with asyncio.timeout(CONNECT_WITHIN_S):
                for _ in range(3):
                    link = await Link.open(self.address, self._link_lost)
                    self._links.append(link)
                    (stats,) = await link.ask(Stats())
                    self._take_stats(link, stats)
        except (OSError, LinkLostError, ValueError) as error:
            self._be_away(str(error) or f"no answer within {CONNECT_WITHIN_S:g} s")
            return False
        finally:
            self._tried.set()
        if self._lost.done():
            self._be_away(self._lost.result())
            return False
        self._puts, self._takes, self._waits = self._links
        self._go_up()
        return True

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

    def _go_up(self) -> None:
        if self._given_up is not None:
            self._given_up.cancel()
            self._given_up = None
        instance = self._puts.instance
        was, self.instance = self.instance, instance
        self._using = self._taking_from = "default"
        self._watching = {"default"}
        self._refusing_until = 0.0
        self.is_up = True
        self.trouble = ""
        _log.info("beanstalkd reached", server=self.address, instance=instance)
        if was not in ("", instance):
            self._forget()
        self._listener.came_up()

    def _be_away(self, reason: str) -> None:
        if self.trouble != reason:
            _log.warning("beanstalkd is away", server=self.address, reason=reason)
        self.trouble = reason

    def _go_down(self) -> None:
        if self.is_up:
            self.is_up = False
            self._given_up = self._loop.call_later(GIVE_UP_S, self._forget)
        links, self._links = self._links, []
        for link in links:
            link.abort("another connection to this server was lost")

    def _link_lost(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)
        self._go_down()

    def _forget(self) -> None:
        """Count on nothing that it held."""
        shelves, self._shelves = self._shelves, {}
        self._listener.forgotten(shelves)

    async def _serve(self) -> None:
        """Ask how the server is, and wait for jobs, until a connection is lost."""
        watch = self._loop.create_task(self._watch(), name=f"beanstalkd-watch {self.address}")
        try:
            while not self._lost.done():
                await asyncio.wait([self._lost], timeout=POLL_S)
                if not self._lost.done():
                    await self._poll()
            self._be_away(self._lost.result())
        except (LinkLostError, ValueError) as error:
            self._be_away(str(error))
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _poll(self) -> None:
        puts, takes = self._puts, self._takes
        replies = [*await puts.ask(Stats()), *await takes.ask(Stats())]
        for link, reply in zip((puts, takes), replies, strict=True):
            self._take_stats(link, reply)
        for shelf in list(self._shelves.values()):
            if shelf.vanished:
                await self._look_for(shelf)
            elif shelf.known and self._listener.is_partial(shelf.type):
                await self._count(shelf)

    async def _look_for(self, shelf: Shelf) -> None:
        """Find out what became of jobs that we had put and that are not to be had."""
        ready_count, paused_s = await self._ask_about(shelf)
        if ready_count >= len(shelf.vanished):
            shelf.asleep_until = self._loop.time() + paused_s
            shelf.restore()
        else:
            shelf.vanished.clear()
            self._listener.forgotten([shelf.type])

    async def _count(self, shelf: Shelf) -> None:
        """Find out whether others have made room, by taking jobs that we had put."""
        ready_count, _ = await self._ask_about(shelf)
        if not shelf.is_settled or ready_count >= len(shelf.known) // 2:
            return
        shelf.keep_last(ready_count)
        if ready_count:
            self._listener.made_room(shelf.type)
        else:
            self._listener.forgotten([shelf.type])

    async def _ask_about(self, shelf: Shelf) -> tuple[int, int]:
        """Return how many jobs are ready in its tube, and for how many seconds that is paused."""
        (reply,) = await self._takes.ask(StatsTube(shelf.tube))
        stats = reply.stats() if isinstance(reply, Ok) else {}
        return int(stats.get("current-jobs-ready", 0)), int(stats.get("pause-time-left", 0))

    # -- jobs in --------------------------------------------------------------------------------------------------------

    def put(self, type_: str, entries: Sequence[Entry], ttr_s: int) -> None:
        """Send jobs of one type; those that are refused come back by the listener."""
        shelf = self._shelf_of(type_)
        put = shelf.begin_put(entries)
        commands: list[Command] = [Put(entry.prio, 0, ttr_s, encode_body(entry)) for entry in entries]
        uses = self._using != shelf.tube
        if uses:
            commands.insert(0, Use(shelf.tube))
            self._using = shelf.tube
        puts = self._puts

        def done(replies: list[Reply] | None) -> None:
            if replies is None:
                refused = list(entries)
            else:
                answers = zip(entries, replies[1:] if uses else replies, strict=True)
                refused = [entry for entry, reply in answers if not self._is_inserted(puts, reply)]
            shelf.end_put(put, refused)
            self._listener.answered()
            if refused:
                self._listener.refused(refused)

        puts.send(commands, done)
        self._ready_count += len(entries)

    def _is_inserted(self, puts: Link, reply: Reply) -> bool:
        if isinstance(reply, Inserted):
            return True
        if isinstance(reply, Buried):
            self._refuse("it is out of memory, or its binlog fails")
            self._send(puts, [Delete(reply.id)])
        elif reply is Word.DRAINING:
            self._is_draining = True
        elif reply in (Word.OUT_OF_MEMORY, Word.JOB_TOO_BIG):
            self._refuse(f"it refuses jobs: {reply.name}")
        else:
            puts.abort(f"put was answered by {reply}")
        return False

    def _refuse(self, trouble: str) -> None:
        if self.trouble != trouble:
            _log.warning("beanstalkd refuses jobs", server=self.address, reason=trouble)
        self.trouble = trouble
        self._refusing_until = self._loop.time() + REFUSED_S

    @property
    def problem(self) -> str | None:
        """Return what is wrong, in words, or None."""
        if not self.is_up:
            return f"beanstalkd {self.address} is away: {self.trouble}"
        if self._is_draining:
            return f"beanstalkd {self.address} is draining: it takes no new jobs"
        if self._refusing_until > self._loop.time():
            return f"beanstalkd {self.address}: {self.trouble}"
        return None

    # -- jobs out -------------------------------------------------------------------------------------------------------

    @property
    def is_asked(self) -> bool:
        """Tell whether a `take` is unanswered; until it is, no other may begin: a slow server is not asked twice."""
        return self._take is not None and not self._take.done()

    def take(self, shares: Mapping[str, int]) -> asyncio.Future[None]:
        """Reserve up to so many ready jobs of each type, which go to the listener; done when they have."""
        commands: list[Command] = []
        asked: list[_Asked] = []
        for type_, count in shares.items():
            shelf = self._shelf_of(type_)
            if self._taking_from != shelf.tube:
                commands += [Watch(shelf.tube), Ignore(self._taking_from)]
                self._taking_from = shelf.tube
            commands += [_RESERVE_NOW] * count
            asked.append((shelf, shelf.begun_count if shelf.is_settled else None, len(commands)))
        link = self._takes
        self._take = taken = self._loop.create_future()

        def done(replies: list[Reply] | None) -> None:
            self._note_taken(link, asked, replies or [])
            taken.set_result(None)
            self._listener.answered()

        link.send(commands, done)
        return taken

    def _note_taken(self, link: Link, asked: Sequence[_Asked], replies: Sequence[Reply]) -> None:
        begin = 0
        for shelf, begun_count, end in asked:
            empty = False
            for reply in replies[begin:end]:
                if isinstance(reply, Reserved):
                    self._deliver(link, reply)
                elif reply is Word.TIMED_OUT or reply is Word.DEADLINE_SOON:
                    empty = True
            if empty:
                shelf.note_empty(begun_count)
            begin = end

    def _deliver(self, link: Link, reserved: Reserved) -> None:
        entry = decode_body(reserved.body, Handle(self, link, reserved.id))
        if entry is None:
            _log.warning("not a job of ours, buried", server=self.address, job=reserved.id)
            self._send(link, [Bury(reserved.id, MAX_U32)])
            return
        self._shelf_of(entry.type).note_taken(entry.order)
        self._listener.taken(entry)

    def delete(self, entries: Iterable[Entry]) -> None:
        """Delete jobs that were reserved here; what cannot be reached any more is refused by the store when it returns."""
        for link, ids in _by_link(entries):
            self._send(self._way_to(link), [Delete(job_id) for _, job_id in ids])

    def release(self, entries: Iterable[Entry]) -> None:
        """Give back jobs that were reserved here; those that cannot be come back by the listener."""
        for link, pairs in _by_link(entries):
            given = [entry for entry, _ in pairs]
            if link.is_open:
                self._release(link, given, [Release(job_id, entry.prio, 0) for entry, job_id in pairs])
            else:
                self._refuse_each(given)

    def _release(self, link: Link, entries: Sequence[Entry], commands: Sequence[Command]) -> None:
        shelves = [self._shelf_of(entry.type) for entry in entries]
        puts = [shelf.begin_put([entry]) for shelf, entry in zip(shelves, entries, strict=True)]

        def done(replies: list[Reply] | None) -> None:
            refused = []
            for place, entry in enumerate(entries):
                is_back = replies is not None and replies[place] is Word.RELEASED
                shelves[place].end_put(puts[place], [] if is_back else [entry])
                if not is_back:
                    refused.append(entry)
            self._refuse_each(refused)

        link.send(commands, done)

    def _refuse_each(self, entries: Sequence[Entry]) -> None:
        for _, group in groupby(entries, lambda entry: entry.type):
            self._listener.refused(list(group))

    def _way_to(self, link: Link) -> Link | None:
        """Return a connection to the life of the server that `link` led to, or None."""
        if link.is_open:
            return link
        return self._takes if self.is_up and self._takes.instance == link.instance else None

    @staticmethod
    def _send(link: Link | None, commands: Sequence[Command]) -> None:
        """Send what needs no answer, if it can be sent."""
        if link is not None and link.is_open:
            link.send(commands, lambda replies: None)

    # -- waiting for jobs -----------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Wait in the server for jobs of the wanted types that it is not known to hold; others may have put them."""
        link = self._waits
        while True:
            self.wake_watch.clear()
            now = self._loop.time()
            types = [type_ for type_ in self._listener.wanted() if not self._knows(type_, now)]
            if not types:
                await self.wake_watch.wait()
                continue
            tubes = {self._shelf_of(type_).tube for type_ in types}
            commands: list[Command] = [Watch(tube) for tube in tubes - self._watching]
            commands += [Ignore(tube) for tube in self._watching - tubes]
            self._watching = tubes
            try:
                *_, reply = await link.ask_for([*commands, _RESERVE], lambda found: self._found(link, found[-1]))
            except LinkLostError:
                return
            if isinstance(reply, Reserved):
                await self.wake_watch.wait()
            elif reply is not Word.TIMED_OUT:
                await asyncio.sleep(WAIT_S)

    def _found(self, link: Link, reply: Reply) -> None:
        if isinstance(reply, Reserved):
            self._deliver(link, reply)

    def _knows(self, type_: str, now: float) -> bool:
        shelf = self._shelves.get(type_)
        return shelf is not None and shelf.may_have(now)


def _by_link(entries: Iterable[Entry]) -> list[tuple[Link, list[tuple[Entry, int]]]]:
    by_link: dict[Link, list[tuple[Entry, int]]] = {}
    for entry in entries:
        handle = entry.handle
        assert isinstance(handle, Handle), handle
        by_link.setdefault(handle.link, []).append((entry, handle.id))
    return list(by_link.items())
