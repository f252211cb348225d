"""What the tubes of a beanstalkd hold by its own count, and what that says of our belief.

Asked at the start of a session, of the tubes that are there, and with every poll, of those where others may have had a hand.
Many are asked in one go: one at a time, it would be as many round trips as there are types. The questions go where reserves do,
so what was reserved before a tube was counted has been noted when the count arrives, and what is reserved later is not in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from kqs.broker.beanstalkd.foreign import FOREIGN_DELAY_S
from kqs.broker.beanstalkd.listener import Listener
from kqs.broker.beanstalkd.shelf import Shelf, Shelves
from kqs.broker.beanstalkd.stats import ServerStats, TubeStats, tube_stats
from kqs.broker.beanstalkd.trio import Trio
from kqs.wire.beanstalk.commands import ListTubes, Stats, StatsTube
from kqs.wire.beanstalk.values import Ok, Reply

#: tubes that are looked into at a connect; looking takes a server the longer, the more tubes it has
MAX_TUBES = 1000
#: tubes that a poll asks about in one round trip; a reserve that comes then waits until a server has looked into them
TUBES_AT_ONCE = 100

#: a shelf that is asked about, and its `settled_count` then
_Asked = tuple[Shelf, int | None]


class Census:
    """Of the tubes of one session. Call from the loop thread."""

    def __init__(self, trio: Trio, shelves: Shelves, listener: Listener) -> None:
        self._trio = trio
        self._shelves = shelves
        self._listener = listener
        self._loop = asyncio.get_running_loop()

    async def count_ready(self) -> dict[str, int]:
        """Return how many jobs are ready of the types that have tubes, from an earlier life of ours or from others.

        Raises: LinkLostError; ValueError: what was answered is no number.
        """
        link = self._trio.takes
        (listed,) = await link.ask(ListTubes())
        names = listed.names() if isinstance(listed, Ok) else []
        types = [type_ for name in names[:MAX_TUBES] if (type_ := self._shelves.type_of(name)) is not None]
        if not types:
            return {}
        replies = await link.ask(*[StatsTube(self._shelves.tube_of(type_)) for type_ in types])
        return {type_: tube_stats(reply).ready_count for type_, reply in zip(types, replies, strict=True)}

    async def poll(self) -> ServerStats:
        """Ask how the server is, on both connections that are answered at once, and what is in the tubes that are due.

        Raises: LinkLostError; ValueError: what answers is another server, or none.
        """
        trio = self._trio
        due = [shelf for shelf in self._shelves if self._is_due(shelf)]
        on_puts, on_takes = trio.puts.begin_ask([Stats()]), trio.takes.begin_ask([Stats()])
        for begin in range(0, len(due), TUBES_AT_ONCE):
            await self._ask_about(due[begin : begin + TUBES_AT_ONCE])
        for link, begun in ((trio.puts, on_puts), (trio.takes, on_takes)):
            (reply,) = await link.end_ask(begun)
            stats = trio.checked(reply)
        return stats

    def _is_due(self, shelf: Shelf) -> bool:
        return bool(shelf.vanished or shelf.strangers or (shelf.known and self._listener.is_partial(shelf.type)))

    async def _ask_about(self, shelves: Sequence[Shelf]) -> None:
        asked: list[_Asked] = [(shelf, shelf.settled_count) for shelf in shelves]
        await self._trio.takes.ask_for([StatsTube(shelf.tube) for shelf in shelves], lambda replies: self._note(asked, replies))

    def _note(self, asked: Sequence[_Asked], replies: Sequence[Reply]) -> None:
        for (shelf, settled_count), reply in zip(asked, replies, strict=True):
            try:
                tube = tube_stats(reply)
            except ValueError as error:
                return self._trio.takes.abort(f"stats-tube was answered by {reply}: {error}")
            if shelf.vanished:
                self._look_for_vanished(shelf, tube)
            else:
                self._look_for_room(shelf, tube, settled_count)
        return None

    def _look_for_vanished(self, shelf: Shelf, tube: TubeStats) -> None:
        """Find out what became of jobs that we had put and that are not to be had."""
        now = self._loop.time()
        if tube.ready_count >= len(shelf.vanished):
            shelf.asleep_until = now + tube.paused_s
            shelf.restore()
        elif tube.ready_count + tube.delayed_count >= len(shelf.vanished) and not shelf.has_waited:
            # a server of another store has put them aside, as our session does with its jobs; or these are its jobs
            shelf.asleep_until = now + FOREIGN_DELAY_S + 1
            shelf.restore()
            shelf.has_waited = True
        else:
            shelf.vanished.clear()
            self._listener.forgotten([shelf.type])

    def _look_for_room(self, shelf: Shelf, tube: TubeStats, settled_count: int | None) -> None:
        """Find out whether others have made room, by taking jobs that we had put, or what was there before."""
        if shelf.strangers:
            shelf.asleep_until = self._loop.time() + tube.paused_s
            shelf.note_ready(tube.ready_count)
            self._listener.made_room(shelf.type)
        left_count = tube.ready_count + tube.delayed_count
        if not shelf.known or not shelf.has_settled_since(settled_count) or left_count >= len(shelf.known) // 2:
            return
        shelf.keep_last(left_count)
        if left_count:
            self._listener.made_room(shelf.type)
        else:
            self._listener.forgotten([shelf.type])
