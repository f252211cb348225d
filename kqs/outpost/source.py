"""The connection as a worker's source of runs (kqs.worker.source).

The server judges: it gives runs, takes their reports, and says which are lost. Here is what follows from that for the lanes. A
run is ours from the server's giving it until its report, or until the server takes it away, or the connection is lost, which a
held one outlives; in both of these its handler is cancelled. What goes back then does so once that has ended, for somebody else
may begin with it. What gathers in one turn of the loop goes out together. Call from the loop thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from kqs.client import runs as wire
from kqs.clock import Clock
from kqs.given import run_of
from kqs.job import Run
from kqs.log import get_logger
from kqs.outcome import Outcome
from kqs.outpost.line import Line
from kqs.outpost.open_runs import OpenRun, OpenRuns
from kqs.outpost.orders import Order, Orders
from kqs.outpost.reports import Reports
from kqs.outpost.saves import Saves
from kqs.queue.consumer import Consumer
from kqs.queue.leases import Lease, Leasing
from kqs.queue.leaving import Leaving
from kqs.supervisor import Supervisor

log = get_logger("kqs.work")

#: how long a stop waits for the answer to the last reports, and for what is on its way, in s
SETTLE_S = 5.0


class WireSource:
    """See the module docstring. Of one consumer."""

    def __init__(self, line: Line, clock: Clock, supervisor: Supervisor, *, hold: bool = False) -> None:
        """Args: hold: runs outlive the connection, and go on under their tokens on the next."""
        self._hold = hold
        self.clock = clock
        self._monotonic = clock.monotonic
        self._supervisor = supervisor
        self._consumer: Consumer | None = None
        self._orders = Orders(line, supervisor, self._given, self._taken_away, self._note)
        self._reports = Reports(line, supervisor, hold=hold)
        self._open_runs = OpenRuns(line, supervisor, clock.monotonic, self._over, self._taken_away)
        self._saves = Saves(line, supervisor, self._open_runs)
        self._leasing = Leasing(clock, self._saves.note)
        self._runs = self._open_runs.by_token
        self._leaving = Leaving[Lease](supervisor, "work")
        self._is_due = False
        #: reports of runs that were lost before
        self.stale_count = 0
        #: reports that the stop gave up
        self.untaken_count = 0
        line.on_open, line.on_lost = self._opened, self._lost

    async def stop(self) -> None:
        """Return when the server has taken every report, or does not within `SETTLE_S`."""
        self._leaving.close()
        self._send()
        if not await self._reports.settle(SETTLE_S):
            self.untaken_count = self._reports.count
            log.error("stopping without the last reports: the server does not take them", count=self.untaken_count)
        self._open_runs.close()
        self._saves.close()

    def add_consumer(self, consumer: Consumer) -> None:
        """Begin to deliver runs, as soon as there is a connection."""
        self._consumer = consumer
        consumer.on_room = self._note
        self._orders.open(sorted(consumer.types), consumer.worker, hold=self._hold)
        self._note()

    async def remove_consumer(self, consumer: Consumer) -> None:
        """Deliver nothing more; what was on its way has been delivered when this returns, or goes back later."""
        await consumer.stop()
        ended = asyncio.Event()
        self._orders.withdraw(ended.set)
        try:
            async with asyncio.timeout(SETTLE_S):
                await ended.wait()
        except TimeoutError:
            log.warning("the server does not say that it gives no more jobs")

    @staticmethod
    def is_certain(run: Run) -> bool:
        """Tell whether a run is ours for certain when it begins."""
        return run.expire_at is None

    def may_begin(self, run: Run, _consumer: object = None, /) -> bool:
        """Tell whether a run is still ours."""
        is_ours = run.handle in self._runs
        if not is_ours:
            self._note()  # there is room, in this turn yet
        return is_ours

    def begin(self, run: Run, on_lost: Callable[[Lease], None], now: float | None = None) -> Lease:
        """Take in that a run has begun; `on_lost` is called when it is ours no more."""
        token = str(run.handle)
        found = self._runs[token]
        lease = self._leasing.lease(run, found.options, on_lost, now)
        self._open_runs.begin(token, found, lease)
        self._note()
        return lease

    def report(self, lease: Lease, outcome: Outcome) -> bool:
        """Send a run's report; False if it was lost before."""
        token = str(lease.run.handle)
        if not self._close(token):
            self.stale_count += 1
            return False
        lease.context.end()
        self._saves.end(lease.context, outcome)
        self._reports.add(token, outcome)
        return True

    def end(self, run: Run, outcome: Outcome) -> None:
        """Send the report of a run that ended in the step in which it began."""
        token = str(run.handle)
        if self._close(token):
            self._reports.add(token, outcome)

    def interrupt(self, lease: Lease) -> bool:
        """Give back a run that is being ended, once it has `left`. False: it was lost or has ended before."""
        token = str(lease.run.handle)
        if not self._close(token):
            return False
        lease.context.end()
        self._saves.end(lease.context, None)
        self._leaving.add(lease, partial(self._release, token))
        return True

    def left(self, lease: Lease) -> None:
        """Take in that the handler of a run that was lost or interrupted has ended. Idempotent."""
        self._leaving.left(lease)

    def _release(self, token: str) -> None:
        self._reports.release(token, begun=True)
        self._note()

    def give_back(self, run: Run) -> None:
        """Give back a run that never began, if it is still ours."""
        token = str(run.handle)
        if self._close(token):
            self._reports.release(token, begun=False)

    def _given(self, given: list[wire.Run], order: Order) -> None:
        consumer = self._consumer
        assert consumer is not None
        now = self._monotonic()
        for run in given:
            self._open_runs.add(run.token, OpenRun(order, run.options, now))
        if not consumer.stopped:
            most = max(consumer.room, 0) + consumer.worth - 1
            for run in given[most:]:  # asked for when there was more room
                self._close(run.token)
                self._reports.release(run.token, begun=False)
            given = given[:most]
        consumer.reserve(len(given))
        consumer.settle(len(given), [run_of(run, now) for run in given])
        self._note()

    def _taken_away(self, token: str) -> None:
        """End a run of which the server says that it is to end. If it is not over there, it is once its handler has ended."""
        run = self._runs.get(token)
        if run is None:
            return
        self._close(token)
        if run.lease is None:
            self._reports.release(token, begun=False)
        else:
            self._leaving.add(run.lease, partial(self._release, token))
            self._give_up(run.lease)

    def _over(self, token: str) -> None:
        run = self._runs.get(token)
        if run is not None and self._close(token) and run.lease is not None:
            self._give_up(run.lease)

    def _give_up(self, lease: Lease) -> None:
        lost = lease.run
        log.warning("run lost", id=lost.claim.id, attempt=lost.attempt, reason="the server has given it up")
        _lose(lease)

    def _opened(self) -> None:
        self._orders.listen()
        self._open_runs.resume()
        self._send()

    def _lost(self, reason: str) -> bool:
        """Take in that the connection is lost; return whether people were told."""
        self._orders.lose()
        self._reports.lose()
        if self._hold:
            if self._runs:
                log.warning("the connection was lost, its runs are held and go on", count=len(self._runs), reason=reason)
            return bool(self._runs)
        lost = list(self._runs.values())
        self._runs.clear()
        if lost:
            log.warning("the connection was lost, and with it its runs", count=len(lost), reason=reason)
        for run in lost:
            if run.lease is not None:
                _lose(run.lease)
        return bool(lost)

    def _close(self, token: str) -> bool:
        """Take in that a run is over; False: it was before."""
        run = self._runs.pop(token, None)
        if run is None:
            return False
        run.order.room += 1
        self._note()
        return True

    def _note(self) -> None:
        """Have what there is to be said go out at the end of this turn."""
        if not self._is_due:
            self._is_due = True
            self._supervisor.call_soon("work", self._send)

    def _send(self) -> None:
        self._is_due = False
        self._open_runs.send()
        self._saves.send()
        self._reports.send()
        consumer = self._consumer
        if consumer is not None and not consumer.stopped:
            self._orders.fit(max(consumer.room, 0), consumer.worth - 1)


def _lose(lease: Lease) -> None:
    lease.context.end()
    lease.on_lost(lease)
