"""What one beanstalkd is believed to hold ready of one type. A belief: others may take from the tube and put into it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from kqs.job import Entry
from kqs.wire.beanstalk.tubes import tube_of, type_of

#: beside two for each job
_SPARE_NUMBERS = 1000


class Shelf:
    """known: orders that were put and not seen again. numbers: the server's own of some jobs here, by our ids.

    is_hinted: a job that we did not put has come from here, or may. strangers: ready jobs beside those, by the server's own
    count at the last look. has_waited: for jobs that others put aside.

    It *rests* when it was found empty while puts were under way: asking again is worth it when one of them is answered.
    """

    __slots__ = (
        "_begun_count",
        "_is_resting",
        "_puts",
        "asleep_until",
        "has_waited",
        "is_hinted",
        "known",
        "numbers",
        "strangers",
        "tube",
        "type",
        "vanished",
    )

    def __init__(self, type_: str, tube: str) -> None:
        self.type = type_
        self.tube = tube
        self.known: set[int] = set()
        self.numbers: dict[str, int] = {}
        self.is_hinted = False
        self.strangers = 0
        self.has_waited = False
        self._begun_count = 0  # batches of puts that were ever sent
        self._puts: set[asyncio.Future[None]] = set()
        self.vanished: set[int] = set()  # known, yet the tube was found empty: taken by others, deleted, or paused
        self._is_resting = False
        self.asleep_until = 0.0  # loop time; paused by an operator

    @property
    def count(self) -> int:
        """Return how many jobs are believed to be here."""
        return len(self.known) + len(self.vanished)

    def may_have(self, now: float) -> bool:
        """Tell whether it is worth asking for a job. now: loop time."""
        return bool(self.known or self.is_hinted) and not self._is_resting and self.asleep_until <= now

    def begin_put(self, entries: Sequence[Entry]) -> asyncio.Future[None]:
        """Note jobs on their way; they count as here, since they may be reserved before their put is answered."""
        put = asyncio.get_running_loop().create_future()
        self.known.update([entry.order for entry in entries])
        self._begun_count += 1
        self._puts.add(put)
        return put

    def end_put(self, put: asyncio.Future[None], refused: Iterable[Entry]) -> None:
        """Note the answers."""
        self._puts.discard(put)
        put.set_result(None)
        self._is_resting = False
        self.known.difference_update([entry.order for entry in refused])

    @property
    def is_settled(self) -> bool:
        """Tell whether every put has been answered."""
        return not self._puts

    @property
    def settled_count(self) -> int | None:
        """Return how many puts were ever begun, None while one of them is under way. See `has_settled_since`."""
        return self._begun_count if self.is_settled else None

    def has_settled_since(self, settled_count: int | None) -> bool:
        """Tell whether no put has been under way since that was `settled_count`: then an answer tells of all that is known."""
        return settled_count == self._begun_count

    @property
    def is_resting(self) -> bool:
        """Tell whether it is worth asking again only when a put is answered."""
        return self._is_resting

    @property
    def unanswered_puts(self) -> Iterable[asyncio.Future[None]]:
        """Return a future for each batch of puts under way, done when it is answered."""
        return self._puts

    def note_put(self, entry: Entry, number: int) -> None:
        """Note how the server calls a job that it has taken; one that was reserved before that was answered is not here."""
        if entry.order in self.known or entry.order in self.vanished:
            if len(self.numbers) > 2 * self.count + _SPARE_NUMBERS:  # of most, others have taken the jobs
                self.numbers.clear()
            self.numbers[entry.id] = number

    def note_gone(self, entry: Entry) -> None:
        """Note that a job was deleted here."""
        self.numbers.pop(entry.id, None)
        self.known.discard(entry.order)
        self.vanished.discard(entry.order)

    def note_taken(self, order: int, job_id: str) -> None:
        """Note that a job was reserved from here."""
        self.numbers.pop(job_id, None)
        if order in self.known or order in self.vanished:
            self.known.discard(order)
            self.vanished.discard(order)
            self.has_waited = False
        else:
            self.is_hinted = True
            self.strangers = max(0, self.strangers - 1)

    def note_empty(self, settled_count: int | None) -> None:
        """Note that nothing was ready. settled_count: as it was when asked."""
        self.is_hinted = False
        self._is_resting = not self.is_settled
        if self.has_settled_since(settled_count):
            self.vanished |= self.known
            self.known.clear()

    def note_ready(self, ready_count: int) -> None:
        """Note how many jobs its tube holds ready."""
        self.strangers = max(0, ready_count - self.count)
        self.is_hinted = self.is_hinted or self.strangers > 0

    def keep_last(self, count: int) -> None:
        """Note that others have taken all but so many: the foremost, so the youngest are kept."""
        self.known = set(sorted(self.known)[len(self.known) - count :])

    def restore(self) -> None:
        """Take back that jobs have vanished: they are still here."""
        self.known |= self.vanished
        self.vanished.clear()


class Shelves:
    """The shelves of one server, by type."""

    def __init__(self, namespace: str) -> None:
        """Args: namespace: stands in the names of tubes."""
        self._namespace = namespace
        self._shelves: dict[str, Shelf] = {}

    def __iter__(self) -> Iterator[Shelf]:
        return iter(list(self._shelves.values()))

    def get(self, type_: str) -> Shelf | None:
        """Return what is believed of a type, or None when nothing was ever put, asked or seen."""
        return self._shelves.get(type_)

    def of(self, type_: str) -> Shelf:
        """Return the shelf of a type, a new one if need be."""
        shelf = self._shelves.get(type_)
        if shelf is None:
            shelf = self._shelves[type_] = Shelf(type_, self.tube_of(type_))
        return shelf

    def tube_of(self, type_: str) -> str:
        """Return the tube of a type."""
        return tube_of(type_, self._namespace)

    def type_of(self, tube: str) -> str | None:
        """Return the type of a tube, None for a tube of others and for one whose name does not tell."""
        return type_of(tube, self._namespace)

    def clear(self) -> list[str]:
        """Count on nothing any more; return the types that there were."""
        types = list(self._shelves)
        self._shelves.clear()
        return types

    def forget_idle(self) -> None:
        """Let go of types of which nothing is here."""
        self._shelves = {shelf.type: shelf for shelf in self if shelf.count or shelf.strangers or not shelf.is_settled}
