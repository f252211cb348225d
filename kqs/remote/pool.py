"""All who wait for jobs of the same types under the same name: one consumer of the queue, whatever their number.

Who asks once is served in the order of asking, and gets all there is, as far as it asked for it. Who has a standing order takes
turns, and comes again after the others. Invariants:

1. The consumer's room is the room of those in line, less what is being claimed for them.
2. Who has room, and is not paused, stands in line once; nobody else does. Room that is withheld is none.
3. Runs that were claimed for somebody who is gone go to whoever waits, else back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from kqs.job import Run
from kqs.queue.consumer import Consumer
from kqs.queue.runs import Runs

if TYPE_CHECKING:
    from kqs.remote.party import Order

#: most data of one claim: it is written in one turn of the loop, which nobody may hold for long, and by `reserve` as one line
MOST_BYTES = 8 * 1024 * 1024


class Pool:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, source: Runs, worker: str, types: Iterable[str], *, held: bool = False) -> None:
        """Args: worker: who runs the jobs, as their records say. held: runs outlive us."""
        self._source = source
        self._line: OrderedDict[Order, None] = OrderedDict()
        self.orders: set[Order] = set()
        self.consumer = Consumer(worker, types, 0, self._deliver, is_remote=True, is_held=held, most_bytes=MOST_BYTES)

    def leave(self, order: Order) -> None:
        """Let it have no more."""
        self.orders.discard(order)
        self.rest(order)

    def rest(self, order: Order) -> None:
        """Let it have none until `go_on`."""
        if order in self._line:
            del self._line[order]
            self.consumer.grow(-order.room)

    def go_on(self, order: Order) -> None:
        """Let it have jobs, or have them again."""
        if order in self.orders and order not in self._line:
            self._stand_in_line(order)

    def _stand_in_line(self, order: Order) -> None:
        if order.room > 0:
            self._line[order] = None
            self.consumer.grow(order.room)

    def make_room(self, order: Order, count: int) -> None:
        """Take in that so many runs of an order are over, at one time."""
        self.consumer.worth = max(1, count // 2)  # who reports many at a time will do so again
        if order.party.is_doubted:
            order.withheld += count
        else:
            self._add_room(order, count)

    def withhold(self, order: Order) -> None:
        """Take the room of a standing order from it, until `restore`."""
        if not order.is_once:
            self.rest(order)
            order.withheld += order.room
            order.room = 0

    def restore(self, order: Order, count: int) -> None:
        """Give an order back so much of the room that was withheld."""
        if count:
            order.withheld -= count
            self._add_room(order, count)

    def _add_room(self, order: Order, count: int) -> None:
        had_room = order.room > 0
        order.room += count
        if order not in self.orders or order.is_paused:
            return
        if had_room:
            self.consumer.free(count)
        else:
            self._stand_in_line(order)

    def _deliver(self, runs: list[Run]) -> None:
        is_certain, may_begin = self._source.is_certain, self._source.may_begin
        begun = [run for run in runs if is_certain(run) or may_begin(run)]
        if len(begun) < len(runs):
            self.consumer.free(len(runs) - len(begun))
        at = turns = 0
        while at < len(begun) and self._line:
            turns = turns or len(self._line)  # of this round: who was given some stands in line again
            order, _ = self._line.popitem(last=False)
            in_turn = -(-(len(begun) - at) // turns)
            turns -= 1
            part = begun[at : at + min(order.room, len(begun) if order.is_once else in_turn)]
            at += len(part)
            order.room -= len(part)
            if order.is_once:
                self.orders.discard(order)
                self.consumer.grow(-order.room)
            elif order.room:
                self._line[order] = None
            order.give(part)
        if left := begun[at:]:
            self.consumer.free(len(left))
            for run in left:
                self._source.give_back(run)
