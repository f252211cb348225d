"""A connection as the queue sees it: what it has asked for and what it has in hand, which go with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from kqs.job import Run
from kqs.log import get_logger
from kqs.remote.runs import OpenRun

log = get_logger("kqs.remote")

if TYPE_CHECKING:
    from kqs.remote.desk import Desk
    from kqs.remote.pool import Pool


class Order:
    """What was asked for: jobs for `room` runs, once or whenever there is room; with a room of 0, only to be told of runs.

    given: called with runs as they begin. ended: called when no more will come, unless whoever asked has ended it.
    lost: called with a run that is to end, or was judged without its report, while this lasts: one of its own, or of one of the
    same party that is over.
    """

    __slots__ = ("_ended", "_given", "_lost", "_most", "is_once", "is_over", "is_paused", "party", "pool", "room", "withheld")

    def __init__(
        self,
        party: Party,
        pool: Pool,
        room: int,
        given: Callable[[list[OpenRun]], None],
        ended: Callable[[], None],
        lost: Callable[[OpenRun], None] | None = None,
    ) -> None:
        """Args: lost: None: it is over when it was given runs for the first time."""
        self.party = party
        self.pool = pool
        self.room = self._most = room
        #: room that it does not get while its party is doubted
        self.withheld = 0
        self.is_once = lost is None
        self.is_paused = False
        self._given = given
        self._ended = ended
        self._lost = lost
        self.is_over = False

    @property
    def open_count(self) -> int:
        """Return how many of its runs are open."""
        return self._most - self.room - self.withheld

    def give(self, runs: list[Run]) -> None:
        """Let runs begin."""
        if self.is_once:
            self._close()
        begun = self.party.begin(runs, None if self.is_once else self)
        self._given(begun)
        for run in begun:
            run.data = b""
            run.progress = None

    def tell_lost(self, run: OpenRun) -> None:
        """Tell of a run that is to end, or was judged without its report, if this is not over; else have another tell of it."""
        if self._lost is None:
            return
        if self.is_over:
            self.party.tell_lost(run)
        else:
            self._lost(run)

    def withdraw(self) -> bool:
        """End this, as whoever asked for it wants it; the runs go on. False: it is over."""
        if self.is_over:
            return False
        self._close()
        return True

    def end(self) -> None:
        """End this, and say so. Idempotent."""
        if self.withdraw():
            self._ended()

    def pause(self) -> None:
        """Ask for no more until `resume`."""
        self.is_paused = True
        self.pool.rest(self)

    def resume(self) -> None:
        """Ask again."""
        self.is_paused = False
        self.pool.go_on(self)

    def _close(self) -> None:
        self.is_over = True
        self.pool.leave(self)
        self.party.forget(self)


class Party:
    """See the module docstring. Call from the loop thread."""

    def __init__(self, desk: Desk, address: str, since: float) -> None:
        """Args: address: where it is, for people. since: when it came, in Unix seconds."""
        self._desk = desk
        self.address = address
        self.since = since
        #: under which name it has asked last
        self.worker = ""
        self.is_child = False
        self.is_gone = False
        #: reports of its runs; of those, failures
        self.done_count = self.failed_count = 0
        self._orders: set[Order] = set()
        self._runs: dict[str, OpenRun] = {}
        self._untold: list[OpenRun] = []  # runs of orders that are over, of which the next order is to tell
        self._is_paused = False
        #: a run of its was lost, and nothing was heard of it since: it may be held up, and would take all that nobody else does
        self.is_doubted = False
        self._is_on_trial = False  # when its next trial is due is settled
        #: runs that were lost while it had them, and those that were lost with it
        self.overdue_count = self.lost_count = 0

    @property
    def runs_count(self) -> int:
        """Return how many runs it has."""
        return len(self._runs)

    @property
    def orders(self) -> Collection[Order]:
        """Return the orders that stand."""
        return self._orders

    @property
    def orders_count(self) -> int:
        """Return how many orders stand."""
        return len(self._orders)

    def order(
        self,
        types: frozenset[str],
        room: int,
        worker: str,
        given: Callable[[list[OpenRun]], None],
        ended: Callable[[], None],
        lost: Callable[[OpenRun], None] | None = None,
        *,
        held: bool = False,
    ) -> Order:
        """Ask for jobs; see `Order`. worker: who runs them, as their records say. held: the runs outlive this party."""
        self.worker = worker
        pool = self._desk.pool(types, worker, held=held) if room else self._desk.listeners[held]
        order = Order(self, pool, room, given, ended, lost)
        order.is_paused = self._is_paused
        self._orders.add(order)
        pool.orders.add(order)
        if not order.is_paused:
            pool.go_on(order)
        if self._untold and not order.is_once:
            untold, self._untold = self._untold, []
            for run in untold:
                order.tell_lost(run)
        if held and not order.is_once:
            for run in self._desk.called_off(worker):
                order.tell_lost(run)
        return order

    def tell_lost(self, run: OpenRun) -> None:
        """Tell of a run of an order that is over, which is to end or was judged: by one that stands, or the next that will."""
        order = next((order for order in self._orders if not order.is_once), None)
        if order is not None:
            order.tell_lost(run)
        elif not self.is_gone:
            self._untold.append(run)

    def forget(self, order: Order) -> None:
        """Take in that an order is over."""
        self._orders.discard(order)
        self._desk.note_left(order.pool)

    def tell_away(self, run: OpenRun) -> None:
        """Tell of a held run without a party that is to end, or was judged: this may be its worker, if it holds runs."""
        order = next((order for order in self._orders if not order.is_once and order.pool.consumer.is_held), None)
        if order is not None:
            order.tell_lost(run)

    def begin(self, runs: Sequence[Run], order: Order | None) -> list[OpenRun]:
        """Let runs begin in this party's hands."""
        begun = self._desk.begin(runs, self, order)
        self._runs.update(begun)
        return list(begun.values())

    def close(self, run: OpenRun) -> None:
        """Take in that a run is over."""
        del self._runs[run.token]

    def pause(self) -> None:
        """Give it no more: it does not take what it was given."""
        self._is_paused = True
        for order in self._orders:
            order.pause()

    def resume(self) -> None:
        """Give it more again."""
        self._is_paused = False
        for order in self._orders:
            order.resume()

    def doubt(self) -> None:
        """Take in that a run was lost here: give it no more but one at a time, until something is heard of it."""
        if not self.is_doubted:
            self.is_doubted = True
            for order in self._orders:
                order.pool.withhold(order)
        if not self._is_on_trial:
            self._is_on_trial = True
            self._desk.try_later(self)

    def try_out(self) -> None:
        """Give it one run, if it has none."""
        self._is_on_trial = False
        for order in self._orders:
            if order.withheld and not order.open_count:
                order.pool.restore(order, 1)

    def trust(self) -> None:
        """Take in that something was heard of it."""
        self.is_doubted = False
        for order in self._orders:
            order.pool.restore(order, order.withheld)

    def end_orders(self) -> None:
        """Give it no more, and say so."""
        for order in list(self._orders):
            order.end()

    def leave(self, reason: str) -> None:
        """Take back all that it has, but for what it holds: it is gone."""
        self.is_gone = True
        self.end_orders()
        runs, lost = list(self._runs.values()), 0
        if runs:
            self._desk.lose_worker(self.worker, runs)
        for run in runs:
            if run.run.held:
                self._desk.let_go(run)
            else:
                self._desk.lose(run, reason)
                lost += 1
        self._runs.clear()
        self._untold.clear()
        self.lost_count = lost
        if lost:
            log.warning("runs lost", count=lost, reason=reason)
