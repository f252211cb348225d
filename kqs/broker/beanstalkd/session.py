"""One life of the connections to one beanstalkd: jobs in and out. Call from the loop thread.

Deletes and releases go where the job was reserved, since the server ties a reservation to its connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kqs.broker.beanstalkd.body import Bodies, Foreign
from kqs.broker.beanstalkd.books import Books
from kqs.broker.beanstalkd.link import Link, LinkLostError
from kqs.broker.beanstalkd.listener import Listener
from kqs.broker.beanstalkd.shelf import Shelf
from kqs.broker.beanstalkd.trio import Trio
from kqs.job import Entry
from kqs.log import get_logger
from kqs.wire.beanstalk.commands import MAX_U32, Bury, Command, Delete, Ignore, Release, ReserveWithTimeout, Use, Watch
from kqs.wire.beanstalk.values import Buried, Inserted, Reply, Reserved, Word

#: puts without an answer, beyond which jobs stay in the store
MAX_PUTS_IN_FLIGHT = 20_000
#: how long a reserve waits in the server; what is watched can change only in between
WAIT_S = 1

_DEFAULT = "default"  # the tube that a connection uses and watches at first
_RESERVE_NOW = ReserveWithTimeout(0)
_RESERVE = ReserveWithTimeout(WAIT_S)
_EMPTY = (Word.TIMED_OUT, Word.DEADLINE_SOON)
_log = get_logger("kqs.broker")

#: a shelf that was asked, its `settled_count` then, and where its replies end
_Asked = tuple[Shelf, int | None, int]


class Handle(NamedTuple):
    """Where a reserved job came from: server address, connection, the server's own job id."""

    server: str
    link: Link
    id: int


class Session:
    """See the module docstring. It ends with its connections."""

    def __init__(self, trio: Trio, books: Books, bodies: Bodies, max_job_bytes: int, listener: Listener) -> None:
        """Args: trio: open. max_job_bytes: the longest body that the server takes."""
        self._address = books.address
        self._puts, self.takes, self._waits = trio.puts, trio.takes, trio.waits
        self._shelves = books.shelves
        self._availability = books.availability
        self._foreigners = books.foreigners
        self._bodies = bodies
        self._max_job_bytes = max_job_bytes
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._using = self._taking_from = _DEFAULT
        self._watching = {_DEFAULT}
        self._take: asyncio.Future[None] | None = None
        self.wake_watch = asyncio.Event()

    def put(self, type_: str, entries: Sequence[Entry]) -> None:
        """Send jobs of one type; those that are refused come back by the listener."""
        shelf = self._shelves.of(type_)
        put = shelf.begin_put(entries)
        commands: list[Command] = [self._bodies.put(entry, self._max_job_bytes) for entry in entries]
        uses = self._using != shelf.tube
        if uses:
            commands.insert(0, Use(shelf.tube))
            self._using = shelf.tube
        puts = self._puts

        def done(replies: list[Reply] | None) -> None:
            if replies is None:
                refused = list(entries)
            else:
                refused = []
                for entry, reply in zip(entries, replies[1:] if uses else replies, strict=True):
                    if isinstance(reply, Inserted):
                        shelf.note_put(entry, reply.id)
                    else:
                        self._note_refused(puts, reply)
                        refused.append(entry)
            shelf.end_put(put, refused)
            self._listener.answered()
            if refused:
                self._listener.refused(refused)

        puts.send(commands, done)

    @property
    def has_room(self) -> bool:
        """Tell whether more puts may be sent."""
        return self._puts.in_flight < MAX_PUTS_IN_FLIGHT

    def _note_refused(self, puts: Link, reply: Reply) -> None:
        if isinstance(reply, Buried):
            send(puts, [Delete(reply.id)])
        elif reply not in (Word.DRAINING, Word.OUT_OF_MEMORY, Word.JOB_TOO_BIG):
            puts.abort(f"put was answered by {reply}")
            return
        self._availability.refused(reply)

    def forget(self, type_: str, entries: Sequence[Entry]) -> None:
        """Delete jobs that wait here, as far as it is known which those are; what others have reserved meanwhile is theirs."""
        shelf = self._shelves.get(type_)
        here = [] if shelf is None else [entry for entry in entries if entry.id in shelf.numbers]
        if shelf is None or not here:
            return

        def done(replies: list[Reply] | None) -> None:
            for entry, reply in zip(here, replies or (), strict=False):
                if reply is Word.DELETED:
                    shelf.note_gone(entry)
            self._listener.made_room(type_)

        self._puts.send([Delete(shelf.numbers[entry.id]) for entry in here], done)

    @property
    def is_asked(self) -> bool:
        """Tell whether a `take` is unanswered; until it is, no other may begin: a slow server is not asked twice."""
        return self._take is not None and not self._take.done()

    def take(self, shares: Mapping[str, int]) -> asyncio.Future[None]:
        """Reserve up to so many ready jobs of each type, which go to the listener; done when they have."""
        commands: list[Command] = []
        asked: list[_Asked] = []
        for type_, count in shares.items():
            shelf = self._shelves.of(type_)
            if self._taking_from != shelf.tube:
                commands += [Watch(shelf.tube), Ignore(self._taking_from)]
                self._taking_from = shelf.tube
            commands += [_RESERVE_NOW] * count
            asked.append((shelf, shelf.settled_count, len(commands)))
        link = self.takes
        self._take = taken = self._loop.create_future()

        def done(replies: list[Reply] | None) -> None:
            self._note_taken(link, asked, replies or [])
            taken.set_result(None)
            self._listener.answered()

        link.send(commands, done)
        return taken

    def _note_taken(self, link: Link, asked: Sequence[_Asked], replies: Sequence[Reply]) -> None:
        begin = 0
        for shelf, settled_count, end in asked:
            empty = False
            for reply in replies[begin:end]:
                if isinstance(reply, Reserved):
                    self._deliver(link, reply)
                elif reply in _EMPTY:
                    empty = True
                elif isinstance(reply, Word):
                    link.abort(f"reserve was answered by {reply}")
            if empty:
                shelf.note_empty(settled_count)
            begin = end

    def _deliver(self, link: Link, reserved: Reserved) -> None:
        entry = self._bodies.read(reserved.body, Handle(self._address, link, reserved.id))
        if isinstance(entry, Foreign):
            send(link, [Release(reserved.id, min(entry.prio, MAX_U32), self._foreigners.met(entry))])
            return
        if entry is None:
            _log.warning("not a job of ours, buried", server=self._address, job=reserved.id)
            send(link, [Bury(reserved.id, MAX_U32)])
            return
        self._shelves.of(entry.type).note_taken(entry.order, entry.id)
        self._listener.taken(entry)

    def release(self, link: Link, entries: Sequence[Entry], ids: Sequence[int]) -> None:
        """Give back jobs that were reserved on `link`, which is open; what is refused comes back by the listener."""
        commands = [Release(job_id, entry.prio, 0) for entry, job_id in zip(entries, ids, strict=True)]
        shelves = [self._shelves.of(entry.type) for entry in entries]
        puts = [shelf.begin_put([entry]) for shelf, entry in zip(shelves, entries, strict=True)]

        def done(replies: list[Reply] | None) -> None:
            refused = []
            for place, entry in enumerate(entries):
                is_back = replies is not None and replies[place] is Word.RELEASED
                if is_back:
                    shelves[place].note_put(entry, ids[place])
                shelves[place].end_put(puts[place], [] if is_back else [entry])
                if not is_back:
                    refused.append(entry)
            self._listener.refused(refused)

        link.send(commands, done)

    async def watch(self) -> None:
        """Wait in the server for jobs of the wanted types that it is not known to hold; others may have put them."""
        link = self._waits
        while True:
            self.wake_watch.clear()
            now = self._loop.time()
            types = [type_ for type_ in self._listener.wanted() if not self._knows(type_, now)]
            if not types:
                await self.wake_watch.wait()
                continue
            tubes = {self._shelves.of(type_).tube for type_ in types}
            commands: list[Command] = [Watch(tube) for tube in tubes - self._watching]
            commands += [Ignore(tube) for tube in self._watching - tubes]
            self._watching = tubes
            try:
                *_, reply = await link.ask_for([*commands, _RESERVE], lambda found: self._found(link, found[-1]))
            except LinkLostError:
                return
            if isinstance(reply, Reserved):
                await self.wake_watch.wait()
            elif reply is Word.DEADLINE_SOON:
                await asyncio.sleep(WAIT_S)
            elif reply is not Word.TIMED_OUT:
                link.abort(f"reserve was answered by {reply}")

    def _found(self, link: Link, reply: Reply) -> None:
        if isinstance(reply, Reserved):
            self._deliver(link, reply)

    def _knows(self, type_: str, now: float) -> bool:
        shelf = self._shelves.get(type_)
        return shelf is not None and shelf.may_have(now)


def send(link: Link, commands: Sequence[Command]) -> None:
    """Send what needs no answer, if it can be sent."""
    if link.is_open:
        link.send(commands, lambda replies: None)
